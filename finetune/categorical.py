"""Drawing tokens from logits by inverting the cumulative distribution, in two steps.

A uniform number picks a block of tokens by the blocks' shares, then a token within the block: what
a search through the whole table of cumulative probabilities finds, but only as many sums are in
double precision as are needed. Shapes: N rows, V vocabulary entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK: Final = 128
"""Tokens in a block: the two steps add V / BLOCK and BLOCK numbers in double precision."""


@dataclass(frozen=True)
class Drawn:
    """One token for each row, all (N,)."""

    tokens: Tensor
    logprobs: Tensor
    """Of the tokens, at the sampling temperature (at 1 where that is 0)."""
    entropies: Tensor | None
    """Of the distributions, in nats; only if asked for."""


def draw(
    logits: Tensor, luck: Tensor, temperature: float, *, with_entropies: bool = False
) -> Drawn:
    """Draw from ``logits`` (N, V). ``luck``: uniform numbers in [0, 1), (N,).

    Temperature 0 takes the likeliest token.
    """
    scaled = logits if temperature in (0.0, 1.0) else logits / temperature
    weights = scaled.softmax(-1)
    if weights.shape[-1] % BLOCK:
        weights = F.pad(weights, (0, -weights.shape[-1] % BLOCK))
    blocks = weights.view(*weights.shape[:-1], -1, BLOCK)
    # In half the precision, rounding would favour the last tokens; Apple's GPUs have no other.
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    sums = blocks.sum(-1).to(exact)
    total = sums.sum(-1)  # 1, but for the rounding of a sum over V
    if temperature == 0.0:
        tokens = logits.argmax(-1)
    else:
        block, rest = _found(sums, luck.to(exact) * total)
        own = blocks.gather(1, block[:, None, None].expand(-1, 1, BLOCK))[:, 0]
        place, _ = _found(own.to(exact), rest)
        tokens = (block * BLOCK + place).clamp(max=logits.shape[-1] - 1)
    logprobs = _at(weights, tokens).log() - total.log().float()
    entropies = None
    if with_entropies:
        expected = torch.linalg.vecdot(weights[:, : scaled.shape[-1]], scaled) / total.float()
        entropies = _at(scaled, tokens) - logprobs - expected
    return Drawn(tokens, logprobs, entropies)


def _found(shares: Tensor, point: Tensor) -> tuple[Tensor, Tensor]:
    """Where ``point`` (N,) falls among ``shares`` (N, n) laid end to end, and how far into it."""
    ends = shares.cumsum(-1)
    place = torch.searchsorted(ends, point[:, None], right=True).clamp(max=shares.shape[-1] - 1)
    start = _at(ends, place[:, 0]) - _at(shares, place[:, 0])
    return place[:, 0], point - start


def _at(values: Tensor, places: Tensor) -> Tensor:
    """``values`` (N, n) at one place of each row, (N,)."""
    return values.gather(-1, places[:, None])[:, 0]
