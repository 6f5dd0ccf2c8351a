"""From a token's bytes to text that may be shown: whole characters, stop strings held back,
and what a model thinks kept apart from what it answers."""

from __future__ import annotations

import codecs
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from finetune.contract.reasoning import BLOCKS, ReasoningBlock

_ANSWER_OPENINGS: Final = tuple(b.answer_opening for b in BLOCKS if b.answer_opening)
_OPENINGS: Final = (*(block.opening for block in BLOCKS), *_ANSWER_OPENINGS)


class TextStream:
    """Puts the pieces of one completion together.

    A character is given out when all its bytes are there, and text that could be the
    beginning of a stop string, or of a reasoning block's mark, when it is decided. Stop strings
    end the answer; inside a reasoning block they are text like any other. The white space
    around a block belongs to neither side.

    Args:
        stop: texts that end the completion and do not belong to it.
        opened: the reasoning block that the prompt has opened.
        goes_on: what comes is not the beginning, of the block that is opened or else of the
            answer.

    Attributes:
        is_stopped: a stop string was found.
        thought: reasoning that can be shown and has not been taken.
        reasoning_seconds: how long the blocks took, from their first token to their end.
    """

    def __init__(
        self,
        stop: Sequence[str] = (),
        opened: ReasoningBlock | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [text for text in stop if text]
        self._stop_beginnings = _beginnings(tuple(self._stop))
        self._held = ""
        self._given: list[str] = []
        self._thoughts: list[str] = []
        self._block = opened
        self._is_opened_by_prompt = opened is not None and not goes_on
        self._is_answering = opened is None and goes_on
        self._is_after_block = False
        self._is_block_empty = not goes_on
        self._since: float | None = None
        self.is_stopped = False
        self._is_reasoning = self._is_in_opened_block = opened is not None
        self.thought = ""
        self.reasoning_seconds = 0.0

    @property
    def text(self) -> str:
        """All of the answer that has been given out."""
        return "".join(self._given)

    @property
    def reasoning(self) -> str:
        """All of the reasoning that has been given out."""
        return "".join(self._thoughts)

    def is_in_opened_block(self) -> bool:
        """Whether what comes is inside the block that the prompt has opened."""
        return self._is_in_opened_block

    def feed(self, piece: bytes) -> str:
        """Add a token's bytes; returns the answer's text that can be shown now, often none."""
        return self._advance(self._decoder.decode(piece))

    def take_thought(self) -> str:
        """The reasoning that can be shown now."""
        thought, self.thought = self.thought, ""
        return thought

    def end(self, *, cut_short: bool) -> str:
        """The rest. Half a character is an error of the model, unless we cut it short.

        A model that ends its turn by itself inside the block that the prompt has opened did
        not think: it answered at once, as one does that was trained on answers. All of it is
        the answer then.
        """
        tail = "" if cut_short else self._decoder.decode(b"", final=True)
        shown = self._advance(tail)
        if self._is_reasoning:
            self._think(self._held.rstrip())
            self._leave_block()
            if self._is_opened_by_prompt and not cut_short and not self._is_after_block:
                self._held, self.thought = self.reasoning, ""
                self._thoughts.clear()
                self.reasoning_seconds = 0.0
            else:
                self._held = ""
        if not self.is_stopped:
            shown += self._held
            self._given.append(self._held)
        self._held = ""
        return shown

    def _advance(self, text: str) -> str:
        if self._is_answering and not self._stop:
            self._given.append(text)
            return text
        self._held += text
        if self._is_answering:
            return self._answer()
        if self._is_reasoning:
            self._reason()
        return "" if self._is_reasoning else self._begin()

    # --- the answer --------------------------------------------------------------------------

    def _answer(self) -> str:
        if not self._held or self.is_stopped:
            return ""
        end = self._first_stop()
        if end is not None:
            self.is_stopped = True
            shown = self._held[:end]
        else:
            undecided = _undecided(self._held, self._stop_beginnings)
            shown = self._held[: len(self._held) - undecided]
            self._held = self._held[len(shown) :]
        self._given.append(shown)
        return shown

    def _first_stop(self) -> int | None:
        return min((at for at in map(self._held.find, self._stop) if at >= 0), default=None)

    # --- before it ---------------------------------------------------------------------------

    def _begin(self) -> str:
        """Decide whether the held text begins a block, or the answer."""
        text = self._held.lstrip()
        if self._is_after_block:
            self._held = text
        stop = self._first_stop()
        block = next((b for b in BLOCKS if text.startswith(b.opening)), None)
        if block is not None:
            rest = text[len(block.opening) :]
            if stop is None or stop >= len(self._held) - len(rest):
                self._block, self._is_reasoning, self._is_block_empty = block, True, True
                self._held = rest
                self._reason()
                return "" if self._is_reasoning else self._begin()
        elif mark := next(filter(text.startswith, _ANSWER_OPENINGS), ""):
            self._held = text[len(mark) :]
        elif stop is None and any(opening.startswith(text) for opening in _OPENINGS):
            return ""  # also where there is only white space yet
        self._is_answering = True
        return self._answer()

    def _reason(self) -> None:
        """Give out what is certain to be reasoning, and leave the block where it ends."""
        assert self._block is not None
        if self._since is None:
            self._since = time.monotonic()
        closing = self._block.closing
        end = self._held.find(closing)
        if end >= 0:
            self._think(self._held[:end].rstrip())
            self._held = self._held[end + len(closing) :]
            self._leave_block()
            self._is_after_block = True
            return
        undecided = _undecided(self._held, _beginnings((closing,)))
        certain = self._held[: len(self._held) - undecided].rstrip()
        self._think(certain)
        self._held = self._held[len(certain) :]

    def _think(self, text: str) -> None:
        if self._is_block_empty:
            text = text.lstrip()
            if text and self._thoughts:
                text = f"\n\n{text}"
        if text:
            self._is_block_empty = False
            self._thoughts.append(text)
            self.thought += text

    def _leave_block(self) -> None:
        self._is_reasoning = self._is_in_opened_block = False
        if self._since is not None:
            self.reasoning_seconds += time.monotonic() - self._since
            self._since = None


@lru_cache(maxsize=64)
def _beginnings(marks: tuple[str, ...]) -> tuple[tuple[int, frozenset[str]], ...]:
    """Every length that a mark's beginning can have, longest first, and the beginnings."""
    longest = max(map(len, marks), default=1) - 1
    return tuple(
        (length, frozenset(mark[:length] for mark in marks if len(mark) > length))
        for length in range(longest, 0, -1)
    )


def _undecided(text: str, beginnings: tuple[tuple[int, frozenset[str]], ...]) -> int:
    """Length of the longest end of ``text`` that could begin a mark."""
    for length, some in beginnings:
        if text[-length:] in some:
            return length
    return 0
