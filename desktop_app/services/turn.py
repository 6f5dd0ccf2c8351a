"""A turn while it is carried out: which completions are being written, and how far they are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from desktop_app.inference.engine import (
    Generate,
    Overflow,
    SamplingParams,
    StopReason,
    StreamDone,
    StreamSpec,
    TextDelta,
)
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
    reason: StopReason | None = None
    """Why it ended."""
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
    def is_done(self) -> bool:
        return self.reason is not None

    @property
    def state(self) -> MessageState:
        """Whole only where the model ended it: where its room ran out, a sentence breaks off."""
        if self.reason is None:
            return "partial"
        return "done" if self.reason in ("end_of_turn", "stop_string") else "stopped"

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

    def finish(self, event: StreamDone) -> None:
        """What the engine says it all was."""
        self.text, self.reason = self.beginning + event.text, event.reason
        self.thought, self._thinking_seconds = event.reasoning, event.reasoning_seconds
        self.origin = event.origin


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
    def message_ids(self) -> tuple[str, ...]:
        return tuple(stream.message_id for stream in self.streams)

    @property
    def unfinished(self) -> list[Streaming]:
        return [stream for stream in self.streams if not stream.is_done]

    def to_generate(
        self, sampling: SamplingParams, specs: tuple[StreamSpec, ...], overflow: Overflow
    ) -> Generate:
        """What the engine is asked: to write the completions, or to go on with the first."""
        first = self.streams[0]
        return Generate(
            self.request_id,
            self.sent.messages,
            sampling,
            specs,
            first.beginning,
            reasoning=first.thought_before.text,
            overflow=overflow,
        )

    def is_choice(self, sides: Sequence[StoredMessage]) -> bool:
        """Whether choosing between the completions says something.

        What was stopped or broke off is no fair side; what ran out of room is judged by what it
        is. Answers alike are no choice.
        """
        if any(stream.reason in (None, "stopped") for stream in self.streams):
            return False
        texts = {side.content.strip() for side in sides}
        return len(texts) > 1 and all(
            side.origin is not None and (side.state == "done" or side.content.strip())
            for side in sides
        )

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


def best_of(sides: Sequence[StoredMessage]) -> StoredMessage:
    """What to go on with where there was no choice: a whole text, else any, else the first."""
    written = [side for side in sides if side.content.strip()]
    whole = [side for side in written if side.state == "done"]
    return (whole or written or sides)[0]


def title_of(text: str) -> str:
    """A conversation's title: the beginning of its first message."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
