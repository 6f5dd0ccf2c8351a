"""A turn while it is carried out: which completions are being written, and how far they are."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Final

from desktop_app.inference.engine import TextDelta
from desktop_app.services.conversation_context import NOTHING_SENT, Sent
from desktop_app.storage.chat_store import (
    NO_REASONING,
    MessageState,
    Reasoning,
    StoredMessage,
)
from finetune.contract.records import Origin

TITLE_LENGTH: Final = 60
MOST_SUMMARIES: Final = 2
"""For one turn."""


@dataclass
class Streaming:
    """A completion being written: the message it goes to and what is not yet shown."""

    message_id: str
    text: str = ""
    unseen: str = ""
    beginning: str = ""
    """What stood there before, where a cut-off completion is gone on with."""
    thought_before: Reasoning = NO_REASONING
    """What was thought before ``beginning``."""
    thought: str = ""
    unseen_thought: str = ""
    is_done: bool = False
    state: MessageState = "partial"
    origin: Origin | None = None
    """As the engine tells it."""
    _thinking_since: float | None = None
    _thinking_seconds: float = 0.0

    @classmethod
    def going_on(cls, message: StoredMessage) -> Streaming:
        """A completion that was cut off, written where it broke off."""
        text = message.content
        return cls(message.id, text=text, beginning=text, thought_before=message.reasoning)

    @property
    def reasoning(self) -> Reasoning:
        """All that was thought up to now."""
        before = self.thought_before
        return Reasoning(before.text + self.thought, before.seconds + self._thinking_seconds)

    @property
    def shown_reasoning(self) -> Reasoning:
        """Of that, what the view has been told."""
        reasoning = self.reasoning
        text = reasoning.text[: len(reasoning.text) - len(self.unseen_thought)]
        return Reasoning(text, reasoning.seconds)

    def add(self, delta: TextDelta) -> None:
        """More of the answer, or of the thought before it."""
        if delta.part == "answer":
            self.text += delta.text
            self.unseen += delta.text
            return
        now = time.monotonic()
        self._thinking_since = self._thinking_since or now
        self._thinking_seconds = now - self._thinking_since
        self.thought += delta.text
        self.unseen_thought += delta.text

    def finish(self, text: str, thought: str, seconds: float) -> None:
        """What the engine says it all was."""
        self.text, self.is_done = self.beginning + text, True
        self.thought, self._thinking_seconds = thought, seconds


@dataclass(frozen=True)
class PendingComparison:
    """Two completions waiting for the person's choice, in the order they are shown.

    The order is drawn by lot, so that neither side is favoured.
    """

    conversation_id: str
    message_ids: tuple[str, ...]


@dataclass
class Turn:
    """One request to the engine. ``streams[i]`` receives stream i."""

    request_id: str
    conversation_id: str
    streams: list[Streaming] = field(default_factory=list)
    is_comparison: bool = False
    sent: Sent = NOTHING_SENT
    is_stopping: bool = False
    summarised: int = 0
    """While older messages are being summarised: how many."""
    summary: str = ""
    summaries: int = 0
    """How many were made for this turn."""
    tokens: int = 0
    """Of the longest completion."""

    @property
    def may_summarise(self) -> bool:
        """Whether to try again where a summary was too long to make room: but not for ever."""
        return bool(self.summary) and self.summaries < MOST_SUMMARIES

    @property
    def message_ids(self) -> set[str]:
        return {stream.message_id for stream in self.streams}

    def origin_of(self, stream: Streaming, left_out: int) -> Origin | None:
        """How a completion was made, with what was sent: settings may change before it is judged.

        Args:
            left_out: so many of the messages above it the model did not see.
        """
        if stream.origin is None:
            return None
        sampling = {**stream.origin.sampling, "system_prompt": self.sent.system_prompt}
        if left_out:
            sampling["left_out_messages"] = left_out
        return replace(stream.origin, sampling=sampling)

    def shown(self, message: StoredMessage) -> StoredMessage | None:
        """A message with the text that the view has been told of, while it is being written."""
        for stream in self.streams:
            if stream.message_id == message.id and not stream.is_done:
                text = stream.text[: len(stream.text) - len(stream.unseen)]
                return replace(message, content=text, reasoning=stream.shown_reasoning)
        return None


def title_of(text: str) -> str:
    """A conversation's title: the beginning of its first message."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
