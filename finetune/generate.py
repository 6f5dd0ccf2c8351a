"""Batched sampling for rollouts and evaluation: token ids in, token ids out.

Knows nothing of tokenizers or rewards. The policy that is sampled is the policy that is scored:
there is a temperature and nothing else, no top-k, no repetition penalty, no minimum length. Any
of these would make sampled and scored log-probabilities differ, which shows as negative KL and
ends in collapse.

One uniform number per row and token is drawn before the first step, so that what a row becomes
does not depend on its neighbours, and two models can be given the same luck.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from finetune import distributed
from finetune.contract.chat_template import TrainingExample
from finetune.decode import Sampling, Written, decode
from finetune.memory_plan import ROWS_AT_ONCE
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
    blank_ids: frozenset[int] = field(default=frozenset(), compare=False, repr=False)
    """Tokens that show nothing, as the policy knows them."""

    @property
    def example(self) -> TrainingExample:
        """As something to learn from; its end of turn is learned if it came."""
        return TrainingExample(
            (*self.prompt, *self.ids),
            (False,) * len(self.prompt) + (True,) * len(self.ids),
        )

    @property
    def is_empty(self) -> bool:
        """It says nothing at all: an end of turn, and before it white space or nothing."""
        return self.ended and self.blank_ids.issuperset(self.ids[:-1])


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
    rows_at_once: int = ROWS_AT_ONCE,
    keep_states: bool = False,
) -> list[Completed]:
    """Sample ``copies`` completions of each prompt, in the order p0 p0 p1 p1...

    Call inside ``policy.merged(...)``. Temperature 0 takes the likeliest token. Prompts of
    similar length go together, whatever order they came in.
    """
    luck = torch.rand(len(prompts) * copies, max_new_tokens, generator=generator)
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    order = [*distributed.share(order)]
    at_once = max(1, rows_at_once // copies)
    how = Sampling(frozenset(end_ids), temperature, keep_states)
    done: dict[int, list[Completed]] = {}
    for start in range(0, len(order), at_once):
        chosen = order[start : start + at_once]
        written = decode(
            policy,
            [prompts[i] for i in chosen],
            copies,
            torch.cat([luck[i * copies : (i + 1) * copies] for i in chosen]),
            how,
        )
        rows = [prompts[i] for i in chosen for _ in range(copies)]
        found = _completed(rows, written, how.end_ids, policy.blank_ids)
        for place, index in enumerate(chosen):
            done[index] = found[place * copies : (place + 1) * copies]
    mine = {i * copies + place: c for i, found in done.items() for place, c in enumerate(found)}
    return _from_all([p for p in prompts for _ in range(copies)], mine, max_new_tokens, policy)


def _from_all(
    prompts: Sequence[Sequence[int]], mine: Mapping[int, Completed], steps: int, policy: Policy
) -> list[Completed]:
    """The completions of all rows, of which this process has sampled some: row -> completion.

    Every row is filled in by one process and zero in the others, so that a sum puts them together.
    """
    if distributed.world() == 1:
        return [mine[row] for row in range(len(prompts))]
    ids = torch.zeros(len(prompts), 2 + steps, dtype=torch.long)  # length, ended, tokens
    said = torch.zeros(len(prompts), 2, steps, dtype=torch.float64)
    width = policy.width if any(c.states for c in mine.values()) else 0
    width = int(distributed.total(width)) and policy.width
    states = torch.zeros(len(prompts), steps if width else 0, width, device=policy.device)
    for row, c in mine.items():
        ids[row, : 2 + len(c.ids)] = torch.tensor([len(c.ids), c.ended, *c.ids])
        said[row, 0, : len(c.logprobs)] = torch.tensor(c.logprobs, dtype=torch.float64)
        said[row, 1, : len(c.entropies)] = torch.tensor(c.entropies, dtype=torch.float64)
        if c.states:
            states[row, : len(c.ids)] = torch.stack(c.states)
    distributed.add_up(ids, said, states)
    return [
        Completed(
            tuple(prompt),
            tuple(row[2 : 2 + row[0]]),
            tuple(logprobs[: row[0]]),
            bool(row[1]),
            tuple(entropies[: row[0]]) if width else (),
            tuple(own[: row[0]]) if width else (),
            policy.blank_ids,
        )
        for prompt, row, (logprobs, entropies), own in zip(
            prompts, ids.tolist(), said.tolist(), states, strict=True
        )
    ]


def _completed(
    prompts: Sequence[Sequence[int]],
    written: Written,
    end_ids: Collection[int],
    blank_ids: frozenset[int],
) -> list[Completed]:
    """Rows as they were drawn, cut after their end."""
    found: list[Completed] = []
    entropies = [] if written.entropies is None else written.entropies.tolist()
    rows = zip(prompts, written.ids.tolist(), written.logprobs.tolist(), strict=True)
    for row, (prompt, ids, logprobs) in enumerate(rows):
        end = next((place for place, token in enumerate(ids) if token in end_ids), None)
        count = len(ids) if end is None else end + 1
        found.append(
            Completed(
                tuple(prompt),
                tuple(ids[:count]),
                tuple(logprobs[:count]),
                end is not None,
                tuple(entropies[row][:count]) if entropies else (),
                () if written.states is None else tuple(written.states[row, :count]),
                blank_ids,
            )
        )
    return found
