"""Whether two trainers did the same work: without that, no figure of theirs is compared.

Both adapters are put on the same float32 checkpoint, in plain transformers, and measured on rows
neither has seen. Gradients of one batch at the same weights are compared by their cosine: in
float32, where they have to be one, and in the types of the race, where rounding may take no more
from ours than from TRL's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor
from trainer_task import Row, Task
from transformers import AutoModelForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()  # type: ignore[no-untyped-call]

LEAST_COSINE: Final = 0.999
LOSS_SHARE: Final = 0.01
"""By which held-out losses may differ."""
ROUNDING: Final = 0.001
"""By which our gradient may lie further from the exact one than TRL's, as a cosine."""


@dataclass(frozen=True)
class Gradients:
    """Files of one batch's gradient: in float32 by both, and as both compute in the race."""

    exact_ours: Path
    exact_theirs: Path
    ours: Path
    theirs: Path

    def judged(self) -> tuple[bool, str]:
        exact = cosine(self.exact_ours, self.exact_theirs)
        rounded = [cosine(path, self.exact_theirs) for path in (self.ours, self.theirs)]
        passed = exact >= LEAST_COSINE and rounded[0] >= rounded[1] - ROUNDING
        return passed, (
            f"cosine of the gradients in float32 {exact:.6f}; in the race, to TRL's in float32: "
            f"ours {rounded[0]:.5f}, TRL {rounded[1]:.5f}"
        )


def cosine(ours: Path, theirs: Path) -> float:
    """Of the angle between two gradients, all tensors of them as one vector."""
    a, b = load_file(ours), load_file(theirs)
    assert set(a) == set(b), sorted(set(a) ^ set(b))[:3]
    dot = sum(float((a[name].double() * b[name].double()).sum()) for name in a)
    norms = [sum(float((t.double() ** 2).sum()) for t in found.values()) for found in (a, b)]
    return dot / math.sqrt(norms[0] * norms[1])


class Trained:
    """The checkpoint with an adapter added to its weights."""

    @torch.no_grad()
    def __init__(self, task: Task, adapter: Path | None) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(task.folder, dtype=torch.float32)
        self.model: Any = model.to(task.device)
        found = {} if adapter is None else load_file(adapter, task.device)
        self.score = found.get("score")
        for name, a in found.items():
            if name.endswith(".a"):
                b = found[f"{name.removesuffix('.a')}.b"]
                layer: Any = self.model.get_submodule(name.removesuffix(".a"))
                layer.weight += task.alpha / task.rank * (b @ a)

    @torch.no_grad()
    def loss(self, rows: Sequence[Row]) -> float:
        """Nats a token of the completions."""
        total, count = 0.0, 0
        for row in rows:
            ids = torch.tensor([row.ids], device=self.model.device)
            logprobs = self.model(ids).logits[0, row.start - 1 : -1].log_softmax(-1)
            total -= float(logprobs.gather(1, ids[0, row.start :, None]).sum())
            count += len(row.ids) - row.start
        return total / count

    @torch.no_grad()
    def scores(self, rows: Sequence[Row]) -> Tensor:
        """Of whole completions, (N,)."""
        assert self.score is not None
        found = []
        for row in rows:
            ids = torch.tensor([row.ids], device=self.model.device)
            found.append(self.model.model(ids).last_hidden_state[0, -1] @ self.score)
        return torch.stack(found)


def sft_gate(
    task: Task, held_out: Sequence[Row], ours: Path, theirs: Path, gradients: Gradients
) -> dict[str, Any]:
    """Held-out losses within a hundredth, and one gradient."""
    before = Trained(task, None).loss(held_out)
    losses = [Trained(task, adapter).loss(held_out) for adapter in (ours, theirs)]
    same = abs(losses[0] - losses[1]) <= LOSS_SHARE * losses[1]
    alike, text = gradients.judged()
    return {
        "passed": same and alike,
        "text": f"held-out loss {before:.3f} before, ours {losses[0]:.3f}, TRL {losses[1]:.3f}; "
        f"{text}",
    }


def reward_gate(
    task: Task, held_out: Sequence[Sequence[Row]], ours: Path, theirs: Path, gradients: Gradients
) -> dict[str, Any]:
    """One gradient, and as many held-out pairs right, up to two standard errors.

    Losses are not compared: our five heads see bootstrap weights, TRL's one head does not.
    """
    right = []
    for adapter in (ours, theirs):
        trained = Trained(task, adapter)
        pairs = [trained.scores(ranking) for ranking in held_out]
        right.append(mean(float(s[i] > s[j]) for s in pairs for j in range(len(s))
                          for i in range(j)))  # fmt: skip
    error = (0.25 / len(held_out)) ** 0.5
    alike, text = gradients.judged()
    return {
        "passed": alike and right[0] >= right[1] - 2 * error,
        "text": f"held-out pairs right: ours {right[0]:.2f}, TRL {right[1]:.2f}; {text}",
    }


def ppo_gate(ours: Sequence[Any], theirs: Sequence[Any], steps: int) -> dict[str, Any]:
    """Reward and KL at the last step over the seeds, alike within two standard errors; and both
    start at KL 0. Sampled by two generators, so nothing more can be equal. One run says nothing
    about how far two of the same trainer lie apart, and does not pass."""
    last = [
        ([run["metrics"][steps - 1]["score"] for run in ours],
         [run["metrics"][steps - 1]["objective/scores"] for run in theirs]),
        ([run["metrics"][steps - 1]["kl"] for run in ours],
         [run["metrics"][steps - 1]["objective/kl"] for run in theirs]),
    ]  # fmt: skip
    texts, alike = [], True
    for name, (a, b) in zip(("score", "KL"), last, strict=True):
        spread = [stdev(x) if len(x) > 1 else math.nan for x in (a, b)]
        error = (spread[0] ** 2 / len(a) + spread[1] ** 2 / len(b)) ** 0.5
        alike = alike and abs(mean(a) - mean(b)) <= 2 * error + 0.1
        texts.append(f"{name} ours {mean(a):.2f}, TRL {mean(b):.2f} (standard error {error:.2f})")
    starts = [abs(run["metrics"][0]["kl"]) for run in ours]
    starts += [abs(run["metrics"][0]["objective/kl"]) for run in theirs]
    return {
        "passed": alike and max(starts) < 0.05,
        "text": f"at step {steps}: {'; '.join(texts)}; KL at the first step {max(starts):.4f}",
    }
