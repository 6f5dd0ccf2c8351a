"""Is the result fit to be offered? Measured against the base, on prompts no stage has seen.

Base and result are sampled with the same luck. The gate refuses what lost its manners (held-out
loss), repeats itself (distinct-2), does not end by itself, says nothing, or learned nothing.
Whether a person likes it better is for the person to say: the win rate here is the opinion of
the judge, which has never rewarded, or of the reward model where no judge can be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from finetune import rl_math
from finetune.contract.chat_template import TrainingExample
from finetune.contract.events import Sample
from finetune.contract.recipe import EvaluationRecipe
from finetune.data import Prompt
from finetune.generate import Completed, sample
from finetune.memory_plan import ROWS_AT_ONCE
from finetune.policy import Policy
from finetune.reward_model import RewardModel
from finetune.rollouts import completion_mask, completion_scores, score_tokens
from finetune.stage import generator_for
from finetune.token_loss import token_loss
from finetune.vocabulary import GgufVocabulary

COMPLETIONS = 48
"""Of each model; with few prompts each gets more of them."""
SHOWN = 5
"""Prompts shown with what was written before and after."""
MAX_SILENT_OR_ENDLESS = 0.25
"""More of such completions than the base has, as a share of all."""
NOTICEABLE = 1e-4
"""Nats. An adapter that changes no log-probability by this much learned nothing."""


@dataclass(frozen=True)
class Outputs:
    """What one model wrote for the evaluation prompts, equally many for each, in their order."""

    completed: list[Completed]

    @property
    def mean_length(self) -> float:
        return sum(len(c.ids) for c in self.completed) / len(self.completed)

    @property
    def ended(self) -> float:
        return sum(c.ended for c in self.completed) / len(self.completed)

    @property
    def empty(self) -> float:
        return sum(c.is_empty for c in self.completed) / len(self.completed)


@dataclass(frozen=True)
class Report:
    """Figures, samples, and in words what the gate refuses; empty when it is passed."""

    metrics: dict[str, float]
    samples: tuple[Sample, ...]
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def write_for(
    policy: Policy,
    prompts: Sequence[Prompt],
    recipe: EvaluationRecipe,
    end_ids: Collection[int],
    seed: int,
    *roles: str,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Outputs:
    """Completions of the model with these adapters; the luck depends on ``seed`` alone."""
    with policy.merged(*roles):
        return Outputs(
            sample(
                policy,
                [prompt.ids for prompt in prompts],
                copies=max(2, math.ceil(COMPLETIONS / len(prompts))),
                max_new_tokens=recipe.max_new_tokens,
                end_ids=end_ids,
                generator=generator_for(seed, "evaluation"),
                rows_at_once=rows_at_once,
            )
        )


def evaluate(
    policy: Policy,
    roles: Sequence[str],
    reference: Sequence[str],
    prompts: Sequence[Prompt],
    before: Outputs,
    demonstrations: Sequence[TrainingExample],
    scores: RewardModel | None,
    recipe: EvaluationRecipe,
    vocabulary: GgufVocabulary,
    seed: int,
    tokens_at_once: int,
    rows_at_once: int = ROWS_AT_ONCE,
    missing_end_score: float = -2.0,
    held_out_prompts: int | None = None,
) -> Report:
    """Measure the model with the adapters ``roles``.

    Args:
        reference: the adapters of the model it is tied to by KL.
        before: what the base wrote for ``prompts``.
        demonstrations: held-out liked and corrected completions.
        held_out_prompts: how many of ``prompts`` no stage has seen, for the report; None where
            that is not known.
    """
    after = write_for(
        policy, prompts, recipe, vocabulary.end_ids, seed, *roles, rows_at_once=rows_at_once
    )
    replay = [c.example for c in before.completed]
    losses: dict[str, float] = {}
    for name, adapters in (("base", ()), ("result", tuple(roles))):
        with policy.using(*adapters):
            loss = token_loss(policy, [*replay, *demonstrations], tokens_at_once)
            assert loss is not None
            losses[name] = loss
    own = score_tokens(policy, after.completed, 1.0, tokens_at_once, *roles)
    tied_to = score_tokens(policy, after.completed, 1.0, tokens_at_once, *reference)
    base = score_tokens(policy, after.completed, 1.0, tokens_at_once)
    mask = completion_mask(after.completed, policy.device)
    metrics = {
        "loss_ratio": losses["result"] / max(losses["base"], 1e-3),
        "kl": _kl(own.logprobs, tied_to.logprobs, mask),
        "kl_to_base": _kl(own.logprobs, base.logprobs, mask),
        "change": float((own.logprobs - base.logprobs).abs().max()),
        "completion_length": after.mean_length,
        "base_completion_length": before.mean_length,
        "length_ratio": after.mean_length / max(before.mean_length, 1e-9),
        "distinct_ratio": distinct_ratio(after.completed, before.completed),
        "ended": after.ended,
        "base_ended": before.ended,
        "empty": after.empty,
    }
    if held_out_prompts is not None:
        metrics["held_out_prompts"] = float(held_out_prompts)
    if scores is not None:
        new = completion_scores(after.completed, scores.score, missing_end_score)
        old = completion_scores(before.completed, scores.score, missing_end_score)
        metrics["score"] = float(new.mean())
        metrics["base_score"] = float(old.mean())
        metrics["win_rate"] = metrics["reward_win_rate"] = win_rate(new, old)
        if scores.trusted_judge is not None:
            new = completion_scores(after.completed, scores.judged, missing_end_score)
            old = completion_scores(before.completed, scores.judged, missing_end_score)
            metrics["win_rate"] = metrics["judge_win_rate"] = win_rate(new, old)
    return Report(
        metrics,
        tuple(_samples(prompts, before, after, vocabulary)),
        tuple(_failures(metrics, before, recipe)),
    )


def win_rate(new: Tensor, old: Tensor) -> float:
    """Share of (B,) pairs in which the new one scores higher; a tie is half a win."""
    return float(((new > old).float() + 0.5 * (new == old).float()).mean())


def distinct_2(rows: Sequence[Sequence[int]]) -> float:
    """Different pairs of neighbouring tokens as a share of all pairs (Li et al. 2016)."""
    pairs = [pair for ids in rows for pair in pairwise(ids)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def distinct_ratio(after: Sequence[Completed], before: Sequence[Completed]) -> float:
    """Distinct-2 against the base's, on as many tokens: longer texts repeat more by nature."""
    new = [list(c.ids) for c in after]
    old = [list(c.ids) for c in before]
    lengths = [min(len(a), len(b)) for a, b in zip(new, old, strict=True)]
    ours = distinct_2([ids[:n] for ids, n in zip(new, lengths, strict=True)])
    theirs = distinct_2([ids[:n] for ids, n in zip(old, lengths, strict=True)])
    return ours / theirs if theirs else 1.0


def _kl(logprobs: Tensor, other: Tensor, mask: Tensor) -> float:
    return float((rl_math.kl_k1(logprobs, other) * mask).sum(1).mean())


def _failures(metrics: dict[str, float], before: Outputs, recipe: EvaluationRecipe) -> list[str]:
    failures: list[str] = []
    # The ratio of two shares counted on so few tokens strays by this much (two deviations).
    margin = 1.0 / math.sqrt(max(1.0, metrics["completion_length"] * len(before.completed)))
    if not all(torch.isfinite(torch.tensor(list(metrics.values())))):
        failures.append("some of its numbers are not finite")
    if metrics["change"] < NOTICEABLE:
        failures.append("it learned nothing")
    if metrics["loss_ratio"] > recipe.max_loss_ratio:
        failures.append(
            f"it unlearned too much (loss {metrics['loss_ratio']:.2f} times the base's, allowed "
            f"{recipe.max_loss_ratio:.2f})"
        )
    if metrics["distinct_ratio"] + margin < recipe.min_distinct_ratio:
        failures.append(
            f"it repeats itself (variety {metrics['distinct_ratio']:.2f} of the base's, wanted "
            f"{recipe.min_distinct_ratio:.2f})"
        )
    if metrics["ended"] < before.ended - MAX_SILENT_OR_ENDLESS:
        failures.append("its completions often do not end")
    if metrics["empty"] > before.empty + MAX_SILENT_OR_ENDLESS:
        failures.append("its completions are often empty")
    return failures


def _samples(
    prompts: Sequence[Prompt], before: Outputs, after: Outputs, vocabulary: GgufVocabulary
) -> list[Sample]:
    copies = len(before.completed) // len(prompts)
    return [
        Sample(
            prompt.text,
            vocabulary.text_of(before.completed[place * copies].ids),
            vocabulary.text_of(after.completed[place * copies].ids),
        )
        for place, prompt in enumerate(prompts[:SHOWN])
    ]
