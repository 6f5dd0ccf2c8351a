"""PPO against the reward model, tied to the SFT model by a KL penalty.

What one step does, in order:
  1. take prompts, sample completions at temperature 1 from merged weights;
  2. score them: the reward model on whole completions, the reference on every token;
  3. token rewards = -kl_coef * (logp - ref logp), and the score on the last token;
  4. GAE over the value head; returns from the raw advantages, which are whitened afterwards;
  5. a few epochs of clipped policy and value updates, with a little SFT loss mixed in;
  6. adapt kl_coef; end the stage where the KL budget is spent.

Four roles share one trunk: policy ("sft", "ppo"), reference ("sft"), reward ("sft", "reward"),
and the value head on the policy's hidden states, which it does not change. Dropout exists
nowhere. No GAE across prompts, no per-sequence value, no score on more than one token.

Shapes: B completions of at most T tokens. Sources at the formulas in ``rl_math``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from finetune import rl_math
from finetune.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    without_prefix,
)
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import PpoRecipe
from finetune.generate import Completed, sample
from finetune.policy import Policy, pad_batch
from finetune.sft import backward
from finetune.stage import (
    Diverged,
    StageRun,
    by_length,
    for_width,
    generator_for,
    set_learning_rate,
)

ADAPTER = "ppo"
POLICY = ("sft", ADAPTER)
REFERENCE = ("sft",)

VALUE_FIT_STEPS = 30
"""Of Adam on the hidden states of one rollout: the head is linear and costs next to nothing."""
PTX_EXAMPLES = 4
"""Demonstrations mixed into each update."""
RUNAWAY_RATIO = 10.0
"""A mean ratio beyond it says that sampler and trainer disagree: that update is skipped."""

Score = Callable[[Sequence[Completed]], Tensor]
"""Completions that ended -> their scores, (N,)."""


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
    """One batch of experience. All (B, T) except ``scores`` (B,) and ``hidden`` (B, T, D)."""

    completed: list[Completed]
    mask: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    entropy: Tensor
    hidden: Tensor
    scores: Tensor

    @property
    def kl(self) -> float:
        """Nats a completion, by k1: the mean over completions of the sum over tokens."""
        difference = rl_math.kl_k1(self.logprobs, self.ref_logprobs)
        return float((difference * self.mask).sum(1).mean())


def completion_mask(completed: Sequence[Completed], device: torch.device) -> Tensor:
    """(B, T), True on the tokens of each completion."""
    lengths = torch.tensor([len(c.ids) for c in completed], device=device)
    return torch.arange(int(lengths.max()), device=device)[None, :] < lengths[:, None]


def token_logprobs(
    policy: Policy, completed: Sequence[Completed], temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (n,), logits (n, V) and hidden states (n, D) of all sampled tokens.

    Flat, row by row; the adapters that count are the caller's choice.
    """
    rows = [
        ((*c.prompt, *c.ids), (False,) * len(c.prompt) + (True,) * len(c.ids)) for c in completed
    ]
    batch = pad_batch(rows, policy.device)
    chosen = batch.learn[:, 1:]
    hidden = policy.hidden(batch)[:, :-1][chosen]
    logits = policy.logits(hidden) / temperature
    targets = batch.ids[:, 1:][chosen]
    return -nn.functional.cross_entropy(logits, targets, reduction="none"), logits, hidden


@torch.no_grad()
def score_tokens(
    policy: Policy,
    completed: Sequence[Completed],
    temperature: float,
    tokens_at_once: int,
    *roles: str,
) -> Scored:
    """What the model with these adapters thinks of each token, in micro-batches."""
    mask = completion_mask(completed, policy.device)
    logprobs = torch.zeros(mask.shape, device=policy.device)
    entropy = torch.zeros_like(logprobs)
    hidden = torch.zeros((*mask.shape, policy.width), device=policy.device)
    with policy.using(*roles):
        for group in by_length([len(c.prompt) + len(c.ids) for c in completed], tokens_at_once):
            some, logits, states = token_logprobs(
                policy, [completed[i] for i in group], temperature
            )
            own = mask[group]
            logprobs[group] = _unflatten(some, own)
            entropy[group] = _unflatten(_entropy(logits), own)
            hidden[group] = _unflatten(states.float(), own)
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
) -> Rollouts:
    """Steps 1 and 2: sample, then score every token and every completion.

    ``score_again``: compute the policy's log-probabilities anew instead of taking the
    sampler's; needed where merged weights are rounded, and to check that they agree.
    """
    with policy.merged(*POLICY):
        completed = sample(
            policy,
            prompts,
            copies=recipe.completions_per_prompt,
            max_new_tokens=recipe.max_new_tokens,
            end_ids=end_ids,
            generator=generator,
            temperature=recipe.temperature,
            keep_states=not score_again,
        )
    if score_again:
        own = score_tokens(policy, completed, recipe.temperature, tokens_at_once, *POLICY)
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
    )


def _as_sampled(completed: Sequence[Completed], policy: Policy) -> Scored:
    """What the sampler noted while it drew the tokens."""
    mask = completion_mask(completed, policy.device)
    flat = [torch.tensor([x for c in completed for x in c.logprobs], device=policy.device)]
    flat.append(torch.tensor([x for c in completed for x in c.entropies], device=policy.device))
    states = torch.stack([state for c in completed for state in c.states])
    return Scored(_unflatten(flat[0], mask), _unflatten(flat[1], mask), _unflatten(states, mask))


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


def train_ppo(
    policy: Policy,
    prompts: Sequence[tuple[int, ...]],
    score: Score,
    demonstrations: Sequence[TrainingExample],
    recipe: PpoRecipe,
    end_ids: Collection[int],
    seed: int,
    run: StageRun,
) -> dict[str, float]:
    """Train the adapter "ppo" and leave the last weights within the KL budget in it.

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
    kept = policy.adapter_state(ADAPTER)
    metrics: dict[str, float] = {}
    saved = run.start(recipe.steps)
    if saved is not None:
        at, kl_coef = saved.state["step"], saved.state["kl_coef"]
        finished, metrics = saved.state["finished"], saved.state["metrics"]
        kept = without_prefix("kept", saved.tensors)
        policy.load_adapter_state(ADAPTER, without_prefix("adapter", saved.tensors))
        values.load_state_dict(without_prefix("values", saved.tensors))
        restore_optimizer(optimizer, saved.tensors)

    def checkpoint() -> Checkpoint:
        return Checkpoint(
            {
                **prefixed("adapter", policy.adapter_state(ADAPTER)),
                **prefixed("kept", kept),
                **prefixed("values", values.state_dict()),
                **optimizer_tensors(optimizer),
            },
            {"step": at, "kl_coef": kl_coef, "finished": finished, "metrics": metrics},
        )

    while at < recipe.steps and not finished:
        began = time.monotonic()
        chosen = prompts_of_step(prompts, at, recipe.prompts_per_step, seed)
        luck = generator_for(seed, "ppo rollout", at)
        rollouts = roll_out(
            policy,
            chosen,
            score,
            recipe,
            end_ids,
            luck,
            run.micro_batch_tokens,
            score_again=at == 0 or policy.dtype != torch.float32,
        )
        kl = rollouts.kl
        metrics = _describe(rollouts, kl, kl_coef)
        finished = kl > recipe.kl_budget
        if at == 0:
            check_sampler(rollouts, policy.dtype)
        if finished:
            run.note(
                f"PPO stopped at {kl:.1f} nats from the SFT model (budget "
                f"{recipe.kl_budget:.1f}); the last weights within the budget are kept."
            )
            policy.load_adapter_state(ADAPTER, kept)
        else:
            kept = policy.adapter_state(ADAPTER)
            # The first rates of Adam are its boldest; they fall linearly to a tenth.
            left = 1.0 - 0.9 * at / max(1, recipe.steps)
            rate = for_width(recipe.learning_rate, policy.width)
            rates = [rate * left, recipe.value_learning_rate * left]
            set_learning_rate(optimizer, rates)
            metrics |= _learn(
                policy, values, optimizer, rollouts, demonstrations, recipe, kl_coef, at, seed,
                run.micro_batch_tokens,
            )  # fmt: skip
            kl_coef = rl_math.adapted_kl_coef(kl_coef, kl, recipe.kl_target, recipe.kl_horizon, 1)
        seconds = time.monotonic() - began
        metrics["tokens_per_second"] = float(rollouts.mask.sum()) / seconds
        at += 1
        run.step(at, recipe.steps, metrics, checkpoint)
    return metrics


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


def _learn(
    policy: Policy,
    values: ValueHead,
    optimizer: torch.optim.Optimizer,
    rollouts: Rollouts,
    demonstrations: Sequence[TrainingExample],
    recipe: PpoRecipe,
    kl_coef: float,
    at: int,
    seed: int,
    tokens_at_once: int,
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

    totals = {"policy_loss": 0.0, "value_loss": 0.0, "clip_fraction": 0.0, "ratio": 0.0}
    updates = 0
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(mask), generator=generator_for(seed, "ppo order", at, epoch))
        for part in order.tensor_split(recipe.minibatches):
            rows = part.tolist()
            if not rows:
                continue
            seen = _minibatch(
                policy, values, rollouts, rows, advantages, old_values, returns, recipe,
                tokens_at_once,
            )  # fmt: skip
            if seen["approximate_kl"] > 1.5 * recipe.epoch_kl or seen["ratio"] > RUNAWAY_RATIO:
                optimizer.zero_grad()
                return _means(totals, updates) | {"explained_variance": explained}
            if recipe.ptx_coef > 0 and demonstrations:
                luck = generator_for(seed, "ptx", at, epoch, updates)
                mixed = torch.randperm(len(demonstrations), generator=luck)[:PTX_EXAMPLES]
                some = [demonstrations[i] for i in mixed.tolist()]
                with policy.using(*POLICY):
                    backward(policy, some, tokens_at_once, recipe.ptx_coef)
            for group in optimizer.param_groups:
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
    for group in by_length(lengths, tokens_at_once):
        some = [rows[i] for i in group]
        mask = rollouts.mask[some]
        share = int(mask.sum()) / count
        with policy.using(*POLICY):
            flat, _, hidden = token_logprobs(
                policy, [rollouts.completed[i] for i in some], recipe.temperature
            )
        logprobs = _unflatten(flat, mask)
        guess = _unflatten(values(hidden.detach()), mask)
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
    return loss.item()


def _describe(rollouts: Rollouts, kl: float, kl_coef: float) -> dict[str, float]:
    mask = rollouts.mask
    k3 = rl_math.kl_k3(rollouts.logprobs, rollouts.ref_logprobs)
    return {
        "score": float(rollouts.scores.mean()),
        "reward": float(rollouts.scores.mean()) - kl_coef * kl,
        "kl": kl,
        "kl_k3": float((k3 * mask).sum(1).mean()),
        "kl_coef": kl_coef,
        "entropy": float(rl_math.masked_mean(rollouts.entropy, mask)),
        "completion_length": float(mask.sum(1).float().mean()),
        "ended": sum(c.ended for c in rollouts.completed) / len(rollouts.completed),
    }


def _means(totals: dict[str, float], count: int) -> dict[str, float]:
    return {name: total / max(1, count) for name, total in totals.items()}


def _unflatten(flat: Tensor, mask: Tensor) -> Tensor:
    """Values of the True places, row by row, (n, ...) to (B, T, ...); 0 elsewhere."""
    out = flat.new_zeros((*mask.shape, *flat.shape[1:]))
    out[mask] = flat
    return out


def _entropy(logits: Tensor) -> Tensor:
    logprobs = logits.log_softmax(-1)
    return -(logprobs.exp() * logprobs).sum(-1)
