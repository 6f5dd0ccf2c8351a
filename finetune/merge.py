"""The merged model: a base and its adapter, added and quantised, as one GGUF.

Tensor by tensor and a few rows at a time: rows are read from the base, become float32, get their
rows of the update, are quantised by ggml and written. Nothing lies on the disk in between, and
memory holds some pieces of a tensor and not a tensor. A tensor that is not changed and keeps its
type is copied as it is.

It works on files alone: an adapter names the base's tensors and has their rows in the base's
order, so no architecture needs to be known here, and fused matrices are matrices like others. No
torch either: the command starts at once and needs a few dozen megabytes.
"""

from __future__ import annotations

import errno
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from finetune import ggml
from finetune.contract.errors import InputError
from finetune.contract.gguf_file import GgufHeader, TensorInfo, read_header
from finetune.contract.recipe import Quantization
from finetune.gguf_writer import TensorWriter
from finetune.quantization import FTYPES, tensor_types

PIECE: Final = 1 << 18
"""Numbers in a piece: 1 MB in float32, which stays in a core's cache from step to step."""
QUANTIZATION_VERSION: Final = 2
"""Of ggml's block formats, as a file says it (GGML_QNT_VERSION)."""

Update = tuple[ggml.Floats, ggml.Floats]
"""A (rank, in) and B (out, rank), the scale in B."""


def write_merged(
    path: Path,
    base_path: Path,
    adapter_path: Path | None,
    quantization: Quantization,
    metadata: Mapping[str, Any],
    threads: int = 1,
) -> None:
    """Write ``path`` whole or not at all. It is not flushed to the disk: that is the caller's.

    Args:
        adapter_path: a LoRA adapter for the base, as GGUF; None only changes the quantisation.
        metadata: provenance, as ``attune.<name>``.

    Raises:
        InputError: a file is no model or no adapter for it, or cannot be written in this type.
        OSError: the disk is full.
    """
    base = read_header(base_path)
    updates = {} if adapter_path is None else _read_updates(adapter_path, base)
    types = tensor_types(base, quantization, updates)
    entries: dict[str, Any] = {f"attune.{name}": value for name, value in metadata.items()}
    if quantization != "BASE":
        entries["general.quantization_version"] = QUANTIZATION_VERSION
        entries["general.file_type"] = FTYPES[quantization]
    beside = path.with_name(f".{path.name}.partial")
    writer = TensorWriter(beside, base_path, base, types, entries)
    if shutil.disk_usage(path.parent).free < writer.size:
        raise OSError(errno.ENOSPC, f"the export needs {writer.size >> 20} MB")
    with base_path.open("rb") as file, writer, ThreadPoolExecutor(threads) as pool:
        scratch = _Scratch()
        for name, kind in types.items():
            work = _pieces(file, base.tensors[name], kind, updates.get(name), scratch)
            for piece in _in_order(pool, work, ahead=2 * threads):
                writer.write(piece)
            writer.pad()
    beside.replace(path)


def _read_updates(path: Path, base: GgufHeader) -> dict[str, Update]:
    """Tensor name -> its update.

    Raises:
        InputError: no LoRA adapter, one for another model, or one with numbers that are none.
    """
    header = read_header(path)
    if not header.is_adapter or header.metadata.get("adapter.type") != "lora":
        raise InputError(f"{path.name} is not a LoRA adapter.")
    alpha = float(header.metadata.get("adapter.lora.alpha", 0.0))
    found: dict[str, Update] = {}
    with path.open("rb") as file:
        for key in header.tensors:
            name, _, kind = key.rpartition(".lora_")
            if kind != "a":
                continue
            a, b = (_matrix(file, header.tensors.get(f"{name}.lora_{side}")) for side in "ab")
            shape = base.tensors[name].shape if name in base.tensors else ()
            if a is None or b is None or (a.shape[1], b.shape[0]) != shape:
                raise InputError(f"{path.name} is an adapter for another model.")
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise InputError(f"{path.name} holds numbers that are not finite; train it again.")
            found[name] = a, b * np.float32(alpha / len(a) if alpha else 1.0)
    return found


def _matrix(file: IO[bytes], info: TensorInfo | None) -> ggml.Floats | None:
    if info is None or len(info.shape) != 2:
        return None
    file.seek(info.offset)
    stored = np.fromfile(file, np.uint8, info.size).reshape(info.shape[1], -1)
    return ggml.to_floats(stored, info.type_name, info.shape[0])


class _Scratch(threading.local):
    """Room for one piece in each thread, used again and again: fresh pages cost more than sums."""

    def __init__(self) -> None:
        self._room: dict[str, ggml.Floats] = {}

    def floats(self, what: str, rows: int, columns: int) -> ggml.Floats:
        room = self._room.get(what)
        if room is None or room.size < rows * columns:
            room = self._room[what] = np.empty(rows * columns, np.float32)
        return room[: rows * columns].reshape(rows, columns)


def _pieces(
    file: IO[bytes], info: TensorInfo, kind: str, update: Update | None, scratch: _Scratch
) -> Iterator[Callable[[], Any]]:
    """For each piece of a tensor, in order, a function that makes its bytes.

    Read and not mapped: what is mapped stays in memory for as long as there is room.
    """
    columns = info.shape[0]
    stored = ggml.row_bytes(info.type_name, columns)
    rows = info.size // stored
    as_it_is = update is None and kind == info.type_name
    step = max(1, 4 * PIECE // stored if as_it_is else PIECE // columns)
    file.seek(info.offset)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        piece = np.fromfile(file, np.uint8, count * stored).reshape(count, stored)
        if as_it_is:
            yield partial(np.asarray, piece)
        else:
            own = None if update is None else (update[0], update[1][start : start + count])
            yield partial(_converted, piece, info, kind, own, scratch)


def _converted(
    rows: ggml.Blocks, info: TensorInfo, kind: str, update: Update | None, scratch: _Scratch
) -> ggml.Blocks:
    """Rows of the base as rows of the merged file."""
    shape = len(rows), info.shape[0]
    values = ggml.to_floats(rows, info.type_name, shape[1], scratch.floats("values", *shape))
    if update is not None:
        a, b = update
        values += np.matmul(b, a, out=scratch.floats("update", *shape))
    blocks = ggml.to_blocks(values, kind)
    # As floats the bytes may be the scratch itself, which the next piece overwrites.
    return blocks.copy() if kind == "F32" else blocks


def _in_order(
    pool: ThreadPoolExecutor, work: Iterator[Callable[[], Any]], ahead: int
) -> Iterator[Any]:
    """Results in the order of the work, of which ``ahead`` is begun before it is wanted."""
    waiting: deque[Future[Any]] = deque()
    for one in work:
        waiting.append(pool.submit(one))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
