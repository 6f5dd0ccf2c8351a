"""Supervised fine-tuning: liked, preferred and corrected completions, by LoRA.

The loss of a step is the sum over all its completion tokens (end of turn included) divided by
their count (see ``token_loss``); the output layer sees only the tokens that are learned.

Training ends before its last epoch where the held-out loss rises and held-out comparisons do
not gain either: on little data the loss of the few held-out texts rises while the model still
learns what is preferred (Ouyang et al. 2022, section 3.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from finetune import distributed
from finetune.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    without_prefix,
)
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import SftRecipe
from finetune.data import RankedPrompt
from finetune.out_of_memory import smaller_if_needed
from finetune.policy import Policy
from finetune.stage import (
    StageRun,
    for_width,
    generator_for,
    set_learning_rate,
    warmup_cosine,
)
from finetune.token_loss import backward, completion_logprobs, token_loss

ADAPTER = "sft"

LOSS_SLACK = 1.02
"""An epoch that gains in held-out comparisons may lose this much of the held-out loss."""


@dataclass(frozen=True)
class SftResult:
    """Held-out losses are None where nothing was held out."""

    first_loss: float
    last_loss: float
    held_out_loss: float | None
    base_held_out_loss: float | None
    held_out_preference: float | None = None

    def metrics(self) -> dict[str, float]:
        values = {
            "first_loss": self.first_loss,
            "loss": self.last_loss,
            "held_out_loss": self.held_out_loss,
            "base_held_out_loss": self.base_held_out_loss,
            "held_out_preference": self.held_out_preference,
        }
        return {name: value for name, value in values.items() if value is not None}


def preference(policy: Policy, groups: Sequence[RankedPrompt], tokens_at_once: int) -> float | None:
    """How much likelier a token of the better completion of a pair is, in nats, on average.

    Means over tokens, so that length alone decides nothing; None without pairs.
    """
    examples = [example for group in groups for example in group.completions]
    if not any(group.pairs for group in groups):
        return None
    sums, counts = completion_logprobs(policy, examples, tokens_at_once)
    means = iter((sums / counts).tolist())
    gains: list[float] = []
    for group in groups:
        own = [next(means) for _ in group.completions]
        gains += [own[better] - own[worse] for better, worse, _ in group.pairs]
    return sum(gains) / len(gains)


@dataclass(frozen=True)
class HeldOut:
    """What an epoch is judged by."""

    loss: float | None
    preference: float | None

    def improves_on(self, best: HeldOut | None) -> bool:
        """Whether training should go on from here: a lower loss, or a better preference at next
        to the same loss. Without anything held out there is nothing to stop for."""
        if best is None or self.loss is None or best.loss is None:
            return True
        if self.loss <= best.loss:
            return True
        gained = (
            self.preference is not None
            and best.preference is not None
            and self.preference > best.preference
        )
        return gained and self.loss <= LOSS_SLACK * best.loss


def train_sft(
    policy: Policy,
    examples: Sequence[TrainingExample],
    held_out: Sequence[TrainingExample],
    recipe: SftRecipe,
    seed: int,
    run: StageRun,
    comparisons: Sequence[RankedPrompt] = (),
) -> SftResult:
    """Train the adapter "sft" and leave the best epoch's weights in it.

    Args:
        held_out, comparisons: demonstrations and judgements of unseen conversations.
    """
    policy.add_adapter(ADAPTER, recipe.lora, generator_for(seed, "sft adapter"))
    parameters = policy.adapter_parameters(ADAPTER)
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0)
    per_epoch = math.ceil(len(examples) / recipe.batch_size)
    steps = per_epoch * recipe.epochs

    at, first_loss, loss = 0, math.nan, math.nan
    best_seen: HeldOut | None = None
    base_loss: float | None = None
    best = policy.adapter_state(ADAPTER)
    finished = False
    saved = run.start(steps)
    if saved is not None:
        at, first_loss, loss = (saved.state[k] for k in ("step", "first_loss", "loss"))
        base_loss, seen = saved.state["base_loss"], saved.state["best_seen"]
        best_seen = None if seen is None else HeldOut(*seen)
        finished = saved.state["finished"]
        best = without_prefix("best", saved.tensors)
        policy.load_adapter_state(ADAPTER, without_prefix("adapter", saved.tensors))
        restore_optimizer(optimizer, saved.tensors)

    def checkpoint() -> Checkpoint:
        return Checkpoint(
            {
                **prefixed("adapter", policy.adapter_state(ADAPTER)),
                **prefixed("best", best),
                **optimizer_tensors(optimizer),
            },
            {
                "step": at,
                "first_loss": first_loss,
                "loss": loss,
                "best_seen": best_seen and (best_seen.loss, best_seen.preference),
                "base_loss": base_loss,
                "finished": finished,
            },
        )

    def measured(tokens: int) -> HeldOut:
        return HeldOut(
            token_loss(policy, held_out, tokens), preference(policy, comparisons, tokens)
        )

    with policy.using(ADAPTER):
        if saved is None:
            base_loss = smaller_if_needed(run, measured).loss
        while at < steps and not finished:
            epoch, place = divmod(at, per_epoch)
            order = torch.randperm(len(examples), generator=generator_for(seed, "sft", epoch))
            chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size].tolist()
            some = [examples[i] for i in chosen]
            rate = for_width(recipe.learning_rate, policy.width)
            rate *= warmup_cosine(at, steps, recipe.warmup_fraction)
            set_learning_rate(optimizer, [rate])
            loss = smaller_if_needed(run, partial(backward, policy, some), optimizer.zero_grad)
            distributed.reduce_gradients(parameters)
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            first_loss = loss if at == 0 else first_loss
            metrics = {"loss": loss, "grad_norm": float(norm), "learning_rate": rate}
            at += 1
            if at % per_epoch == 0:
                current = smaller_if_needed(run, measured)
                if current.loss is not None:
                    metrics["held_out_loss"] = current.loss
                if current.preference is not None:
                    metrics["held_out_preference"] = current.preference
                finished = not current.improves_on(best_seen)
                if not finished:
                    best, best_seen = policy.adapter_state(ADAPTER), current
            run.step(at, steps, metrics, checkpoint, sum(len(e.ids) for e in some))
    policy.load_adapter_state(ADAPTER, best)
    seen_best = best_seen or HeldOut(None, None)
    return SftResult(first_loss, loss, seen_best.loss, base_loss, seen_best.preference)
