"""What the model knows at the end of a text: last hidden states, computed in batches.

With embeddings switched on, llama.cpp gives the output of the last norm for each token that is
asked for: what a reward head is applied to. The texts of one request mostly share a prompt, which
is computed once; what follows it goes through the network side by side.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final

import llama_cpp
import numpy as np
import numpy.typing as npt

from desktop_app.errors import UserError
from desktop_app.inference.llama_api import AbortedError, Context, NoRoomError

Vectors = npt.NDArray[np.float32]


class HiddenStates:
    """Computes on a context whose cells are empty, and leaves them empty.

    Args:
        sequences: how many the context allows.
    """

    def __init__(self, context: Context, sequences: int) -> None:
        self._context = context
        self._sequences = sequences
        model = llama_cpp.llama_get_model(context.pointer)
        self.width: Final = int(llama_cpp.llama_model_n_embd(model))
        self.computed_tokens = 0

    def at_last_tokens(self, rows: Sequence[Sequence[int]], found: Vectors) -> Iterator[None]:
        """Put the hidden state at the last token of each row into ``found``, (N, D).

        Yields after every call of the network; ``computed_tokens`` has grown then.

        Raises:
            NoRoomError: a row does not fit into the context.
            AbortedError: ``Context.abort`` was called.
        """
        batch = llama_cpp.llama_batch_init(self._context.batch, 0, 1)
        try:
            for group in self._groups(rows):
                found[group] = yield from self._compute(batch, [rows[index] for index in group])
        finally:
            llama_cpp.llama_batch_free(batch)
            self._context.clear()

    def tokens_to_compute(self, rows: Sequence[Sequence[int]]) -> int:
        """What ``at_last_tokens`` will add to ``computed_tokens``. Raises NoRoomError."""
        total = 0
        for group in self._groups(rows):
            lengths = [len(rows[index]) for index in group]
            total += sum(lengths)
            total -= (len(group) - 1) * _shared_length([rows[index] for index in group])
        return total

    def _groups(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Rows that have room in the cells together, in their order."""
        groups: list[list[int]] = []
        taken = 0
        for index, row in enumerate(rows):
            if len(row) > self._context.cells:
                raise NoRoomError
            is_full = not groups or len(groups[-1]) == self._sequences
            if is_full or taken + len(row) > self._context.cells:
                groups.append([])
                taken = 0
            groups[-1].append(index)
            taken += len(row)
        return groups

    def _compute(self, batch: Any, rows: Sequence[Sequence[int]]) -> Generator[None, None, Vectors]:
        self._context.clear()
        shared = _shared_length(rows)
        yield from self._decode(batch, [(rows[0][at], at, 0) for at in range(shared)], False)
        for sequence in range(1, len(rows)):
            self._context.copy(0, sequence, shared)
        middle = [
            (row[at], at, sequence)
            for sequence, row in enumerate(rows)
            for at in range(shared, len(row) - 1)
        ]
        yield from self._decode(batch, middle, False)
        # With embeddings on, every token is an output; only the last ones are to be.
        llama_cpp.llama_set_embeddings(self._context.pointer, True)
        try:
            ends = [(row[-1], len(row) - 1, sequence) for sequence, row in enumerate(rows)]
            yield from self._decode(batch, ends, True)
            return np.stack([self._state(place) for place in range(len(rows))])
        finally:
            llama_cpp.llama_set_embeddings(self._context.pointer, False)

    def _decode(
        self, batch: Any, entries: Sequence[tuple[int, int, int]], is_output: bool
    ) -> Iterator[None]:
        """Compute (token, position, sequence) in pieces of one call each; yields behind each."""
        for start in range(0, len(entries), self._context.batch):
            piece = entries[start : start + self._context.batch]
            for place, (token, position, sequence) in enumerate(piece):
                batch.token[place] = token
                batch.pos[place] = position
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = sequence
                batch.logits[place] = is_output
            batch.n_tokens = len(piece)
            result = llama_cpp.llama_decode(self._context.pointer, batch)
            if result == 1:
                raise NoRoomError
            if result == 2:
                raise AbortedError
            if result != 0:
                raise UserError("The model failed while it was computing; the log says more.")
            self.computed_tokens += len(piece)
            yield

    def _state(self, place: int) -> Vectors:
        state = llama_cpp.llama_get_embeddings_ith(self._context.pointer, place)
        if not state:
            raise UserError("This model gives no hidden states, so it cannot score.")
        return np.ctypeslib.as_array(state, shape=(self.width,)).copy()


def _shared_length(rows: Sequence[Sequence[int]]) -> int:
    """Tokens that all rows begin with; at least one of each is left."""
    limit = min(len(row) for row in rows) - 1
    first = rows[0]
    for at in range(limit):
        if any(row[at] != first[at] for row in rows):
            return at
    return limit
