"""A strict reader of GGUF headers, in pure Python: metadata and tensor table, never weights.

llama.cpp trusts the files it maps; this reader looks first. It refuses structural damage
(magic, version, counts, sizes, offsets, overlaps, unknown types, duplicate keys) in
milliseconds, with a sentence. Damaged weights look like any other weights: only the SHA-256
of the file tells.

Format: the GGUF specification of ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from finetune.contract.errors import InputError

MAX_COUNT: Final = 100_000
"""Metadata entries or tensors; the largest real models have a few thousand."""
MAX_STRING: Final = 64 << 20
MAX_ARRAY: Final = 16 << 20
"""Elements; the largest vocabularies have some 300,000."""
MAX_DIMENSIONS: Final = 4
MAX_NESTING: Final = 2
DEFAULT_ALIGNMENT: Final = 32

# type id -> struct format
_SCALARS: Final[Mapping[int, str]] = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9

# ggml type id -> (name, elements in a block, bytes of a block)
TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2),
    26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8), 29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """One row of the tensor table. ``shape`` is in ggml's order: the row length first."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    offset: int
    """Bytes from the beginning of the file."""
    size: int
    """Bytes."""


@dataclass(frozen=True)
class GgufHeader:
    """All a GGUF file says about itself before its weights."""

    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    file_size: int

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def is_adapter(self) -> bool:
        return self.metadata.get("general.type") == "adapter"

    @property
    def chat_template(self) -> str | None:
        template = self.metadata.get("tokenizer.chat_template")
        return template if isinstance(template, str) and template.strip() else None

    def hyperparameter(self, name: str, default: Any = None) -> Any:
        """The metadata value ``<architecture>.<name>``."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a model or adapter file.

    Raises:
        InputError: the file is missing or is no sound GGUF; the text says what is wrong.
    """
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise InputError(f"{path.name} is not a file.")
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < 24:
                raise InputError(_refusal(path, "it is only a few bytes long"))
            return _Reader(path, file, size).header()
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path.name} in {path.parent}.") from error
    except OSError as error:
        raise InputError(f"{path.name} cannot be read: {error.strerror}.") from error


def _refusal(path: Path, what: str) -> str:
    return f"{path.name} is not a usable GGUF model: {what}. Download or export it again."


class _Reader:
    """A cursor over the header; every read is checked against the file's end.

    It reads and does not map the file: a mapped file that is cut meanwhile ends the process.
    """

    def __init__(self, path: Path, data: IO[bytes], size: int) -> None:
        self._path = path
        self._data = data
        self._size = size
        self._at = 0

    def header(self) -> GgufHeader:
        self._magic()
        version = self._scalar("<I")
        if version not in (2, 3):
            big_endian = struct.unpack(">I", struct.pack("<I", version))[0] in (2, 3)
            raise self._error(
                "it is big-endian" if big_endian else f"its version {version} is unknown"
            )
        tensor_count = self._count("tensors")
        entry_count = self._count("metadata entries")
        metadata: dict[str, Any] = {}
        for _ in range(entry_count):
            key = self._string(limit=65_535)
            if not key or key in metadata:
                raise self._error(f"the metadata key {key!r:.60} stands there twice or is empty")
            metadata[key] = self._value(self._scalar("<I"), 0)
        architecture = metadata.get("general.architecture")
        if not isinstance(architecture, str) or not architecture:
            raise self._error("it does not say which architecture it is")
        tensors = self._tensor_table(tensor_count, metadata)
        return GgufHeader(int(version), metadata, tensors, self._size)

    def _magic(self) -> None:
        magic = self._take(4)
        if magic == b"GGUF":
            return
        start = magic + self._take(20)
        if start.startswith(b"version https://git-"):
            raise self._error("it is only a Git LFS pointer to the real file")
        if start.startswith(b"PK"):
            raise self._error("it is a zip archive or a PyTorch checkpoint")
        if start.lstrip()[:1] == b"<":
            raise self._error("it is a web page")
        raise self._error("it does not begin with the letters GGUF")

    def _tensor_table(self, count: int, metadata: Mapping[str, Any]) -> dict[str, TensorInfo]:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        is_sane = isinstance(alignment, int) and 8 <= alignment <= 65_536
        if not is_sane or alignment & (alignment - 1):  # a power of two
            raise self._error(f"its alignment {alignment!r:.20} makes no sense")
        rows: list[tuple[str, tuple[int, ...], str, int, int]] = []
        names: set[str] = set()
        for _ in range(count):
            name = self._string(limit=1024)
            if not name or name in names:
                raise self._error(f"the tensor {name!r:.60} stands there twice or has no name")
            names.add(name)
            dimensions = self._scalar("<I")
            if not 1 <= dimensions <= MAX_DIMENSIONS:
                raise self._error(f"the tensor {name} has {dimensions} dimensions")
            shape = tuple(self._scalar("<Q") for _ in range(dimensions))
            type_id = self._scalar("<I")
            if type_id not in TENSOR_TYPES:
                raise self._error(f"the tensor {name} has the unknown type {type_id}")
            type_name, block, block_bytes = TENSOR_TYPES[type_id]
            elements = 1
            for length in shape:
                elements *= length
            if elements == 0 or elements > 1 << 48 or shape[0] % block:
                raise self._error(f"the tensor {name} has the impossible shape {shape}")
            offset = self._scalar("<Q")
            if offset % alignment:
                raise self._error(f"the tensor {name} begins at an odd place")
            rows.append((name, shape, type_name, offset, elements // block * block_bytes))

        base = -(-self._at // alignment) * alignment
        end = 0
        for name, _, _, offset, size in sorted(rows, key=lambda row: row[3]):
            if offset < end:
                raise self._error(f"the tensor {name} overlaps another one")
            end = offset + size
        if base + end > self._size and rows:
            missing = base + end - self._size
            raise self._error(f"its end is missing ({missing:,} bytes)")
        return {n: TensorInfo(n, s, t, base + o, size) for n, s, t, o, size in rows}

    def _value(self, type_id: int, depth: int) -> Any:
        if type_id in _SCALARS:
            return self._scalar(_SCALARS[type_id])
        if type_id == _STRING:
            return self._string(MAX_STRING)
        if type_id != _ARRAY:
            raise self._error(f"a metadata value has the unknown type {type_id}")
        if depth >= MAX_NESTING:
            raise self._error("its metadata is nested too deeply")
        item_type = self._scalar("<I")
        count = self._scalar("<Q")
        if count > MAX_ARRAY:
            raise self._error(f"a metadata list claims {count:,} values")
        if item_type in _SCALARS:
            code = _SCALARS[item_type]
            width = struct.calcsize(code)
            return list(struct.unpack(f"<{count}{code[1]}", self._take(count * width)))
        return [self._value(item_type, depth + 1) for _ in range(count)]

    def _count(self, what: str) -> int:
        count = int(self._scalar("<Q"))
        if count > MAX_COUNT:
            raise self._error(f"it claims {count:,} {what}")
        return count

    def _string(self, limit: int) -> str:
        length = self._scalar("<Q")
        if length > limit:
            raise self._error(f"a text in its metadata claims {length:,} bytes")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self._error("a text in its metadata is not UTF-8") from None

    def _scalar(self, code: str) -> Any:
        return struct.unpack(code, self._take(struct.calcsize(code)))[0]

    def _take(self, length: int) -> bytes:
        if length > self._size - self._at:
            raise self._error("it ends in the middle of its header")
        piece = self._data.read(length)
        if len(piece) < length:
            raise self._error("it became shorter while it was read")
        self._at += length
        return piece

    def _error(self, what: str) -> InputError:
        return InputError(_refusal(self._path, what))
