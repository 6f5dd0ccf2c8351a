"""The reward model: what this person prefers, as one number for a completion.

One trunk (the SFT model) with an adapter of its own and M linear heads on the hidden state of
the last token, the end of turn. Every head sees the data in its own bootstrap weights; where
they disagree, the score is a guess. Pairs teach by Bradley-Terry and thumbs by binary
likelihood on the same score, with one bias for how freely this person gives thumbs.

Each completion goes through the network once, however many pairs it is in, and all pairs of a
prompt are in one batch element (Ouyang et al. 2022, section 3.5); on a processor the prompt itself
goes through once for all of its completions. What is done with the trained
heads (scale, length, a second opinion) is in ``reward_model``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from finetune import distributed, rl_math
from finetune.checkpoint import (
    Checkpoint,
    optimizer_tensors,
    prefixed,
    restore_optimizer,
    without_prefix,
)
from finetune.contract.recipe import RewardRecipe
from finetune.data import RankedPrompt
from finetune.out_of_memory import smaller_if_needed
from finetune.packing import Pack, pack, pack_sharing, packs, shared_prefixes
from finetune.policy import Policy
from finetune.stage import (
    StageRun,
    for_width,
    generator_for,
    set_learning_rate,
    warmup_cosine,
)

ADAPTER = "reward"
ROLE = ("sft", ADAPTER)
"""The adapters that count while scoring."""


HEAD_SCALE = 0.1
"""Of the heads' first weights, against N(0, 1 / (D + 1)) (Huang et al. 2024). With sixty signals
the full scale stays in the scores as noise: on held-out pairs 0.75 right against 0.80, and heads
that disagree everywhere."""


class RewardHeads(nn.Module):
    """M linear heads in float32: small random weights, biases 0."""

    def __init__(self, width: int, heads: int, generator: torch.Generator) -> None:
        super().__init__()
        scale = HEAD_SCALE / math.sqrt(width + 1)
        weight = scale * torch.randn(heads, width, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(heads))
        self.thumb_bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states of last tokens (N, D) to raw scores (N, M)."""
        out: Tensor = hidden.float() @ self.weight.T + self.bias
        return out

    @torch.no_grad()
    def standardise(self, scores: Tensor) -> None:
        """Fold mean and spread of reference ``scores`` (N, M) into weights and biases.

        Afterwards each head has mean 0 there, and the heads' mean has standard deviation 1.
        """
        mean = scores.mean(0)
        spread = scores.std(0, correction=0).clamp(min=1e-4)
        whole = ((scores - mean) / spread).mean(1).std(correction=0).clamp(min=1e-2)
        factor = 1.0 / (spread * whole)
        self.bias.copy_((self.bias - mean) * factor)
        self.weight.mul_(factor[:, None])


def conservative(scores: Tensor, uncertainty: float) -> Tensor:
    """The heads' mean less ``uncertainty`` times their variance; (N, M) to (N,).

    Coste et al. 2023, uncertainty-weighted optimisation.
    """
    return scores.mean(1) - uncertainty * scores.var(1, correction=0)


def last_hidden(policy: Policy, some: Pack) -> Tensor:
    """The hidden state of each sequence's last token, (B, D)."""
    return policy.packed_hidden(some)[some.ends]


@torch.no_grad()
def last_states(policy: Policy, rows: Sequence[Sequence[int]], tokens_at_once: int) -> Tensor:
    """What the reward model's trunk makes of whole sequences (prompt, completion, end of turn):
    last hidden states in float32, (N, D)."""
    states = torch.zeros(len(rows), policy.width, device=policy.device)
    with policy.using(*ROLE):
        for group in packs([len(ids) for ids in rows], tokens_at_once):
            some = pack([(rows[i], ()) for i in group], policy.device)
            states[torch.tensor(group, device=policy.device)] = last_hidden(policy, some).float()
    distributed.add_up(states)
    return states


@torch.no_grad()
def score(
    policy: Policy, heads: RewardHeads, rows: Sequence[Sequence[int]], tokens_at_once: int
) -> Tensor:
    """Scores of whole sequences, (N, M)."""
    scores: Tensor = heads(last_states(policy, rows, tokens_at_once))
    return scores


def group_loss(
    scores: Tensor,
    group: RankedPrompt,
    thumb_bias: Tensor,
    bootstrap: Tensor,
    center_coef: float,
    margin: float = 0.0,
) -> Tensor:
    """The loss of one prompt's judgements; a scalar.

    Args:
        scores: of its completions, (K, M).
        bootstrap: how often this prompt is in each head's sample, (M,).
        margin: by which the best of a ranking has to lie above the worst.

    The pairs of a ranking share one vote: their mean is taken, not their sum.
    """
    loss = scores.new_zeros(())
    if group.pairs:
        better = scores[[i for i, _, _ in group.pairs]]
        worse = scores[[j for _, j, _ in group.pairs]]
        weights = scores.new_tensor([w for _, _, w in group.pairs])[:, None]
        margins = scores.new_tensor(group.margins or [0.0] * len(group.pairs))[:, None]
        preference = weights * rl_math.preference_loss(better, worse, margin * margins)
        centring = center_coef * (better + worse) ** 2
        loss = loss + ((preference + centring) * bootstrap).mean()
    if group.thumbs:
        judged = scores[[i for i, _, _ in group.thumbs]]
        liked = torch.tensor([liked for _, liked, _ in group.thumbs], device=scores.device)
        weights = scores.new_tensor([w for _, _, w in group.thumbs])[:, None]
        thumbs = weights * rl_math.thumb_loss(judged, liked[:, None], thumb_bias)
        loss = loss + (thumbs * bootstrap).mean()
    return loss


@dataclass(frozen=True)
class Agreement:
    """How often the model puts a pair in the person's order."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        return self.correct / self.total if self.total else 0.0

    @property
    def bound(self) -> float:
        """One-sided 95 % lower bound: above 0.5 the skill is proven."""
        return rl_math.wilson_lower_bound(self.correct, self.total)


def agreement(
    policy: Policy, heads: RewardHeads, groups: Sequence[RankedPrompt], tokens_at_once: int
) -> Agreement:
    """Compare the mean score with every judgement of ``groups``."""
    rows = [example.ids for group in groups for example in group.completions]
    if not rows:
        return Agreement(0, 0)
    return agreement_of(groups, score(policy, heads, rows, tokens_at_once).mean(1).tolist())


def agreement_of(groups: Sequence[RankedPrompt], scores: Sequence[float]) -> Agreement:
    """How often ``scores``, one for each completion in turn, put a pair in the person's order.

    Thumbs make pairs of a liked and a disliked completion of different prompts; they count only
    where no pair within a prompt was judged.
    """
    correct = total = 0
    liked: list[float] = []
    disliked: list[float] = []
    left = iter(scores)
    for group in groups:
        own = [next(left) for _ in group.completions]
        correct += sum(own[i] > own[j] for i, j, _ in group.pairs)
        total += len(group.pairs)
        for index, like, _ in group.thumbs:
            (liked if like else disliked).append(own[index])
    if total == 0:
        correct = sum(a > b for a, b in zip(liked, disliked, strict=False))
        total = min(len(liked), len(disliked))
    return Agreement(correct, total)


def train_reward(
    policy: Policy,
    groups: Sequence[RankedPrompt],
    held_out: Sequence[RankedPrompt],
    recipe: RewardRecipe,
    seed: int,
    run: StageRun,
) -> RewardHeads:
    """Train the adapter "reward" and its heads; their scores are not standardised yet."""
    policy.add_adapter(ADAPTER, recipe.lora, generator_for(seed, "reward adapter"))
    heads = RewardHeads(policy.width, recipe.heads, generator_for(seed, "reward heads"))
    heads.to(policy.device)
    parameters = [*policy.adapter_parameters(ADAPTER), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.0)
    drawn = torch.poisson(
        torch.ones(len(groups), recipe.heads), generator=generator_for(seed, "bootstrap")
    ).to(policy.device)
    per_epoch = math.ceil(len(groups) / recipe.batch_size)
    steps = per_epoch * recipe.epochs

    at = 0
    saved = run.start(steps)
    if saved is not None:
        at = saved.state["step"]
        policy.load_adapter_state(ADAPTER, without_prefix("adapter", saved.tensors))
        heads.load_state_dict(without_prefix("heads", saved.tensors))
        restore_optimizer(optimizer, saved.tensors)

    def checkpoint() -> Checkpoint:
        return Checkpoint(
            {
                **prefixed("adapter", policy.adapter_state(ADAPTER)),
                **prefixed("heads", heads.state_dict()),
                **optimizer_tensors(optimizer),
            },
            {"step": at},
        )

    while at < steps:
        epoch, place = divmod(at, per_epoch)
        order = torch.randperm(len(groups), generator=generator_for(seed, "reward", epoch))
        chosen = order[place * recipe.batch_size : (place + 1) * recipe.batch_size].tolist()
        rate = for_width(recipe.learning_rate, policy.width)
        rate *= warmup_cosine(at, steps, recipe.warmup_fraction)
        set_learning_rate(optimizer, [rate])
        some = [groups[i] for i in chosen]
        loss = smaller_if_needed(
            run, partial(_backward, policy, heads, some, drawn[chosen], recipe), optimizer.zero_grad
        )
        distributed.reduce_gradients(parameters)
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        metrics = {"loss": loss, "grad_norm": float(norm), "learning_rate": rate}
        at += 1
        if at % per_epoch == 0:
            found = smaller_if_needed(run, partial(agreement, policy, heads, groups))
            metrics["train_accuracy"] = found.accuracy
            if held_out:
                unseen = smaller_if_needed(run, partial(agreement, policy, heads, held_out))
                metrics["accuracy"] = unseen.accuracy
        trained = sum(len(e.ids) for group in some for e in group.completions)
        run.step(at, steps, metrics, checkpoint, trained)
    return heads


def _backward(
    policy: Policy,
    heads: RewardHeads,
    groups: Sequence[RankedPrompt],
    bootstrap: Tensor,
    recipe: RewardRecipe,
    tokens_at_once: int,
) -> float:
    """Accumulate the gradient of the mean loss over ``groups``, a few prompts at a time."""
    completions = [[example.ids for example in group.completions] for group in groups]
    sizes = [sum(map(len, rows)) - sum(shared_prefixes(rows)) for rows in completions]
    total = 0.0
    for part in packs(sizes, tokens_at_once):
        some = pack_sharing([completions[index] for index in part], policy.device)
        with policy.using(*ROLE):
            scores = heads(last_hidden(policy, some))
        loss = scores.new_zeros(())
        for index in part:
            own, scores = scores.tensor_split([len(groups[index].completions)])
            loss = loss + group_loss(
                own, groups[index], heads.thumb_bias, bootstrap[index], recipe.center_coef,
                recipe.margin,
            )  # fmt: skip
        loss = loss / len(groups)
        loss.backward()
        total += loss.item()
    return distributed.total(total)
