"""Which tokens the context's cells hold, so that none is computed twice.

Several sequences live in the cells at once: the last conversations, and the completions of
the last prompt. A new prompt takes over the longest beginning that one of them shares with it
and that the same adapter computed. Cells run out by and by; what was used longest ago goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from desktop_app.inference.llama_api import Context

AdapterKey = tuple[str, float] | None
"""Hash and scale of the adapter that computed some cells; None for the plain base."""


@dataclass(eq=False)
class CachedSequence:
    """One sequence in the context. Whoever computes into it appends to ``tokens``."""

    number: int
    adapter: AdapterKey
    tokens: list[int] = field(default_factory=list)
    in_use: bool = True
    used_at: int = 0


class PrefixCache:
    """The sequences of one context.

    Args:
        count: how many sequences the context allows.
        can_forget: False for recurrent models, where only a whole sequence can be taken over.
    """

    def __init__(self, context: Context, count: int, can_forget: bool) -> None:
        self._context = context
        self._free = list(range(count))
        self._can_forget = can_forget
        self._sequences: list[CachedSequence] = []
        self._clock = 0

    def claim(self, prompt: Sequence[int], adapter: AdapterKey) -> CachedSequence:
        """A sequence that holds as much of ``prompt``'s beginning as is known.

        The last token is always left to compute, as its logits are needed.
        """
        best: CachedSequence | None = None
        shared = 0
        for known in self._sequences:
            if known.adapter != adapter or known.in_use:
                continue
            length = min(_shared_length(known.tokens, prompt), len(prompt) - 1)
            is_whole = length == len(known.tokens)
            if (is_whole or self._can_forget) and length > shared:
                best, shared = known, length
        if best is not None and shared == len(best.tokens):
            best.in_use = True
            return best
        if best is None:
            return self._new(adapter)
        best.in_use = True  # it must not be thrown out to make room for its own copy
        sequence = self._copy(best, shared)
        best.in_use = False
        return sequence

    def fork(self, source: CachedSequence) -> CachedSequence:
        """A second sequence that begins with all of ``source``, whose cells they share."""
        return self._copy(source, len(source.tokens))

    def release(self, sequence: CachedSequence) -> None:
        """Keep a sequence for later, as long as there is room."""
        if sequence not in self._sequences:  # all has been cleared meanwhile
            return
        self._clock += 1
        sequence.used_at = self._clock
        sequence.in_use = False
        if not sequence.tokens:
            self._drop(sequence)

    def truncate(self, sequence: CachedSequence) -> None:
        """Cut off what an aborted computation may have left behind ``tokens``."""
        if self._can_forget:
            self._context.cut(sequence.number, len(sequence.tokens))
        else:
            self._context.cut(sequence.number, 0)
            sequence.tokens.clear()

    def make_room(self) -> bool:
        """Throw out the sequence that was used longest ago; False where none is left."""
        idle = [sequence for sequence in self._sequences if not sequence.in_use]
        if not idle:
            return False
        self._drop(min(idle, key=lambda sequence: sequence.used_at))
        return True

    def clear(self) -> None:
        """Forget everything, after a computation that failed half-way."""
        self._context.clear()
        for sequence in self._sequences:
            self._free.append(sequence.number)
        self._sequences.clear()

    def _copy(self, source: CachedSequence, length: int) -> CachedSequence:
        sequence = self._new(source.adapter)
        self._context.copy(source.number, sequence.number, length)
        sequence.tokens = source.tokens[:length]
        return sequence

    def _new(self, adapter: AdapterKey) -> CachedSequence:
        if not self._free and not self.make_room():
            raise RuntimeError("more sequences in use than the context has")
        sequence = CachedSequence(self._free.pop(), adapter)
        self._sequences.append(sequence)
        return sequence

    def _drop(self, sequence: CachedSequence) -> None:
        self._context.cut(sequence.number, 0)
        self._sequences.remove(sequence)
        self._free.append(sequence.number)


def _shared_length(known: Sequence[int], prompt: Sequence[int]) -> int:
    limit = min(len(known), len(prompt))
    for index in range(limit):
        if known[index] != prompt[index]:
            return index
    return limit
