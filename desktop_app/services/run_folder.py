"""The folder that a run begins with: the feedback as it stands, the recipe, and the base."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from desktop_app.services.saving import saving
from desktop_app.storage.feedback_store import FeedbackStore
from finetune.contract import recipe as recipes
from finetune.contract.recipe import Recipe


def write_run(
    runs: Path, feedback: FeedbackStore, recipe: Recipe, run: Mapping[str, str | None]
) -> Path:
    """A new run's folder, whole or not at all.

    Raises:
        UserError: the disk is full, or cannot be written.
    """
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
    beside = runs / f".{name}.partial"
    try:
        with saving():
            feedback.write_snapshot(beside / "feedback")
            (beside / "recipe.json").write_text(recipes.to_json(recipe), encoding="utf-8")
            (beside / "run.json").write_text(json.dumps(run, indent=2), encoding="utf-8")
            return beside.rename(runs / name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
