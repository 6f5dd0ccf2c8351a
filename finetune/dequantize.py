"""ggml's blocks -> numbers, in torch and so on any device; gguf's own code is numpy's alone.

A stored row is a sequence of blocks. A block holds 32 numbers, or 256 for the kinds that end in
K, as small integers q with their scales; what a number is, kind by kind, says the comment at its
function. Every product and sum is its own float32 operation in the order of ggml's reference,
so that the results are equal to the last bit (ggml-quants.c, ``dequantize_row_*``).

Shapes: n blocks of as many bytes as ``contract.gguf_file.TENSOR_TYPES`` says, (n, bytes) uint8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import torch
from torch import Tensor

from finetune.contract.gguf_file import TENSOR_TYPES

BLOCKS: Final[Mapping[str, tuple[int, int]]] = {
    name: (numbers, size) for name, numbers, size in TENSOR_TYPES.values()
}
"""Kind -> numbers in a block, bytes of a block."""

CHUNK: Final = {"cpu": 1 << 18}
LARGE_CHUNK: Final = 1 << 24
"""Numbers that are dequantised at once: on a processor what its caches hold, elsewhere more, and
never so many that what is needed besides the result counts."""


def _half(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte ``at`` of each block, as float32, (n, 1)."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _nibbles(packed: Tensor) -> Tensor:
    """(n, g, b) bytes -> (n, g, 2, b): the low halves, then the high ones."""
    return torch.stack((packed & 15, packed >> 4), dim=2)


def _bits(packed: Tensor, width: int) -> Tensor:
    """(n, g, b) bytes -> (n, g, 8 / width, b): the lowest ``width`` bits first."""
    shifts = range(0, 8, width)
    return torch.stack([(packed >> shift) & ((1 << width) - 1) for shift in shifts], dim=2)


# --- blocks of 32 ----------------------------------------------------------------------------


def _q4_0(blocks: Tensor) -> Tensor:
    """d | 16 bytes of nibbles; d (q - 8)."""
    q = _nibbles(blocks[:, None, 2:]).flatten(1)
    return _half(blocks, 0) * (q.float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    """d, m | 16 bytes of nibbles; d q + m."""
    q = _nibbles(blocks[:, None, 4:]).flatten(1)
    return _half(blocks, 0) * q + _half(blocks, 2)


def _fifth_bits(packed: Tensor) -> Tensor:
    """Four bytes with one bit for each number, (n, 4) -> (n, 32), worth 16 each."""
    each = torch.stack([(packed >> shift) & 1 for shift in range(8)], dim=2)
    return each.flatten(1) << 4


def _q5_0(blocks: Tensor) -> Tensor:
    """d | 4 bytes of fifth bits | 16 bytes of nibbles; d (q - 16)."""
    q = _nibbles(blocks[:, None, 6:]).flatten(1) | _fifth_bits(blocks[:, 2:6])
    return _half(blocks, 0) * (q.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    """d, m | 4 bytes of fifth bits | 16 bytes of nibbles; d q + m."""
    q = _nibbles(blocks[:, None, 8:]).flatten(1) | _fifth_bits(blocks[:, 4:8])
    return _half(blocks, 0) * q + _half(blocks, 2)


def _q8_0(blocks: Tensor) -> Tensor:
    """d | 32 signed bytes; d q."""
    return _half(blocks, 0) * blocks[:, 2:].contiguous().view(torch.int8)


# --- blocks of 256 ---------------------------------------------------------------------------


def _q2_k(blocks: Tensor) -> Tensor:
    """16 bytes of scales and minima | 64 bytes of pairs of bits | d, dmin;
    d scale q - dmin minimum, each for 16 numbers."""
    scales = blocks[:, :16]
    q = _bits(blocks[:, 16:80].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    scale = _half(blocks, 80) * (scales & 15)
    minimum = _half(blocks, 82) * (scales >> 4)
    return (scale[..., None] * q - minimum[..., None]).flatten(1)


def _q3_k(blocks: Tensor) -> Tensor:
    """32 bytes of third bits | 64 bytes of pairs of bits | 12 bytes of scales | d;
    d (scale - 32) (q - 4), each for 16 numbers."""
    low = _bits(blocks[:, 32:96].reshape(-1, 2, 32), 2)
    high = torch.stack([(blocks[:, :32] >> shift) & 1 for shift in range(8)], dim=1)
    q = low | (high.view_as(low) << 2)
    # Sixteen scales of six bits: nibbles in 8 bytes, the upper pairs of bits in 4.
    scale = _nibbles(blocks[:, None, 96:104]).flatten(1)
    scale = scale | (_bits(blocks[:, None, 104:108], 2).flatten(1) << 4)
    factor = _half(blocks, 108) * (scale.float() - 32)
    return (factor[..., None] * (q.view(-1, 16, 16).float() - 4)).flatten(1)


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight scales and eight minima of six bits in 12 bytes, (n, 12) -> twice (n, 8).

    The first four of each are the lower six bits of a byte; of the other four, the lower four
    bits are in the last four bytes and the upper two on top of the first eight.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), dim=1)
    minimum = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), dim=1)
    return scale, minimum


def _with_minima(blocks: Tensor, q: Tensor) -> Tensor:
    """d, dmin and scales at the beginning; d scale q - dmin minimum, each for 32 numbers."""
    scale, minimum = _scales_and_minima(blocks[:, 4:16])
    factor = (_half(blocks, 0) * scale)[..., None]
    return (factor * q - (_half(blocks, 2) * minimum)[..., None]).flatten(1)


def _q4_k(blocks: Tensor) -> Tensor:
    """d, dmin | 12 bytes of scales and minima | 128 bytes of nibbles."""
    return _with_minima(blocks, _nibbles(blocks[:, 16:].reshape(-1, 4, 32)).view(-1, 8, 32))


def _q5_k(blocks: Tensor) -> Tensor:
    """d, dmin | 12 bytes of scales and minima | 32 bytes of fifth bits | 128 of nibbles."""
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).view(-1, 8, 32)
    high = torch.stack([(blocks[:, 16:48] >> shift) & 1 for shift in range(8)], dim=1)
    return _with_minima(blocks, low | (high << 4))


def _q6_k(blocks: Tensor) -> Tensor:
    """128 bytes of nibbles | 64 of upper pairs of bits | 16 signed scales | d;
    d scale (q - 32), each for 16 numbers."""
    # A half of 128 numbers: the low nibbles of 64 bytes, then their high ones.
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).view(-1, 2, 4, 32)
    high = _bits(blocks[:, 128:192].reshape(-1, 2, 32), 2)
    q = (low | (high << 4)).view(-1, 16, 16).float() - 32
    factor = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8)
    return (factor[..., None] * q).flatten(1)


# --- plain numbers ---------------------------------------------------------------------------


def _plain(kind: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda blocks: blocks.contiguous().view(kind)


KINDS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "F32": _plain(torch.float32),
    "F16": _plain(torch.float16),
    "BF16": _plain(torch.bfloat16),
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
"""What can be dequantised on the device."""


@torch.no_grad()
def dequantize(stored: Tensor, kind: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """Stored rows (..., bytes of a row) uint8 -> numbers (..., row length) on the same device.

    ``kind``: a key of ``KINDS``. Rounded once, from float32 to ``dtype``.
    """
    numbers, size = BLOCKS[kind]
    blocks = stored.reshape(-1, size)
    of_kind = KINDS[kind]
    out = torch.empty(len(blocks), numbers, dtype=dtype, device=stored.device)
    step = CHUNK.get(stored.device.type, LARGE_CHUNK) // numbers
    for start in range(0, len(blocks), step):
        out[start : start + step] = of_kind(blocks[start : start + step])
    return out.view(*stored.shape[:-1], stored.shape[-1] // size * numbers)
