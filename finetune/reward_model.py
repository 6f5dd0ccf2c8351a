"""The finished reward model: one number for a whole completion, and a judge's second opinion.

After training, three things are settled on what is not trained on:
  1. the scale: mean 0 and deviation 1 on samples of the reference (Ziegler et al. 2019);
  2. length: what a straight line through length explains of the score on those samples is taken
     out (Singhal et al. 2023: most of what RLHF gains can be length alone), but only where the
     residual agrees with more held-out choices. "With as many" is not enough: a simulated person
     who likes it short had 9 of 10 foretold both with length and without, and with it taken out
     the result pleased them in 0.51 of unseen comparisons;
  3. the judge, see there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finetune import reward
from finetune.checkpoint import Checkpoint, prefixed, without_prefix
from finetune.contract.recipe import RewardRecipe
from finetune.data import RankedPrompt
from finetune.generate import Completed
from finetune.judge import Judge, fit_judge
from finetune.policy import Policy
from finetune.reward import RewardHeads, agreement_of, conservative

FEWEST_CHOICES = 8
"""Held-out choices without which nothing can be said for taking length out."""
CLEARLY_MORE = 2
"""Held-out choices that the score has to win when length is taken out of it."""


@dataclass(frozen=True)
class Length:
    """What length explains of a score: (score - slope * (tokens - mean)) * factor is left.

    ``tokens`` counts a completion's tokens, its end of turn included; ``factor`` makes the
    deviation 1 again.
    """

    slope: float = 0.0
    mean: float = 0.0
    factor: float = 1.0

    @staticmethod
    def line(scores: Tensor, tokens: Tensor) -> Length:
        """By least squares on reference samples, both (N,)."""
        tokens, scores = tokens.double(), scores.double()
        mean = float(tokens.mean())
        away = tokens - mean
        slope = float((away * (scores - scores.mean())).sum() / (away**2).sum().clamp(min=1e-9))
        rest = scores - scores.mean() - slope * away
        factor = scores.std(correction=0) / rest.std(correction=0).clamp(min=1e-3)
        return Length(slope, mean, float(factor))

    def taken_out(self, scores: Tensor, tokens: Tensor) -> Tensor:
        """Scores (N,) of completions of so many tokens (N,) without what length explains."""
        return (scores - self.slope * (tokens.to(scores) - self.mean)) * self.factor


class RewardModel:
    """Scores whole completions. ``score`` rewards; ``judged`` never does."""

    def __init__(
        self, policy: Policy, heads: RewardHeads, uncertainty: float, tokens_at_once: int
    ) -> None:
        """``uncertainty``: how many times the heads' variance is taken off."""
        self.heads = heads.requires_grad_(False)
        self.judge: Judge | None = None
        self.length = Length()
        self._policy = policy
        self._uncertainty = uncertainty
        self._tokens = tokens_at_once
        self._seen: tuple[list[tuple[int, ...]], Tensor] = ([], torch.empty(0))

    @property
    def trusted_judge(self) -> Judge | None:
        return self.judge if self.judge is not None and self.judge.is_trusted else None

    def score(self, completed: Sequence[Completed]) -> Tensor:
        """The conservative score, (N,)."""
        scores = conservative(self.heads(self._states(completed)), self._uncertainty)
        return self.length.taken_out(scores, lengths_of(completed))

    def judged(self, completed: Sequence[Completed]) -> Tensor:
        """The judge's score, (N,)."""
        assert self.judge is not None
        return self.judge.score(self._states(completed))

    @torch.no_grad()
    def _states(self, completed: Sequence[Completed]) -> Tensor:
        """Last hidden states (N, D); both opinions of one batch cost one pass."""
        rows = [(*c.prompt, *c.ids) for c in completed]
        if self._seen[0] != rows:
            self._seen = rows, reward.last_states(self._policy, rows, self._tokens)
        return self._seen[1]

    # --- after training ----------------------------------------------------------------------

    def settle(
        self,
        samples: Sequence[Completed],
        groups: Sequence[RankedPrompt],
        held_out: Sequence[RankedPrompt],
        recipe: RewardRecipe,
    ) -> dict[str, float]:
        """Settle scale, length and judge; how well all of it agrees with the person."""
        states = self._states(samples)
        self.heads.standardise(self.heads(states))
        metrics = {"train_accuracy": self._agreement(groups).accuracy}
        tokens = lengths_of(samples)
        spread = self.heads(states).mean(1)
        metrics["length_correlation"] = _correlation(spread, tokens)
        unseen = self._agreement(held_out)
        line = Length.line(spread, tokens)
        without = self._agreement(held_out, line)
        if unseen.total:
            metrics["accuracy_without_length"] = without.accuracy
        if (
            recipe.length_residual == "where_it_holds"
            and unseen.total >= FEWEST_CHOICES
            and without.correct >= unseen.correct + CLEARLY_MORE
        ):
            self.length, unseen = line, without
        metrics["length_taken_out"] = float(self.length.slope != 0.0)
        metrics["held_out_pairs"] = float(unseen.total)
        if unseen.total:
            metrics |= {"accuracy": unseen.accuracy, "accuracy_bound": unseen.bound}
        completions = [e.ids for group in held_out for e in group.completions]
        if completions:
            held = reward.last_states(self._policy, completions, self._tokens)
            self.judge = fit_judge(held, held_out, states)
        if self.judge is not None:
            metrics |= {
                "judge_accuracy": self.judge.accuracy,
                "judge_bound": self.judge.bound,
                "judge_chance": self.judge.chance,
            }
        return metrics

    def _agreement(
        self, groups: Sequence[RankedPrompt], line: Length | None = None
    ) -> reward.Agreement:
        examples = [example for group in groups for example in group.completions]
        if not examples:
            return reward.Agreement(0, 0)
        rows = [example.ids for example in examples]
        scores = reward.score(self._policy, self.heads, rows, self._tokens).mean(1)
        if line is not None:
            tokens = torch.tensor([sum(e.completion_mask) for e in examples])
            scores = line.taken_out(scores, tokens)
        return agreement_of(groups, scores.tolist())

    # --- to and from a checkpoint ------------------------------------------------------------

    def checkpoint(self, metrics: dict[str, float]) -> Checkpoint:
        """Everything but the trunk's weights."""
        state: dict[str, Any] = {"metrics": metrics, "length": vars(self.length)}
        tensors = {
            **prefixed("adapter", self._policy.adapter_state(reward.ADAPTER)),
            **prefixed("heads", self.heads.state_dict()),
        }
        if self.judge is not None:
            tensors["judge.weight"] = self.judge.weight
            judge = self.judge
            state["judge"] = [judge.bias, judge.correct, judge.total, judge.chance]
        return Checkpoint(tensors, state)

    def restore(self, saved: Checkpoint) -> None:
        """Put back what ``checkpoint`` took out; the adapter is the caller's."""
        self.heads.load_state_dict(without_prefix("heads", saved.tensors))
        self.length = Length(**saved.state["length"])
        if "judge" in saved.state:
            self.judge = Judge(saved.tensors["judge.weight"], *saved.state["judge"])


def lengths_of(completed: Sequence[Completed]) -> Tensor:
    """Tokens of each completion, (N,)."""
    return torch.tensor([len(c.ids) for c in completed])


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-9))
