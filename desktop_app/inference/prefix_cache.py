"""Which tokens are computed already, so that none is computed twice.

The context's cells hold the sequences of the last request only, and those of the one before
it that it goes on from. Other conversations, and the same one under another adapter, are
parked: their cells' contents are copied to ordinary memory and back when they are asked for.

The same seed shall write the same text whatever was asked before. Sums of floats depend on
their order, so a prompt must be computed the same way each time: the cells are kept without
gaps, and a beginning that another prompt happens to share is reused only up to a cut, a place
where every prompt with that beginning is cut into pieces (see ``generation.cut``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from desktop_app.inference.llama_api import Context, State

AdapterKey = tuple[str, float] | None
"""Hash and scale of the adapter that computed some cells; None for the plain base."""

PARKED_BYTES: Final = 256 << 20
"""What parked conversations may take: 20,000 tokens of a model of 0.5 billion weights."""
WORTH_RESTORING: Final = 16
"""Tokens; fewer are computed sooner than fetched."""


@dataclass(eq=False, kw_only=True)
class _Known:
    adapter: AdapterKey
    tokens: list[int] = field(default_factory=list)
    prompt_length: int = 0
    """How many of the tokens were the prompt; the others were written by the model."""


@dataclass(eq=False, kw_only=True)
class CachedSequence(_Known):
    """One sequence in the cells. Whoever computes into it appends to ``tokens``."""

    number: int


@dataclass(eq=False, kw_only=True)
class _Parked(_Known):
    state: State


_Either = TypeVar("_Either", CachedSequence, _Parked)


class PrefixCache:
    """The sequences of one context, and the parked ones.

    Args:
        count: how many sequences the context allows.
        can_forget: False for recurrent models, of which only a whole sequence can be reused.
        parked_bytes: see ``PARKED_BYTES``.
    """

    def __init__(
        self, context: Context, count: int, can_forget: bool, parked_bytes: int = PARKED_BYTES
    ) -> None:
        self._context = context
        self._count = count
        self._can_forget = can_forget
        self._parked_bytes = parked_bytes
        self._live: list[CachedSequence] = []
        self._parked: list[_Parked] = []  # from the one used longest ago to the last

    def claim(
        self, prompt: Sequence[int], cuts: Sequence[int], adapter: AdapterKey
    ) -> CachedSequence:
        """The only sequence in the cells, with as much of ``prompt`` as is known.

        The last token is always left to compute, as its logits are needed.
        """
        sequence = self._claim(prompt, cuts, adapter)
        sequence.prompt_length = len(prompt)
        return sequence

    def _claim(
        self, prompt: Sequence[int], cuts: Sequence[int], adapter: AdapterKey
    ) -> CachedSequence:
        live, live_shared = self._best(self._live, prompt, cuts, adapter)
        parked, parked_shared = self._best(self._parked, prompt, cuts, adapter)
        if parked is not None and parked_shared >= live_shared + WORTH_RESTORING:
            self._park_live()
            return self._fetch(parked, parked_shared)
        if live is None:
            self._park_live()
            self.clear()
            return self._new(adapter)
        if live_shared < len(live.tokens) / 2:  # another conversation, or an early edit
            self._park(live)
        return self._keep_only(live, live_shared)

    def fork(self, source: CachedSequence) -> CachedSequence:
        """A second sequence that begins with all of ``source``, whose cells they share."""
        sequence = self._new(source.adapter)
        self._context.copy(source.number, sequence.number, len(source.tokens))
        sequence.tokens = source.tokens.copy()
        sequence.prompt_length = source.prompt_length
        return sequence

    def truncate(self, sequence: CachedSequence) -> None:
        """Cut off what an aborted computation may have left behind ``tokens``."""
        if not self._can_forget:
            sequence.tokens.clear()
        self._context.cut(sequence.number, len(sequence.tokens))

    def clear(self) -> None:
        """Empty the cells; what is parked stays."""
        self._context.clear()
        self._live.clear()

    # --- inside ----------------------------------------------------------------------------

    def _best(
        self,
        known: Sequence[_Either],
        prompt: Sequence[int],
        cuts: Sequence[int],
        adapter: AdapterKey,
    ) -> tuple[_Either | None, int]:
        best: _Either | None = None
        most = 0
        for sequence in known:
            if sequence.adapter != adapter:
                continue
            shared = _reusable(sequence, prompt, cuts)
            is_usable = self._can_forget or shared == len(sequence.tokens)
            if is_usable and shared > most:
                best, most = sequence, shared
        return best, most

    def _new(self, adapter: AdapterKey) -> CachedSequence:
        taken = {sequence.number for sequence in self._live}
        number = next(number for number in range(self._count) if number not in taken)
        sequence = CachedSequence(number=number, adapter=adapter)
        self._live.append(sequence)
        return sequence

    def _keep_only(self, sequence: CachedSequence, length: int) -> CachedSequence:
        """Drop all others, close the gaps they leave, and shorten it to ``length`` tokens."""
        if len(self._live) > 1:
            state = self._context.save(sequence.number)
            self._context.clear()
            self._context.restore(sequence.number, state)
            self._live = [sequence]
        if length < len(sequence.tokens):
            del sequence.tokens[length:]
            self._context.cut(sequence.number, length)
        return sequence

    def _fetch(self, parked: _Parked, length: int) -> CachedSequence:
        self.clear()
        sequence = self._new(parked.adapter)
        if not self._context.restore(sequence.number, parked.state):
            self.clear()
            return self._new(parked.adapter)
        sequence.tokens = parked.tokens.copy()
        self._parked.remove(parked)
        if length < len(parked.tokens) / 2:  # only its beginning is needed: it stays parked
            self._parked.append(parked)
        return self._keep_only(sequence, length)

    def _park_live(self) -> None:
        """Park the first sequence; its siblings differ from it in the last answer only."""
        if self._live:
            self._park(self._live[0])

    def _park(self, sequence: CachedSequence) -> None:
        if len(sequence.tokens) < WORTH_RESTORING:
            return
        state = self._context.save(sequence.number)
        tokens = sequence.tokens.copy()
        self._parked = [  # the same conversation some turns ago is not needed any more
            other
            for other in self._parked
            if other.adapter != sequence.adapter or other.tokens != tokens[: len(other.tokens)]
        ]
        self._parked.append(
            _Parked(
                adapter=sequence.adapter,
                tokens=tokens,
                prompt_length=sequence.prompt_length,
                state=state,
            )
        )
        while sum(len(other.state) for other in self._parked) > self._parked_bytes:
            del self._parked[0]


def _reusable(known: _Known, prompt: Sequence[int], cuts: Sequence[int]) -> int:
    """How much of ``known`` a prompt may take over."""
    limit = len(prompt) - 1
    shared = min(_shared_length(known.tokens, prompt), limit)
    goes_on = shared >= known.prompt_length
    is_asked_again = shared == limit == known.prompt_length - 1
    if goes_on or is_asked_again:
        return shared
    return max((cut for cut in cuts if cut <= shared), default=0)


def _shared_length(known: Sequence[int], prompt: Sequence[int]) -> int:
    limit = min(len(known), len(prompt))
    for index in range(limit):
        if known[index] != prompt[index]:
            return index
    return limit
