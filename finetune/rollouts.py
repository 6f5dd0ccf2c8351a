"""Rollouts: completions the policy samples, and what reference and reward model think of them.

Shapes: B completions of at most T tokens. ``mask`` is True on the tokens of each completion, its
end of turn included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune import distributed, rl_math
from finetune.contract.recipe import PpoRecipe
from finetune.generate import Completed, sample
from finetune.memory_plan import ROWS_AT_ONCE
from finetune.packing import packs
from finetune.policy import Policy
from finetune.stage import Diverged, generator_for
from finetune.token_loss import pack_of

ADAPTER = "ppo"
POLICY = ("sft", ADAPTER)
REFERENCE = ("sft",)

Score = Callable[[Sequence[Completed]], Tensor]
"""Completions that ended -> their scores, (N,)."""


@dataclass(frozen=True)
class Scored:
    """Log-probabilities, entropies and hidden states of the tokens of B completions."""

    logprobs: Tensor
    """(B, T); 0 outside the mask."""
    entropy: Tensor
    """(B, T)."""
    hidden: Tensor
    """Before each token was chosen, (B, T, D)."""


@dataclass(frozen=True)
class Rollouts:
    """One batch of experience. All (B, T) except ``scores``, ``judged`` (B,) and ``hidden``
    (B, T, D)."""

    completed: list[Completed]
    mask: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    hidden: Tensor
    scores: Tensor
    judged: Tensor | None = None

    @property
    def kl(self) -> float:
        """Nats a completion, by k1: the mean over completions of the sum over tokens."""
        difference = rl_math.kl_k1(self.logprobs, self.ref_logprobs)
        return float((difference * self.mask).sum(1).mean())


def completion_mask(completed: Sequence[Completed], device: torch.device) -> Tensor:
    """(B, T), True on the tokens of each completion."""
    lengths = torch.tensor([len(c.ids) for c in completed], device=device)
    return torch.arange(int(lengths.max()), device=device)[None, :] < lengths[:, None]


@torch.no_grad()
def score_tokens(
    policy: Policy,
    completed: Sequence[Completed],
    temperature: float,
    tokens_at_once: int,
    *roles: str,
    with_states: bool = False,
) -> Scored:
    """What the model with these adapters thinks of each token, in micro-batches.

    ``with_states``: entropies and hidden states as well; else they are zeros.
    """
    mask = completion_mask(completed, policy.device)
    logprobs = torch.zeros(mask.shape, device=policy.device)
    entropy = torch.zeros_like(logprobs)
    hidden = torch.zeros((*mask.shape, policy.width), device=policy.device)
    with policy.using(*roles):
        for group in packs([len(c.prompt) + len(c.ids) for c in completed], tokens_at_once):
            some = pack_of([completed[i].example for i in group], policy)
            states = policy.packed_hidden(some)[some.before_targets]
            own = mask[group]
            if with_states:
                found, spread = policy.token_scores(states, some.targets, temperature)
                entropy[group] = unflatten(spread, own)
                hidden[group] = unflatten(states.float(), own)
            else:
                found = policy.token_logprobs(states, some.targets, temperature)
            logprobs[group] = unflatten(found, own)
    distributed.add_up(logprobs, *((entropy, hidden) if with_states else ()))
    return Scored(logprobs, entropy, hidden)


def roll_out(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    score: Score,
    recipe: PpoRecipe,
    end_ids: Collection[int],
    generator: torch.Generator,
    tokens_at_once: int,
    *,
    score_again: bool,
    judge: Score | None = None,
    rows_at_once: int = ROWS_AT_ONCE,
) -> Rollouts:
    """Sample, then score every token and every completion.

    Args:
        score_again: compute the policy's log-probabilities anew instead of taking the
            sampler's; needed where merged weights are rounded, and to check that they agree.
        judge: a second opinion that never rewards.
    """
    with policy.merged(*POLICY):
        completed = sample(
            policy,
            prompts,
            copies=recipe.copies,
            rows_at_once=rows_at_once,
            max_new_tokens=recipe.max_new_tokens,
            end_ids=end_ids,
            generator=generator,
            temperature=recipe.temperature,
            keep_states=not score_again,
        )
    if score_again:
        own = score_tokens(
            policy, completed, recipe.temperature, tokens_at_once, *POLICY, with_states=True
        )
    else:
        own = _as_sampled(completed, policy)
    reference = score_tokens(policy, completed, recipe.temperature, tokens_at_once, *REFERENCE)
    return Rollouts(
        completed,
        completion_mask(completed, policy.device),
        own.logprobs,
        reference.logprobs,
        own.entropy,
        own.hidden,
        completion_scores(completed, score, recipe.missing_end_score).to(policy.device),
        None if judge is None else completion_scores(completed, judge, recipe.missing_end_score),
    )


def _as_sampled(completed: Sequence[Completed], policy: Policy) -> Scored:
    """What the sampler noted while it drew the tokens."""
    mask = completion_mask(completed, policy.device)
    flat = [torch.tensor([x for c in completed for x in c.logprobs], device=policy.device)]
    flat.append(torch.tensor([x for c in completed for x in c.entropies], device=policy.device))
    states = torch.stack([state for c in completed for state in c.states])
    return Scored(unflatten(flat[0], mask), unflatten(flat[1], mask), unflatten(states, mask))


def completion_scores(
    completed: Sequence[Completed], score: Score, missing_end_score: float
) -> Tensor:
    """The reward model's score, (B,); a completion without an end, or empty, gets the fixed one.

    A person who likes short completions does not like none at all, and the reward model has
    hardly seen any.
    """
    scores = torch.full((len(completed),), missing_end_score)
    usable = [i for i, c in enumerate(completed) if c.ended and not c.is_empty]
    if usable:
        scores[usable] = score([completed[i] for i in usable]).float().cpu()
    return scores


def prompts_of_step(
    prompts: Sequence[tuple[int, ...]], step: int, count: int, seed: int
) -> list[tuple[int, ...]]:
    """The next ``count`` prompts: shuffled passes over all of them, one after the other."""
    chosen: list[tuple[int, ...]] = []
    for place in range(step * count, (step + 1) * count):
        turn, index = divmod(place, len(prompts))
        order = torch.randperm(len(prompts), generator=generator_for(seed, "prompts", turn))
        chosen.append(prompts[int(order[index])])
    return chosen


def check_sampler(rollouts: Rollouts, dtype: torch.dtype) -> None:
    """Sampled and re-scored log-probabilities must agree, or every ratio below is wrong."""
    sampled = torch.zeros_like(rollouts.logprobs)
    for row, completed in enumerate(rollouts.completed):
        sampled[row, : len(completed.ids)] = torch.tensor(completed.logprobs)
    difference = ((sampled - rollouts.logprobs).abs() * rollouts.mask).max()
    if difference > (1e-3 if dtype == torch.float32 else 0.5):
        raise Diverged(f"sampler and trainer disagree by {float(difference):.2g} nats a token")


def describe(rollouts: Rollouts, kl: float, kl_coef: float) -> dict[str, float]:
    """What a person watches, by the field's names."""
    mask = rollouts.mask
    k3 = rl_math.kl_k3(rollouts.logprobs, rollouts.ref_logprobs)
    second = {} if rollouts.judged is None else {"judged": float(rollouts.judged.mean())}
    return second | {
        "score": float(rollouts.scores.mean()),
        "reward": float(rollouts.scores.mean()) - kl_coef * kl,
        "kl": kl,
        "kl_k3": float((k3 * mask).sum(1).mean()),
        "kl_coef": kl_coef,
        "entropy": float(rl_math.masked_mean(rollouts.entropy, mask)),
        "completion_length": float(mask.sum(1).float().mean()),
        "ended": sum(c.ended for c in rollouts.completed) / len(rollouts.completed),
    }


def unflatten(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of the True places, row by row, (n, ...) to (B, T, ...); 0 elsewhere."""
    out = flat.new_zeros((*mask.shape, *flat.shape[1:]))
    out[mask] = flat
    return out
