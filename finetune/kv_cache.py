"""Keys and values of what is being written, in memory that is laid out once.

A batch of prompts ends at the same column, ``start``, and what is written goes on from there, so
that one step writes one column of all rows. Nothing grows: transformers' own cache joins its whole
content with the new column in every layer and step, a seventh of the time of a rollout.

Handed to a trunk as ``past_key_values``; its attention layers call ``update`` and nothing else.
Shapes: R rows, H key heads, C columns, d numbers in a head, N tokens of all prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finetune.packing import Pack


class KvCache:
    """First it takes the prompts, then a column at a time.

    Attributes:
        rows: how many rows are being written; those behind them are not looked at.
        seen: how many columns attention looks at.
    """

    def __init__(self, prompts: Pack, copies: int, columns: int) -> None:
        """Each prompt is read once and gets ``copies`` rows of ``columns`` columns."""
        device = prompts.ids.device
        lengths = torch.tensor(prompts.lengths, device=device)
        self.start = max(prompts.lengths)
        self.rows = len(prompts.lengths) * copies
        self.seen = columns
        self._columns = columns
        self._copies = copies
        self._prompt_of = torch.repeat_interleave(
            torch.arange(len(prompts.lengths), device=device), lengths
        )
        self._column_of = prompts.positions + self.start - lengths[self._prompt_of]
        self._column: Tensor | None = None
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write_to(self, column: Tensor) -> None:
        """From now on ``update`` writes to this column, (1,); the caller moves it."""
        self._column = column

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        """Take a layer's keys and values; those that attention has to look at.

        Of prompts (1, H, N, d), returned as they are; of a step (rows, H, 1, d), returned with
        all before them, (rows, H, seen, d).
        """
        if self._column is None:
            self._layers[layer] = self._laid_out(keys), self._laid_out(values)
            return keys, values
        kept = self._layers[layer]
        for room, new in zip(kept, (keys, values), strict=True):
            room[: self.rows].index_copy_(2, self._column, new)
        return kept[0][: self.rows, :, : self.seen], kept[1][: self.rows, :, : self.seen]

    def keep(self, rows: int, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Go on with the first ``rows`` rows, after copying rows ``sources`` to ``targets``."""
        self.rows = rows
        for layer in self._layers.values():
            for room in layer:
                for source, target in zip(sources, targets, strict=True):
                    room[target, :, : self.seen] = room[source, :, : self.seen]

    def _laid_out(self, packed: Tensor) -> Tensor:
        """(1, H, N, d) at the columns of its rows, (R, H, C, d); zero elsewhere."""
        _, heads, _, size = packed.shape
        prompts = self.rows // self._copies
        room = packed.new_zeros(prompts, self._copies, heads, self._columns, size)
        room[self._prompt_of, :, :, self._column_of] = packed[0].transpose(0, 1)[:, None]
        return room.flatten(0, 1)
