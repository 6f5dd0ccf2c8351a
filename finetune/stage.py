"""What the training stages share: steps that are reported, checkpointed and stopped.

A stage is a function that goes from step to step; after each one it calls ``StageRun.step``,
which is the only place where it can be stopped and where its state is saved.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from finetune.checkpoint import Checkpoint, newest_step, save_step
from finetune.contract.events import Event, Note, Stage, StageStarted, StepDone
from finetune.memory_plan import ROWS_AT_ONCE

Emit = Callable[[Event], None]


class Stopped(Exception):
    """The person asked to stop; a checkpoint has been written."""


class Diverged(Exception):
    """A number stopped being finite, or the policy ran away; the text says which."""


def generator_for(seed: int, *purpose: str | int) -> torch.Generator:
    """A generator for one purpose: the same in each process, and after each resume."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode("utf-8")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


@dataclass
class StageRun:
    """One stage's line to the outside: events, checkpoints, the wish to stop."""

    stage: Stage
    folder: Path
    emit: Emit
    should_stop: Callable[[], bool]
    checkpoint_every: int
    micro_batch_tokens: int = 4096
    """Tokens that go through the network at once."""
    rows_at_once: int = ROWS_AT_ONCE
    """Completions that are sampled at once."""
    _times: list[float] = field(default_factory=list)

    def start(self, steps: int) -> Checkpoint | None:
        """Announce the stage; the checkpoint to go on from, if there is one."""
        self.emit(StageStarted(self.stage, steps))
        self._times = [time.monotonic()]
        return newest_step(self.folder)

    def note(self, message: str) -> None:
        self.emit(Note(message))

    def step(
        self,
        step: int,
        steps: int,
        metrics: Mapping[str, float],
        checkpoint: Callable[[], Checkpoint],
        tokens: int = 0,
    ) -> None:
        """Report step ``step`` (from 1), save the state where it is time, stop where asked.

        Args:
            tokens: that were trained on in this step, for the pace that is shown.

        Raises:
            Diverged: a metric is not finite.
            Stopped: asked to stop; the checkpoint is on the disk.
        """
        require_finite(metrics)
        self._times = [*self._times[-8:], time.monotonic()]
        if tokens:
            speed = tokens / max(self._times[-1] - self._times[-2], 1e-9)
            metrics = {**metrics, "tokens_per_second": speed}
        pace = (self._times[-1] - self._times[0]) / (len(self._times) - 1)
        self.emit(StepDone(self.stage, step, steps, dict(metrics), pace * (steps - step)))
        stopping = self.should_stop()
        if stopping or step % self.checkpoint_every == 0:
            save_step(self.folder, step, checkpoint())
        if stopping:
            raise Stopped


def require_finite(metrics: Mapping[str, float]) -> None:
    """Raise ``Diverged`` where a number is NaN or infinite."""
    odd = [name for name, value in metrics.items() if not math.isfinite(value)]
    if odd:
        raise Diverged(f"{odd[0]} is not a number any more")


def warmup_cosine(step: int, steps: int, warmup_fraction: float) -> float:
    """Factor of the learning rate at ``step`` (from 0): linear up, then half a cosine down."""
    warmup = max(1, round(steps * warmup_fraction))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def for_width(rate: float, width: int) -> float:
    """A recipe's learning rate for a model of this width: recipes are made for 256 columns, and
    wider layers bear less, by the square root."""
    return rate * min(1.0, math.sqrt(256 / width))


def set_learning_rate(optimizer: torch.optim.Optimizer, rates: Sequence[float]) -> None:
    """One rate for each group of parameters."""
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
