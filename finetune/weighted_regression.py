"""Two simpler ways than PPO to learn from a reward: weigh the policy's own samples.

    raft  best-of-n: the best sample of each prompt has weight 1, the others 0
          (Dong et al. 2023; Stiennon et al. 2020 for best-of-n)
    rwr   every sample has the weight exp(score / beta) pi_ref / pi, made to sum to n over the n
          samples of a prompt (Peters & Schaal 2007; Peng et al. 2019)

With the factor pi_ref / pi the samples of any policy estimate pi* = pi_ref exp(score / beta) / Z,
the optimum of a reward with a KL penalty of beta nats: at pi* all weights are 1, and the policy
stays. What is descended is the loss of SFT, -sum_t w_t log p(y_t). No value head, no ratio, no
clipping; the KL budget holds as it does for PPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune import distributed, rl_math
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import PpoRecipe
from finetune.generate import Completed
from finetune.out_of_memory import smaller_if_needed
from finetune.policy import Policy
from finetune.rollouts import POLICY, Rollouts, Score
from finetune.stage import StageRun, generator_for
from finetune.token_loss import backward

PTX_EXAMPLES = 4
"""Liked completions mixed into each update."""
PTX_BETA = 2.0
"""Of their weights exp(score / beta): scores have deviation 1, so the best of a hundred counts
some ten times as much as the worst."""


@dataclass(frozen=True)
class Liked:
    """Demonstrations with the weight of each in the SFT loss that is mixed in (PPO-ptx)."""

    examples: Sequence[TrainingExample]
    weights: tuple[float, ...]
    """With mean 1 over all demonstrations."""

    @staticmethod
    def of(demonstrations: Sequence[TrainingExample], score: Score, recipe: PpoRecipe) -> Liked:
        """Weigh ``demonstrations`` by their reward; none where nothing is mixed in."""
        if not demonstrations or recipe.ptx_coef <= 0:
            return Liked((), ())
        scores = score([_completed(example) for example in demonstrations]).float().cpu()
        weights = rl_math.reward_weights(scores, PTX_BETA)
        return Liked(tuple(demonstrations), tuple(weights.tolist()))

    def drawn(self, generator: torch.Generator) -> Liked:
        """A few of them."""
        chosen = torch.randperm(len(self.examples), generator=generator)[:PTX_EXAMPLES].tolist()
        return Liked([self.examples[i] for i in chosen], tuple(self.weights[i] for i in chosen))

    def backward(self, policy: Policy, tokens_at_once: int, coef: float) -> None:
        """Accumulate ``coef`` times the gradient of their weighted loss."""
        if self.examples:
            with policy.using(*POLICY):
                backward(policy, self.examples, tokens_at_once, coef, self.weights)


def _completed(example: TrainingExample) -> Completed:
    start = example.completion_mask.index(True)
    return Completed(example.ids[:start], example.ids[start:], (), True)


def sample_weights(rollouts: Rollouts, recipe: PpoRecipe) -> Tensor:
    """The weight of each completion, (B,); the samples of a prompt stand together."""
    copies = recipe.copies
    scores = rollouts.scores.cpu().double().view(-1, copies)
    if recipe.method == "raft":
        usable = torch.tensor([c.ended and not c.is_empty for c in rollouts.completed])
        usable = usable.view(-1, copies)
        best = scores.masked_fill(~usable, -torch.inf).argmax(1, keepdim=True)
        weights = torch.zeros_like(scores).scatter(1, best, 1.0) * usable
        return weights.flatten().float()
    away = (rollouts.logprobs - rollouts.ref_logprobs) * rollouts.mask
    tilt = scores / recipe.weight_beta - away.sum(1).cpu().double().view(-1, copies)
    return (torch.softmax(tilt, dim=1) * copies).flatten().float()


def learn(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    liked: Liked,
    recipe: PpoRecipe,
    at: int,
    seed: int,
    run: StageRun,
) -> dict[str, float]:
    """One step of ``raft`` or ``rwr``: a few epochs of the weighted loss on one batch."""
    weights = sample_weights(rollouts, recipe)
    examples = [c.example for c in rollouts.completed]
    total, updates = 0.0, 0
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(examples), generator=generator_for(seed, "order", at, epoch))
        for part in order.tensor_split(recipe.minibatches):
            chosen = [i for i in part.tolist() if weights[i] > 0]
            if not chosen:
                continue
            some = [examples[i] for i in chosen]
            mixed = liked.drawn(generator_for(seed, "ptx", at, epoch, updates))

            def gradient(
                tokens: int,
                some: Sequence[TrainingExample] = some,
                each: Sequence[float] = weights[chosen].tolist(),
                mixed: Liked = mixed,
            ) -> float:
                with policy.using(*POLICY):
                    loss = backward(policy, some, tokens, 1.0, each)
                mixed.backward(policy, tokens, recipe.ptx_coef)
                return loss

            total += smaller_if_needed(run, gradient, optimizer.zero_grad)
            for group in optimizer.param_groups:
                distributed.reduce_gradients(group["params"])
                nn.utils.clip_grad_norm_(group["params"], recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
    spread = weights.view(-1, recipe.copies)
    effective = spread.sum(1) ** 2 / (spread**2).sum(1).clamp(min=1e-12)
    return {"policy_loss": total / max(1, updates), "effective_samples": float(effective.mean())}
