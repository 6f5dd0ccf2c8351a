"""Writing completions of a batch of prompts, a token at a time, in memory that is laid out once.

Prompts are read as a pack, without pads, each once. On a processor a step costs what its rows
cost, so a row that has ended leaves at once: the last row takes its place. On a CUDA GPU a step
costs what its launches cost, whatever the number of rows: there shapes never change, attention
looks at all columns, one step is recorded and played again (``cuda_graph``), and whether all rows
have ended is asked every few steps, because asking makes the processor wait.

Shapes: R rows, S steps, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from finetune.categorical import draw
from finetune.cuda_graph import Replayed
from finetune.kv_cache import KvCache
from finetune.packing import pack, trunk_inputs
from finetune.policy import Policy
from finetune.quantized_linear import QuantizedLinear

ASK_EVERY: Final = 8
"""Steps between two looks at a GPU: at most so many are taken in vain."""
NEVER: Final = float("-inf")


@dataclass(frozen=True)
class Written:
    """Tokens as they were drawn, (R, S); what comes after a row's end is none of it."""

    ids: Tensor
    logprobs: Tensor
    entropies: Tensor | None
    states: Tensor | None
    """Hidden states from which they were drawn, (R, S, D)."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    end_ids: Collection[int]
    temperature: float
    keep_states: bool
    """Whether entropies and hidden states are wanted."""


class Decoder:
    """One batch being written. Call inside ``torch.inference_mode()``."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        copies: int,
        luck: Tensor,
        how: Sampling,
        fixed: bool,
    ) -> None:
        """``luck``: uniform numbers (R, S), R = prompts times copies.

        ``fixed``: whether shapes never change.
        """
        self._policy, self._how, self._fixed = policy, how, fixed
        device = policy.device
        self._trunk: Any = policy.trunk
        self._rows, self._steps = luck.shape
        read = pack([(ids, ()) for ids in prompts], device)
        self._cache = KvCache(read, copies, max(read.lengths) + self._steps)
        inputs = {**trunk_inputs(read), "past_key_values": self._cache, "use_cache": True}
        hidden = self._trunk(**inputs).last_hidden_state[0]

        # Of each row, in the order of places, which changes when one leaves.
        self._states = hidden[read.ends].repeat_interleave(copies, 0)
        lengths = torch.tensor(read.lengths, device=device).repeat_interleave(copies)
        self._positions = lengths[:, None].clone()
        self._row = torch.arange(self._rows, device=device)
        self._luck = luck.to(device)
        self._tokens = torch.zeros(self._rows, dtype=torch.long, device=device)
        self._over = torch.zeros(self._rows, dtype=torch.bool, device=device)
        columns = torch.arange(self._cache.seen, device=device)
        start = self._cache.start
        real = (columns >= start - lengths[:, None]) & (columns < start)
        self._mask = torch.zeros(real.shape, dtype=hidden.dtype, device=device)
        self._mask = self._mask.masked_fill(~real, NEVER)[:, None, None]
        self._columns = columns

        # Where it stands; tensors, so that a step that is played again moves on.
        self._step = torch.zeros(1, dtype=torch.long, device=device)
        self._column = torch.full((1,), start, device=device)
        self._cache.write_to(self._column)
        self._window = _window(policy.config)

        # What was written, by row.
        table = torch.tensor(sorted(set(how.end_ids)), dtype=torch.long, device=device)
        self._ends = torch.zeros(int(policy.config.vocab_size), dtype=torch.bool, device=device)
        self._ends[table] = True
        shape = (self._rows, self._steps)
        self._written = Written(
            torch.zeros(shape, dtype=torch.long, device=device),
            torch.zeros(shape, device=device),
            torch.zeros(shape, device=device) if how.keep_states else None,
            torch.zeros(*shape, policy.width, device=device) if how.keep_states else None,
        )

    def run(self) -> Written:
        """Write until every row has ended or is full."""
        replayed = self._fixed and replays(self._policy)
        following: Callable[[], None] = Replayed(self._follow) if replayed else self._follow
        self._draw()
        for step in range(1, self._steps):
            if (not self._fixed or step % ASK_EVERY == 0) and not self._some_are_left():
                break
            if not self._fixed:
                self._cache.seen = self._cache.start + step
            following()
        return self._written

    def _follow(self) -> None:
        self._read()
        self._draw()

    def _draw(self) -> None:
        """The next token of each row, from its hidden state."""
        rows, out = self._cache.rows, self._written
        states = self._states[:rows]
        drawn = draw(
            self._policy.logits(states),
            self._luck[:rows].index_select(1, self._step)[:, 0],
            self._how.temperature,
            with_entropies=self._how.keep_states,
        )
        self._tokens[:rows] = drawn.tokens
        self._over[:rows] |= self._ends[drawn.tokens]
        here = (self._row[:rows], self._step)
        out.ids.index_put_(here, drawn.tokens)
        out.logprobs.index_put_(here, drawn.logprobs)
        if out.entropies is not None and out.states is not None and drawn.entropies is not None:
            out.entropies.index_put_(here, drawn.entropies)
            out.states.index_put_(here, states.float())
        self._step += 1

    def _read(self) -> None:
        """The hidden states after the tokens just drawn."""
        rows, seen = self._cache.rows, self._cache.seen
        self._mask.index_fill_(3, self._column, 0.0)
        mask: Any = self._mask[:rows, ..., :seen]
        if self._window is not None:
            gone = self._columns[:seen] <= self._column - self._window
            near = mask.masked_fill(gone, NEVER)
            mask = {"full_attention": mask, "sliding_attention": near}
        out = self._trunk(
            input_ids=self._tokens[:rows, None],
            attention_mask=mask,
            position_ids=self._positions[:rows],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        self._states[:rows] = out[:, -1]
        self._positions += 1
        self._column += 1

    def _some_are_left(self) -> bool:
        """Whether any row goes on; those that do move to the front, if shapes may change."""
        over = self._over[: self._cache.rows].tolist()
        going = [place for place, done in enumerate(over) if not done]
        if not self._fixed and len(going) < len(over):
            targets = [place for place in range(len(going)) if over[place]]
            sources = [place for place in going if place >= len(going)]
            for values in (
                self._states, self._positions, self._row, self._luck, self._tokens, self._mask,
                self._over,
            ):  # fmt: skip
                values[targets] = values[sources]
            self._cache.keep(len(going), sources, targets)
        return bool(going)


def decode(
    policy: Policy,
    prompts: Sequence[Sequence[int]],
    copies: int,
    luck: Tensor,
    how: Sampling,
) -> Written:
    """Completions of one batch of prompts, in the order p0 p0 p1 p1..."""
    return Decoder(policy, prompts, copies, luck, how, fixed=policy.device.type == "cuda").run()


def replays(policy: Policy) -> bool:
    """Whether a step can be recorded: on a CUDA GPU, with weights that lie there as they are.

    Dequantising allocates its tables anew and hands numbers over from the processor.
    """
    blocks = any(isinstance(module, QuantizedLinear) for module in policy.modules())
    return policy.device.type == "cuda" and not blocks


def _window(config: Any) -> int | None:
    """How far layers with a sliding window look back; None where there are none."""
    kinds = getattr(config, "layer_types", None) or ()
    return int(config.sliding_window) if "sliding_attention" in kinds else None
