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

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from finetune.architectures import parts_of
from finetune.contract.recipe import LoraRecipe
from finetune.packing import Pack, trunk_inputs, use_packed_attention
from finetune.quantized_linear import QuantizedLinear
from finetune.recompute import recompute


class LoraLinear(nn.Module):
    """base(x) + sum over the active adapters of scale * B A x (Hu et al. 2021).

    A (rank, in) and B (out, rank) are float32 whatever the trunk's type is.
    """

    def __init__(self, base: nn.Linear | QuantizedLinear) -> None:
        super().__init__()
        self.base = base
        self.a = nn.ParameterDict()
        self.b = nn.ParameterDict()
        self.scales: dict[str, float] = {}
        self.active: tuple[str, ...] = ()
        self.merged: Tensor | None = None
        self.folded: tuple[tuple[str, ...], Tensor] | None = None
        self.narrow: torch.dtype | None = None
        self.narrowed: dict[tuple[str, ...], Tensor] = {}

    def add(self, name: str, rank: int, scale: float, generator: torch.Generator) -> None:
        """A new adapter: A uniform as in a fresh linear layer, B zero."""
        bound = self.base.in_features**-0.5
        a = torch.empty(rank, self.base.in_features).uniform_(-bound, bound, generator=generator)
        device = next(chain(self.base.buffers(), self.base.parameters())).device
        self.a[name] = nn.Parameter(a.to(device))
        self.b[name] = nn.Parameter(torch.zeros(self.base.out_features, rank, device=device))
        self.scales[name] = scale

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None:
            return F.linear(x, self.merged, self.base.bias)
        flat = x.reshape(-1, x.shape[-1])
        if self.narrow is not None:
            flat = flat.to(self.narrow)
        out, names = self._frozen(flat)
        for name in names:
            low = flat @ self.a[name].to(flat.dtype).T * self.scales[name]
            out = torch.addmm(out, low, self.b[name].to(flat.dtype).T)
        return out.to(x.dtype).view(*x.shape[:-1], -1)

    def _frozen(self, flat: Tensor) -> tuple[Tensor, tuple[str, ...]]:
        """The product with the weights that are not trained, and the adapters still to add."""
        weight: Tensor | None = None
        done: tuple[str, ...] = ()
        if self.folded is not None and self.active[: len(self.folded[0])] == self.folded[0]:
            done, weight = self.folded
        elif isinstance(self.base, nn.Linear):
            weight = self.base.weight
        names = self.active[len(done) :]
        if weight is None:
            return self.base(flat), names
        bias: Tensor | None = self.base.bias
        if weight.dtype != flat.dtype:
            if done not in self.narrowed:
                self.narrowed[done] = _narrow_copy(weight, flat.dtype)
            weight = self.narrowed[done]
            bias = None if bias is None else bias.to(flat.dtype)
        return F.linear(flat, weight, bias), names

    @torch.no_grad()
    def sum_of(self, names: Sequence[str]) -> Tensor:
        """A copy of the weights with these adapters added, (out, in)."""
        weight = self.base.weight
        total = weight.float()
        for name in names:
            if name in self.scales:
                total = total + self.scales[name] * (self.b[name] @ self.a[name])
        return total.to(weight.dtype)


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

    def __init__(
        self,
        model: nn.Module,
        *,
        copies: bool = True,
        forgets: bool = False,
        blank_ids: frozenset[int] = frozenset(),
    ) -> None:
        """``model``: a frozen transformers model for causal language modelling.

        ``copies``: whether there is memory for weights with finished adapters added, which
        ``fold`` and ``merged`` keep; without them each adapter is computed beside the weights.
        ``forgets``: whether blocks compute their activations again on the way back.
        ``blank_ids``: tokens of white space: who samples only these has said nothing.
        """
        super().__init__()
        self.model = model
        self.copies = copies
        self.blank_ids = blank_ids
        parts = parts_of(model)
        self.trunk, self.head, self.softcap = parts.trunk, parts.head, parts.softcap
        self.config: Any = model.config
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.layers = _wrap_linear_layers(model, parts.blocks)
        self.narrow: torch.dtype | None = None
        self._narrow_head: Tensor | None = None
        use_packed_attention(model)
        if forgets:
            for block in model.get_submodule(parts.blocks).children():
                recompute(block, [m for m in block.modules() if isinstance(m, LoraLinear)])

    @property
    def product_type(self) -> torch.dtype:
        """The type that matrix products are computed in now."""
        return self.narrow or self.dtype

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
        present = tuple(name for name in names if self.copies and self.has_adapter(name))
        for layer in self.layers.values():
            layer.folded = (present, layer.sum_of(present)) if present else None

    @contextmanager
    def narrowed(self, dtype: torch.dtype | None) -> Iterator[None]:
        """Inside the block, matrix products are computed in ``dtype``; None changes nothing.

        Adapters, activations between the products and sums stay in float32, as under autocast
        (Micikevicius et al. 2018); the narrow copies of the weights are dropped at the end.
        """
        try:
            self._narrow(dtype)
            yield
        finally:
            self._narrow(None)

    def _narrow(self, dtype: torch.dtype | None) -> None:
        self.narrow = dtype if dtype != self.dtype else None
        self._narrow_head = None
        for layer in self.layers.values():
            layer.narrow = self.narrow
            layer.narrowed = {}

    @contextmanager
    def merged(self, *names: str) -> Iterator[None]:
        """As ``using``, but with the updates added to a copy of the weights: faster to decode.

        The weights themselves are not touched, so nothing has to be undone. No gradients.
        """
        present = [name for name in names if self.copies and self.has_adapter(name)]
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
        out: Tensor = self.trunk(input_ids=batch.ids, use_cache=False).last_hidden_state
        return out

    def packed_hidden(self, pack: Pack) -> Tensor:
        """Last hidden states of all tokens of a pack, (N, D)."""
        out: Tensor = self.trunk(**trunk_inputs(pack)).last_hidden_state
        return out[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., D) to float32 logits (..., V)."""
        if self.narrow is not None and isinstance(self.head, nn.Linear):
            if self._narrow_head is None:
                self._narrow_head = _narrow_copy(self.head.weight, self.narrow)
            out = F.linear(hidden.to(self.narrow), self._narrow_head).float()
        else:
            out = self.head(hidden).float()
        if self.softcap is not None:
            out = self.softcap * torch.tanh(out / self.softcap)
        return out

    @property
    def rows_of_logits(self) -> int:
        """How many rows of logits are made at once: 16 MB on a processor, 256 MB on a GPU.

        A head in blocks is dequantised for each piece, so that larger ones pay: 64 MB.
        """
        on_processor = 1 << 24 if isinstance(self.head, QuantizedLinear) else 1 << 22
        numbers = on_processor if self.device.type == "cpu" else 1 << 26
        return max(1, numbers // int(self.config.vocab_size))

    def token_logprobs(self, hidden: Tensor, targets: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-probabilities of ``targets`` (n,) at the states (n, D) before them, (n,).

        Never more than a piece of the (n, V) logits exists, whatever n is.
        """
        rows = self.rows_of_logits
        found: Tensor = _TokenLogprobs.apply(hidden, targets, self.logits, temperature, rows)  # type: ignore[no-untyped-call]
        return found

    @torch.no_grad()
    def token_scores(
        self, hidden: Tensor, targets: Tensor, temperature: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """As ``token_logprobs``, and the entropies of the distributions in nats, both (n,)."""
        logprobs: list[Tensor] = []
        entropies: list[Tensor] = []
        rows = self.rows_of_logits
        for some, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            scaled = self.logits(some) / temperature
            logprobs.append(-F.cross_entropy(scaled, wanted, reduction="none"))
            every = scaled.log_softmax(-1)
            entropies.append(-(every.exp() * every).sum(-1))
        return torch.cat(logprobs), torch.cat(entropies)

    def learned_logprobs(self, pack: Pack) -> Tensor:
        """Log-probabilities of the learned tokens, flat, in order; the head sees no others."""
        hidden = self.packed_hidden(pack)[pack.before_targets]
        return self.token_logprobs(hidden, pack.targets)


def _narrow_copy(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy that gradients can pass, even if sampling is the first to ask for it."""
    with torch.inference_mode(False), torch.no_grad():
        return weight.to(dtype)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(logits(h) / temperature)[target], some rows at a time.

    A row depends on its own state alone, so its gradient is known on the way forward up to the
    factor that comes back: no logits are kept for the way back, nor is the head computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        logits: Callable[[Tensor], Tensor],
        temperature: float,
        rows: int,
    ) -> Tensor:
        found: list[Tensor] = []
        slopes: list[Tensor] = []
        for some, wanted in zip(torch.split(hidden, rows), torch.split(targets, rows), strict=True):
            with torch.set_grad_enabled(ctx.needs_input_grad[0]):
                states = some.detach().requires_grad_(ctx.needs_input_grad[0])
                scaled = logits(states) / temperature
                logprobs = -F.cross_entropy(scaled, wanted, reduction="none")
            if ctx.needs_input_grad[0]:
                slopes.append(*torch.autograd.grad(logprobs, states, torch.ones_like(logprobs)))
            found.append(logprobs.detach())
        if slopes:
            ctx.save_for_backward(torch.cat(slopes))
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grad[:, None] * slopes).to(slopes.dtype), None, None, None, None


def _wrap_linear_layers(model: nn.Module, blocks: str) -> dict[str, LoraLinear]:
    """Replace every linear layer inside the blocks; module path -> its wrapper."""
    wrapped: dict[str, LoraLinear] = {}
    parent = model.get_submodule(blocks)
    for path, module in list(parent.named_modules()):
        if isinstance(module, nn.Linear | QuantizedLinear):
            layer = LoraLinear(module)
            above, _, name = path.rpartition(".")
            setattr(parent.get_submodule(above), name, layer)
            wrapped[f"{blocks}.{path}"] = layer
    return wrapped
