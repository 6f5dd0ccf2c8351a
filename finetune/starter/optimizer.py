"""Muon for the hidden matrices and AdamW for the rest, with a state that is plain named tensors.

``torch.optim.Muon`` exists, but it orthogonalises in bfloat16, which a CPU without the
instructions does tens of times slower than float32; and one dictionary of tensors is what a
checkpoint wants. Muon: K. Jordan 2024, with the quintic Newton-Schulz iteration of its reference
code; AdamW: Loshchilov and Hutter 2019.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5
_ADAM_BETAS = (0.9, 0.95)
_ADAM_EPSILON = 1e-8


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly; (N, rows, columns) with rows <= columns."""
    a, b, c = _QUINTIC
    x: Tensor = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, beta=1.0, alpha=c) @ x
    return x


class MuonWithAdam:
    """Updates a model's parameters from their gradients; rates are given at each step."""

    def __init__(self, model: nn.Module, momentum: float, weight_decay: float) -> None:
        self.momentum, self.weight_decay = momentum, weight_decay
        named = dict(model.named_parameters())
        self.matrices = {n: p for n, p in named.items() if p.dim() == 2 and "embed" not in n}
        self.vectors = {n: p for n, p in named.items() if n not in self.matrices}
        self.state: dict[str, Tensor] = {"adam.steps": torch.zeros(1)}
        for name, parameter in self.matrices.items():
            self.state[f"muon.{name}"] = torch.zeros_like(parameter)
        for name, parameter in self.vectors.items():
            self.state[f"mean.{name}"] = torch.zeros_like(parameter)
            self.state[f"square.{name}"] = torch.zeros_like(parameter)

    def load(self, state: dict[str, Tensor]) -> None:
        for name, tensor in self.state.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def step(self, matrix_rate: float, vector_rate: float) -> None:
        self._muon(matrix_rate)
        self._adam(vector_rate)
        for parameter in (*self.matrices.values(), *self.vectors.values()):
            parameter.grad = None

    def _muon(self, rate: float) -> None:
        """Matrices of one size go through Newton-Schulz together."""
        by_size: dict[tuple[int, int], list[str]] = defaultdict(list)
        for name, parameter in self.matrices.items():
            rows, columns = parameter.shape
            by_size[min(rows, columns), max(rows, columns)].append(name)
        for names in by_size.values():
            wide = []
            for name in names:
                gradient = self.matrices[name].grad
                assert gradient is not None, f"{name} took no part in the loss"
                velocity = self.state[f"muon.{name}"].lerp_(gradient, 1 - self.momentum)
                ahead = gradient.lerp(velocity, self.momentum)
                wide.append(ahead.mT if ahead.shape[0] > ahead.shape[1] else ahead)
            for name, update in zip(names, orthogonalise(torch.stack(wide)), strict=True):
                parameter = self.matrices[name]
                rows, columns = parameter.shape
                parameter.mul_(1 - rate * self.weight_decay)
                change = update.mT if rows > columns else update
                parameter.sub_(change, alpha=rate * max(1.0, rows / columns) ** 0.5)

    def _adam(self, rate: float) -> None:
        first, second = _ADAM_BETAS
        steps = float(self.state["adam.steps"].add_(1))
        for name, parameter in self.vectors.items():
            gradient = parameter.grad
            assert gradient is not None, f"{name} took no part in the loss"
            mean = self.state[f"mean.{name}"].lerp_(gradient, 1 - first)
            square = self.state[f"square.{name}"].mul_(second)
            square.addcmul_(gradient, gradient, value=1 - second)
            scale = (square / (1 - second**steps)).sqrt_().add_(_ADAM_EPSILON)
            parameter.addcdiv_(mean, scale, value=-rate / (1 - first**steps))
