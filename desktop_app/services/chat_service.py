"""The life of a turn: send, stream, stop, regenerate, compare.

The service owns the conversation on disk; the engine child is ``EngineService``'s. Everything
is emitted on the GUI thread, so widgets may connect to it directly. Text reaches the view on a
33 ms timer, never once per token, and the disk within a second.
"""

from __future__ import annotations

import itertools
import logging
import random
import uuid
from typing import Final

from PySide6.QtCore import QObject, QTimer, Signal

from desktop_app.errors import UserError
from desktop_app.inference import engine
from desktop_app.inference.engine import SamplingParams, StreamSpec
from desktop_app.services.completion_keeper import CompletionKeeper
from desktop_app.services.conversation_context import ConversationContext, summary_tokens
from desktop_app.services.engine_service import EngineService, EngineState
from desktop_app.services.turn import TITLE_LENGTH, Streaming, Turn, best_of, title_of
from desktop_app.services.turn import PendingComparison as PendingComparison
from desktop_app.storage.chat_store import (
    ChatStore,
    Conversation,
    MessageState,
    SearchHit,
    StoredMessage,
)

log = logging.getLogger(__name__)

REPAINT_MS: Final = 33
SAVE_MS: Final = 700
"""Longest time a streamed text is not on disk; the promise is one second."""


class ChatService(QObject):
    """Carries the turns of all conversations out, one at a time.

    Attributes:
        engine: what answers.
        context: what the model sees of each conversation.
        sampling: how completions are drawn from now on.
        system_prompt: what stands before each conversation; "" for nothing.
        chance: draws seeds and the order of comparisons.

    Signals:
        conversations_changed: the list (titles, order, number) is different.
        conversation_opened(id): another conversation is shown.
        path_changed(id): messages of this conversation came, went or changed places.
        text_appended(message id, text): more of a completion.
        reasoning_appended(message id, text): more of what is thought before it.
        message_changed(message id): its state or final text is different.
        busy_changed(bool): a completion is being written.
        prompt_progress(done, total): tokens of the prompt that have been read.
        summarising_changed(bool): older messages are being summarised before the answer.
        context_changed(ContextUse): how full the context is with the open conversation.
        comparison_changed(PendingComparison or None): two completions wait for a choice.
        comparison_ready(PendingComparison): both are complete, a choice can be made.
        problem(message, hint): something to tell the person.
    """

    conversations_changed = Signal()
    conversation_opened = Signal(str)
    path_changed = Signal(str)
    text_appended = Signal(str, str)
    reasoning_appended = Signal(str, str)
    message_changed = Signal(str)
    busy_changed = Signal(bool)
    prompt_progress = Signal(int, int)
    summarising_changed = Signal(bool)
    context_changed = Signal(object)
    comparison_changed = Signal(object)
    comparison_ready = Signal(object)
    problem = Signal(str, str)

    def __init__(self, store: ChatStore, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = store
        self.context = ConversationContext(store)
        self._turn: Turn | None = None
        self._pending: PendingComparison | None = None
        self._current = ""
        self._deleted_open: set[str] = set()
        self.sampling = SamplingParams()
        self.system_prompt = ""
        self.chance: random.Random = random.SystemRandom()
        self.engine = EngineService(self)
        self.engine.event_received.connect(self._on_event)
        self.engine.request_failed.connect(self._on_failed)
        self.engine.state_changed.connect(self._on_engine_state)
        self.engine.problem.connect(self.problem)
        self._keeper = CompletionKeeper(store, self)
        self._keeper.problem.connect(self.problem)
        self._keeper.written.connect(self.message_changed)
        self._repaint = QTimer(self)
        self._repaint.setInterval(REPAINT_MS)
        self._repaint.timeout.connect(self._show_unseen)
        self._save = QTimer(self)
        self._save.setInterval(SAVE_MS)
        self._save.timeout.connect(self._save_partial)

    def close(self) -> None:
        """Keep what was written and end the child."""
        self._save_partial()
        self._repaint.stop()
        self._save.stop()
        if self._turn is not None:
            for stream in self._turn.unfinished:
                self._keeper.keep(stream, "stopped")
            self._turn = None
        if not self._keeper.write_held():
            log.error("The last answer could not be saved")
        self.engine.close()

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
        self._tell_context()

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
        self.engine.forget()
        if conversation_id == self._current:
            self._deleted_open.add(conversation_id)
            self._current = ""
            remaining = self._store.conversations()
            if remaining:
                self.open_conversation(remaining[0].id)
            else:
                self.new_conversation()
        self.conversations_changed.emit()

    def restore_conversation(self, conversation_id: str) -> None:
        """Show it again only where it was shown when it was deleted, and nothing is written."""
        self._store.restore(conversation_id)
        self.conversations_changed.emit()
        was_open = conversation_id in self._deleted_open
        self._deleted_open.discard(conversation_id)
        if was_open and (self._turn is None or self._turn.is_stopping):
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
        if not path and not self._store.conversation(self._current).title:
            self._store.rename(self._current, title_of(text))
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

    def is_answered(self, message_id: str) -> bool:
        """Whether more was written to this text: then it stays what it is."""
        return self._store.is_answered(message_id)

    def go_on(self, message_id: str) -> None:
        """Go on with a completion that was cut off, where it broke off."""
        message = self.message(message_id)
        is_settled = self.is_busy or self.is_answered(message_id)
        if is_settled or not self._can_ask(message.conversation_id):
            return
        self._settle_comparison()
        self._store.set_current(message.conversation_id, message_id)
        stream = Streaming.going_on(message)
        self._keeper.keep(stream, "partial")
        self._begin(Turn(uuid.uuid4().hex, message.conversation_id, [stream]))

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
        if self._turn is not None and not self._turn.is_stopping:
            self._turn.is_stopping = True
            self.engine.stop(self._turn.request_id)

    def choose(self, message_id: str) -> None:
        """Go on with this completion of the comparison; the others stay as siblings."""
        if self._pending is None:
            return
        conversation = self._pending.conversation_id
        self._store.set_current(conversation, message_id)
        self._set_pending(None)
        self.path_changed.emit(conversation)

    # --- inside ---

    def _complete(self, user_message_id: str, count: int = 1) -> None:
        user = self._store.message(user_message_id)
        if not self._can_ask(user.conversation_id):
            return
        turn = Turn(uuid.uuid4().hex, user.conversation_id, is_comparison=count > 1)
        for _ in range(count):
            message = self._store.add_message(
                user.conversation_id, user.id, "assistant", "", state="partial"
            )
            turn.streams.append(Streaming(message.id))
        if turn.is_comparison:
            shown = [stream.message_id for stream in turn.streams]
            self.chance.shuffle(shown)
            self._set_pending(PendingComparison(user.conversation_id, tuple(shown)))
        self._begin(turn)

    def _can_ask(self, conversation_id: str) -> bool:
        if self.engine.can_be_asked:
            return True
        self.path_changed.emit(conversation_id)
        self.problem.emit(
            self.tr("No model is loaded, so there is no answer yet."),
            self.tr("Your message is kept. Restart the model and ask for the answer again."),
        )
        return False

    def _begin(self, turn: Turn) -> None:
        self._turn = turn
        self.path_changed.emit(turn.conversation_id)
        self.busy_changed.emit(True)
        self._repaint.start()
        self._save.start()
        self._ask(turn, self.context.overflow(turn.conversation_id))

    def _ask(self, turn: Turn, overflow: engine.Overflow) -> None:
        """Ask the engine for what stands above the turn's messages."""
        path = self.messages(turn.conversation_id)
        # Up to the turn: a completion that goes on may have later messages below it.
        before = list(itertools.takewhile(lambda m: m.id not in turn.message_ids, path))
        title = self.tr("Summary of the conversation so far:")
        turn.sent = self.context.sent(turn.conversation_id, before, self.system_prompt, title)
        specs = self._specs(len(turn.streams))
        self._request(turn, turn.to_generate(self.sampling, specs, overflow))

    def _summarise(self, turn: Turn, count: int) -> None:
        """Let the model say in short what the oldest messages said, before it answers."""
        turn.request_id, turn.summarised, turn.summary = uuid.uuid4().hex, count, ""
        self.summarising_changed.emit(True)
        instruction = self.tr(
            "Summarise our conversation up to here in a few sentences. Keep names, numbers, "
            "wishes and decisions. Write only the summary."
        )
        messages = self.context.to_summarise(turn.sent, count, instruction)
        length = summary_tokens(self.engine.state.context_length)
        sampling = SamplingParams(temperature=self.sampling.temperature, max_tokens=length)
        self._request(turn, engine.Generate(turn.request_id, messages, sampling, self._specs(1)))

    def _specs(self, count: int) -> tuple[StreamSpec, ...]:
        model = self.engine.model
        assert model is not None
        seeds = [self.chance.getrandbits(31) for _ in range(count)]
        return tuple(StreamSpec(seed, model.version_id, model.adapter) for seed in seeds)

    def _request(self, turn: Turn, generate: engine.Generate) -> None:
        try:
            self.engine.request(generate)
        except UserError as error:
            # The child has just died: its EngineDied is on the way and starts another one.
            self._break_off(turn, "interrupted")
            self.problem.emit(error.message, error.hint)

    def _settle_comparison(self) -> None:
        """Moving on without choosing is no judgement: the first one shown stays current."""
        if self._pending is not None:
            self.choose(self._pending.message_ids[0])

    def _on_engine_state(self, state: EngineState) -> None:
        if state.status == "ready":
            self._tell_context()

    def _tell_context(self) -> None:
        total = self.engine.state.context_length
        if self._current and total:
            use = self.context.use(self._current, self.sampling.max_tokens, total)
            self.context_changed.emit(use)

    def _on_failed(self, request_id: str, message: str, hint: str) -> None:
        if self._turn is not None and self._turn.request_id == request_id:
            self._break_off(self._turn, "interrupted")
            self.problem.emit(message, hint)

    def _on_event(self, event: engine.Event) -> None:
        turn = self._turn
        if turn is None or getattr(event, "request_id", None) != turn.request_id:
            return
        try:
            self._take(turn, event)
        except UserError as error:  # the disk is full, say: the turn ends all the same
            self.problem.emit(error.message, error.hint)
            if isinstance(event, engine.RequestDone) and self._turn is turn:
                self._break_off(turn, "interrupted")

    def _take(self, turn: Turn, event: engine.Event) -> None:
        if isinstance(event, engine.PromptProgress):
            self.prompt_progress.emit(event.done, event.total)
        elif turn.summarised:
            self._on_summary_event(turn, event)
        elif isinstance(event, engine.ContextOverflow):
            if turn.is_stopping:
                self._break_off(turn, "stopped")
            else:
                self._summarise(turn, event.messages)
        elif isinstance(event, engine.TextDelta):
            turn.streams[event.stream].add(event)
        elif isinstance(event, engine.StreamDone):
            stream = turn.streams[event.stream]
            turn.tokens = max(turn.tokens, event.completion_tokens)
            self._show_unseen()
            stream.finish(event)
            self._keeper.keep(stream, stream.state)
            self.message_changed.emit(stream.message_id)
        elif isinstance(event, engine.RequestDone):
            used = event.prompt_tokens + turn.tokens
            unseen = turn.sent.hidden + event.dropped_messages
            for stream in turn.streams:  # only now it is known, and can be judged
                self._keeper.keep(stream, stream.state, turn.origin_of(stream, unseen))
                self.message_changed.emit(stream.message_id)
            self.context.keep_use(turn.conversation_id, turn.sent, event.dropped_messages, used)
            self._tell_context()
            self._end_turn()

    def _on_summary_event(self, turn: Turn, event: engine.Event) -> None:
        if isinstance(event, engine.StreamDone):
            turn.summary = event.text.strip()
        elif isinstance(event, engine.RequestDone):
            count, turn.summarised = turn.summarised, 0
            self.summarising_changed.emit(False)
            if turn.is_stopping:
                self._break_off(turn, "stopped")
                return
            if turn.summary:
                self.context.keep_summary(turn.conversation_id, turn.sent, count, turn.summary)
            turn.request_id, turn.summaries = uuid.uuid4().hex, turn.summaries + 1
            self._ask(turn, "summarise" if turn.may_summarise else "drop")

    def _break_off(self, turn: Turn, state: MessageState) -> None:
        """The turn ends before it is done: keep its text and say so at the message."""
        self._show_unseen()
        for stream in turn.unfinished:
            self._keeper.keep(stream, state)
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
        if turn.summarised:  # it ended in the middle of that
            self.summarising_changed.emit(False)
        if turn.is_comparison:
            self._end_comparison(turn)
        self.path_changed.emit(turn.conversation_id)

    def _end_comparison(self, turn: Turn) -> None:
        """Offer the choice; where there is none, or nobody waits for it, go on with the best."""
        pending = self._pending
        shown = pending.message_ids if pending is not None else turn.message_ids
        sides = [self.message(message_id) for message_id in shown]
        if pending is not None and turn.is_choice(sides):
            self.comparison_ready.emit(pending)
        else:
            self._store.set_current(turn.conversation_id, best_of(sides).id)
            self._set_pending(None)

    def _show_unseen(self) -> None:
        if self._turn is None:
            return
        for stream in self._turn.streams:
            if stream.unseen_thought:
                text, stream.unseen_thought = stream.unseen_thought, ""
                self.reasoning_appended.emit(stream.message_id, text)
            if stream.unseen:
                text, stream.unseen = stream.unseen, ""
                self.text_appended.emit(stream.message_id, text)

    def _up_to_now(self, message: StoredMessage) -> StoredMessage:
        """With the text that ``text_appended`` has told of; the disk is a moment behind."""
        shown = self._turn.shown(message) if self._turn is not None else None
        return shown or self._keeper.newest(message)

    def _save_partial(self) -> None:
        if self._turn is None:
            return
        for stream in self._turn.unfinished:
            if stream.text or stream.thought:
                self._keeper.keep(stream, "partial")

    def _set_pending(self, pending: PendingComparison | None) -> None:
        if pending != self._pending:
            self._pending = pending
            self.comparison_changed.emit(pending)
