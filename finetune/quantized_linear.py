"""Layers whose frozen weights stay in their quantised blocks, as QLoRA's do.

No wide copy is kept: the weights are dequantised for each use, forward and backward, and dropped
again (Dettmers et al. 2023, section 3, with ggml's blocks in place of NF4). Gradients flow to
the input alone. What is computed is what a dense layer of the same dequantised weights computes,
so one may stand for the other.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.dequantize import BLOCKS, dequantize

PIECE: Final = 1 << 25
"""Weights that are wide at one time; only a vocabulary's table is cut by it."""


class QuantizedLinear(nn.Module):
    """x -> x W^T + bias, W stored as rows of blocks."""

    def __init__(
        self, blocks: Tensor, kind: str, dtype: torch.dtype, bias: Tensor | None = None
    ) -> None:
        """``blocks``: (out, bytes of a row) uint8; ``kind``: a key of ``dequantize.KINDS``."""
        super().__init__()
        numbers, size = BLOCKS[kind]
        self.blocks: Tensor
        self.register_buffer("blocks", blocks, persistent=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.kind = kind
        self.dtype = dtype
        self.out_features = blocks.shape[0]
        self.in_features = blocks.shape[1] // size * numbers

    def forward(self, x: Tensor) -> Tensor:
        times_blocks: Any = _TimesBlocks.apply
        out: Tensor = times_blocks(x, self.blocks, self.kind, self.bias)
        return out

    @property
    def weight(self) -> Tensor:
        """The weights as numbers, (out, in), made anew each time."""
        return dequantize(self.blocks, self.kind, self.dtype)


class QuantizedEmbedding(nn.Module):
    """Token ids -> rows of a table stored in blocks; only the rows looked up are dequantised."""

    def __init__(self, blocks: Tensor, kind: str, dtype: torch.dtype, scale: float = 1.0) -> None:
        """``blocks``: (V, bytes of a row) uint8. ``scale``: what Gemma multiplies rows with."""
        super().__init__()
        self.blocks: Tensor
        self.register_buffer("blocks", blocks, persistent=False)
        self.kind = kind
        self.dtype = dtype
        self.scale = float(torch.tensor(scale).to(dtype))  # rounded as transformers does

    def forward(self, ids: Tensor) -> Tensor:
        rows = dequantize(self.blocks[ids], self.kind, self.dtype)
        return rows if self.scale == 1.0 else rows * self.scale


class _TimesBlocks(torch.autograd.Function):
    """x W^T + bias, keeping nothing for the way back but the blocks themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, blocks: Tensor, kind: str, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(blocks)
        ctx.kind = kind
        pieces = _pieces(blocks, kind)
        if len(pieces) == 1:
            return F.linear(x, dequantize(blocks, kind, x.dtype), bias)
        out = x.new_empty(*x.shape[:-1], blocks.shape[0])
        for start, end in pieces:
            weight = dequantize(blocks[start:end], kind, x.dtype)
            out[..., start:end] = F.linear(x, weight, None if bias is None else bias[start:end])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (blocks,) = ctx.saved_tensors
        total: Tensor | None = None
        for start, end in _pieces(blocks, ctx.kind):
            part = grad[..., start:end] @ dequantize(blocks[start:end], ctx.kind, grad.dtype)
            total = part if total is None else total + part
        assert total is not None
        return total, None, None, None


def _pieces(blocks: Tensor, kind: str) -> list[tuple[int, int]]:
    """Ranges of rows with at most ``PIECE`` weights each."""
    numbers, size = BLOCKS[kind]
    rows = max(1, PIECE // (blocks.shape[1] // size * numbers))
    count = blocks.shape[0]
    return [(start, min(start + rows, count)) for start in range(0, count, rows)]
