"""Conversations as trees, feedback that can be taken back, snapshots."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from desktop_app.storage.chat_store import NO_REASONING, ChatStore, Reasoning
from desktop_app.storage.database import Database, now
from desktop_app.storage.feedback_store import FeedbackStore
from finetune.contract.chat_template import Message
from finetune.contract.records import (
    Comparison,
    Completion,
    Demonstration,
    Origin,
    Rating,
    read_records,
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "attune.db")
    yield opened
    opened.close()


@pytest.fixture
def chats(database: Database) -> ChatStore:
    return ChatStore(database)


@pytest.fixture
def feedback(database: Database) -> FeedbackStore:
    return FeedbackStore(database)


ORIGIN = Origin("base", "ab" * 32, None, 0.0, "cd" * 32, {"seed": 7})


def rating(record_id: str, conversation_id: str, liked: bool = True) -> Rating:
    prompt = (Message("user", "hello"),)
    return Rating(record_id, conversation_id, prompt, Completion("hi", ORIGIN), liked, now())


def test_regenerating_makes_a_sibling_and_keeps_the_old_text(chats: ChatStore) -> None:
    conversation = chats.create_conversation()
    asked = chats.add_message(conversation.id, None, "user", "hello")
    first = chats.add_message(conversation.id, asked.id, "assistant", "one", origin=ORIGIN)
    second = chats.add_message(conversation.id, asked.id, "assistant", "two")
    path = chats.path(conversation.id)
    assert [m.content for m in path] == ["hello", "two"]
    assert (path[1].sibling_index, path[1].sibling_count) == (1, 2)
    assert [m.id for m in chats.siblings(second.id)] == [first.id, second.id]
    assert chats.message(first.id).origin == ORIGIN


def test_going_back_to_a_sibling_shows_its_newest_continuation(chats: ChatStore) -> None:
    conversation = chats.create_conversation()
    asked = chats.add_message(conversation.id, None, "user", "a")
    one = chats.add_message(conversation.id, asked.id, "assistant", "b1")
    chats.add_message(conversation.id, one.id, "user", "c1")
    newest = chats.add_message(conversation.id, one.id, "user", "c2")
    chats.add_message(conversation.id, asked.id, "assistant", "b2")
    chats.set_current(conversation.id, one.id)
    assert [m.content for m in chats.path(conversation.id)] == ["a", "b1", "c2"]
    assert chats.conversation(conversation.id).current_message_id == newest.id


def test_steps_in_a_conversation_do_not_look_through_all_messages(
    chats: ChatStore, database: Database
) -> None:
    conversation = chats.create_conversation()
    asked = chats.add_message(conversation.id, None, "user", "a")
    answered = chats.add_message(conversation.id, asked.id, "assistant", "b")
    statements: list[str] = []
    database.connection.set_trace_callback(statements.append)
    assert chats.is_answered(asked.id)
    assert not chats.is_answered(answered.id)
    chats.set_current(conversation.id, asked.id)
    chats.path(conversation.id)
    chats.siblings(answered.id)
    database.connection.set_trace_callback(None)
    read = [text for text in statements if "messages" in text]
    assert len(read) > 4
    for statement in read:
        plan = database.connection.execute(f"EXPLAIN QUERY PLAN {statement}").fetchall()
        steps = [row["detail"] for row in plan]
        assert not [
            step for step in steps if step.split()[:2] in (["SCAN", "m"], ["SCAN", "messages"])
        ]


def test_the_trash_gives_back_and_hides(chats: ChatStore) -> None:
    conversation = chats.create_conversation()
    chats.add_message(conversation.id, None, "user", "find this needle")
    chats.delete(conversation.id)
    assert chats.conversations() == []
    assert chats.search("needle") == []
    chats.restore(conversation.id)
    assert [c.id for c in chats.conversations()] == [conversation.id]


@pytest.mark.parametrize("text", ["비빔밥", "밥", "dinner", "to", '"quoted', "50%"])
def test_search_finds_words_parts_and_odd_characters(chats: ChatStore, text: str) -> None:
    conversation = chats.create_conversation()
    asked = chats.add_message(
        conversation.id, None, "user", '저녁은 전주비빔밥으로 할까? dinner today "quoted" 50% off'
    )
    chats.add_message(conversation.id, asked.id, "assistant", "something else")
    assert [hit.message_id for hit in chats.search(text)] == [asked.id]


def test_search_takes_letters_in_parts_and_odd_ends(chats: ChatStore) -> None:
    conversation = chats.create_conversation()
    asked = chats.add_message(conversation.id, None, "user", "오늘 저녁 뭐 먹지")
    apart = unicodedata.normalize("NFD", "저녁 뭐")
    assert [hit.message_id for hit in chats.search(apart)] == [asked.id]
    assert [hit.message_id for hit in chats.search("저녁\0")] == [asked.id]


def test_search_follows_a_changed_message(chats: ChatStore) -> None:
    conversation = chats.create_conversation()
    message = chats.add_message(conversation.id, None, "assistant", "early", state="partial")
    chats.update_message(message.id, "finished", "done", ORIGIN)
    assert chats.search("early") == []
    assert [hit.message_id for hit in chats.search("finished")] == [message.id]


def test_reasoning_is_kept_beside_the_answer_and_not_searched(chats: ChatStore) -> None:
    conversation = chats.create_conversation()
    message = chats.add_message(conversation.id, None, "assistant", "", state="partial")
    assert message.reasoning == NO_REASONING
    thought = Reasoning("ponder this", 2.5)
    chats.update_message(message.id, "answer", "done", ORIGIN, thought)
    assert chats.message(message.id).reasoning == thought
    assert chats.path(conversation.id)[0].content == "answer"
    assert chats.search("ponder") == []


def test_a_partial_message_is_marked_at_the_next_start(chats: ChatStore) -> None:
    conversation = chats.create_conversation()
    message = chats.add_message(conversation.id, None, "assistant", "half", state="partial")
    assert chats.mark_interrupted() == 1
    assert chats.message(message.id).state == "interrupted"
    assert chats.message(message.id).content == "half"


def test_a_withdrawn_rating_no_longer_counts_and_can_come_back(
    chats: ChatStore, feedback: FeedbackStore
) -> None:
    conversation = chats.create_conversation()
    message = chats.add_message(conversation.id, None, "assistant", "hi")
    feedback.add(message.id, rating("r1", conversation.id))
    assert feedback.of_message(message.id).rating is not None
    feedback.withdraw(["r1"])
    assert feedback.standing() == []
    assert feedback.of_message(message.id).rating is None
    feedback.withdraw([], ["r1"])
    assert [record.id for record in feedback.standing()] == ["r1"]


def test_feedback_of_a_deleted_conversation_leaves_the_next_run(
    chats: ChatStore, feedback: FeedbackStore
) -> None:
    conversation = chats.create_conversation()
    message = chats.add_message(conversation.id, None, "assistant", "hi")
    feedback.add(message.id, rating("r1", conversation.id))
    chats.delete(conversation.id)
    assert feedback.standing() == []
    chats.restore(conversation.id)
    assert len(feedback.standing()) == 1


def test_a_snapshot_holds_exactly_what_stands(
    chats: ChatStore, feedback: FeedbackStore, tmp_path: Path
) -> None:
    conversation = chats.create_conversation()
    message = chats.add_message(conversation.id, None, "assistant", "hi")
    prompt = (Message("system", "Be kind."), Message("user", "안녕 👋🏽"))
    records = [
        rating("r1", conversation.id),
        rating("r2", conversation.id, liked=False),
        Comparison(
            "c1", conversation.id, prompt, (Completion("a", ORIGIN), Completion("b", ORIGIN)),
            (1, 0), "ordered", now(),
        ),
        Demonstration("d1", conversation.id, prompt, Completion("mine"), Completion("its"), now()),
    ]  # fmt: skip
    for record in records:
        feedback.add(message.id, record)
    feedback.withdraw(["r2"])
    assert feedback.write_snapshot(tmp_path / "snapshot") == 3
    read, bad = read_records(sorted((tmp_path / "snapshot").glob("*.jsonl")))
    assert bad == []
    assert sorted(read, key=lambda r: r.id) == sorted(
        [r for r in records if r.id != "r2"], key=lambda r: r.id
    )
