"""What the window says of the context and of models that are loaded, refused or given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from desktop_app.inference.engine import MemoryNeed, ModelReady, ModelRef
from desktop_app.services.conversation_context import ContextUse
from desktop_app.settings import Settings
from desktop_app.ui.context_mark import ContextMarkRow
from desktop_app.ui.notices import Notice
from tests.desktop_app.ui.home import Home

BIG = ModelRef("!big", "/nowhere/big.gguf", "bb")
SLOW = ModelRef("!slow", "/nowhere/slow.gguf", "cc")
MIB = 1 << 20


def press(notice: Notice | None, words: str) -> None:
    assert notice is not None
    next(b for b in notice.findChildren(QPushButton) if b.text() == words).click()


def texts(notice: Notice | None) -> str:
    assert notice is not None
    return notice.accessibleName()


# --- the meter and the menu ---


def test_the_meter_says_what_is_used_kept_and_free(qtbot: QtBot, home: Home) -> None:
    meter = home.window.header.meter
    meter.set_context(ContextUse(1234, 512, 8192, 0))
    expected = "Of 8,192 tokens, 1,234 are used, 512 are kept for the answer and 6,446 are free."
    assert meter.toolTip() == meter.accessibleDescription() == expected
    assert meter.accessibleName() == "Context"
    meter.set_context(ContextUse(7000, 512, 8192, 4))
    assert meter.toolTip().endswith("4 earlier messages no longer fit.")
    home.language.set("ko")
    qtbot.waitUntil(lambda: "512개는 답변용" in meter.toolTip())


def test_the_meter_follows_the_conversation(qtbot: QtBot, home: Home) -> None:
    home.ask("hello there")
    meter = home.window.header.meter
    assert "0 are used" not in meter.toolTip()
    home.window.new_conversation()
    assert " 0 are used" in meter.toolTip()


def test_what_happens_to_long_conversations_is_chosen_for_each(qtbot: QtBot, home: Home) -> None:
    home.ask("hello")
    first = home.chat.current_conversation
    actions = home.window.header.overflow_actions
    assert actions["drop"].isChecked()
    actions["summarise"].trigger()
    assert home.store.conversation(first).overflow == "summarise"
    home.window.new_conversation()
    assert actions["drop"].isChecked()
    home.chat.open_conversation(first)
    assert actions["summarise"].isChecked()


# --- the mark ---


def mark_rows(home: Home) -> list[ContextMarkRow]:
    rows = home.window.view.list.rows()
    return [row for row in rows if isinstance(row, ContextMarkRow)]


def show_again(home: Home) -> None:
    home.chat.path_changed.emit(home.chat.current_conversation)


def test_a_mark_stands_where_what_the_model_sees_begins(qtbot: QtBot, home: Home) -> None:
    for text in ("one", "two", "three"):
        home.ask(text)
    conversation = home.chat.current_conversation
    path = home.chat.messages(conversation)
    assert mark_rows(home) == []
    home.store.set_context(conversation, 100, path[2].id)
    show_again(home)
    (row,) = mark_rows(home)
    assert row.accessibleName() == "The model no longer sees the 2 messages above."
    below = home.window.view.list.row(path[2].id)
    assert below is not None
    assert row.geometry().bottom() <= below.geometry().top()
    home.language.set("ko")
    korean = "모델은 이제 위의 메시지 2개를 보지 못해요."
    qtbot.waitUntil(lambda: row.accessibleName() == korean)


def test_a_summary_is_shown_with_the_mark_as_plain_text(qtbot: QtBot, home: Home) -> None:
    for text in ("one", "two", "three"):
        home.ask(text)
    conversation = home.chat.current_conversation
    path = home.chat.messages(conversation)
    home.store.set_overflow(conversation, "summarise")
    home.store.set_summary(conversation, "You said <b>one</b> and two.", path[3].id)
    home.store.set_context(conversation, 100, path[4].id)
    show_again(home)
    (row,) = mark_rows(home)
    assert row.summary.isVisible()
    assert row.summary.text() == "You said <b>one</b> and two."
    assert row.summary.geometry().top() >= row.sentence.geometry().bottom()
    assert row.accessibleName().startswith("The model reads this summary of the messages above:")


def test_summarising_is_said_at_the_answer(qtbot: QtBot, home: Home) -> None:
    home.engine.is_held = True
    home.chat.send("hello")
    home.chat.summarising_changed.emit(True)
    card = home.window.view.list.row(home.chat.messages(home.chat.current_conversation)[-1].id)
    assert card.indicator.accessibleName() == "Summarising earlier messages…"  # type: ignore[union-attr]
    home.chat.prompt_progress.emit(30, 100)
    home.chat.summarising_changed.emit(False)
    assert card.indicator.accessibleName() == "Reading your message… 30 %"  # type: ignore[union-attr]


# --- loading ---


def test_a_load_that_takes_long_can_be_cancelled(qtbot: QtBot, home: Home) -> None:
    status = home.window.header.status
    assert not status.cancel.isVisible()
    home.chat.engine.load(SLOW)
    qtbot.waitUntil(status.cancel.isVisible)
    assert status.cancel.accessibleName() == "Stop loading the model"
    assert status.text() == "Loading the model… 50 %"
    status.cancel.click()
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "ready")
    assert not status.cancel.isVisible()
    notice = home.window.notices.notice("engine")
    assert texts(notice) == "Loading was stopped. The model before is used instead."
    assert home.window.composer.send.isEnabled() == bool(home.window.composer.text())


def test_a_short_load_shows_no_button(qtbot: QtBot, home: Home) -> None:
    home.chat.engine.restart()
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "ready")
    assert not home.window.header.status.cancel.isVisible()
    assert not home.window.header.status._patience.isActive()


def test_what_does_not_fit_is_told_and_can_be_loaded_anyway(qtbot: QtBot, home: Home) -> None:
    home.chat.engine.load(BIG)
    qtbot.waitUntil(lambda: home.window.notices.notice("engine") is not None)
    notice = home.window.notices.notice("engine")
    assert texts(notice) == "The fake model is too big. The model before is used instead."
    press(notice, "Load anyway")
    qtbot.waitUntil(lambda: home.chat.engine.model == BIG)
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "ready")
    assert home.window.notices.notice("engine") is None


def test_a_model_that_crashed_twice_offers_the_bundled_one(qtbot: QtBot, home: Home) -> None:
    engine = home.chat.engine
    engine._last_ready = None  # as after a start at which nothing was loaded yet
    for _ in range(2):
        engine._loads.crash("bb")
    engine.load(BIG)
    notice = home.window.notices.notice("engine")
    assert "has ended the engine twice" in texts(notice)
    assert "It is not loaded by itself any more." in texts(notice)
    assert home.window.header.status.text() == "The model is not running"
    press(notice, "Use the bundled model")
    qtbot.waitUntil(lambda: engine.state.status == "ready")
    assert engine.model == home.models.active()
    assert home.window.notices.notice("engine") is None


def test_try_again_loads_what_has_crashed(qtbot: QtBot, home: Home) -> None:
    engine = home.chat.engine
    model = replace(BIG, version_id="fine now")
    engine._last_ready = None
    for _ in range(2):
        engine._loads.crash("bb")
    engine.load(model)
    press(home.window.notices.notice("engine"), "Try again")
    qtbot.waitUntil(lambda: engine.state.status == "ready")
    assert engine.model == model


def test_a_file_that_is_checked_first_says_so(qtbot: QtBot, home: Home) -> None:
    home.chat.engine.show_check(0.42)
    assert home.window.header.status.text() == "Checking the model's file… 42 %"
    assert not home.window.composer.send.isEnabled()
    qtbot.waitUntil(home.window.header.status.cancel.isVisible)
    with qtbot.waitSignal(home.chat.engine.check_cancelled):
        home.window.header.status.cancel.click()


def test_the_memory_a_model_takes_is_shown_as_a_sum(qtbot: QtBot, home: Home) -> None:
    need = MemoryNeed(500 * MIB, 120 * MIB, 80 * MIB, 4 * MIB)
    home.chat.engine.receive(ModelReady("base", "Fake", 8192, "chatml", 0.0, need))
    label = home.window.header.status._words
    wanted = "It takes about 704 MB of memory: weights 500 + context 120 + work space 84."
    qtbot.waitUntil(lambda: label.toolTip() == wanted)
    assert label.accessibleDescription() == wanted


def test_the_sentence_of_the_sum_is_korean_too(
    qtbot: QtBot, open_home: Callable[..., Home]
) -> None:
    home = open_home(settings=Settings(language="ko"))
    home.chat.engine.load(BIG)
    qtbot.waitUntil(lambda: home.window.notices.notice("engine") is not None)
    notice = home.window.notices.notice("engine")
    assert notice is not None
    assert {b.text() for b in notice.findChildren(QPushButton)} == {"그래도 불러오기"}
