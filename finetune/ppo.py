"""PPO against the reward model, tied to the SFT model by a KL penalty.

What one step does, in order:
  1. take prompts, sample completions at temperature 1 from merged weights;
  2. score them: the reward model on whole completions, the reference on every token;
  3. token rewards = -kl_coef * (logp - ref logp), and the score on the last token;
  4. GAE over the value head; returns from the raw advantages, which are whitened afterwards;
  5. a few epochs of clipped policy and value updates, with a little SFT loss mixed in, on liked
     completions by the weight of their reward;
  6. adapt kl_coef; end the stage where the KL budget is spent.

Steps 3 to 5 are those of ``recipe.method == "ppo"``; the simpler ways are in
``weighted_regression``. Kept is what pleases the judge most, a head of the reward model that
never rewards: where the policy has begun to please the reward alone, the judge falls.

Four roles share one trunk: policy ("sft", "ppo"), reference ("sft"), reward ("sft", "reward"),
and the value head on the policy's hidden states, which it does not change. Dropout exists
nowhere. No GAE across prompts, no per-sequence value, no score on more than one token.

Shapes: B completions of at most T tokens. Sources at the formulas in ``rl_math``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from finetune import distributed, rl_math, weighted_regression
from finetune.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    without_prefix,
)
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import PpoRecipe
from finetune.out_of_memory import smaller_if_needed
from finetune.packing import packs
from finetune.policy import Policy
from finetune.rollouts import (
    ADAPTER,
    POLICY,
    REFERENCE,
    Rollouts,
    Score,
    check_sampler,
    describe,
    prompts_of_step,
    roll_out,
    unflatten,
)
from finetune.stage import Diverged, StageRun, for_width, generator_for, set_learning_rate
from finetune.token_loss import pack_of
from finetune.weighted_regression import Liked

VALUE_FIT_STEPS = 30
"""Of Adam on the hidden states of one rollout: the head is linear and costs next to nothing."""
RUNAWAY_RATIO = 10.0
"""A mean ratio beyond it says that sampler and trainer disagree: that update is skipped."""
SMOOTHED_OVER = 3
"""Steps whose judged scores are averaged: one batch is a handful of prompts."""

__all__ = ["ADAPTER", "POLICY", "REFERENCE", "ValueHead", "train_ppo"]


class ValueHead(nn.Module):
    """Expected return from here on; zero at first, so that advantages begin as returns."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) to (...)."""
        out: Tensor = hidden.float() @ self.weight + self.bias
        return out


def train_ppo(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    score: Score,
    demonstrations: Sequence[TrainingExample],
    recipe: PpoRecipe,
    end_ids: Collection[int],
    seed: int,
    run: StageRun,
    judge: Score | None = None,
) -> dict[str, float]:
    """Train the adapter "ppo" and leave the best weights within the KL budget in it: by
    ``judge`` where there is one, else the last ones.

    Returns the metrics of the last step.
    """
    policy.add_adapter(ADAPTER, recipe.lora, generator_for(seed, "ppo adapter"))
    values = ValueHead(policy.width).to(policy.device)
    parameters = policy.adapter_parameters(ADAPTER)
    optimizer = torch.optim.AdamW(
        [{"params": parameters}, {"params": list(values.parameters())}],
        betas=(0.9, 0.95),
        eps=1e-5,
        weight_decay=0.0,
    )
    at, kl_coef, finished = 0, recipe.kl_coef, False
    kept, judged, best = policy.adapter_state(ADAPTER), [], -math.inf
    metrics: dict[str, float] = {}
    saved = run.start(recipe.steps)
    if saved is not None:
        at, kl_coef = saved.state["step"], saved.state["kl_coef"]
        finished, metrics = saved.state["finished"], saved.state["metrics"]
        judged, best = saved.state["judged"], saved.state["best"] or -math.inf
        kept = without_prefix("kept", saved.tensors)
        policy.load_adapter_state(ADAPTER, without_prefix("adapter", saved.tensors))
        values.load_state_dict(without_prefix("values", saved.tensors))
        restore_optimizer(optimizer, saved.tensors)
    liked = Liked.of(demonstrations, score, recipe)

    def checkpoint() -> Checkpoint:
        return Checkpoint(
            {
                **prefixed("adapter", policy.adapter_state(ADAPTER)),
                **prefixed("kept", kept),
                **prefixed("values", values.state_dict()),
                **optimizer_tensors(optimizer),
            },
            {
                "step": at,
                "kl_coef": kl_coef,
                "finished": finished,
                "metrics": metrics,
                "judged": judged,
                "best": best if math.isfinite(best) else None,
            },
        )

    def rolled_out(tokens: int) -> Rollouts:
        chosen = prompts_of_step(prompts, at, recipe.prompts_per_step, seed)
        luck = generator_for(seed, "ppo rollout", at)
        again = at == 0 or policy.product_type != torch.float32
        return roll_out(
            policy, chosen, score, recipe, end_ids, luck, tokens,
            score_again=again, judge=judge, rows_at_once=run.rows_at_once,
        )  # fmt: skip

    def is_best(rollouts: Rollouts) -> bool:
        """Whether the weights that sampled these are the ones to keep so far."""
        nonlocal judged, best
        if rollouts.judged is None:
            return True
        judged = [*judged, float(rollouts.judged.mean())][-SMOOTHED_OVER:]
        mean = sum(judged) / len(judged)
        better = mean >= best
        best = max(best, mean)
        return better

    while at < recipe.steps and not finished:
        began = time.monotonic()
        rollouts = smaller_if_needed(run, rolled_out)
        kl = rollouts.kl
        metrics = describe(rollouts, kl, kl_coef)
        finished = kl > recipe.kl_budget
        if at == 0:
            check_sampler(rollouts, policy.product_type)
        if finished:
            run.note(
                f"PPO stopped at {kl:.1f} nats from the SFT model (budget "
                f"{recipe.kl_budget:.1f}); the last weights within the budget are kept."
            )
        else:
            if is_best(rollouts):
                kept = policy.adapter_state(ADAPTER)
            # The first rates of Adam are its boldest; they fall linearly to a tenth.
            left = 1.0 - 0.9 * at / max(1, recipe.steps)
            rate = for_width(recipe.learning_rate, policy.width)
            set_learning_rate(optimizer, [rate * left, recipe.value_learning_rate * left])
            if recipe.method == "ppo":
                metrics |= _learn(
                    policy, values, optimizer, rollouts, liked, recipe, kl_coef, at, seed, run
                )
            else:
                metrics |= weighted_regression.learn(
                    policy, optimizer, rollouts, liked, recipe, at, seed, run
                )
            kl_coef = rl_math.adapted_kl_coef(kl_coef, kl, recipe.kl_target, recipe.kl_horizon, 1)
        seconds = time.monotonic() - began
        metrics["tokens_per_second"] = float(rollouts.mask.sum()) / seconds
        at += 1
        run.step(at, recipe.steps, metrics, checkpoint)
    if not finished and judge is not None:  # the last update has not been judged yet
        rollouts = smaller_if_needed(run, rolled_out)
        finished = rollouts.kl > recipe.kl_budget or not is_best(rollouts)
    if finished:
        policy.load_adapter_state(ADAPTER, kept)
    return metrics


def _learn(
    policy: Policy,
    values: ValueHead,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    liked: Liked,
    recipe: PpoRecipe,
    kl_coef: float,
    at: int,
    seed: int,
    run: StageRun,
) -> dict[str, float]:
    """Steps 3 to 5 on one batch of rollouts."""
    mask = rollouts.mask
    rewards = rl_math.token_rewards(
        rollouts.scores, rollouts.logprobs, rollouts.ref_logprobs, mask, kl_coef
    )
    with torch.no_grad():
        old_values = values(rollouts.hidden) * mask
    advantages, returns = rl_math.advantages_and_returns(
        rewards, old_values, mask, gamma=recipe.gamma, lam=recipe.lam
    )
    explained = float(rl_math.explained_variance(old_values, returns, mask))
    if at < recipe.value_warmup_steps:
        # Monte-Carlo returns: lambda-returns of an untrained head would teach it its own zeros.
        _, returns = rl_math.advantages_and_returns(
            rewards, old_values, mask, gamma=recipe.gamma, lam=1.0
        )
        loss = _fit_values(values, rollouts.hidden, returns, mask, recipe.value_learning_rate)
        return {"value_loss": loss, "explained_variance": explained}
    advantages = rl_math.whiten(advantages, mask)
    if len(mask) > 1 and float(rollouts.scores.max() - rollouts.scores.min()) < rl_math.NEGLIGIBLE:
        # No completion is better than another: whitened, the value head's error would be the taste.
        advantages = torch.zeros_like(advantages)

    totals = {"policy_loss": 0.0, "value_loss": 0.0, "clip_fraction": 0.0, "ratio": 0.0}
    updates = 0
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(mask), generator=generator_for(seed, "ppo order", at, epoch))
        for part in order.tensor_split(recipe.minibatches):
            rows = part.tolist()
            if not rows:
                continue
            some = liked.drawn(generator_for(seed, "ptx", at, epoch, updates))

            def gradient(
                tokens: int, rows: list[int] = rows, some: Liked = some
            ) -> tuple[dict[str, float], bool]:
                seen = _minibatch(
                    policy, values, rollouts, rows, advantages, old_values, returns, recipe,
                    tokens,
                )  # fmt: skip
                strayed = seen["approximate_kl"] > 1.5 * recipe.epoch_kl
                strayed = strayed or seen["ratio"] > RUNAWAY_RATIO
                if not strayed:
                    some.backward(policy, tokens, recipe.ptx_coef)
                return seen, strayed

            seen, strayed = smaller_if_needed(run, gradient, optimizer.zero_grad)
            if strayed:
                optimizer.zero_grad()
                return _means(totals, updates) | {"explained_variance": explained}
            for group in optimizer.param_groups:
                distributed.reduce_gradients(group["params"])
                nn.utils.clip_grad_norm_(group["params"], recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            for name in totals:
                totals[name] += seen[name]
    return _means(totals, updates) | {"explained_variance": explained}


def _minibatch(
    policy: Policy,
    values: ValueHead,
    rollouts: Rollouts,
    rows: Sequence[int],
    advantages: Tensor,
    old_values: Tensor,
    returns: Tensor,
    recipe: PpoRecipe,
    tokens_at_once: int,
) -> dict[str, float]:
    """Accumulate the gradient of one minibatch, a token mean, in micro-batches."""
    count = int(rollouts.mask[rows].sum())
    lengths = [len(rollouts.completed[i].prompt) + len(rollouts.completed[i].ids) for i in rows]
    seen = dict.fromkeys(
        ("policy_loss", "value_loss", "clip_fraction", "ratio", "approximate_kl"), 0.0
    )
    for group in packs(lengths, tokens_at_once):
        some = [rows[i] for i in group]
        mask = rollouts.mask[some]
        share = int(mask.sum()) / count
        whole = pack_of([rollouts.completed[i].example for i in some], policy)
        with policy.using(*POLICY):
            hidden = policy.packed_hidden(whole)[whole.before_targets]
            flat = policy.token_logprobs(hidden, whole.targets, recipe.temperature)
        logprobs = unflatten(flat, mask)
        guess = unflatten(values(hidden.detach()), mask)
        policy_loss = rl_math.policy_loss(
            logprobs, rollouts.logprobs[some], advantages[some], mask, recipe.clip_range
        )
        value_loss = rl_math.value_loss(
            guess, old_values[some], returns[some], mask, recipe.value_clip_range
        )
        loss = policy_loss.loss + recipe.value_coef * value_loss
        (share * loss).backward()  # type: ignore[no-untyped-call]
        for name, value in (
            ("policy_loss", policy_loss.loss),
            ("value_loss", value_loss),
            ("clip_fraction", policy_loss.clip_fraction),
            ("ratio", policy_loss.ratio),
            ("approximate_kl", policy_loss.approximate_kl),
        ):
            seen[name] += share * value.item()
    seen = distributed.summed(seen)
    if not math.isfinite(seen["policy_loss"]):
        raise Diverged("the policy loss is not a number any more")
    return seen


def _fit_values(
    values: ValueHead, hidden: Tensor, returns: Tensor, mask: Tensor, rate: float
) -> float:
    """Fit the value head alone to ``returns`` (B, T); half the mean squared error it ends at."""
    optimizer = torch.optim.Adam(values.parameters(), lr=rate, eps=1e-5)
    states, wanted = hidden[mask], returns[mask]
    loss = states.new_zeros(())
    for _ in range(VALUE_FIT_STEPS):
        loss = 0.5 * ((values(states) - wanted) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()  # nothing of it may be left for the first real update
    return loss.item()


def _means(totals: dict[str, float], count: int) -> dict[str, float]:
    return {name: total / max(1, count) for name, total in totals.items()}
