"""Blocks that forget their activations and compute them again on the way back.

Memory for a third more time (Chen et al. 2016, "Training deep nets with sublinear memory cost"):
of each block only its input is kept. Which adapters count is a switch outside the tensors, so a
block computed again is computed with those that counted the first time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Switched(Protocol):
    """A layer with named updates of which some count."""

    active: tuple[str, ...]


def recompute(block: nn.Module, switched: Sequence[Switched]) -> None:
    """Let ``block`` forget, from now on, where gradients are wanted and nothing is cached."""
    forward: Callable[..., Any] = block.forward

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _as_they_were(switched, [layer.active for layer in switched])

    def forgetful(*inputs: Any, **others: Any) -> Any:
        if not torch.is_grad_enabled() or others.get("past_key_values") is not None:
            return forward(*inputs, **others)
        return checkpoint(
            forward,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing is drawn: there is no dropout
            context_fn=contexts,
            **others,
        )

    block.forward = forgetful


@contextmanager
def _as_they_were(
    switched: Sequence[Switched], before: Sequence[tuple[str, ...]]
) -> Iterator[None]:
    now = [layer.active for layer in switched]
    for layer, active in zip(switched, before, strict=True):
        layer.active = active
    try:
        yield
    finally:
        for layer, active in zip(switched, now, strict=True):
            layer.active = active
