"""Supervised fine-tuning: liked, preferred and corrected completions, by LoRA.

The loss of a step is the sum over all its completion tokens (end of turn included) divided by
their count, however the step is cut into micro-batches: eight examples at once and eight times
one example give the same gradient. The output layer sees only the tokens that are learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from finetune.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    without_prefix,
)
from finetune.contract.chat_template import TrainingExample
from finetune.contract.recipe import SftRecipe
from finetune.generate import Completed
from finetune.policy import Policy, pad_batch
from finetune.stage import (
    StageRun,
    by_length,
    for_width,
    generator_for,
    set_learning_rate,
    warmup_cosine,
)

ADAPTER = "sft"


@dataclass(frozen=True)
class SftResult:
    """Held-out losses are None where nothing was held out."""

    first_loss: float
    last_loss: float
    held_out_loss: float | None
    base_held_out_loss: float | None

    def metrics(self) -> dict[str, float]:
        values = {
            "first_loss": self.first_loss,
            "loss": self.last_loss,
            "held_out_loss": self.held_out_loss,
            "base_held_out_loss": self.base_held_out_loss,
        }
        return {name: value for name, value in values.items() if value is not None}


def replay_example(completed: Completed) -> TrainingExample:
    """A model's own completion as an example; its end of turn is learned if it came."""
    return TrainingExample(
        (*completed.prompt, *completed.ids),
        (False,) * len(completed.prompt) + (True,) * len(completed.ids),
    )


def backward(
    policy: Policy, examples: Sequence[TrainingExample], tokens_at_once: int, scale: float = 1.0
) -> float:
    """Accumulate the gradient of the token-mean loss over ``examples``; the loss in nats."""
    count = sum(sum(example.completion_mask) for example in examples)
    total = 0.0
    for group in by_length([len(e.ids) for e in examples], tokens_at_once):
        rows = [(examples[i].ids, examples[i].completion_mask) for i in group]
        loss = -policy.learned_logprobs(pad_batch(rows, policy.device)).sum() / count
        (scale * loss).backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total


@torch.no_grad()
def token_loss(
    policy: Policy, examples: Sequence[TrainingExample], tokens_at_once: int
) -> float | None:
    """Mean negative log-likelihood of all learned tokens, in nats; None without examples."""
    if not examples:
        return None
    total, count = 0.0, 0
    for group in by_length([len(e.ids) for e in examples], tokens_at_once):
        rows = [(examples[i].ids, examples[i].completion_mask) for i in group]
        logprobs = policy.learned_logprobs(pad_batch(rows, policy.device))
        total -= float(logprobs.cpu().double().sum())
        count += logprobs.numel()
    return total / count


def train_sft(
    policy: Policy,
    examples: Sequence[TrainingExample],
    held_out: Sequence[TrainingExample],
    recipe: SftRecipe,
    seed: int,
    run: StageRun,
) -> SftResult:
    """Train the adapter "sft" and leave the best epoch's weights in it.

    Stops before its last epoch where the held-out loss has begun to rise.
    """
    policy.add_adapter(ADAPTER, recipe.lora, generator_for(seed, "sft adapter"))
    parameters = policy.adapter_parameters(ADAPTER)
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.0)
    per_epoch = math.ceil(len(examples) / recipe.batch_size)
    steps = per_epoch * recipe.epochs
    tokens = run.micro_batch_tokens

    at, first_loss, loss = 0, math.nan, math.nan
    best_loss: float | None = None
    base_loss: float | None = None
    best = policy.adapter_state(ADAPTER)
    finished = False
    saved = run.start(steps)
    if saved is not None:
        at, first_loss, loss = (saved.state[k] for k in ("step", "first_loss", "loss"))
        best_loss, base_loss = saved.state["best_loss"], saved.state["base_loss"]
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
                "best_loss": best_loss,
                "base_loss": base_loss,
                "finished": finished,
            },
        )

    with policy.using(ADAPTER):
        if saved is None:
            base_loss = token_loss(policy, held_out, tokens)
        while at < steps and not finished:
            epoch, place = divmod(at, per_epoch)
            order = torch.randperm(len(examples), generator=generator_for(seed, "sft", epoch))
            chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size].tolist()
            rate = for_width(recipe.learning_rate, policy.width)
            rate *= warmup_cosine(at, steps, recipe.warmup_fraction)
            set_learning_rate(optimizer, [rate])
            loss = backward(policy, [examples[i] for i in chosen], tokens)
            norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            first_loss = loss if at == 0 else first_loss
            metrics = {"loss": loss, "grad_norm": float(norm), "learning_rate": rate}
            at += 1
            if at % per_epoch == 0:
                current = token_loss(policy, held_out, tokens)
                if current is not None:
                    metrics["held_out_loss"] = current
                    finished = best_loss is not None and current > best_loss
                if not finished:
                    best, best_loss = policy.adapter_state(ADAPTER), current
            run.step(at, steps, metrics, checkpoint)
    policy.load_adapter_state(ADAPTER, best)
    return SftResult(first_loss, loss, best_loss, base_loss)
