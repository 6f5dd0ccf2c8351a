"""Checkpoints that are there whole or not at all: safetensors and JSON, no pickle.

A checkpoint is a folder, written beside its final place, flushed to the disk and renamed. Its
last file, COMPLETE, holds the SHA-256 of the others; a folder without it, or with a file that
does not match, is passed over. The same form keeps a finished stage's result.

Random numbers need no saving: each draw comes from a generator seeded by what it is for (see
``stage.generator_for``), so a resumed run draws what the first one would have drawn.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from torch import Tensor

from finetune import distributed
from finetune.contract.manifest import sync_folder

log = logging.getLogger(__name__)

KEPT: Final = 2
"""Of a stage's step checkpoints: the newest, and one to fall back on."""
_TENSORS, _STATE, _COMPLETE = "tensors.safetensors", "state.json", "COMPLETE"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors and plain values, as they were given to ``save_checkpoint``."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint to ``folder``, replacing one that is there. The leading process does."""
    if not distributed.leads():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _write(beside / _TENSORS, safetensors.torch.save(whole))
    _write(beside / _STATE, json.dumps(dict(state), ensure_ascii=False).encode("utf-8"))
    hashes = {name: _sha256(beside / name) for name in (_TENSORS, _STATE)}
    _write(beside / _COMPLETE, json.dumps(hashes).encode("ascii"))
    sync_folder(beside)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(beside, folder)
    sync_folder(folder.parent)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint in ``folder``; None where it is missing, unfinished or damaged."""
    try:
        hashes = json.loads((folder / _COMPLETE).read_bytes())
        if any(_sha256(folder / name) != hashes[name] for name in (_TENSORS, _STATE)):
            log.warning("The checkpoint %s is damaged and is passed over.", folder)
            return None
        state = json.loads((folder / _STATE).read_bytes())
        return Checkpoint(safetensors.torch.load((folder / _TENSORS).read_bytes()), state)
    except (OSError, ValueError, KeyError):
        return None


def save_step(folder: Path, step: int, checkpoint: Checkpoint) -> None:
    """Write ``folder/step-000010`` and remove all but the newest two."""
    save_checkpoint(folder / f"step-{step:06d}", checkpoint.tensors, checkpoint.state)
    _remove(sorted(folder.glob("step-*"))[:-KEPT])


def newest_step(folder: Path) -> Checkpoint | None:
    """The newest sound step checkpoint in ``folder``; None where there is none."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        checkpoint = load_checkpoint(candidate)
        if checkpoint is not None:
            return checkpoint
    return None


def remove_steps(folder: Path) -> None:
    """Remove a finished stage's step checkpoints."""
    _remove(folder.glob("step-*"))


def _remove(folders: Iterable[Path]) -> None:
    if distributed.leads():
        for old in folders:
            shutil.rmtree(old, ignore_errors=True)


# --- optimisers ------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's state as named tensors: ``optimizer.<parameter>.<what>``."""
    return {
        f"optimizer.{index}.{what}": torch.as_tensor(value).clone()
        for index, entry in optimizer.state_dict()["state"].items()
        for what, value in entry.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimizer_tensors`` took out; learning rates are set by the stage."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, what = name.split(".")
            state.setdefault(int(index), {})[what] = tensor
    optimizer.load_state_dict(
        {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with ``prefix.`` before each name."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of ``tensors`` whose name begins with ``prefix.``, without it."""
    start = f"{prefix}."
    return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
