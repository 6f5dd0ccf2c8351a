"""ggml's own conversions between stored blocks and float32, through the library in llama_cpp.

What llama.cpp's quantiser writes and what it reads back is defined by this code, so it is called
and not written again: the same bytes, at its speed. The calls release the interpreter's lock;
several threads may work on pieces of one tensor.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from finetune.contract.gguf_file import TENSOR_TYPES

Floats = npt.NDArray[np.float32]
Blocks = npt.NDArray[np.uint8]

_NUMBER: Final = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}
_SHAPE: Final = {name: (block, size) for name, block, size in TENSOR_TYPES.values()}
_ROWS: Final = {"F16": "ggml_fp16_to_fp32_row", "BF16": "ggml_bf16_to_fp32_row"}
WRITABLE: Final = (
    "F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
"""Types that need nothing but the numbers; the others want statistics of a text as well."""


def block_length(kind: str) -> int:
    """Numbers in one block: the length of a row must be a multiple of it."""
    return _SHAPE[kind][0]


def row_bytes(kind: str, columns: int) -> int:
    """Bytes of a row of ``columns`` numbers."""
    block, size = _SHAPE[kind]
    return columns // block * size


def is_readable(kind: str) -> bool:
    """Whether ggml has a way back from this type to numbers."""
    try:
        return kind == "F32" or bool(_reader(kind))
    except NotImplementedError:
        return False


def to_floats(rows: Blocks, kind: str, columns: int, out: Floats | None = None) -> Floats:
    """Stored rows (n, bytes of a row) to float32 (n, columns), in ``out`` where it is given.

    Raises:
        NotImplementedError: ggml has no way back from this type.
    """
    rows = np.ascontiguousarray(rows)
    if kind == "F32":
        return rows.view(np.float32).reshape(len(rows), columns)
    if out is None:
        out = np.empty((len(rows), columns), np.float32)
    _reader(kind)(_address(rows), _address(out), out.size)
    return out


def to_blocks(values: Floats, kind: str) -> Blocks:
    """Float32 (n, columns) to stored rows (n, bytes of a row), by ``ggml_quantize_chunk``."""
    values = np.ascontiguousarray(values, np.float32)
    if kind == "F32":
        return values.view(np.uint8)
    count, columns = values.shape
    out = np.empty((count, row_bytes(kind, columns)), np.uint8)
    written = _library().ggml_quantize_chunk(
        _NUMBER[kind], _address(values), _address(out), 0, count, columns, None
    )
    assert written == out.size, (kind, written, out.size)
    return out


@cache
def _reader(kind: str) -> Callable[[int, int, int], None]:
    name = _ROWS.get(kind) or f"dequantize_row_{kind.lower().replace('_k', '_K')}"
    try:
        function: Any = getattr(_library(), name)
    except AttributeError:
        raise NotImplementedError(kind) from None
    function.restype = None
    function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    found: Callable[[int, int, int], None] = function
    return found


@cache
def _library() -> Any:
    """The library that holds ggml's formats; llama_cpp has it loaded already."""
    folder = Path(llama_cpp.__file__).parent / "lib"
    names = {"win32": ("ggml-base.dll", "libggml-base.dll"), "darwin": ("libggml-base.dylib",)}
    tried = names.get(sys.platform, ("libggml-base.so",))
    path = next((folder / name for name in tried if (folder / name).exists()), folder / tried[0])
    library = ctypes.CDLL(str(path))
    function = library.ggml_quantize_chunk
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p,
        ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def _address(array: npt.NDArray[Any]) -> int:
    return array.ctypes.data
