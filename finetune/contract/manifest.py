"""What a model version is: its files with their hashes, where it came from, how good it is.

A version is a folder that appears whole (it is written beside and renamed) and is never
changed afterwards: files that are memory-mapped must not change under llama.cpp.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from finetune.contract.errors import InputError

FILE_NAME: Final = "manifest.json"
FORMAT: Final = 1


@dataclass(frozen=True)
class FileEntry:
    """One file of a version: its size in bytes and its SHA-256."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A model version.

    ``files`` maps a role to a name: "model" is the merged GGUF, "adapter" the LoRA GGUF that
    is exact on ``base_sha256``, "reward" the reward model's adapter.
    """

    version_id: str
    name: str
    created_at: str
    parent: str | None
    """Version id this one was trained from; None for a bundled or imported model."""
    base_sha256: str
    template_id: str
    files: Mapping[str, str]
    entries: Mapping[str, FileEntry]
    """File name -> size and hash."""
    run_id: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    licence: str = ""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def entry_of(path: Path) -> FileEntry:
    """Size and hash of a file as it is now."""
    return FileEntry(path.stat().st_size, file_sha256(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json`` so that it appears whole or not at all."""
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2, ensure_ascii=False)
    write_whole(folder / FILE_NAME, text.encode("utf-8"))


def read_manifest(folder: Path) -> Manifest:
    """Read a version's manifest.

    Raises:
        InputError: it is missing, broken, or of a newer format.
    """
    path = folder / FILE_NAME
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT:
            raise InputError(
                f"The model version in {folder.name} was made by a newer Attune; update first."
            )
        raw["entries"] = {name: FileEntry(**entry) for name, entry in raw["entries"].items()}
        return Manifest(**raw)
    except FileNotFoundError as error:
        raise InputError(
            f"{folder.name} is not a model version: {FILE_NAME} is missing."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"The description of the model version in {folder.name} is damaged."
        ) from error


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with its size and hash.

    Raises:
        InputError: a file is missing or changed; the text names it.
    """
    for name, entry in manifest.entries.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry.size:
            raise InputError(f"The file {name} of {manifest.name} is missing or incomplete.")
        if file_sha256(path) != entry.sha256:
            raise InputError(f"The file {name} of {manifest.name} is damaged.")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that after a crash either the old or the new content is there."""
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Make what was written to ``path`` survive a power cut."""
    with path.open("rb+") as file:  # Windows wants to be allowed to write
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut (not possible on Windows)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
