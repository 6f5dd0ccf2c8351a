"""The life of a turn, with a real engine child (speaking the fake engine) and a real file."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from desktop_app.inference.engine import Generate, ModelRef
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.services.chat_service import ChatService, PendingComparison
from desktop_app.services.engine_service import EngineState
from desktop_app.services.feedback_service import FeedbackService
from desktop_app.services.turn import Streaming, best_of
from desktop_app.storage.chat_store import ChatStore, MessageState, StoredMessage
from desktop_app.storage.database import Database
from desktop_app.storage.feedback_store import FeedbackStore
from finetune.contract.chat_template import Message

MODEL = ModelRef("base", "/nowhere/base.gguf", "ab" * 32)


class Talk:
    """A chat service with its engine and store, and what it told the person."""

    def __init__(self, qtbot: QtBot, path: Path, model: ModelRef = MODEL) -> None:
        self.qtbot = qtbot
        self.database = Database(path)
        self.store = ChatStore(self.database)
        self.chat = ChatService(self.store)
        self.engine = EngineClient(engine_command("--fake"), self.chat.engine.receive)
        self.problems: list[str] = []
        self.states: list[EngineState] = []
        self.chat.problem.connect(self._note_problem)
        self.chat.engine.state_changed.connect(self.states.append)
        self.chat.open_last()
        self.chat.engine.attach(self.engine, model)

    def _note_problem(self, message: str, hint: str) -> None:
        self.problems.append(f"{message} {hint}".strip())

    def wait_ready(self) -> None:
        self.qtbot.waitUntil(lambda: self.chat.engine.state.status == "ready", timeout=20_000)

    def ask(self, text: str) -> None:
        self.chat.send(text)
        self.wait_idle()

    def wait_idle(self) -> None:
        self.qtbot.waitUntil(lambda: not self.chat.is_busy, timeout=20_000)

    def texts(self) -> list[str]:
        return [m.content for m in self.chat.messages(self.chat.current_conversation)]

    def close(self) -> None:
        self.chat.close()
        self.database.close()


@pytest.fixture
def open_talk(qtbot: QtBot, tmp_path: Path) -> Iterator[Callable[..., Talk]]:
    opened: list[Talk] = []

    def open_one(model: ModelRef = MODEL) -> Talk:
        opened.append(Talk(qtbot, tmp_path / "attune.db", model))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


@pytest.fixture
def talk(open_talk: Callable[..., Talk]) -> Talk:
    opened = open_talk()
    opened.wait_ready()
    return opened


def test_a_turn_is_stored_streamed_and_knows_who_wrote_it(talk: Talk) -> None:
    shown: dict[str, str] = {}

    def collect(message_id: str, text: str) -> None:
        shown[message_id] = shown.get(message_id, "") + text

    talk.chat.text_appended.connect(collect)
    talk.ask("good morning")
    asked, answered = talk.chat.messages(talk.chat.current_conversation)
    assert asked.content == "good morning"
    assert answered.content == shown[answered.id]
    assert "good" in answered.content
    assert answered.state == "done"
    assert answered.origin is not None
    assert answered.origin.model_sha256 == MODEL.sha256
    assert talk.chat.conversations()[0].title == "good morning"


def test_reasoning_is_told_and_kept_apart_and_never_sent_again(talk: Talk) -> None:
    thought: list[str] = []
    talk.chat.reasoning_appended.connect(lambda _, text: thought.append(text))
    sent: list[Generate] = []
    generate = talk.engine.generate
    talk.engine.generate = lambda request: (sent.append(request), generate(request))[1]  # type: ignore[method-assign]
    talk.ask("!think well")
    answered = talk.chat.messages(talk.chat.current_conversation)[1]
    assert "".join(thought) == answered.reasoning.text == "Somebody says well"
    assert answered.content == "You said: well"
    assert answered.reasoning.seconds >= 0
    talk.ask("And now?")
    assert [m.content for m in sent[-1].messages[:2]] == ["!think well", "You said: well"]
    assert "Somebody" not in str(sent[-1])


def test_reasoning_outlives_a_crash_in_the_middle_of_it(talk: Talk) -> None:
    talk.chat.send("!think " + "word " * 20_000)
    talk.qtbot.waitUntil(lambda: bool(talk.chat._turn and talk.chat._turn.streams[0].thought))
    assert talk.engine.process_id is not None
    os.kill(talk.engine.process_id, signal.SIGTERM)
    talk.wait_idle()
    answered = talk.chat.messages(talk.chat.current_conversation)[1]
    assert answered.state == "interrupted"
    assert answered.content == ""
    assert answered.reasoning.text.startswith("Somebody says")


def test_regenerating_and_editing_never_delete(talk: Talk) -> None:
    talk.ask("one two three four five six")
    asked, first = talk.chat.messages(talk.chat.current_conversation)
    talk.chat.regenerate(first.id)
    talk.wait_idle()
    second = talk.chat.messages(talk.chat.current_conversation)[1]
    assert second.sibling_count == 2
    assert talk.chat.message(first.id).content == first.content
    talk.chat.show_sibling(second.id, -1)
    assert talk.chat.messages(talk.chat.current_conversation)[1].id == first.id
    talk.chat.edit(asked.id, "something else")
    talk.wait_idle()
    assert talk.texts()[0] == "something else"
    talk.chat.show_sibling(talk.chat.messages(talk.chat.current_conversation)[0].id, -1)
    # Its newest continuation is shown, and the other one is a step away.
    assert talk.texts() == ["one two three four five six", second.content]


def test_stop_keeps_the_text_and_the_next_question_works(talk: Talk) -> None:
    talk.chat.send("!long words words words")
    talk.qtbot.waitUntil(lambda: len(talk.chat._turn.streams[0].text) > 20, timeout=10_000)  # type: ignore[union-attr]
    talk.chat.stop()
    talk.wait_idle()
    answer = talk.chat.messages(talk.chat.current_conversation)[1]
    assert answer.state == "stopped"
    assert len(answer.content) > 20
    talk.ask("next")
    assert "next" in talk.texts()[-1]


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dead_engine_is_told_its_text_kept_and_it_is_started_again(
    talk: Talk, number: signal.Signals
) -> None:
    talk.chat.send("!long words words words")
    talk.qtbot.waitUntil(lambda: len(talk.chat._turn.streams[0].text) > 20, timeout=10_000)  # type: ignore[union-attr]
    assert talk.engine.process_id is not None
    os.kill(talk.engine.process_id, number)
    talk.wait_idle()
    answer = talk.chat.messages(talk.chat.current_conversation)[1]
    assert answer.state == "interrupted"
    assert len(answer.content) > 20
    assert len(talk.problems) == 1
    assert "being loaded again" in talk.problems[0]
    talk.wait_ready()
    talk.chat.regenerate(answer.id)
    talk.wait_idle()
    again = talk.chat.messages(talk.chat.current_conversation)[1]
    # Its words are more than there is room for.
    assert (again.state, again.sibling_count) == ("stopped", 2)


def test_two_crashes_while_loading_end_the_attempts(open_talk: Callable[..., Talk]) -> None:
    talk = open_talk(ModelRef("!crash", "/nowhere/bad.gguf", "cd" * 32))
    talk.qtbot.waitUntil(lambda: talk.chat.engine.state.status == "failed", timeout=20_000)
    assert sum(state.status == "loading" and state.fraction == 0.0 for state in talk.states) == 2
    assert "not loaded again by itself" in talk.problems[-1]
    talk.chat.send("hello")
    assert talk.texts() == ["hello"]  # kept, though nobody can answer
    talk.chat.engine.load(MODEL)
    talk.wait_ready()
    talk.chat.answer_again(talk.chat.messages(talk.chat.current_conversation)[0].id)
    talk.wait_idle()
    assert "hello" in talk.texts()[1]


def test_a_comparison_streams_two_siblings_and_goes_on_with_the_choice(talk: Talk) -> None:
    ready: list[PendingComparison] = []
    talk.chat.comparison_ready.connect(ready.append)
    talk.chat.send("a b c d e f g h i j k l m n", compare=True)
    talk.wait_idle()
    assert len(ready) == 1
    assert len(ready[0].message_ids) == 2
    pair = [talk.chat.message(i) for i in ready[0].message_ids]
    assert {m.sibling_count for m in pair} == {2}
    talk.chat.choose(pair[1].id)
    assert talk.chat.pending_comparison is None
    assert talk.chat.messages(talk.chat.current_conversation)[-1].id == pair[1].id
    talk.ask("go on")
    assert talk.chat.messages(talk.chat.current_conversation)[1].id == pair[1].id


def test_the_sides_of_a_comparison_are_shuffled(talk: Talk) -> None:
    orders = set()
    for number in range(12):
        talk.chat.send(f"question {number}", compare=True)
        talk.wait_idle()
        pending = talk.chat.pending_comparison
        assert pending is not None
        indices = tuple(talk.chat.message(i).sibling_index for i in pending.message_ids)
        orders.add(indices)
    assert orders == {(0, 1), (1, 0)}


def test_a_text_cut_off_by_a_crash_of_the_app_is_marked_at_the_next_start(
    open_talk: Callable[..., Talk], tmp_path: Path
) -> None:
    database = Database(tmp_path / "attune.db")
    store = ChatStore(database)
    conversation = store.create_conversation()
    asked = store.add_message(conversation.id, None, "user", "hello")
    store.add_message(conversation.id, asked.id, "assistant", "half a sen", state="partial")
    database.close()  # as kill -9 leaves it: nobody said that it ended
    talk = open_talk()
    answer = talk.chat.messages(talk.chat.current_conversation)[1]
    assert (answer.state, answer.content) == ("interrupted", "half a sen")


def test_a_completion_that_was_cut_off_goes_on_where_it_broke_off(talk: Talk) -> None:
    conversation = talk.store.create_conversation()
    asked = talk.store.add_message(conversation.id, None, "user", "one two three")
    cut = talk.store.add_message(
        conversation.id, asked.id, "assistant", "You said:", state="interrupted"
    )
    talk.chat.open_conversation(conversation.id)
    shown: list[str] = []
    talk.chat.text_appended.connect(lambda _, text: shown.append(text))
    talk.chat.go_on(cut.id)
    assert talk.chat.message(cut.id).content == "You said:"
    talk.wait_idle()
    (answer,) = talk.chat.messages(conversation.id)[1:]
    assert (answer.id, answer.state, answer.sibling_count) == (cut.id, "done", 1)
    assert answer.content == "You said:" + "".join(shown)
    assert sorted(answer.content.removeprefix("You said:").split()) == ["one", "three", "two"]


def test_what_was_answered_is_not_gone_on_with(talk: Talk) -> None:
    """What follows was written to the text as it is, and is judged with it."""
    conversation = talk.store.create_conversation()
    first = talk.store.add_message(conversation.id, None, "user", "one two three")
    cut = talk.store.add_message(
        conversation.id, first.id, "assistant", "You said:", state="stopped"
    )
    talk.store.add_message(conversation.id, cut.id, "user", "later words")
    talk.chat.open_conversation(conversation.id)
    talk.chat.go_on(cut.id)
    assert not talk.chat.is_busy
    assert talk.texts() == ["one two three", "You said:", "later words"]


def test_answers_alike_are_no_choice(talk: Talk) -> None:
    talk.chat.send("word", compare=True)
    talk.wait_idle()
    assert talk.chat.pending_comparison is None
    assert talk.texts() == ["word", "You said: word"]


def test_an_answer_that_ran_out_of_room_is_not_whole_and_goes_on(talk: Talk) -> None:
    talk.chat.sampling = replace(talk.chat.sampling, max_tokens=4)
    talk.ask("one two three four five")
    cut = talk.chat.messages(talk.chat.current_conversation)[1]
    assert (cut.state, len(cut.content.split())) == ("stopped", 4)
    talk.chat.sampling = replace(talk.chat.sampling, max_tokens=40)
    talk.chat.go_on(cut.id)
    talk.wait_idle()
    whole = talk.chat.message(cut.id)
    assert whole.state == "done"
    assert whole.content.startswith(cut.content)
    assert len(whole.content) > len(cut.content)


def test_sides_that_ran_out_of_room_are_judged_by_what_they_are(talk: Talk) -> None:
    talk.chat.sampling = replace(talk.chat.sampling, max_tokens=4)
    talk.chat.send("one two three four five", compare=True)
    talk.wait_idle()
    pending = talk.chat.pending_comparison
    assert pending is not None
    assert [talk.chat.message(i).state for i in pending.message_ids] == ["stopped"] * 2


@pytest.mark.parametrize(
    ("sides", "best"),
    [
        ([("", "stopped"), ("Half a", "stopped"), ("Whole.", "done")], 2),
        ([("", "done"), ("Half a", "interrupted")], 1),
        ([(" ", "stopped"), ("", "stopped")], 0),
        ([("One.", "done"), ("Two.", "done")], 0),
    ],
)
def test_where_there_was_no_choice_the_best_side_is_gone_on_with(
    sides: list[tuple[str, MessageState]], best: int
) -> None:
    messages = [
        StoredMessage(str(place), "c", None, "assistant", text, state, None, "now")
        for place, (text, state) in enumerate(sides)
    ]
    assert best_of(messages).id == str(best)


def test_what_the_model_saw_is_known_before_an_answer_is_judged(talk: Talk) -> None:
    """Not with the first side of a comparison already: the end of the request tells it."""
    known: list[bool] = []

    def look(message_id: str) -> None:
        message = talk.chat.message(message_id)
        if message.state == "done":
            known.append(message.origin is not None)

    talk.chat.message_changed.connect(look)
    talk.chat.send("one two three", compare=True)
    talk.wait_idle()
    assert known == [False, False, True, True]


def test_a_completion_remembers_the_system_prompt_it_was_written_under(talk: Talk) -> None:
    feedback_store = FeedbackStore(talk.database)
    feedback = FeedbackService(talk.store, feedback_store)
    talk.chat.system_prompt = "Be brief."
    talk.ask("hello")
    answer = talk.chat.messages(talk.chat.current_conversation)[1]
    feedback.system_prompt = "Be long."  # changed in the settings before the thumb
    feedback.rate(answer.id, True)
    (record,) = feedback_store.standing()
    assert record.prompt == (Message("system", "Be brief."), Message("user", "hello"))


def test_deleting_a_conversation_can_be_undone(talk: Talk) -> None:
    talk.ask("keep me")
    conversation = talk.chat.current_conversation
    talk.chat.delete_conversation(conversation)
    assert talk.chat.current_conversation != conversation
    talk.chat.restore_conversation(conversation)
    assert talk.chat.current_conversation == conversation
    assert talk.texts()[0] == "keep me"


def test_undoing_a_deletion_leaves_an_answer_that_is_written_alone(talk: Talk) -> None:
    talk.ask("keep me")
    deleted = talk.chat.current_conversation
    talk.chat.delete_conversation(deleted)
    talk.chat.send("!long words words words")
    talk.chat.restore_conversation(deleted)
    assert talk.chat.current_conversation != deleted
    assert talk.chat._turn is not None
    assert not talk.chat._turn.is_stopping
    assert deleted in [conversation.id for conversation in talk.chat.conversations()]
    talk.chat.stop()
    talk.wait_idle()


def test_what_was_deleted_while_it_was_written_is_shown_again(talk: Talk) -> None:
    talk.chat.send("!long words words words")
    deleted = talk.chat.current_conversation
    talk.chat.delete_conversation(deleted)
    talk.chat.restore_conversation(deleted)  # its answer is only just ending
    assert talk.chat.current_conversation == deleted
    talk.wait_idle()


def test_what_was_deleted_beside_the_open_one_comes_back_beside_it(talk: Talk) -> None:
    talk.ask("one")
    beside = talk.chat.current_conversation
    shown = talk.chat.new_conversation()
    talk.chat.delete_conversation(beside)
    talk.chat.restore_conversation(beside)
    assert talk.chat.current_conversation == shown


def test_an_unexpected_failure_of_one_request_leaves_the_engine_alive(talk: Talk) -> None:
    talk.chat.send("please !fail now")
    talk.wait_idle()
    assert len(talk.problems) == 1
    assert talk.chat.messages(talk.chat.current_conversation)[1].state == "interrupted"
    talk.ask("and now")
    assert "now" in talk.texts()[-1]


def test_where_nothing_can_be_written_the_turn_ends_and_the_answer_is_kept_for_later(
    talk: Talk,
) -> None:
    talk.chat.send("tell me everything")
    talk.database.connection.execute("PRAGMA query_only = ON")
    talk.wait_idle()
    assert talk.problems
    assert all("could not be saved" in problem for problem in talk.problems)
    answer = talk.chat.messages(talk.chat.current_conversation)[-1]
    assert answer.content.startswith("You said")
    assert answer.state == "done"
    assert answer.origin is None  # so it cannot be judged yet
    on_disk = talk.store.message(answer.id)
    assert len(on_disk.content) < len(answer.content)
    talk.database.connection.execute("PRAGMA query_only = OFF")
    with talk.qtbot.waitSignal(talk.chat.message_changed, timeout=10_000):
        pass
    assert talk.store.message(answer.id).content == answer.content
    assert talk.chat.message(answer.id).origin is not None


def test_what_the_disk_did_not_take_is_gone_on_with_and_sent(talk: Talk) -> None:
    talk.ask("tell me everything")
    answer = talk.chat.messages(talk.chat.current_conversation)[-1]
    longer = Streaming(answer.id, text=answer.content + " and more")
    talk.database.connection.execute("PRAGMA query_only = ON")
    talk.chat._keeper.keep(longer, "stopped")
    talk.database.connection.execute("PRAGMA query_only = OFF")
    talk.chat.go_on(answer.id)
    talk.wait_idle()
    assert talk.store.message(answer.id).content.startswith(answer.content + " and more")


def test_an_answer_the_disk_did_not_take_is_tried_again_on_leaving(
    open_talk: Callable[..., Talk],
) -> None:
    talk = open_talk()
    talk.wait_ready()
    talk.chat.send("tell me everything")
    talk.database.connection.execute("PRAGMA query_only = ON")
    talk.wait_idle()
    answer = talk.chat.messages(talk.chat.current_conversation)[-1]
    assert talk.store.message(answer.id).content != answer.content
    talk.database.connection.execute("PRAGMA query_only = OFF")
    talk.chat.close()
    assert talk.store.message(answer.id).content == answer.content


def test_a_title_of_ones_own_stays(talk: Talk) -> None:
    talk.chat.rename_conversation(talk.chat.current_conversation, "My own title")
    talk.ask("hello world")
    assert talk.store.conversation(talk.chat.current_conversation).title == "My own title"
