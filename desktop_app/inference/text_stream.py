"""From a token's bytes to text that may be shown: whole characters, stop strings held back."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Puts the pieces of one completion together.

    A character is given out when all its bytes are there, and text that could be the
    beginning of a stop string when it is decided.

    Args:
        stop: texts that end the completion and do not belong to it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [text for text in stop if text]
        self._held = ""
        self._given: list[str] = []
        self.is_stopped = False

    @property
    def text(self) -> str:
        """All that has been given out."""
        return "".join(self._given)

    def feed(self, piece: bytes) -> str:
        """Add a token's bytes; returns the text that can be shown now, often none."""
        return self._advance(self._decoder.decode(piece))

    def end(self, *, cut_short: bool) -> str:
        """The rest. Half a character is an error of the model, unless we cut it short."""
        tail = "" if cut_short else self._decoder.decode(b"", final=True)
        shown = self._advance(tail)
        if not self.is_stopped:
            shown += self._held
            self._given.append(self._held)
        self._held = ""
        return shown

    def _advance(self, text: str) -> str:
        self._held += text
        if not self._held or self.is_stopped:
            return ""
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.is_stopped = True
            shown = self._held[: min(found)]
        else:
            shown = self._held[: len(self._held) - self._undecided()]
            self._held = self._held[len(shown) :]
        self._given.append(shown)
        return shown

    def _undecided(self) -> int:
        """Length of the longest end of the held text that could begin a stop string."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0
