"""Which tokens are computed already, so that none is computed twice.

The context's cells hold the sequences of the last request only, and those of the one before
it that it goes on from. Other conversations, and the same one under another adapter, are
parked (see ``parked_states``): their cells' contents are copied out and, when they are asked
for, back.

The same seed shall write the same text whatever was asked before. Sums of floats depend on
their order, so a prompt must be computed the same way each time: the cells are kept without
gaps, and a beginning that another prompt happens to share is reused only up to a cut, a place
where every prompt with that beginning is cut into pieces (see ``generation.cut``).

What a recurrent or hybrid model remembers cannot be cut off at its end. Of its sequences only
whole ones are reused, so one is parked where its prompt ends: the next turn, and the same
prompt again, go on from there. Of a model with a sliding window, what is copied out holds the
last window alone: it too can only be gone on with as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from typing import Final, TypeVar

from desktop_app.inference.llama_api import Context
from desktop_app.inference.parked_states import AdapterKey, Known, Parked, ParkedStates, State
from desktop_app.inference.spelling import respell, shared_length

WORTH_RESTORING: Final = 16
"""Tokens; fewer are computed sooner than fetched."""


@dataclass(eq=False, kw_only=True)
class CachedSequence(Known):
    """One sequence in the cells. Whoever computes into it appends to ``tokens``."""

    number: int


_Either = TypeVar("_Either", CachedSequence, Parked)


class PrefixCache:
    """The sequences of one context, and the parked ones.

    Args:
        count: how many sequences the context allows.
        can_forget: False for recurrent models, of which only a whole sequence can be reused.
        parked: of this context.
    """

    def __init__(
        self, context: Context, count: int, can_forget: bool, parked: ParkedStates
    ) -> None:
        self._context = context
        self._count = count
        self._can_forget = can_forget
        self._parked = parked
        self._live: list[CachedSequence] = []

    def respell(
        self,
        prompt: list[int],
        adapter: AdapterKey,
        piece: Callable[[int], bytes],
        special_ids: Set[int],
    ) -> list[int]:
        """The same text in the tokens it was written with, where that is known.

        See ``spelling.respell`` for what is exchanged.
        """
        best, most = prompt, 0
        known: Iterable[Known] = (*self._live, *self._parked)
        for sequence in known:
            if sequence.adapter == adapter:
                spelled = respell(prompt, sequence.tokens, piece, special_ids)
                shared = shared_length(sequence.tokens, spelled)
                if shared > most:
                    best, most = spelled, shared
        return best

    def claim_all(
        self, wanted: Sequence[tuple[list[int], Sequence[int], AdapterKey]]
    ) -> list[CachedSequence]:
        """The only sequences in the cells, one for each of several adapters.

        Args:
            wanted: for each, the prompt, its cuts, and the adapter that computes it.

        Returns:
            Sequences with as much of their prompts as is known, but never the last token: its
            logits are needed.
        """
        if len(wanted) == 1:
            prompt, cuts, adapter = wanted[0]
            sequences = [self._claim(prompt, cuts, adapter)]
        else:
            parked_already = set()
            for prompt, cuts, adapter in wanted:
                live, _ = self._best(self._live, prompt, cuts, adapter)
                if live is not None:
                    self._park(live)
                    parked_already.add(adapter)
            self._park_live(parked_already)
            self.clear()
            sequences = []
            for prompt, cuts, adapter in wanted:
                parked, length = self._best(self._parked, prompt, cuts, adapter)
                if parked is None or (state := self._parked.read(parked)) is None:
                    sequences.append(self._new(adapter))
                else:
                    sequences.append(self._fetch(parked, state, length))
        for (prompt, _, _), sequence in zip(wanted, sequences, strict=True):
            sequence.prompt_length = len(prompt)
        return sequences

    def _claim(self, prompt: list[int], cuts: Sequence[int], adapter: AdapterKey) -> CachedSequence:
        live, live_shared = self._best(self._live, prompt, cuts, adapter)
        parked, parked_shared = self._best(self._parked, prompt, cuts, adapter)
        # Read before the live ones are parked: they may take its place, in memory or on the disk.
        if (
            parked is not None
            and parked_shared >= live_shared + WORTH_RESTORING
            and (state := self._parked.read(parked)) is not None
        ):
            self._park_live()
            self.clear()
            return self._fetch(parked, state, parked_shared)
        if live is None:
            self._park_live()
            self.clear()
            return self._new(adapter)
        if live_shared < len(live.tokens) / 2:  # another conversation, or an early edit
            self._park(live)
        self._park_live({adapter})
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

    def mark(self, sequence: CachedSequence) -> None:
        """A prompt has been read but for its last token: keep a copy that ends here, if need be."""
        if not self._can_forget:
            self._park(sequence, len(sequence.tokens))

    def close(self) -> None:
        """Park what is in the cells and save all to files, for the next time."""
        if self._parked.have_files:
            self._park_live()
            self._parked.save()

    def set_aside(self) -> None:
        """Park what is in the cells and empty them, for something else to be computed."""
        self._park_live()
        self.clear()

    def forget(self) -> None:
        """Let go of all that was ever computed, in files as well."""
        self.clear()
        self._parked.forget()

    def clear(self) -> None:
        """Empty the cells; what is parked stays."""
        self._context.clear()
        self._live.clear()

    # --- inside ----------------------------------------------------------------------------

    def _best(
        self,
        known: Iterable[_Either],
        prompt: list[int],
        cuts: Sequence[int],
        adapter: AdapterKey,
    ) -> tuple[_Either | None, int]:
        best: _Either | None = None
        most = 0
        for sequence in known:
            if sequence.adapter != adapter:
                continue
            shared = _reusable(sequence, prompt, cuts)
            if shared > most and shared >= self._shortest(sequence):
                best, most = sequence, shared
        return best, most

    def _shortest(self, sequence: Known) -> int:
        """The least length that a sequence can be cut to."""
        if self._can_forget and isinstance(sequence, CachedSequence):
            return self._context.shortest(sequence.number)
        if self._can_forget and not self._context.window:
            return 0
        return len(sequence.tokens)

    def _new(self, adapter: AdapterKey) -> CachedSequence:
        taken = {sequence.number for sequence in self._live}
        number = next(number for number in range(self._count) if number not in taken)
        sequence = CachedSequence(number=number, adapter=adapter)
        self._live.append(sequence)
        return sequence

    def _keep_only(self, sequence: CachedSequence, length: int) -> CachedSequence:
        """Drop all others, close the gaps they leave, and shorten it to ``length`` tokens."""
        self._shorten(sequence, length)
        if len(self._live) > 1:
            state = self._context.save(sequence.number)
            self._context.clear()
            self._context.restore(sequence.number, state)
            self._live = [sequence]
        return sequence

    def _fetch(self, parked: Parked, state: State, length: int) -> CachedSequence:
        """A sequence with a parked one's first ``length`` tokens; with none if that fails."""
        sequence = self._new(parked.adapter)
        if not self._context.restore(sequence.number, state):
            self._context.cut(sequence.number, 0)
            self._parked.remove(parked)
            return sequence
        sequence.tokens = parked.tokens.copy()
        if self._can_forget and length >= len(parked.tokens) / 2:
            self._parked.release(parked)  # else it stays: only its beginning is needed
        self._shorten(sequence, length)
        return sequence

    def _shorten(self, sequence: CachedSequence, length: int) -> None:
        if length < len(sequence.tokens):
            del sequence.tokens[length:]
            self._context.cut(sequence.number, length)

    def _park_live(self, without: Set[AdapterKey] = frozenset()) -> None:
        """Park the first sequence of each adapter but these; its siblings differ from it in
        the last answer only."""
        done = set(without)
        for sequence in self._live:
            if sequence.adapter not in done:
                done.add(sequence.adapter)
                self._park(sequence)

    def _park(self, sequence: CachedSequence, prompt_length: int | None = None) -> None:
        if len(sequence.tokens) < WORTH_RESTORING:
            return
        tokens = sequence.tokens.copy()
        for other in list(self._parked):
            if other.adapter != sequence.adapter:
                continue
            if other.tokens == tokens and (other.state or other.path):
                return
            # The same conversation some turns ago is not needed any more, where its cells are
            # the beginning of these.
            if self._can_forget and other.tokens == tokens[: len(other.tokens)]:
                self._parked.remove(other)
        self._parked.add(
            Parked(
                adapter=sequence.adapter,
                tokens=tokens,
                prompt_length=prompt_length or sequence.prompt_length,
                state=self._context.save(sequence.number),
            )
        )


def _reusable(known: Known, prompt: list[int], cuts: Sequence[int]) -> int:
    """How much of ``known`` a prompt may take over."""
    limit = len(prompt) - 1
    shared = min(shared_length(known.tokens, prompt), limit)
    goes_on = shared >= known.prompt_length
    is_asked_again = shared == limit == known.prompt_length - 1
    if goes_on or is_asked_again:
        return shared
    return max((cut for cut in cuts if cut <= shared), default=0)
