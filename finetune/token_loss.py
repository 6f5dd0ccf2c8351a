"""The one loss of all stages that learn texts: -sum_t w_t log p(y_t), by packs.

    SFT                         w = 1
    best-of-n (RAFT)            w = 1 for a prompt's best sample, 0 for the others
    reward-weighted regression  w = exp(score / beta), the samples of a prompt together
    PPO-ptx                     w = exp(score / beta) over the liked completions
    PPO                         w = advantage, at ratio 1 (``rl_math.policy_loss`` adds the rest)

The sum is divided by the count of all tokens of the step, however it is cut into packs: eight
examples at once and eight times one example give the same gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune import distributed, rl_math
from finetune.contract.chat_template import TrainingExample
from finetune.packing import Pack, pack, packs
from finetune.policy import Policy


def backward(
    policy: Policy,
    examples: Sequence[TrainingExample],
    tokens_at_once: int,
    scale: float = 1.0,
    weights: Sequence[float] | None = None,
) -> float:
    """Accumulate the gradient of ``scale`` times the loss; the loss in nats a token.

    Of several processes each has the gradient of its own share then.

    Args:
        weights: of the examples; all 1 where not given.
    """
    count = sum(sum(example.completion_mask) for example in examples)
    total = 0.0
    for group in packs([len(e.ids) for e in examples], tokens_at_once):
        some = pack_of([examples[i] for i in group], policy)
        each = torch.ones(len(group)) if weights is None else torch.tensor(weights)[group]
        logprobs = policy.learned_logprobs(some)
        loss = rl_math.weighted_token_loss(logprobs, _spread(each, some), count)
        (scale * loss).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return distributed.total(total)


@torch.no_grad()
def token_loss(
    policy: Policy, examples: Sequence[TrainingExample], tokens_at_once: int
) -> float | None:
    """Mean negative log-likelihood of all learned tokens, in nats; None without examples."""
    if not examples:
        return None
    sums, counts = completion_logprobs(policy, examples, tokens_at_once)
    return -float(sums.sum() / counts.sum())


@torch.no_grad()
def completion_logprobs(
    policy: Policy, examples: Sequence[TrainingExample], tokens_at_once: int
) -> tuple[Tensor, Tensor]:
    """Of each example the sum of its learned tokens' log-probabilities and their count, both
    (N,) in float64 on the processor."""
    sums = torch.zeros(len(examples), dtype=torch.float64)
    counts = torch.tensor([float(sum(e.completion_mask)) for e in examples], dtype=torch.float64)
    for group in packs([len(e.ids) for e in examples], tokens_at_once):
        some = pack_of([examples[i] for i in group], policy)
        logprobs = policy.learned_logprobs(some).cpu().double()
        parts = torch.split(logprobs, [int(counts[i]) for i in group])
        sums[group] = torch.stack([part.sum() for part in parts])
    distributed.add_up(sums)
    return sums, counts


def pack_of(examples: Sequence[TrainingExample], policy: Policy) -> Pack:
    """Examples as a pack on the policy's device."""
    return pack([(e.ids, e.completion_mask) for e in examples], policy.device)


def _spread(weights: Tensor, some: Pack) -> Tensor:
    """A weight for each sequence of a pack -> one for each of its targets."""
    counts = torch.stack([part.sum() for part in torch.split(some.learn.cpu(), list(some.lengths))])
    return weights.repeat_interleave(counts).to(some.ids.device)
