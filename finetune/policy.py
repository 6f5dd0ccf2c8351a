"""One trunk, four roles: policy, reference, reward model and value head share its weights.

Every linear layer of the blocks becomes a ``LoraLinear`` that holds any number of named
low-rank updates; which of them count is switched for the whole trunk at once:

    ("sft",)            the SFT model: the reference of PPO and the trunk of the reward model
    ("sft", "ppo")      the policy; "ppo" starts with B = 0, so KL is exactly 0
    ("sft", "reward")   the reward model
    ()                  the base

Our own 40 lines and not peft's: two adapters at once cost a quarter of a decoding step there
(15 ms against 12), and merging for rollouts has to leave the weights as they were to the last
bit. Shapes: B rows of T tokens, width D, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finetune.contract.recipe import LoraRecipe


class LoraLinear(nn.Module):
    """base(x) + sum over the active adapters of scale * B A x (Hu et al. 2021).

    A (rank, in) and B (out, rank) are float32 whatever the trunk's type is.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.ParameterDict()
        self.b = nn.ParameterDict()
        self.scales: dict[str, float] = {}
        self.active: tuple[str, ...] = ()
        self.merged: Tensor | None = None
        self.folded: tuple[tuple[str, ...], Tensor] | None = None

    def add(self, name: str, rank: int, scale: float, generator: torch.Generator) -> None:
        """A new adapter: A uniform as in a fresh linear layer, B zero."""
        bound = self.base.in_features**-0.5
        a = torch.empty(rank, self.base.in_features).uniform_(-bound, bound, generator=generator)
        device = self.base.weight.device
        self.a[name] = nn.Parameter(a.to(device))
        self.b[name] = nn.Parameter(torch.zeros(self.base.out_features, rank, device=device))
        self.scales[name] = scale

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None:
            return F.linear(x, self.merged, self.base.bias)
        weight, names = self.base.weight, self.active
        if self.folded is not None and names[: len(self.folded[0])] == self.folded[0]:
            weight, names = self.folded[1], names[len(self.folded[0]) :]
        out = F.linear(x, weight, self.base.bias)
        for name in names:
            low = F.linear(x.to(self.a[name].dtype), self.a[name]) * self.scales[name]
            update = F.linear(low, self.b[name])
            out = out + update.to(out.dtype)
        return out

    @torch.no_grad()
    def sum_of(self, names: Sequence[str]) -> Tensor:
        """A copy of the weights with these adapters added, (out, in)."""
        total = self.base.weight.float()
        for name in names:
            if name in self.scales:
                total = total + self.scales[name] * (self.b[name] @ self.a[name])
        return total.to(self.base.weight.dtype)


@dataclass(frozen=True)
class Batch:
    """Right-padded token ids (B, T), which of them are real, and which are learned."""

    ids: Tensor
    real: Tensor
    learn: Tensor


def pad_batch(
    rows: Sequence[tuple[Sequence[int], Sequence[bool]]], device: torch.device | str = "cpu"
) -> Batch:
    """Token ids with their learned mask, padded on the right. The pad id is never looked at."""
    width = max(len(ids) for ids, _ in rows)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    real = np.zeros((len(rows), width), dtype=np.bool_)
    learn = np.zeros((len(rows), width), dtype=np.bool_)
    for row, (tokens, mask) in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        real[row, : len(tokens)] = True
        learn[row, : len(mask)] = mask
    return Batch(*(torch.from_numpy(values).to(device) for values in (ids, real, learn)))


class Policy(nn.Module):
    """The trunk with its adapters. The caller says which adapters count."""

    def __init__(self, model: nn.Module) -> None:
        """``model``: a frozen transformers model for causal language modelling."""
        super().__init__()
        self.model = model
        self.config: Any = model.config
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.layers = _wrap_linear_layers(model)

    @property
    def width(self) -> int:
        return int(self.config.hidden_size)

    # --- adapters ----------------------------------------------------------------------------

    def add_adapter(self, name: str, recipe: LoraRecipe, generator: torch.Generator) -> None:
        """A fresh adapter on every linear layer; it changes nothing until it is trained."""
        for layer in self.layers.values():
            layer.add(name, recipe.rank, recipe.alpha / recipe.rank, generator)

    def set_adapter(self, name: str, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """An adapter from finished A and B, the scale already in B."""
        for path, (a, b) in weights.items():
            layer = self.layers[path]
            layer.a[name] = nn.Parameter(a.to(self.device))
            layer.b[name] = nn.Parameter(b.to(self.device))
            layer.scales[name] = 1.0

    def has_adapter(self, name: str) -> bool:
        return any(name in layer.scales for layer in self.layers.values())

    def adapter_parameters(self, name: str) -> list[nn.Parameter]:
        return [p for layer in self.layers.values() for p in (layer.a[name], layer.b[name])]

    def adapter_state(self, name: str) -> dict[str, Tensor]:
        """Copies of an adapter's weights: ``<module>.a`` and ``<module>.b``."""
        state: dict[str, Tensor] = {}
        for path, layer in self.layers.items():
            state[f"{path}.a"] = layer.a[name].detach().clone()
            state[f"{path}.b"] = layer.b[name].detach().clone()
        return state

    def load_adapter_state(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Copy into the existing parameters, which optimisers may hold."""
        with torch.no_grad():
            for path, layer in self.layers.items():
                layer.a[name].copy_(state[f"{path}.a"])
                layer.b[name].copy_(state[f"{path}.b"])

    def joined(self, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """Several adapters as one of the summed rank, exactly: [s1 B1, s2 B2] [A1; A2]."""
        present = [name for name in names if self.has_adapter(name)]
        return {
            path: (
                torch.cat([layer.a[n].detach() for n in present]).cpu(),
                torch.cat([layer.b[n].detach() * layer.scales[n] for n in present], dim=1).cpu(),
            )
            for path, layer in self.layers.items()
        }

    @contextmanager
    def using(self, *names: str) -> Iterator[None]:
        """Let these adapters count inside the block; unknown ones are left out."""
        present = tuple(name for name in names if self.has_adapter(name))
        before = {path: layer.active for path, layer in self.layers.items()}
        for layer in self.layers.values():
            layer.active = tuple(n for n in present if n in layer.scales)
        try:
            yield
        finally:
            for path, layer in self.layers.items():
                layer.active = before[path]

    def fold(self, *names: str) -> None:
        """Keep copies of the weights with these finished adapters added, and use them from now
        on wherever they are the first ones active: trained roles stacked on them cost less.

        Without names the copies are dropped.
        """
        present = tuple(name for name in names if self.has_adapter(name))
        for layer in self.layers.values():
            layer.folded = (present, layer.sum_of(present)) if present else None

    @contextmanager
    def merged(self, *names: str) -> Iterator[None]:
        """As ``using``, but with the updates added to a copy of the weights: faster to decode.

        The weights themselves are not touched, so nothing has to be undone. No gradients.
        """
        present = [name for name in names if self.has_adapter(name)]
        with torch.no_grad(), self.using(*names):
            try:
                for layer in self.layers.values():
                    if present:
                        layer.merged = layer.sum_of(present)
                yield
            finally:
                for layer in self.layers.values():
                    layer.merged = None

    # --- forward -----------------------------------------------------------------------------

    def hidden(self, batch: Batch) -> Tensor:
        """Last hidden states, (B, T, D), of a right-padded batch.

        Real tokens come first in every row, so that the causal mask alone keeps them from
        seeing the pads; no other mask is needed.
        """
        trunk: Any = self.model.model
        out: Tensor = trunk(input_ids=batch.ids, use_cache=False).last_hidden_state
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to float32 logits (..., V)."""
        head: Any = self.model.lm_head
        out: Tensor = head(hidden)
        return out.float()

    def learned_logprobs(self, batch: Batch, hidden: Tensor | None = None) -> Tensor:
        """Log-probabilities of the learned tokens, flat, row by row; the head sees no others."""
        states = self.hidden(batch) if hidden is None else hidden
        chosen = batch.learn[:, 1:]
        logits = self.logits(states[:, :-1][chosen])
        return -F.cross_entropy(logits, batch.ids[:, 1:][chosen], reduction="none")


def _wrap_linear_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """Replace every linear layer inside the blocks; module path -> its wrapper."""
    wrapped: dict[str, LoraLinear] = {}
    blocks: Any = model.get_submodule("model.layers")
    for path, module in list(blocks.named_modules()):
        if isinstance(module, nn.Linear):
            layer = LoraLinear(module)
            parent, _, name = path.rpartition(".")
            setattr(blocks.get_submodule(parent), name, layer)
            wrapped[f"model.layers.{path}"] = layer
    return wrapped
