"""Batched sampling for rollouts and evaluation: token ids in, token ids out.

Knows nothing of tokenizers or rewards. The policy that is sampled is the policy that is scored:
there is a temperature and nothing else, no top-k, no repetition penalty, no minimum length. Any
of these would make sampled and scored log-probabilities differ, which shows as negative KL and
ends in collapse.

One uniform number per row and token is drawn before the first step, so that what a row becomes
does not depend on its neighbours, and two models can be given the same luck.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from finetune.contract.chat_template import TrainingExample
from finetune.policy import Policy


@dataclass(frozen=True)
class Completed:
    """One sampled completion. ``ids`` includes the end token when ``ended``."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Of the sampled tokens, at the sampling temperature."""
    ended: bool
    entropies: tuple[float, ...] = field(default=(), compare=False)
    """Of the distributions the tokens were drawn from, in nats; only if asked for."""
    states: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)
    """Hidden states (D,) from which they were drawn; only if asked for."""

    @property
    def example(self) -> TrainingExample:
        """As something to learn from; its end of turn is learned if it came."""
        return TrainingExample(
            (*self.prompt, *self.ids),
            (False,) * len(self.prompt) + (True,) * len(self.ids),
        )

    @property
    def is_empty(self) -> bool:
        """It says nothing at all: an end of turn and no more."""
        return self.ended and len(self.ids) == 1


@torch.inference_mode()
def sample(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    *,
    copies: int = 1,
    max_new_tokens: int,
    end_ids: Collection[int],
    generator: torch.Generator,
    temperature: float = 1.0,
    rows_at_once: int = 64,
    keep_states: bool = False,
) -> list[Completed]:
    """Sample ``copies`` completions of each prompt, in the order p0 p0 p1 p1...

    Call inside ``policy.merged(...)``. Temperature 0 takes the likeliest token. Prompts of
    similar length go together, whatever order they came in.
    """
    luck = torch.rand(len(prompts) * copies, max_new_tokens, generator=generator)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    at_once = max(1, rows_at_once // copies)
    done: dict[int, list[Completed]] = {}
    for start in range(0, len(order), at_once):
        chosen = order[start : start + at_once]
        rows = _Rows(policy, [prompts[i] for i in chosen], copies)
        found = rows.run(
            torch.cat([luck[i * copies : (i + 1) * copies] for i in chosen]),
            frozenset(end_ids),
            temperature,
            keep_states,
        )
        for place, index in enumerate(chosen):
            done[index] = found[place * copies : (place + 1) * copies]
    return [completed for index in range(len(prompts)) for completed in done[index]]


class _Rows:
    """One batch being decoded: left-padded, so that all rows grow at the same end."""

    def __init__(self, policy: Policy, prompts: Sequence[Sequence[int]], copies: int) -> None:
        self._policy = policy
        self._trunk: Any = policy.trunk
        self._prompts = [tuple(p) for p in prompts for _ in range(copies)]
        width = max(len(p) for p in prompts)
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        real = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            real[row, width - len(prompt) :] = 1
        self._cache = DynamicCache(config=policy.config)
        self._real = real.to(policy.device)
        # A prompt is read once, however many completions it gets.
        positions = (self._real.cumsum(1) - 1).clamp(min=0)
        self._last = self._forward(ids.to(policy.device), positions)
        if copies > 1:
            self._cache.batch_repeat_interleave(copies)
            self._real = self._real.repeat_interleave(copies, 0)
            self._last = self._last.repeat_interleave(copies, 0)

    def run(
        self, luck: Tensor, end_ids: frozenset[int], temperature: float, keep_states: bool
    ) -> list[Completed]:
        """Decode until every row has ended. ``luck``: uniform numbers, (rows, steps)."""
        count, steps = luck.shape
        rows = [_Row(prompt) for prompt in self._prompts]
        alive = list(range(count))
        for step in range(steps):
            logits = self._policy.logits(self._last)
            tokens, logprobs = _draw(logits, luck[alive, step], temperature)
            chosen = logprobs.gather(-1, tokens[:, None])[:, 0].tolist()
            entropies = _entropies(logprobs).tolist() if keep_states else []
            for place, token in enumerate(tokens.tolist()):
                row = rows[alive[place]]
                if not row.ended:
                    row.ids.append(token)
                    row.logprobs.append(chosen[place])
                    row.ended = token in end_ids
                    if keep_states:
                        row.entropies.append(entropies[place])
                        row.states.append(self._last[place].float())
            going = [place for place, row in enumerate(alive) if not rows[row].ended]
            if not going or step == steps - 1:
                break
            if len(going) <= 0.75 * len(alive):  # finished rows cost as much as living ones
                keep = torch.tensor(going, device=self._real.device)
                self._cache.batch_select_indices(keep)
                self._real, tokens = self._real[keep], tokens[keep]
                alive = [alive[place] for place in going]
            self._real = torch.cat([self._real, self._real.new_ones(len(alive), 1)], dim=1)
            positions = self._real.sum(1, keepdim=True) - 1
            self._last = self._forward(tokens[:, None], positions)
        return [row.completed() for row in rows]

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Last hidden state of each row, (rows, D); the cache grows."""
        out: Tensor = self._trunk(
            input_ids=ids,
            attention_mask=self._real,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return out[:, -1]


@dataclass
class _Row:
    """One completion while it grows."""

    prompt: tuple[int, ...]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    ended: bool = False

    def completed(self) -> Completed:
        return Completed(
            self.prompt,
            tuple(self.ids),
            tuple(self.logprobs),
            self.ended,
            tuple(self.entropies),
            tuple(self.states),
        )


def _draw(logits: Tensor, luck: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token for each row of (rows, V) by inverting the CDF, and all log-probabilities."""
    if temperature == 0.0:
        return logits.argmax(-1), logits.log_softmax(-1)
    logprobs = (logits / temperature).log_softmax(-1)
    # In half the precision, rounding would favour the last tokens; Apple's GPUs have no other.
    exact = torch.float32 if logprobs.device.type == "mps" else torch.float64
    cumulative = logprobs.to(exact).exp().cumsum(-1)
    point = luck.to(cumulative).unsqueeze(-1) * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, point, right=True)[:, 0]
    return tokens.clamp(max=logits.shape[-1] - 1), logprobs


def _entropies(logprobs: Tensor) -> Tensor:
    return -(logprobs.exp() * logprobs).sum(-1)
