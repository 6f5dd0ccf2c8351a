"""The network of the starter model: a small Llama in plain torch, and nothing else.

Names and layouts are those of Hugging Face's ``LlamaForCausalLM`` without the ``model.`` prefix
(rotary halves, not pairs), so that every tool that knows Llama can read the checkpoint; the export
permutes query and key rows for GGUF. No generation here: llama.cpp does that.

Shapes: B rows of T tokens, width D, H heads of size K, V vocabulary entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ModelShape:
    """What must be known to build the network and to read its weights."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    feed_forward: int
    context: int
    rope_base: float = 10000.0
    norm_epsilon: float = 1e-5

    @property
    def head_size(self) -> int:
        return self.width // self.heads


class RmsNorm(nn.Module):
    """Root-mean-square normalisation with a learned gain."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)


def rotary_table(length: int, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, each (length, head_size)."""
    frequency = base ** (-torch.arange(0, head_size, 2, dtype=torch.float32) / head_size)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency[None, :]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each (first half, second half) pair of (B, H, T, K) by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(nn.Module):
    """Causal self-attention; ``allowed`` (B, 1, T, T) is True where a token may look."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.heads, self.head_size = shape.heads, shape.head_size
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.v_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor | None) -> Tensor:
        rows, length, width = x.shape

        def split(projected: Tensor) -> Tensor:
            return projected.view(rows, length, self.heads, self.head_size).transpose(1, 2)

        query = rotate(split(self.q_proj(x)), cos, sin)
        key = rotate(split(self.k_proj(x)), cos, sin)
        mixed = F.scaled_dot_product_attention(
            query, key, split(self.v_proj(x)), attn_mask=allowed, is_causal=allowed is None
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, length, width))
        return out


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.feed_forward, bias=False)
        self.down_proj = nn.Linear(shape.feed_forward, shape.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """Attention, then feed-forward, each around a residual connection."""

    def __init__(self, shape: ModelShape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.width, shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RmsNorm(shape.width, shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, allowed: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, allowed)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class StarterModel(nn.Module):
    """Token ids (B, T) to the last hidden states (B, T, D); the output head is the embedding."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: ModelShape, seed: int = 0) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = RmsNorm(shape.width, shape.norm_epsilon)
        cos, sin = rotary_table(shape.context, shape.head_size, shape.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise(seed)

    def _initialise(self, seed: int) -> None:
        """Normal, of deviation 0.02 in the embedding and 1/sqrt(width) in the matrices; the two
        projections that write to the residual stream start at zero, so that at step 0 every block
        is the identity (as in nanochat and modded-nanogpt)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                deviation = 0.02 if name.startswith("embed") else self.shape.width**-0.5
                nn.init.normal_(parameter, std=deviation, generator=generator)

    def forward(self, ids: Tensor, allowed: Tensor | None = None) -> Tensor:
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.embed_tokens(ids)
        for block in self.layers:
            x = block(x, cos, sin, allowed)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to scores over the vocabulary (..., V)."""
        return F.linear(hidden, self.embed_tokens.weight)
