"""Whether two trainers did the same work: without that, no figure of theirs is compared.

Both adapters are put on the same float32 checkpoint, in plain transformers, and measured on rows
neither has seen; gradients of one batch at the same weights are compared by their cosine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor
from trainer_task import Row, Task
from transformers import AutoModelForCausalLM

LEAST_COSINE: Final = 0.999
LOSS_SHARE: Final = 0.01
"""By which held-out losses may differ."""


def cosine(ours: Path, theirs: Path) -> float:
    """Of the angle between two gradients, all tensors of them as one vector."""
    a, b = load_file(ours), load_file(theirs)
    assert set(a) == set(b), sorted(set(a) ^ set(b))[:3]
    dot = sum(float((a[name].double() * b[name].double()).sum()) for name in a)
    norms = [sum(float((t.double() ** 2).sum()) for t in found.values()) for found in (a, b)]
    return dot / float(norms[0] * norms[1]) ** 0.5


class Trained:
    """The checkpoint with an adapter added to its weights."""

    @torch.no_grad()
    def __init__(self, task: Task, adapter: Path | None) -> None:
        self.model: Any = AutoModelForCausalLM.from_pretrained(task.folder, dtype=torch.float32)
        self.model.to(task.device)
        found = {} if adapter is None else load_file(adapter, task.device)
        self.score = found.get("score")
        for name, a in found.items():
            if name.endswith(".a"):
                b = found[f"{name.removesuffix('.a')}.b"]
                weight = self.model.get_submodule(name.removesuffix(".a")).weight
                weight += task.alpha / task.rank * (b @ a)

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
    task: Task, held_out: Sequence[Row], ours: Path, theirs: Path, gradient: float
) -> dict[str, Any]:
    """Held-out losses within a hundredth, and one gradient."""
    before = Trained(task, None).loss(held_out)
    losses = [Trained(task, adapter).loss(held_out) for adapter in (ours, theirs)]
    same = abs(losses[0] - losses[1]) <= LOSS_SHARE * losses[1]
    return {
        "passed": same and gradient >= LEAST_COSINE,
        "text": f"held-out loss {before:.3f} before, ours {losses[0]:.3f}, TRL {losses[1]:.3f}; "
        f"cosine of the gradients {gradient:.5f}",
    }


def reward_gate(
    task: Task, held_out: Sequence[Sequence[Row]], ours: Path, theirs: Path, gradient: float
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
    return {
        "passed": gradient >= LEAST_COSINE and right[0] >= right[1] - 2 * error,
        "text": f"held-out pairs right: ours {right[0]:.2f}, TRL {right[1]:.2f}; cosine of the "
        f"gradients {gradient:.5f}",
    }


def ppo_gate(ours: Sequence[Any], theirs: Sequence[Any], steps: int) -> dict[str, Any]:
    """Reward and KL at the last step over the seeds, alike within two standard errors; and both
    start at KL 0. Sampled by two generators, so nothing more can be equal."""
    last = [
        ([run["metrics"][steps - 1]["score"] for run in ours],
         [run["metrics"][steps - 1]["objective/scores"] for run in theirs]),
        ([run["metrics"][steps - 1]["kl"] for run in ours],
         [run["metrics"][steps - 1]["objective/kl"] for run in theirs]),
    ]  # fmt: skip
    texts, alike = [], True
    for name, (a, b) in zip(("score", "KL"), last, strict=True):
        spread = [stdev(x) if len(x) > 1 else 1.0 for x in (a, b)]
        error = (spread[0] ** 2 / len(a) + spread[1] ** 2 / len(b)) ** 0.5
        alike = alike and abs(mean(a) - mean(b)) <= 2 * error + 0.1
        texts.append(f"{name} ours {mean(a):.2f}, TRL {mean(b):.2f} (standard error {error:.2f})")
    starts = [abs(run["metrics"][0]["kl"]) for run in ours]
    starts += [abs(run["metrics"][0]["objective/kl"]) for run in theirs]
    return {
        "passed": alike and max(starts) < 0.05,
        "text": f"at step {steps}: {'; '.join(texts)}; KL at the first step {max(starts):.4f}",
    }
