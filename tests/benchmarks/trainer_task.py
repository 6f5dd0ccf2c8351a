"""One piece of work that our trainer and TRL are both given, and the clock it is measured with.

Only the standard library is needed here, so that a peer's interpreter can import it, too. A task
travels as JSON: token ids, their order, learning rates, the LoRA's first weights. What comes back
is JSON as well, next to a file of tensors for the gate (see ``trainer.py``).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]
"""How TRL is asked to run; what is not named keeps TRL's own default."""


@dataclass(frozen=True)
class Row:
    """A prompt with its completion."""

    ids: list[int]
    start: int
    """Where the completion begins; it is learned to its end."""


@dataclass(frozen=True)
class Task:
    """Same checkpoint, same tokens, same order, same LoRA, same optimiser."""

    stage: str
    """"sft", "reward" or "ppo"."""
    folder: str
    """The checkpoint for transformers: config.json and model.safetensors, float32."""
    gguf: str
    """The same weights for us, F32."""
    device: str
    seed: int
    rank: int
    alpha: float
    end_id: int
    pad_id: int
    rows: list[Row] = field(default_factory=list)
    """SFT: examples. Reward model: completions."""
    groups: list[list[int]] = field(default_factory=list)
    """Reward model: completions of one prompt, the best first."""
    prompts: list[list[int]] = field(default_factory=list)
    """PPO: one for each episode of a pass."""
    batches: list[list[int]] = field(default_factory=list)
    """Of each step: rows (SFT) or groups (reward model)."""
    rates: list[float] = field(default_factory=list)
    """Of each step."""
    steps: int = 0
    recipe: dict[str, Any] = field(default_factory=dict)
    """PPO: our recipe's names and values."""
    start: str = ""
    """safetensors: the first weights of LoRA and score, and those at which gradients are
    compared."""

    @property
    def step_tokens(self) -> list[int]:
        """Real tokens of each step: every completion of it once, with its prompt."""
        rows = self.groups or [[i] for i in range(len(self.rows))]
        return [
            sum(len(self.rows[i].ids) for item in batch for i in rows[item])
            for batch in self.batches
        ]

    def write(self, path: Path) -> Path:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @staticmethod
    def read(path: Path) -> Task:
        raw = json.loads(path.read_text(encoding="utf-8"))
        raw["rows"] = [Row(**row) for row in raw["rows"]]
        return Task(**raw)


class Clock:
    """Times of a training, from outside: ends of steps, in seconds of wall and of processors."""

    def __init__(self) -> None:
        self._ends: list[tuple[float, float]] = []
        self.parts: dict[str, float] = {}

    def step(self) -> None:
        """A step has ended."""
        self._ends.append((time.perf_counter(), cpu_seconds()))

    @property
    def steps(self) -> int:
        """Steps that count: the first one belongs to the cold start."""
        return len(self._ends) - 1

    def result(self) -> dict[str, Any]:
        (first_wall, first_cpu), (last_wall, last_cpu) = self._ends[0], self._ends[-1]
        return {
            "steps": self.steps,
            "wall": last_wall - first_wall,
            "cpu": last_cpu - first_cpu,
            "cold_cpu": first_cpu,
            "peak_bytes": peak_bytes(),
            "parts": self.parts,
        }

    def timed(self, name: str, function: Any) -> Any:
        """``function``, whose seconds from the second step on are summed under ``name``."""

        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                if self._ends:
                    seconds = time.perf_counter() - began
                    self.parts[name] = self.parts.get(name, 0.0) + seconds

        return call


def cpu_seconds() -> float:
    """User and system time of this process and of the children it has waited for."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def peak_bytes() -> int:
    """The most memory this process has had at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(result), encoding="utf-8")
