"""What a run will need of the device's memory, worked out before anything is loaded.

The plan also decides how the trunk is held, the first of these that fits comfortably:

    dense, with copies      all weights wide, and copies of them with finished adapters added
    dense                   all weights wide; adapters are computed beside them
    dense, forgetting       the same; activations of a block are computed again on the way back
    blocks                  matrices stay quantised, as the file has them (QLoRA's way)
    blocks, forgetting      both

Bytes throughout. Not counted is what is there before: Python, torch, other programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

import torch

from finetune.contract.gguf_file import GgufHeader, TensorInfo
from finetune.contract.recipe import Recipe
from finetune.dequantize import LARGE_CHUNK
from finetune.gguf_weights import Held, linear_stems, stays_in_blocks
from finetune.quantized_linear import PIECE

COMFORTABLE: Final = 0.8
"""Share of the free memory a plan may take; the rest is for what is estimated too low."""
COPIES: Final = 2
"""Wide copies of the blocks' matrices: the reference folded in, and the policy merged to write."""
ADAM: Final = 16
"""A trained number, its gradient and Adam's two moments, in float32; without training 4."""
ROWS_AT_ONCE, FEWEST_ROWS = 64, 32
"""Completions that are sampled at once: the first, or the second where memory is short."""
PROMPT_TOKENS: Final = 256
"""A prompt's length that sampling is planned for."""
RUNTIME: Final = 600 << 20
"""What CUDA and its libraries take for themselves; on a processor little."""
CPU_LOGITS, CPU_LOGITS_IN_BLOCKS, GPU_LOGITS = 16 << 20, 64 << 20, 256 << 20
"""The logits that are made at once (``Policy.rows_of_logits``); four such tables exist."""
MIN_TOKENS: Final = 256
MAX_TOKENS: Final = {"cpu": 1024}
"""Small on a processor: nothing is gained by more, and rows of like length waste no padding."""
MAX_TOKENS_ELSEWHERE: Final = 16384


@dataclass(frozen=True)
class MemoryPlan:
    """How the trunk is held, and where the memory goes."""

    held: Held
    copies: bool
    forgets: bool
    weights: int
    """The trunk as it is held, and its wide copies."""
    adapters: int
    """All roles' adapters, and one in training with gradients and Adam's moments."""
    activations: int
    """Of ``tokens``, or the keys and values of what is sampled at once where those are more."""
    working: int
    """Matrices dequantised for the moment, and the runtime's own."""
    tokens: int
    """Padded tokens that go through the network at once."""
    rows: int
    """Completions that are sampled at once."""
    available: int
    """0 where the system does not say."""

    @property
    def total(self) -> int:
        return self.weights + self.adapters + self.activations + self.working

    @property
    def fits(self) -> bool:
        return self.total <= self.available

    def in_words(self) -> str:
        """One sentence for a log or a terminal."""
        way = "quantised blocks" if self.held == "blocks" else "dequantised"
        way += " with copies" if self.copies else ""
        way += ", activations computed twice" if self.forgets else ""
        return (
            f"memory plan: weights {_gb(self.weights)} ({way}), adapters and Adam "
            f"{_gb(self.adapters)}, activations {_gb(self.activations)} for {self.tokens} tokens, "
            f"working {_gb(self.working)}, total {_gb(self.total)} of {_gb(self.available)} free"
        )


def plan_memory(
    header: GgufHeader,
    recipe: Recipe,
    kind: str,
    dtype: torch.dtype,
    available: int,
    *,
    in_blocks: bool = True,
) -> MemoryPlan:
    """The best way to hold a model in ``available`` bytes; the smallest if none fits.

    Args:
        kind: of the device, as torch says it.
        dtype: of activations and of wide weights.
        in_blocks: whether holding them so is possible at all.
    """
    ways: list[tuple[Held, bool, bool]] = [
        ("dense", True, False), ("dense", False, False), ("dense", False, True),
    ]  # fmt: skip
    if in_blocks and any(stays_in_blocks(i, dtype) for i in _matrices(header)):
        ways += [("blocks", False, False), ("blocks", False, True)]
    plans = [_plan(header, recipe, kind, dtype, available, *way) for way in ways]
    if not available:
        return plans[0]
    return next((p for p in plans if p.total <= COMFORTABLE * available), plans[-1])


def _plan(
    header: GgufHeader,
    recipe: Recipe,
    kind: str,
    dtype: torch.dtype,
    available: int,
    held: Held,
    copies: bool,
    forgets: bool,
) -> MemoryPlan:
    matrices = _matrices(header)
    in_blocks = {i.name for i in matrices if held == "blocks" and stays_in_blocks(i, dtype)}
    weights = sum(
        info.size if name in in_blocks else prod(info.shape) * dtype.itemsize
        for name, info in header.tensors.items()
    )
    linear = [header.tensors[f"{stem}.weight"] for stem in linear_stems(header).values()]
    if copies:
        weights += COPIES * sum(prod(info.shape) for info in linear) * dtype.itemsize
    if kind == "cpu" and held == "dense":  # in bfloat16, where products are computed so
        weights += 2 * sum(prod(info.shape) for info in linear)
    # A rank of an adapter is a row of A and a column of B.
    each_rank = sum(sum(info.shape) for info in linear)
    ranks = [recipe.sft.lora.rank, recipe.reward.lora.rank, recipe.ppo.lora.rank]
    adapters = each_rank * (4 * sum(ranks) + (ADAM - 4) * max(ranks))
    working = 0 if kind == "cpu" else RUNTIME
    if in_blocks:
        largest = max(prod(info.shape) for info in matrices)
        # One piece wide; and in float32, with its integers, the part that is being made.
        working += min(PIECE, largest) * dtype.itemsize + 16 * min(LARGE_CHUNK, largest)
    longest = PROMPT_TOKENS + max(recipe.ppo.max_new_tokens, recipe.evaluation.max_new_tokens)
    each_row = longest * _cache_bytes(header, dtype)
    if kind == "cpu":
        working += 4 * (CPU_LOGITS_IN_BLOCKS if in_blocks else CPU_LOGITS)
    else:
        working += 4 * GPU_LOGITS
    per_token = _activation_bytes(header, dtype, forgets)
    fixed = weights + adapters + working
    spare = max(0, available - fixed)
    roomy = not available or fixed + ROWS_AT_ONCE * each_row <= COMFORTABLE * available
    rows = ROWS_AT_ONCE if roomy else FEWEST_ROWS
    most = MAX_TOKENS.get(kind, MAX_TOKENS_ELSEWHERE)
    tokens = max(MIN_TOKENS, min(most, spare // 4 // per_token))
    activations = max(tokens * per_token, rows * each_row)
    return MemoryPlan(
        held, copies, forgets, weights, adapters, activations, working, tokens, rows, available
    )


def _matrices(header: GgufHeader) -> list[TensorInfo]:
    """What can stay in blocks: linear layers, the token table and the head."""
    names = [f"{stem}.weight" for stem in linear_stems(header).values()]
    names += ["token_embd.weight", "output.weight"]
    return [header.tensors[name] for name in names if name in header.tensors]


def _activation_bytes(header: GgufHeader, dtype: torch.dtype, forgets: bool) -> int:
    """What autograd keeps for one token.

    In vectors of a block's width w, of its queries q, keys k and feed-forward f: norms keep
    6 w + 3 (q + k) in float32, the rest is 4 w + 5 q + 3 k + 5 f. Measured on a Qwen 3 of 0.6
    billion: 5.8 MB a token in float32, where this says 5.4.
    """
    layers, width, query, key = _measures(header)
    feed_forward = int(header.hyperparameter("feed_forward_length", 4 * width))
    norms = 4 * (6 * width + 3 * (query + key))
    each = norms + dtype.itemsize * (4 * width + 5 * query + 3 * key + 5 * feed_forward)
    if forgets:  # the input of every block, and one block whole
        return layers * width * dtype.itemsize + each
    return layers * each


def _cache_bytes(header: GgufHeader, dtype: torch.dtype) -> int:
    """Keys and values of one token."""
    layers, _, _, key = _measures(header)
    return 2 * layers * key * dtype.itemsize


def _measures(header: GgufHeader) -> tuple[int, int, int, int]:
    """Blocks; widths of a block, of its queries and of its keys."""
    width = int(header.hyperparameter("embedding_length", 1))
    heads = int(header.hyperparameter("attention.head_count", 1))
    groups = int(header.hyperparameter("attention.head_count_kv", heads))
    head = int(header.hyperparameter("attention.key_length", width // heads))
    layers = int(header.hyperparameter("block_count", 1))
    return layers, width, heads * head, groups * head


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
