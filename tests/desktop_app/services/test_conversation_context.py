"""A conversation that outgrows the context, with a real engine of 1,024 tokens behind it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from desktop_app.inference.engine import ModelRef
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.services.chat_service import ChatService
from desktop_app.services.conversation_context import ContextUse
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.storage.chat_store import ChatStore
from desktop_app.storage.database import Database
from desktop_app.storage.feedback_store import FeedbackStore
from finetune.contract.manifest import file_sha256
from tests.tiny_models import TinyShape, write_model

LONG = "Tell me about the park. " * 12


class Talk:
    """A chat service on a real child with a random model."""

    def __init__(self, qtbot: QtBot, folder: Path) -> None:
        self.qtbot = qtbot
        self.model = write_model(folder / "tiny.gguf", shape=TinyShape(context=1024), ends=False)
        self.database = Database(folder / "attune.db")
        self.store = ChatStore(self.database)
        self.chat = ChatService(self.store)
        self.chat.sampling = replace(self.chat.sampling, max_tokens=16)
        self.uses: list[ContextUse] = []
        self.problems: list[str] = []
        self.summarising: list[bool] = []
        self.chat.context_changed.connect(self.uses.append)
        self.chat.problem.connect(self._note)
        self.chat.summarising_changed.connect(self.summarising.append)
        engine = EngineClient(engine_command(), self.chat.engine.receive)
        self.chat.open_last()
        ref = ModelRef("base", str(self.model), file_sha256(self.model))
        self.chat.engine.attach(engine, ref)
        qtbot.waitUntil(lambda: self.chat.engine.state.status == "ready", timeout=30_000)

    def _note(self, message: str, _hint: str) -> None:
        self.problems.append(message)

    @property
    def id(self) -> str:
        return self.chat.current_conversation

    def ask(self, text: str = LONG) -> None:
        self.chat.send(text)
        self.qtbot.waitUntil(lambda: not self.chat.is_busy, timeout=30_000)

    def outgrow(self) -> None:
        """Ask until something does not fit any more."""
        for _ in range(9):
            self.ask()
            if self.chat.context.mark(self.id) is not None or self.problems:
                return
        raise AssertionError("everything fits")


@pytest.fixture
def talk(qtbot: QtBot, tmp_path: Path) -> Iterator[Talk]:
    talk = Talk(qtbot, tmp_path)
    yield talk
    talk.chat.close()
    talk.database.close()


def test_the_meter_tells_what_is_used_kept_and_free(talk: Talk) -> None:
    assert talk.uses[-1] == ContextUse(0, 16, 1024, 0)
    talk.ask()
    first = talk.uses[-1]
    assert 16 < first.used < 300
    assert first.used + first.reserved + first.free == first.total == 1024
    talk.ask()
    assert talk.uses[-1].used > first.used
    full = talk.id
    talk.chat.new_conversation()
    assert talk.uses[-1].used == 0
    talk.chat.open_conversation(full)
    assert talk.uses[-1].used > first.used  # remembered for each conversation


def test_by_default_the_oldest_turns_go_and_a_mark_says_where(talk: Talk) -> None:
    talk.outgrow()
    path = talk.chat.messages(talk.id)
    mark = talk.chat.context.mark(talk.id)
    assert mark is not None
    assert mark.summary == ""
    assert path[mark.unseen].id == mark.before
    assert path[mark.unseen].role == "user"
    assert talk.uses[-1].unseen == mark.unseen
    # What the model did not see is no part of the prompt that feedback is kept for.
    feedback = FeedbackService(talk.store, FeedbackStore(talk.database))
    feedback.rate(path[-1].id, True)
    record = feedback.of_message(path[-1].id).rating
    assert record is not None
    assert len(record.prompt) == len(path) - 1 - mark.unseen
    # Another branch, on which nothing was left out, has no mark.
    talk.chat.edit(path[0].id, "Hello")
    talk.qtbot.waitUntil(lambda: not talk.chat.is_busy, timeout=30_000)
    assert talk.chat.context.mark(talk.id) is None


def test_it_stops_with_a_sentence_where_that_was_chosen(talk: Talk) -> None:
    talk.chat.context.set_overflow(talk.id, "stop")
    talk.outgrow()
    assert "the model can read 1,024 at once" in talk.problems[-1]
    assert talk.chat.context.mark(talk.id) is None
    talk.chat.context.set_overflow(talk.id, "drop")
    talk.chat.regenerate(talk.chat.messages(talk.id)[-1].id)
    talk.qtbot.waitUntil(lambda: not talk.chat.is_busy, timeout=30_000)
    assert talk.chat.messages(talk.id)[-1].content


def test_a_summary_stands_for_the_oldest_turns_and_is_made_once(talk: Talk) -> None:
    talk.chat.system_prompt = "Be kind."
    talk.chat.context.set_overflow(talk.id, "summarise")
    talk.outgrow()
    assert talk.summarising == [True, False]
    path = talk.chat.messages(talk.id)
    mark = talk.chat.context.mark(talk.id)
    assert mark is not None
    stored = talk.store.conversation(talk.id)
    assert mark.summary == stored.summary != ""
    assert stored.summarised_to == path[mark.unseen - 1].id
    answer = path[-1]
    assert answer.content
    assert answer.origin is not None
    sent = answer.origin.sampling["system_prompt"]
    assert sent.startswith("Be kind.\n\n")
    assert sent.endswith(stored.summary)
    assert answer.origin.sampling["left_out_messages"] == mark.unseen

    talk.ask("Yes")
    assert talk.summarising == [True, False]  # not made again
    assert talk.store.conversation(talk.id).summary == stored.summary
    # The other policies do not use it.
    talk.chat.context.set_overflow(talk.id, "drop")
    talk.ask("No")
    origin = talk.chat.messages(talk.id)[-1].origin
    assert origin is not None
    assert origin.sampling["system_prompt"] == "Be kind."


def test_a_stop_while_summarising_ends_the_turn(talk: Talk) -> None:
    talk.chat.context.set_overflow(talk.id, "summarise")
    talk.chat.summarising_changed.connect(lambda begins: talk.chat.stop() if begins else None)
    for _ in range(9):
        talk.ask()
        if talk.summarising:
            break
    answer = talk.chat.messages(talk.id)[-1]
    assert (answer.state, answer.content) == ("stopped", "")
    assert talk.store.conversation(talk.id).summary == ""
    assert not talk.chat.is_busy


def test_a_stop_before_summarising_begins_is_heard(talk: Talk) -> None:
    talk.chat.context.set_overflow(talk.id, "summarise")
    for _ in range(9):
        talk.chat.send(LONG)
        talk.chat.stop()
        talk.qtbot.waitUntil(lambda: not talk.chat.is_busy, timeout=30_000)
        assert talk.chat.messages(talk.id)[-1].state == "stopped"
    assert talk.summarising == []


def test_a_message_longer_than_the_context_gets_both_numbers(talk: Talk) -> None:
    talk.ask("park " * 1500)
    assert "and the model can read 1,024 at once" in talk.problems[-1]
    assert talk.chat.messages(talk.id)[0].content.startswith("park")
