"""Completions on their way to the disk: what the disk does not take is held and tried again.

A full disk must neither lose an answer nor hold a turn up. What could not be written stays
here, is shown as if it had been, and is written as soon as there is room.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from PySide6.QtCore import QObject, QTimer, Signal

from desktop_app.errors import UserError
from desktop_app.services.turn import Streaming
from desktop_app.storage.chat_store import ChatStore, MessageState, Reasoning, StoredMessage
from finetune.contract.records import Origin

RETRY_MS: Final = 3000


@dataclass(frozen=True)
class _Held:
    text: str
    state: MessageState
    origin: Origin | None
    reasoning: Reasoning


class CompletionKeeper(QObject):
    """Writes completions into the store.

    Signals:
        problem(message, hint): the disk did not take one; said once until it takes one again.
        written(message id): what was held is on the disk.
    """

    problem = Signal(str, str)
    written = Signal(str)

    def __init__(self, store: ChatStore, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._held: dict[str, _Held] = {}
        self._retry = QTimer(self)
        self._retry.setInterval(RETRY_MS)
        self._retry.timeout.connect(self.write_held)

    def keep(self, stream: Streaming, state: MessageState, origin: Origin | None = None) -> None:
        """Put on disk how far a completion has come, or hold it until the disk takes it."""
        was_told = bool(self._held)
        before = self._held.get(stream.message_id)
        if before is not None and origin is None:
            origin = before.origin
        self._held[stream.message_id] = _Held(stream.text, state, origin, stream.reasoning)
        try:
            self._write(stream.message_id)
        except UserError as error:
            self._retry.start()
            if not was_told:
                self.problem.emit(error.message, error.hint)

    def newest(self, message: StoredMessage) -> StoredMessage:
        """The message as it was to be kept, where the disk has not taken that yet.

        Its origin is the disk's, which is none: what is not kept cannot be judged.
        """
        held = self._held.get(message.id)
        if held is None:
            return message
        return replace(message, content=held.text, state=held.state, reasoning=held.reasoning)

    def write_held(self) -> bool:
        """Try again what the disk did not take; whether nothing is left."""
        try:
            for message_id in list(self._held):
                self._write(message_id)
                self.written.emit(message_id)
        except UserError:
            return False
        self._retry.stop()
        return True

    def _write(self, message_id: str) -> None:
        held = self._held[message_id]
        self._store.update_message(message_id, held.text, held.state, held.origin, held.reasoning)
        del self._held[message_id]
