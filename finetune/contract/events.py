"""The line protocol of a training run: one JSON object a line, on the trainer's stdout.

The same lines go to ``events.jsonl`` in the run folder, which is the truth; the pipe is the
live view. A run's life is ``RunStarted`` and ``MemoryPlan``, then for each stage
``StageStarted``, ``StepDone``... and ``StageDone``, and at last exactly one of ``RunDone`` and
``RunFailed``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Literal

Stage = Literal["prepare", "sft", "reward", "ppo", "evaluate", "export"]
STAGES: Final[tuple[Stage, ...]] = ("prepare", "sft", "reward", "ppo", "evaluate", "export")

FailureCode = Literal[
    "stopped",  # the person asked; resuming goes on where it stopped
    "not_enough_feedback",
    "out_of_memory",
    "disk_full",
    "diverged",  # NaN, exploding KL
    "gate_failed",  # the result is not better than what it came from
    "bad_input",
    "bug",
]


@dataclass(frozen=True)
class RunStarted:
    kind: ClassVar[str] = "run_started"
    run_id: str
    stages: tuple[Stage, ...]
    device: str
    dtype: str
    resumed: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """What the run will take of the device's memory, in bytes; said before the model is loaded."""

    kind: ClassVar[str] = "memory_plan"
    held: Literal["dense", "blocks"]
    """Weights as wide numbers, or quantised as the file has them."""
    weights: int
    adapters: int
    """With their gradients and the optimiser's moments."""
    activations: int
    working: int
    """What is made for the moment, and the device's libraries."""
    available: int
    """0 where the system does not say."""

    @property
    def needed(self) -> int:
        return self.weights + self.adapters + self.activations + self.working


@dataclass(frozen=True)
class StageStarted:
    kind: ClassVar[str] = "stage_started"
    stage: Stage
    steps: int
    """How many ``StepDone`` at most; 0 where it cannot be known."""


@dataclass(frozen=True)
class StepDone:
    """One step. Metric names are the field's.

    sft: loss, held_out_loss, grad_norm, learning_rate, tokens_per_second. reward: loss, accuracy
    (on held-out pairs), tokens_per_second. ppo: score, reward, kl, kl_coef, entropy, clip_fraction,
    policy_loss, value_loss, explained_variance, completion_length, ended, tokens_per_second.
    """

    kind: ClassVar[str] = "step_done"
    stage: Stage
    step: int
    """Counts from 1."""
    steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    """For this stage."""


@dataclass(frozen=True)
class StageDone:
    kind: ClassVar[str] = "stage_done"
    stage: Stage
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """A held-out prompt with what the base and the new model wrote for it."""

    kind: ClassVar[str] = "sample"
    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Note:
    """A sentence the person should read: a skipped stage and why, a bad line."""

    kind: ClassVar[str] = "note"
    message: str


@dataclass(frozen=True)
class RunDone:
    """The run ended well: ``export_dir`` holds a whole model version with its manifest."""

    kind: ClassVar[str] = "run_done"
    export_dir: str
    stages: tuple[Stage, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFailed:
    """The run ended early. ``message`` is for the person, ``code`` for the program."""

    kind: ClassVar[str] = "run_failed"
    code: FailureCode
    message: str


Event = (
    RunStarted
    | MemoryPlan
    | StageStarted
    | StepDone
    | StageDone
    | Sample
    | Note
    | RunDone
    | RunFailed
)
_KINDS: Final[Mapping[str, type[Event]]] = {
    cls.kind: cls
    for cls in (
        RunStarted, MemoryPlan, StageStarted, StepDone, StageDone, Sample, Note, RunDone,
        RunFailed,
    )
}  # fmt: skip


def to_line(event: Event) -> str:
    """One line of JSON, without the newline."""
    return json.dumps({"event": event.kind, **asdict(event)}, ensure_ascii=False)


def from_line(line: str) -> Event | None:
    """The event of a line; None for anything that is no event of ours.

    A trainer that dies may leave half a line, and a newer one may know more kinds: neither
    may take the app along.
    """
    try:
        raw: dict[str, Any] = json.loads(line)
        cls = _KINDS[raw.pop("event")]
        if isinstance(raw.get("stages"), list):
            raw["stages"] = tuple(raw["stages"])
        return cls(**raw)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
