"""Ratings, corrections and comparisons as records, and taking them back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from desktop_app.errors import UserError
from desktop_app.services.feedback_service import FeedbackService, UndoOffer, count
from desktop_app.storage.chat_store import ChatStore, StoredMessage
from desktop_app.storage.database import Database
from desktop_app.storage.feedback_store import FeedbackStore
from finetune.contract.chat_template import CHATML, Message
from finetune.contract.recipe import Recipe
from finetune.contract.records import (
    Comparison,
    Completion,
    Demonstration,
    Origin,
    Rating,
    Record,
    Verdict,
)
from finetune.data import Encoder, build_dataset
from finetune.vocabulary import GgufVocabulary
from tests import tiny_models

ORIGIN = Origin("base", "ab" * 32, "cd" * 32, 0.5, "ef" * 32, {"seed": 7, "temperature": 0.8})


class Desk:
    """A service with one conversation: a question and two sibling completions."""

    def __init__(self, path: Path) -> None:
        self.database = Database(path)
        self.chats = ChatStore(self.database)
        self.store = FeedbackStore(self.database)
        self.service = FeedbackService(self.chats, self.store, system_prompt="Be kind.")
        conversation = self.chats.create_conversation().id
        first = self.chats.add_message(conversation, None, "user", "hello")
        reply = self.chats.add_message(conversation, first.id, "assistant", "hi", origin=ORIGIN)
        asked = self.chats.add_message(conversation, reply.id, "user", "and now?")
        self.one = self.answer(asked, "one")
        self.two = self.answer(asked, "two")

    def answer(self, asked: StoredMessage, text: str) -> StoredMessage:
        return self.chats.add_message(
            asked.conversation_id, asked.id, "assistant", text, origin=ORIGIN
        )


@pytest.fixture
def desk(qtbot: QtBot, tmp_path: Path) -> Iterator[Desk]:
    opened = Desk(tmp_path / "attune.db")
    yield opened
    opened.database.close()


PROMPT = (
    Message("system", "Be kind."),
    Message("user", "hello"),
    Message("assistant", "hi"),
    Message("user", "and now?"),
)


def test_a_rating_holds_the_prompt_the_text_and_who_wrote_it(desk: Desk) -> None:
    desk.service.rate(desk.one.id, True)
    (record,) = desk.store.standing()
    assert isinstance(record, Rating)
    assert record.prompt == PROMPT
    assert record.completion == Completion("one", ORIGIN)
    assert record.liked


def test_changing_a_thumb_replaces_it_and_undo_brings_the_old_one_back(desk: Desk) -> None:
    offers: list[UndoOffer | None] = []
    desk.service.undo_changed.connect(offers.append)
    desk.service.rate(desk.one.id, True)
    desk.service.rate(desk.one.id, False)
    assert [r.liked for r in desk.store.standing() if isinstance(r, Rating)] == [False]
    desk.service.undo()
    assert [r.liked for r in desk.store.standing() if isinstance(r, Rating)] == [True]
    assert offers[-1] is None
    desk.service.undo()  # nothing more to take back
    assert len(desk.store.standing()) == 1


def test_taking_a_thumb_away_can_be_undone(desk: Desk) -> None:
    desk.service.rate(desk.one.id, False)
    desk.service.rate(desk.one.id, None)
    assert desk.store.standing() == []
    desk.service.undo()
    assert len(desk.store.standing()) == 1


def test_a_correction_keeps_both_texts(desk: Desk) -> None:
    desk.service.correct(desk.one.id, "  ONE!  ")
    (record,) = desk.store.standing()
    assert isinstance(record, Demonstration)
    assert record.completion == Completion("ONE!", None)
    assert record.corrects == Completion("one", ORIGIN)
    desk.service.correct(desk.one.id, "uno")
    assert [r.completion.text for r in desk.store.standing()] == ["uno"]  # type: ignore[union-attr]


def test_an_unchanged_or_empty_correction_is_none(desk: Desk) -> None:
    desk.service.correct(desk.one.id, "one ")
    desk.service.correct(desk.one.id, "   ")
    assert desk.store.standing() == []


def test_the_text_as_it_was_takes_the_correction_back(desk: Desk) -> None:
    offers: list[UndoOffer | None] = []
    changed: list[str] = []
    desk.service.undo_changed.connect(offers.append)
    desk.service.message_changed.connect(changed.append)
    desk.service.correct(desk.one.id, "ONE!")
    desk.service.correct(desk.one.id, " one\n")
    assert desk.store.standing() == []
    assert offers[-1] == UndoOffer("correction_cleared", desk.one.id)
    assert changed == [desk.one.id, desk.one.id]
    desk.service.undo()
    (record,) = desk.store.standing()
    assert isinstance(record, Demonstration)
    assert record.completion.text == "ONE!"


@pytest.mark.parametrize(
    ("chosen", "verdict", "ranks"),
    [(0, "ordered", (0, 1)), (1, "ordered", (1, 0)), (None, "all_good", (0, 0))],
)
def test_a_comparison_keeps_the_order(
    desk: Desk, chosen: int | None, verdict: str, ranks: tuple[int, int]
) -> None:
    ids = (desk.one.id, desk.two.id)
    desk.service.compare(ids, None if chosen is None else ids[chosen], verdict)  # type: ignore[arg-type]
    (record,) = desk.store.standing()
    assert isinstance(record, Comparison)
    assert [c.text for c in record.completions] == ["one", "two"]
    assert (record.ranks, record.verdict) == (ranks, verdict)
    assert record.prompt == PROMPT


def test_what_is_collected_is_counted_and_says_what_is_wanted(desk: Desk) -> None:
    desk.service.rate(desk.one.id, True)
    desk.service.rate(desk.two.id, False)
    desk.service.compare((desk.one.id, desk.two.id), desk.one.id, "ordered")
    desk.service.correct(desk.two.id, "better")
    now = desk.service.collected()
    assert (now.liked, now.disliked, now.comparisons, now.corrections) == (1, 1, 1, 1)
    assert (now.demonstrations, now.preferences, now.total) == (2, 4, 4)  # liked and chosen: one
    assert not now.is_enough_for_sft
    assert not now.is_enough_for_reward


def test_thumbs_of_one_kind_are_no_judgements_that_show_a_taste(desk: Desk) -> None:
    desk.service.rate(desk.one.id, True)
    desk.service.rate(desk.two.id, True)
    assert desk.service.collected().preferences == 0
    assert desk.service.collected().is_one_sided
    desk.service.rate(desk.two.id, False)
    assert desk.service.collected().preferences == 3  # two thumbs, and one over the other
    assert not desk.service.collected().is_one_sided


def test_the_persons_own_prompts_are_listed_with_their_history(desk: Desk) -> None:
    prompts = [prompt for _, _, prompt in desk.service.prompts()]
    assert prompts == [PROMPT[:2], PROMPT]


def test_a_judgement_that_finds_no_room_leaves_the_one_before(desk: Desk) -> None:
    desk.service.rate(desk.one.id, True)
    desk.service.correct(desk.two.id, "better")
    connection = desk.database.connection
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages}")

    def rate_until_there_is_no_room() -> None:
        for number in range(200):
            desk.service.rate(desk.one.id, number % 2 == 1)

    with pytest.raises(UserError):
        rate_until_there_is_no_room()
    with pytest.raises(UserError):
        desk.service.correct(desk.two.id, "much better " * 2000)
    assert desk.service.of_message(desk.one.id).rating is not None
    standing = desk.service.of_message(desk.two.id).correction
    assert standing is not None
    assert standing.completion.text == "better"


def test_what_says_the_same_twice_counts_once(desk: Desk) -> None:
    desk.service.compare((desk.one.id, desk.two.id), desk.one.id, "ordered")
    desk.service.compare((desk.one.id, desk.two.id), desk.one.id, "ordered")
    alike = desk.answer(desk.chats.message(desk.one.parent_id or ""), "one")
    desk.service.compare((desk.one.id, alike.id), alike.id, "ordered")
    now = desk.service.collected()
    assert (now.comparisons, now.demonstrations, now.preferences) == (3, 1, 1)


# --- counting as the trainer does ---


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    model = tiny_models.write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")
    return Encoder(GgufVocabulary(model, CHATML), None, 256)


def said(number: int, *texts: str, by: Verdict | bool | None, prompt: str = "Why?") -> Record:
    """A comparison, a thumb, or (None) the first text instead of the second."""
    record_id, conversation, time = f"r{number}", f"c{number}", f"{number:03d}"
    messages = (Message("user", prompt),)
    first, *others = completions = [Completion(text) for text in texts]
    if by is None:
        corrects = others[0] if others else None
        return Demonstration(record_id, conversation, messages, first, corrects, time)
    if isinstance(by, bool):
        return Rating(record_id, conversation, messages, first, by, time)
    ranks = tuple(range(len(texts))) if by == "ordered" else (0,) * len(texts)
    return Comparison(record_id, conversation, messages, tuple(completions), ranks, by, time)


def counts(records: list[Record]) -> tuple[int, int]:
    collected = count(records, Recipe())
    return collected.demonstrations, collected.preferences


def trained_on(records: list[Record], encoder: Encoder) -> tuple[int, int]:
    data = build_dataset(
        records, encoder, held_out_fraction=0.0, rating_weight=0.5, completion_room=16
    )
    return data.demonstration_count, data.preference_count


@pytest.mark.parametrize(
    ("records", "wanted"),
    [
        ([said(0, "a", "b", by="ordered"), said(1, "b", "a", by="ordered")], (1, 1)),
        ([said(1, "b", "a", by="ordered"), said(0, "a", "b", by="ordered")], (1, 1)),
        ([said(0, "a", "b", by="ordered"), said(1, "b", "a", by=None)], (1, 1)),
        ([said(0, "a", by=False), said(1, "a", "b", by="ordered")], (0, 1)),
        ([said(0, "a", by=True), said(1, "a", "b", by="all_bad")], (0, 0)),
        ([said(0, "a", "b", by="all_good")], (2, 0)),
        ([said(0, "a", "b", by="all_good"), said(1, "c", by=False)], (2, 5)),
        ([said(0, "a", by=True), said(1, "a", by=False), said(2, "b", by=True)], (1, 3)),
        ([said(0, "", by=True), said(1, "a", "", by=None)], (1, 1)),
        ([said(0, "a", "b", "a", by="ordered")], (1, 2)),
    ],
)
def test_what_contradicts_itself_counts_as_the_trainer_counts_it(
    records: list[Record], wanted: tuple[int, int], encoder: Encoder
) -> None:
    assert trained_on(records, encoder) == wanted
    assert counts(records) == wanted


@pytest.mark.parametrize("seed", range(20))
def test_any_feedback_counts_as_the_trainer_counts_it(seed: int, encoder: Encoder) -> None:
    chance = random.Random(seed)
    judgements: list[Verdict | bool | None] = [True, False, "ordered", "all_good", "all_bad", None]
    records = [
        said(
            number,
            *chance.choices("abcd", k=chance.choice([2, 3])),
            by=chance.choice([*judgements, "ordered", "ordered"]),
            prompt=chance.choice(["Why?", "How?"]),
        )
        for number in range(30)
    ]
    chance.shuffle(records)
    assert counts(records) == trained_on(records, encoder)
