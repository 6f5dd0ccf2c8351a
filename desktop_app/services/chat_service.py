"""The life of a turn: send, stream, stop, regenerate, compare.

The service owns the conversation on disk and the engine child. Everything it emits is
emitted on the GUI thread, so widgets may connect to it directly. The engine's events come in
on a reader thread; they are queued and drained here in batches, and text reaches the view on
a 33 ms timer, never once per token.
"""

from __future__ import annotations

import logging
import random
import threading
import uuid
from dataclasses import dataclass, field, replace
from typing import Final, Literal, Protocol

from PySide6.QtCore import QObject, QTimer, Signal

from desktop_app.errors import UserError
from desktop_app.inference import engine
from desktop_app.inference.engine import ModelRef, SamplingParams, StreamSpec
from desktop_app.storage.chat_store import ChatStore, Conversation, SearchHit, StoredMessage
from finetune.contract.chat_template import Message

log = logging.getLogger(__name__)

REPAINT_MS: Final = 33
SAVE_MS: Final = 700
"""Longest time a streamed text is not on disk; the promise is one second."""
TITLE_LENGTH: Final = 60

EngineStatus = Literal["starting", "loading", "ready", "failed"]


class EngineHandle(Protocol):
    """What the service needs of ``EngineClient``."""

    @property
    def is_running(self) -> bool: ...
    def start(self) -> None: ...
    def load(self, model: ModelRef) -> None: ...
    def generate(self, request: engine.Generate) -> None: ...
    def stop(self, request: engine.Stop) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class EngineState:
    """What the status line says about the engine."""

    status: EngineStatus
    model_name: str = ""
    fraction: float = 0.0
    message: str = ""


@dataclass
class _Streaming:
    """A completion being written: the message it goes to and what is not yet shown."""

    message_id: str
    text: str = ""
    unseen: str = ""
    is_done: bool = False


@dataclass
class _Turn:
    """One request to the engine. ``streams[i]`` receives stream i."""

    request_id: str
    conversation_id: str
    streams: list[_Streaming] = field(default_factory=list)
    is_comparison: bool = False
    is_stopping: bool = False


@dataclass(frozen=True)
class PendingComparison:
    """Two completions waiting for the person's choice, in the order they are shown.

    The order is drawn by lot, so that neither side is favoured.
    """

    conversation_id: str
    message_ids: tuple[str, ...]


class ChatService(QObject):
    """The only owner of the engine.

    Signals:
        conversations_changed: the list (titles, order, number) is different.
        conversation_opened(id): another conversation is shown.
        path_changed(id): messages of this conversation came, went or changed places.
        text_appended(message id, text): more of a completion.
        message_changed(message id): its state or final text is different.
        busy_changed(bool): a completion is being written.
        engine_changed(EngineState): the engine starts, loads, is ready, has failed.
        prompt_progress(done, total): tokens of the prompt that have been read.
        context_changed(used, total, dropped): tokens of the last prompt; messages left out.
        comparison_changed(PendingComparison or None): two completions wait for a choice.
        comparison_ready(PendingComparison): both are complete, a choice can be made.
        problem(message, hint): something to tell the person.
    """

    conversations_changed = Signal()
    conversation_opened = Signal(str)
    path_changed = Signal(str)
    text_appended = Signal(str, str)
    message_changed = Signal(str)
    busy_changed = Signal(bool)
    engine_changed = Signal(object)
    prompt_progress = Signal(int, int)
    context_changed = Signal(int, int, int)
    comparison_changed = Signal(object)
    comparison_ready = Signal(object)
    problem = Signal(str, str)
    trial_event = Signal(object)
    """Events of requests that belong to somebody else (a version trial)."""

    _wake = Signal()

    def __init__(self, store: ChatStore, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self._engine: EngineHandle | None = None
        self._model: ModelRef | None = None
        self._state = EngineState("starting")
        self._inbox: list[engine.Event] = []
        self._inbox_lock = threading.Lock()
        self._wake_sent = False
        self._turn: _Turn | None = None
        self._pending: PendingComparison | None = None
        self._foreign_requests: set[str] = set()
        self._current = ""
        self._crashes_at_load = 0
        self.sampling = SamplingParams()
        self.system_prompt = ""
        self._wake.connect(self._drain)
        self._repaint = QTimer(self)
        self._repaint.setInterval(REPAINT_MS)
        self._repaint.timeout.connect(self._show_unseen)
        self._save = QTimer(self)
        self._save.setInterval(SAVE_MS)
        self._save.timeout.connect(self._save_partial)

    # --- engine ---

    def receive(self, event: engine.Event) -> None:
        """Called on the engine's reader thread, for every event."""
        with self._inbox_lock:
            self._inbox.append(event)
            is_first, self._wake_sent = not self._wake_sent, True
        if is_first:
            self._wake.emit()  # queued: the slot runs on the GUI thread

    def attach_engine(self, handle: EngineHandle, model: ModelRef) -> None:
        """Start the engine and load a model."""
        self._engine = handle
        self.load_model(model)

    def load_model(self, model: ModelRef) -> None:
        """Chat with another model from now on. A completion being written is stopped."""
        assert self._engine is not None
        self.stop()
        self._model = model
        self._set_state(EngineState("loading"))
        if not self._engine.is_running:
            self._engine.start()
        self._engine.load(model)

    def restart_engine(self) -> None:
        """After a failure: a fresh child, the same model."""
        if self._model is not None:
            self._crashes_at_load = 0
            self.load_model(self._model)

    def fail(self, message: str, hint: str) -> None:
        """No engine could be started: say so, and go on without one."""
        self._set_state(EngineState("failed", message=message))
        self.problem.emit(message, hint)

    @property
    def engine_state(self) -> EngineState:
        return self._state

    @property
    def model(self) -> ModelRef | None:
        return self._model

    def close(self) -> None:
        """Keep what was written and end the child."""
        self._save_partial()
        self._repaint.stop()
        self._save.stop()
        if self._turn is not None:
            for stream in self._turn.streams:
                if not stream.is_done:
                    self._store.update_message(stream.message_id, stream.text, "stopped")
            self._turn = None
        if self._engine is not None:
            self._engine.close()

    # --- conversations ---

    @property
    def current_conversation(self) -> str:
        """The id of the conversation that is shown; "" before the first one."""
        return self._current

    @property
    def is_busy(self) -> bool:
        return self._turn is not None

    @property
    def pending_comparison(self) -> PendingComparison | None:
        return self._pending

    def conversations(self) -> list[Conversation]:
        return self._store.conversations()

    def messages(self, conversation_id: str) -> list[StoredMessage]:
        """The visible branch, first message first."""
        return [self._up_to_now(m) for m in self._store.path(conversation_id)]

    def message(self, message_id: str) -> StoredMessage:
        """One message; while it is being written, with the text up to now."""
        return self._up_to_now(self._store.message(message_id))

    def search(self, text: str) -> list[SearchHit]:
        return self._store.search(text)

    def open_last(self) -> None:
        """At start-up: mark what a crash interrupted and show the newest conversation."""
        self._store.mark_interrupted()
        conversations = self._store.conversations()
        if conversations:
            self.open_conversation(conversations[0].id)
        else:
            self.new_conversation()

    def open_conversation(self, conversation_id: str) -> None:
        if conversation_id == self._current:
            return
        self.stop()
        self._set_pending(None)
        self._current = conversation_id
        self.conversation_opened.emit(conversation_id)

    def new_conversation(self) -> str:
        """Show an empty conversation; an existing empty one is used again."""
        for conversation in self._store.conversations():
            if conversation.current_message_id is None:
                self.open_conversation(conversation.id)
                return conversation.id
        conversation = self._store.create_conversation()
        self.conversations_changed.emit()
        self.open_conversation(conversation.id)
        return conversation.id

    def rename_conversation(self, conversation_id: str, title: str) -> None:
        self._store.rename(conversation_id, title.strip()[:TITLE_LENGTH])
        self.conversations_changed.emit()

    def delete_conversation(self, conversation_id: str) -> None:
        """Move to the trash (``restore_conversation`` brings it back)."""
        if conversation_id == self._current:
            self.stop()
        self._store.delete(conversation_id)
        if conversation_id == self._current:
            self._current = ""
            remaining = self._store.conversations()
            if remaining:
                self.open_conversation(remaining[0].id)
            else:
                self.new_conversation()
        self.conversations_changed.emit()

    def restore_conversation(self, conversation_id: str) -> None:
        self._store.restore(conversation_id)
        self.conversations_changed.emit()
        self.open_conversation(conversation_id)

    # --- turns ---

    def send(self, text: str, *, compare: bool = False) -> None:
        """Store the person's message and ask for a completion, or for two to compare."""
        text = text.strip()
        if not text or self.is_busy:
            return
        if not self._current:
            self.new_conversation()
        self._settle_comparison()
        path = self._store.path(self._current)
        parent = path[-1].id if path else None
        message = self._store.add_message(self._current, parent, "user", text)
        if not path:
            self._store.rename(self._current, _title_of(text))
        self.conversations_changed.emit()
        self._complete(message.id, count=2 if compare else 1)

    def edit(self, message_id: str, text: str) -> None:
        """Ask the same turn differently: a sibling of the person's message."""
        text = text.strip()
        if not text or self.is_busy:
            return
        self._settle_comparison()
        old = self._store.message(message_id)
        message = self._store.add_message(old.conversation_id, old.parent_id, "user", text)
        self._complete(message.id)

    def regenerate(self, message_id: str, *, compare: bool = False) -> None:
        """Another completion beside this one; the old one stays as a sibling."""
        if self.is_busy:
            return
        self._settle_comparison()
        parent = self._store.message(message_id).parent_id
        if parent is not None:
            self._complete(parent, count=2 if compare else 1)

    def answer_again(self, user_message_id: str) -> None:
        """Ask for a completion of a message that has none (the engine died before)."""
        if not self.is_busy:
            self._complete(user_message_id)

    def show_sibling(self, message_id: str, step: int) -> None:
        """Show the previous (-1) or next (+1) alternative of a message."""
        if self.is_busy:
            return
        self._settle_comparison()
        siblings = self._store.siblings(message_id)
        index = next(i for i, m in enumerate(siblings) if m.id == message_id) + step
        if 0 <= index < len(siblings):
            self._store.set_current(self._current, siblings[index].id)
            self.path_changed.emit(self._current)

    def stop(self) -> None:
        """End the completion being written; what is there stays."""
        if self._turn is None or self._engine is None or self._turn.is_stopping:
            return
        self._turn.is_stopping = True
        if self._engine.is_running:
            self._engine.stop(engine.Stop(self._turn.request_id))

    def choose(self, message_id: str) -> None:
        """Go on with this completion of the comparison; the others stay as siblings."""
        if self._pending is None:
            return
        conversation = self._pending.conversation_id
        self._store.set_current(conversation, message_id)
        self._set_pending(None)
        self.path_changed.emit(conversation)

    # --- requests of others ---

    def request(self, generate: engine.Generate) -> None:
        """Generate something that is no turn of a conversation; see ``trial_event``.

        Raises:
            UserError: the engine is not ready.
        """
        if self._engine is None or self._state.status != "ready":
            raise UserError("The model is not ready yet.", "Wait until it is loaded.")
        self._foreign_requests.add(generate.request_id)
        self._engine.generate(generate)

    # --- inside ---

    def _complete(self, user_message_id: str, count: int = 1) -> None:
        user = self._store.message(user_message_id)
        if self._engine is None or self._model is None or self._state.status == "failed":
            self.path_changed.emit(user.conversation_id)
            self.problem.emit(
                self.tr("No model is loaded, so there is no answer yet."),
                self.tr("Your message is kept. Restart the model and ask for the answer again."),
            )
            return
        turn = _Turn(uuid.uuid4().hex, user.conversation_id, is_comparison=count > 1)
        for _ in range(count):
            message = self._store.add_message(
                user.conversation_id, user.id, "assistant", "", state="partial"
            )
            turn.streams.append(_Streaming(message.id))
        self._turn = turn
        path = self._store.path(user.conversation_id)
        history = [Message(m.role, m.content) for m in path if m.id not in _ids(turn)]
        if self.system_prompt:
            history.insert(0, Message("system", self.system_prompt))
        seeds = random.SystemRandom()
        spec = [
            StreamSpec(seeds.getrandbits(31), self._model.version_id, self._model.adapter)
            for _ in turn.streams
        ]
        if turn.is_comparison:
            shown = [stream.message_id for stream in turn.streams]
            seeds.shuffle(shown)
            self._set_pending(PendingComparison(user.conversation_id, tuple(shown)))
        self.path_changed.emit(user.conversation_id)
        self.busy_changed.emit(True)
        self._repaint.start()
        self._save.start()
        try:
            self._engine.generate(
                engine.Generate(turn.request_id, tuple(history), self.sampling, tuple(spec))
            )
        except UserError as error:
            # The child has just died: its EngineDied is on the way and starts another one.
            self._interrupt(turn)
            self.problem.emit(error.message, error.hint)

    def _settle_comparison(self) -> None:
        """Moving on without choosing is no judgement: the first one shown stays current."""
        if self._pending is not None:
            self.choose(self._pending.message_ids[0])

    def _drain(self) -> None:
        with self._inbox_lock:
            events, self._inbox = self._inbox, []
            self._wake_sent = False
        for event in events:
            self._handle(event)

    def _handle(self, event: engine.Event) -> None:
        if isinstance(event, engine.LoadProgress):
            self._set_state(EngineState("loading", fraction=event.fraction))
        elif isinstance(event, engine.ModelReady):
            self._crashes_at_load = 0
            self._set_state(EngineState("ready", model_name=event.name, fraction=1.0))
            self.context_changed.emit(0, event.context_length, 0)
        elif isinstance(event, engine.EngineDied):
            self._on_died(event)
        elif isinstance(event, engine.EngineFailure) and event.request_id is None:
            self._set_state(EngineState("failed", message=event.message))
            self.problem.emit(event.message, self.tr("Choose another model version."))
        elif event.request_id in self._foreign_requests:
            if isinstance(event, engine.RequestDone | engine.EngineFailure):
                self._foreign_requests.discard(event.request_id)
            self.trial_event.emit(event)
        elif self._turn is not None and event.request_id == self._turn.request_id:
            self._on_turn_event(self._turn, event)

    def _on_turn_event(self, turn: _Turn, event: engine.Event) -> None:
        if isinstance(event, engine.TextDelta):
            stream = turn.streams[event.stream]
            stream.text += event.text
            stream.unseen += event.text
        elif isinstance(event, engine.PromptProgress):
            self.prompt_progress.emit(event.done, event.total)
        elif isinstance(event, engine.StreamDone):
            stream = turn.streams[event.stream]
            self._show_unseen()
            stream.text, stream.is_done = event.text, True
            state: Literal["stopped", "done"] = "stopped" if event.reason == "stopped" else "done"
            self._store.update_message(stream.message_id, event.text, state, event.origin)
            self.message_changed.emit(stream.message_id)
        elif isinstance(event, engine.RequestDone):
            self.context_changed.emit(
                event.prompt_tokens, event.context_length, event.dropped_messages
            )
            self._end_turn()
        elif isinstance(event, engine.EngineFailure):
            self._interrupt(turn)
            self.problem.emit(event.message, "")

    def _on_died(self, event: engine.EngineDied) -> None:
        for request_id in list(self._foreign_requests):
            self._foreign_requests.discard(request_id)
            self.trial_event.emit(engine.EngineFailure(event.message, request_id))
        had_turn = self._turn is not None
        if self._turn is not None:
            self._interrupt(self._turn)
        if event.during_load:
            self._crashes_at_load += 1
        if self._model is None or self._crashes_at_load >= 2:
            # Twice in a row at loading: a third time would be a loop.
            self._set_state(EngineState("failed", message=event.message))
            self.problem.emit(
                event.message,
                self.tr("The model is not loaded again by itself. Choose another version."),
            )
            return
        if had_turn:
            self.problem.emit(
                event.message,
                self.tr("What was written is kept; the model is being loaded again."),
            )
        self.load_model(self._model)

    def _interrupt(self, turn: _Turn) -> None:
        """The turn ended badly: keep its text and say so at the message."""
        self._show_unseen()
        for stream in turn.streams:
            if not stream.is_done:
                self._store.update_message(stream.message_id, stream.text, "interrupted")
                self.message_changed.emit(stream.message_id)
        self._end_turn()

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        self._repaint.stop()
        self._save.stop()
        self.busy_changed.emit(False)
        self.conversations_changed.emit()
        if turn is None:
            return
        if turn.is_comparison and self._pending is not None:
            messages = [self._store.message(i) for i in self._pending.message_ids]
            if all(m.state == "done" and m.origin is not None for m in messages):
                self.comparison_ready.emit(self._pending)
            else:  # a stopped or broken side cannot be compared fairly
                self.choose(self._pending.message_ids[0])
        self.path_changed.emit(turn.conversation_id)

    def _show_unseen(self) -> None:
        if self._turn is None:
            return
        for stream in self._turn.streams:
            if stream.unseen:
                text, stream.unseen = stream.unseen, ""
                self.text_appended.emit(stream.message_id, text)

    def _up_to_now(self, message: StoredMessage) -> StoredMessage:
        """With the text that ``text_appended`` has told of; the disk is a moment behind."""
        for stream in self._turn.streams if self._turn is not None else ():
            if stream.message_id == message.id and not stream.is_done:
                shown = stream.text[: len(stream.text) - len(stream.unseen)]
                return replace(message, content=shown)
        return message

    def _save_partial(self) -> None:
        if self._turn is None:
            return
        for stream in self._turn.streams:
            if not stream.is_done and stream.text:
                self._store.update_message(stream.message_id, stream.text, "partial")

    def _set_pending(self, pending: PendingComparison | None) -> None:
        if pending != self._pending:
            self._pending = pending
            self.comparison_changed.emit(pending)

    def _set_state(self, state: EngineState) -> None:
        self._state = state
        self.engine_changed.emit(state)


def _ids(turn: _Turn) -> set[str]:
    return {stream.message_id for stream in turn.streams}


def _title_of(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1].rstrip() + "…"
