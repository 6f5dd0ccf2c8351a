"""Where things live: the person's files in one profile folder, ours in ``resources``.

Profile folder (platformdirs, or ``--profile-dir``):
    attune.db       conversations and feedback, with backups/ beside it
    models/         model versions and the pointer to the active one
    runs/           one folder for each training run
    logs/           app.log, engine.log
    cache/          what the engine computed of conversations; worth nothing but time
    settings.json
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from desktop_app.errors import UserError

STARTER_MODEL = "attune-starter.gguf"


@dataclass(frozen=True)
class Profile:
    """All paths of one person's Attune."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "attune.db"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def states(self) -> Path:
        return self.root / "cache"

    @property
    def settings(self) -> Path:
        return self.root / "settings.json"


def open_profile(folder: Path | None) -> Profile:
    """The profile in ``folder`` or in the platform's place, with its folders made.

    Raises:
        UserError: the folder cannot be made or written.
    """
    chosen = folder or Path(platformdirs.user_data_dir("attune", appauthor=False))
    profile = Profile(chosen.expanduser().absolute())
    try:
        for path in (profile.root, profile.models, profile.runs, profile.logs):
            path.mkdir(parents=True, exist_ok=True)
            if os.name == "posix":
                path.chmod(0o700)  # conversations are nobody else's business
    except OSError as error:
        raise UserError(
            f"The folder {profile.root} cannot be used: {error.strerror}.",
            "Choose another one with --profile-dir.",
        ) from error
    return profile


def resources() -> Path:
    """The folder of the bundled model, icons, styles and translations.

    Beside the packages in a checkout, inside ``desktop_app`` where it was installed.
    """
    frozen = getattr(sys, "_MEIPASS", None)
    here = Path(frozen) if frozen else Path(__file__).resolve().parent.parent
    beside = here / "resources"
    return beside if beside.is_dir() else Path(__file__).resolve().parent / "resources"


def starter_model() -> Path:
    """The model that comes with the application."""
    return resources() / "models" / STARTER_MODEL
