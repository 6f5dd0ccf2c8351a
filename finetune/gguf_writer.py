"""A GGUF made from another one: its metadata byte for byte, its tensors as they come.

The entries of the base are copied as they stand in the file and never parsed and written again,
so a tokenizer of 300,000 strings costs no time and cannot change. Of them only those are left out
that are given anew. Tensors are written in order, a piece at a time, so that nothing but the
piece is held in memory.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final

from finetune import ggml
from finetune.contract.gguf_file import DEFAULT_ALIGNMENT, TENSOR_TYPES, GgufHeader

_TYPE_IDS: Final = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_WIDTH: Final = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_UINT32, _INT32, _FLOAT32, _STRING, _ARRAY = 4, 5, 6, 8, 9
_SPLIT: Final = ("split.no", "split.count", "split.tensors.count")


def carried_entries(path: Path, header: GgufHeader, without: Sequence[str]) -> tuple[bytes, int]:
    """The metadata of a sound GGUF as bytes, less the named keys, and how many entries it has.

    ``header``: of ``path``; it was checked by ``read_header``.
    """
    end = min((info.offset for info in header.tensors.values()), default=header.file_size)
    with path.open("rb") as file:
        data = file.read(end)
    (count,) = struct.unpack_from("<Q", data, 16)
    left_out = {*without, *_SPLIT}
    kept: list[bytes] = []
    at = 24
    for _ in range(count):
        start = at
        (length,) = struct.unpack_from("<Q", data, at)
        key = data[at + 8 : at + 8 + length].decode("utf-8")
        (kind,) = struct.unpack_from("<I", data, at + 8 + length)
        at = _after(data, at + 12 + length, kind)
        if key not in left_out:
            kept.append(data[start:at])
    return b"".join(kept), len(kept)


def _after(data: bytes, at: int, kind: int) -> int:
    """Where the value of type ``kind`` that begins at ``at`` ends."""
    if kind in _WIDTH:
        return at + _WIDTH[kind]
    if kind == _STRING:
        length: int = struct.unpack_from("<Q", data, at)[0]
        return at + 8 + length
    item, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if item in _WIDTH:
        return at + int(count) * _WIDTH[item]
    for _ in range(count):
        at = _after(data, at, item)
    return at


def entry(key: str, value: Any) -> bytes:
    """One metadata entry: a text, a whole number (32 bits), a float32 or a list of these."""
    kind, packed = _packed(value)
    return _text(key) + struct.pack("<I", kind) + packed


def _packed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return _STRING, _text(value)
    if isinstance(value, int):
        return (_INT32, struct.pack("<i", value)) if value < 0 else (
            _UINT32, struct.pack("<I", value)
        )  # fmt: skip
    if isinstance(value, float):
        return _FLOAT32, struct.pack("<f", value)
    items = [_packed(item) for item in value]
    kind = items[0][0] if items else _STRING
    return _ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(data for _, data in items)


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


class TensorWriter:
    """A new GGUF file: header at once, then the bytes of each tensor in the order of ``types``.

    Used in ``with``; a file that was not finished is removed.
    """

    def __init__(
        self,
        path: Path,
        base_path: Path,
        base: GgufHeader,
        types: Mapping[str, str],
        metadata: Mapping[str, Any],
    ) -> None:
        """``metadata``: entries that are added, or that replace the base's of the same key."""
        entries, count = carried_entries(base_path, base, tuple(metadata))
        entries += b"".join(entry(key, value) for key, value in metadata.items())
        self._alignment = int(base.metadata.get("general.alignment", DEFAULT_ALIGNMENT))
        table, offset = [], 0
        for name, kind in types.items():
            shape = base.tensors[name].shape
            table.append(
                _text(name)
                + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, _TYPE_IDS[kind], offset)
            )
            offset = self._aligned(offset + tensor_bytes(shape, kind))
        head = struct.pack("<4sIQQ", b"GGUF", 3, len(table), count + len(metadata))
        head += entries + b"".join(table)
        self.path = path
        self.size = self._aligned(len(head)) + offset
        self._head = head
        self._file: IO[bytes] | None = None

    def __enter__(self) -> TensorWriter:
        self._file = self.path.open("wb")
        self.write(self._head)
        self.pad()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        finished = False
        try:
            with self._file as file:
                if kind is None:
                    assert file.tell() == self.size
                    file.flush()
                    finished = True
        finally:
            if not finished:
                self.path.unlink(missing_ok=True)

    def write(self, data: Any) -> None:
        """The next bytes of the tensor whose turn it is; anything with a buffer."""
        assert self._file is not None
        self._file.write(data)

    def pad(self) -> None:
        """The end of a tensor: zeros up to where the next one begins."""
        assert self._file is not None
        at = self._file.tell()
        self._file.write(b"\0" * (self._aligned(at) - at))

    def _aligned(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment


def tensor_bytes(shape: Sequence[int], kind: str) -> int:
    """Bytes of a tensor; ``shape`` in ggml's order, the length of a row first."""
    size = ggml.row_bytes(kind, shape[0])
    for length in shape[1:]:
        size *= length
    return size
