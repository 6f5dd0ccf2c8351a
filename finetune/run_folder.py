"""What a run folder holds before it begins: ``run.json``, ``recipe.json``, ``feedback/``.

The app writes it; ``prepare_run`` is the command line's way to the same folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune.contract import recipe as recipes
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import file_sha256, write_whole
from finetune.contract.recipe import Recipe


@dataclass(frozen=True)
class RunSpec:
    """``run.json``: which model is trained, and what the result will be called."""

    base: Path
    base_sha256: str
    """Empty where the maker of the folder did not say."""
    parent: str | None
    """Version id the result descends from."""
    name: str
    weights: Path | None = None
    """A Hugging Face folder of the same model, whose weights are trained on instead."""


def read_spec(run_dir: Path) -> RunSpec:
    """Read ``run.json``.

    Raises:
        InputError: the folder is no run folder, or the file is broken.
    """
    try:
        raw = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))
        base = Path(raw["base"])
        return RunSpec(
            base if base.is_absolute() else run_dir / base,
            str(raw.get("base_sha256") or ""),
            raw.get("parent"),
            str(raw.get("name") or run_dir.name),
            run_dir / raw["weights"] if raw.get("weights") else None,  # an absolute path stays
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{run_dir} is not a run folder: run.json is missing.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"The file run.json in {run_dir} is damaged.") from error


def read_recipe(run_dir: Path) -> Recipe:
    """``recipe.json`` of the folder; the default recipe where there is none."""
    path = run_dir / "recipe.json"
    if not path.exists():
        return Recipe()
    try:
        return recipes.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text.") from error


def prepare_run(
    run_dir: Path,
    base: Path,
    feedback: Sequence[Path],
    recipe: Path | None,
    parent: str | None,
    name: str | None,
    weights: Path | None = None,
) -> None:
    """Make a run folder from files.

    Args:
        weights: a Hugging Face folder of the same model as ``base``.

    Raises:
        InputError: it exists already, or one of the files does not or is no model.
    """
    if (run_dir / "run.json").exists():
        raise InputError(f"{run_dir} holds a run already; go on with it by leaving out --base.")
    header = read_header(base)
    if weights is not None:
        from finetune.hf_folder import check_folder  # brings torch

        check_folder(weights, header)
    files = feedback_files(feedback)
    text = recipes.to_json(Recipe())
    if recipe is not None:
        if not recipe.is_file():
            raise InputError(f"There is no recipe {recipe}.")
        try:
            text = recipes.to_json(recipes.from_json(recipe.read_text(encoding="utf-8")))
        except UnicodeDecodeError as error:
            raise InputError(f"The recipe {recipe} is not UTF-8 text.") from error
    base_sha256 = file_sha256(base)
    # Without run.json this is no run: what an earlier try has left is not part of this one. It may
    # be what is to be copied, so it goes last.
    beside = run_dir / "feedback.partial"
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for number, file in enumerate(files):
        shutil.copyfile(file, beside / f"{number:03d}-{file.stem}.jsonl")
    shutil.rmtree(run_dir / "feedback", ignore_errors=True)
    beside.rename(run_dir / "feedback")
    write_whole(run_dir / "recipe.json", text.encode("utf-8"))
    spec = {
        "base": str(base.resolve()),
        "base_sha256": base_sha256,
        "parent": parent,
        "name": name or run_dir.name,
        "weights": None if weights is None else str(weights.resolve()),
    }
    write_whole(run_dir / "run.json", json.dumps(spec, indent=2).encode("utf-8"))


def feedback_files(paths: Sequence[Path]) -> list[Path]:
    """The files meant by files and folders, folders in the order of names.

    Raises:
        InputError: one of them is not there, or a folder holds none.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.glob("*.jsonl") if file.is_file())
            if not found:
                raise InputError(f"There are no .jsonl files in {path}.")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise InputError(f"There is no feedback in {path}.")
    if not files:
        raise InputError("Say where the feedback is: --feedback FOLDER_OR_FILE.")
    return files
