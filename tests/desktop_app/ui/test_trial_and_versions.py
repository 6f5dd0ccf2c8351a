"""The blind comparison and the versions: keys, score, activating, going back, removing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PySide6.QtCore import QCoreApplication, QEvent, Qt
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent, QKeyEvent
from pytestqt.qtbot import QtBot

from desktop_app.inference.engine import Event, RequestDone
from desktop_app.services.learning_service import TrialQuestion
from desktop_app.ui.trial_view import TrialView
from desktop_app.ui.versions_panel import VersionsPanel
from finetune.contract.chat_template import Message
from finetune.contract.records import Comparison, Completion
from tests.desktop_app.ui.home import Home


@pytest.fixture
def trained(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a new version on offer."""
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0")
    home.like(6)
    home.learning.start()
    home.qtbot.waitUntil(lambda: home.learning.state == "offered", timeout=20_000)
    return home


def begin(home: Home) -> TrialView:
    home.window.panel.learning_page.offer.compare.click()
    trial = home.window.trial
    assert home.window.pages.currentWidget() is trial
    assert trial.pages.currentWidget() is trial.loading_page
    return trial


def wait_question(home: Home) -> None:
    trial = home.window.trial
    home.qtbot.waitUntil(lambda: trial.pages.currentWidget() is not trial.loading_page)


def new_side(trial: TrialView) -> int:
    """Which side the new version wrote: the fake engine answers differently with an adapter."""
    return next(i for i, t in enumerate(trial.texts) if t.toPlainText().startswith("You like"))


def notice_of(home: Home) -> str:
    """What is told on the trial's own page, where the person looks."""
    notice = home.window.trial.notices.notice("problem")
    assert notice is not None
    home.qtbot.waitUntil(notice.isVisible)
    return notice.accessibleName()


def test_both_sides_are_written_by_different_versions(trained: Home) -> None:
    trial = begin(trained)
    wait_question(trained)
    assert trial.texts[0].toPlainText() != trial.texts[1].toPlainText()
    assert {t.toPlainText().split(":")[0] for t in trial.texts} == {"You said", "You like to say"}


def test_five_questions_by_key_then_the_score_and_the_new_version(
    qtbot: QtBot, trained: Home
) -> None:
    trial = begin(trained)
    kept = len(trained.feedback_store.standing())
    for number in range(1, 6):
        wait_question(trained)
        assert trial.place.text() == f"{number} of 5"
        assert trial.prompt.toPlainText().startswith("Question")
        key = (Qt.Key.Key_1, Qt.Key.Key_2)[new_side(trial)]
        qtbot.keyClick(trial, {4: Qt.Key.Key_Equal, 5: Qt.Key.Key_0}.get(number, key))
    qtbot.waitUntil(lambda: trial.pages.currentWidget() is trial.result_page)
    old, new = (version.name for version in trained.learning.versions())
    assert trial.result_title.text() == "You preferred “Personal model 1”"
    assert trial.result_text.text() == f"“{new}”: 3. “{old}”: 0. No difference: 2."
    assert trial.use_new.text() == "Use “Personal model 1”"
    assert trial.keep.text() == f"Keep “{old}”"
    given = trained.feedback_store.standing()[kept:]
    assert [r.verdict for r in given if isinstance(r, Comparison)] == [
        "ordered", "ordered", "ordered", "all_good", "all_bad",
    ]  # fmt: skip
    trial.use_new.click()
    assert trained.learning.active_version() == trained.learning.versions()[1].version_id
    assert trained.learning.state == "idle"
    assert trained.window.pages.currentIndex() == 0


def test_keys_work_with_the_focus_in_a_text(qtbot: QtBot, trained: Home) -> None:
    trial = begin(trained)
    wait_question(trained)
    qtbot.keyClick(trial.texts[0], Qt.Key.Key_2)
    assert trial.pages.currentWidget() is trial.loading_page


def test_the_model_before_is_not_called_a_new_version(trained: Home) -> None:
    bundled, new = trained.learning.versions()
    trained.learning.activate(new.version_id)
    trained.qtbot.waitUntil(lambda: trained.chat.engine.state.status == "ready")
    trial = trained.window.trial
    panel_of(trained).cards[1].compare.click()
    for _ in range(5):
        wait_question(trained)
        trial.answer(new_side(trial), "ordered")
    trained.qtbot.waitUntil(lambda: trial.pages.currentWidget() is trial.result_page)
    assert trial.result_title.text() == f"You preferred “{new.name}”"
    assert trial.use_new.text() == f"Use “{bundled.name}”"
    assert trial.keep.text() == f"Keep “{new.name}”"
    assert trained.window.focusWidget() is trial.keep


def test_where_all_are_bad_nothing_is_called_good(trained: Home) -> None:
    trial = begin(trained)
    for _ in range(5):
        wait_question(trained)
        trial.answer(None, "all_bad")
    trained.qtbot.waitUntil(lambda: trial.pages.currentWidget() is trial.result_page)
    assert trial.result_title.text() == "You found no difference"


def test_a_long_name_fits_on_the_buttons(trained: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "A model with a very long name " * 3
    named = [replace(version, name=name) for version in trained.learning.versions()]
    monkeypatch.setattr(trained.learning, "versions", lambda: named)
    trial = begin(trained)
    for _ in range(5):
        wait_question(trained)
        trial.answer(0, "ordered")
    trained.qtbot.waitUntil(lambda: trial.pages.currentWidget() is trial.result_page)
    for button in (trial.use_new, trial.keep):
        assert button.sizeHint().width() <= button.width()
        assert name in button.accessibleName()


def test_a_choice_that_cannot_be_kept_is_asked_for_again(trained: Home) -> None:
    trial = begin(trained)
    wait_question(trained)
    shown = [text.toPlainText() for text in trial.texts]
    trained.database.connection.execute("PRAGMA query_only = ON")
    trial.choose[0].click()
    assert trial.pages.currentWidget() is trial.question_page
    assert [text.toPlainText() for text in trial.texts] == shown
    assert "could not be saved" in notice_of(trained)
    trained.database.connection.execute("PRAGMA query_only = OFF")
    trial.choose[0].click()
    assert trial.notices.notice("problem") is None
    trained.qtbot.waitUntil(lambda: trial.place.text() == "2 of 5")


def test_a_comparison_that_is_refused_does_not_stay_on_the_page_of_another(trained: Home) -> None:
    begin(trained)
    wait_question(trained)
    trained.window._start_trial(trained.learning.active_version())
    assert trained.window.pages.currentIndex() == 0
    assert trained.learning.trial_length == 0
    notice = trained.window.notices.notice("problem")
    assert notice is not None
    trained.qtbot.waitUntil(notice.isVisible)


def test_an_engine_that_is_gone_after_some_answers_says_why_it_ends(trained: Home) -> None:
    trial = begin(trained)
    wait_question(trained)
    trained.engine.fail("The model is gone.")
    trained.qtbot.waitUntil(lambda: trained.chat.engine.state.status == "failed")
    trial.answer(0, "ordered")
    assert trial.pages.currentWidget() is trial.result_page
    assert "No model is loaded" in notice_of(trained)


def test_somebody_who_types_elsewhere_is_not_interrupted(qtbot: QtBot, trained: Home) -> None:
    trial = begin(trained)
    search = trained.window.conversations.search
    search.setFocus()
    qtbot.keyClicks(search, "tea")
    for _ in range(5):
        wait_question(trained)
        assert trained.window.focusWidget() is search
        trial.answer(None, "all_good")
    qtbot.waitUntil(lambda: trial.pages.currentWidget() is trial.result_page)
    assert trained.window.focusWidget() is search


def test_a_question_takes_the_keys_from_an_empty_field(trained: Home) -> None:
    begin(trained)
    trained.window.conversations.search.setFocus()
    wait_question(trained)
    assert trained.window.focusWidget() is trained.window.trial


def test_a_key_that_is_held_down_is_one_choice(trained: Home) -> None:
    trial = begin(trained)
    wait_question(trained)
    again = QKeyEvent(
        QEvent.Type.KeyPress, Qt.Key.Key_1, Qt.KeyboardModifier.NoModifier, "1", autorep=True
    )
    QCoreApplication.sendEvent(trial, again)
    assert trial.pages.currentWidget() is trial.question_page


def test_questions_and_the_result_are_announced(
    trained: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def hear(event: object) -> None:
        if isinstance(event, QAccessibleAnnouncementEvent):
            heard.append(event.message())

    monkeypatch.setattr(QAccessible, "updateAccessibility", hear)
    trial = begin(trained)
    for _ in range(5):
        wait_question(trained)
        trial.answer(0, "ordered")
    trained.qtbot.waitUntil(lambda: trial.pages.currentWidget() is trial.result_page)
    questions = [f"Question {number} of 5" for number in range(1, 6)]
    assert [text for text in heard if text.startswith("Question")] == questions
    assert heard[-1] == trial.result_title.text()


def test_the_order_is_not_always_the_same(trained: Home) -> None:
    sides = set()
    for _ in range(6):  # 30 questions: all on one side once in 500 million
        trained.window._start_trial(trained.learning.versions()[1].version_id)
        for _ in range(5):
            wait_question(trained)
            sides.add(new_side(trained.window.trial))
            trained.window.trial.answer(None, "all_good")
    assert sides == {0, 1}


def test_leaving_early_changes_nothing(trained: Home) -> None:
    active = trained.learning.active_version()
    trial = begin(trained)
    wait_question(trained)
    trial.leave.click()
    assert trained.window.pages.currentIndex() == 0
    assert trained.learning.active_version() == active
    assert trained.learning.state == "offered"


def test_without_prompts_the_comparison_says_what_to_do(trained: Home) -> None:
    for conversation in trained.chat.conversations():
        trained.chat.delete_conversation(conversation.id)
    trained.window.panel.learning_page.offer.compare.click()
    assert trained.window.pages.currentIndex() == 0
    notice = trained.window.notices.notice("problem")
    assert notice is not None
    assert "Chat a little first" in notice.accessibleName()


def panel_of(home: Home) -> VersionsPanel:
    home.window.show_panel(True)
    home.window.panel.tabs.setCurrentIndex(1)
    return home.window.panel.versions


def test_versions_show_which_is_in_use_and_where_it_came_from(trained: Home) -> None:
    panel = panel_of(trained)
    assert [card.is_active for card in panel.cards] == [False, True]
    assert panel.cards[0].accessibleName() == "Personal model 1"
    assert not panel.back.isVisible()


def test_using_a_version_and_going_back_in_one_click(trained: Home) -> None:
    panel = panel_of(trained)
    old = trained.learning.active_version()
    panel.cards[0].use.click()
    assert trained.learning.active_version() != old
    assert panel.back.isVisible()
    assert panel.back.property("kind") == "primary"
    panel.back.click()
    assert trained.learning.active_version() == old


def test_removing_asks_and_the_bundled_model_cannot_be_removed(
    trained: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    panel = panel_of(trained)
    answers = [False, True]
    monkeypatch.setattr("desktop_app.ui.versions_panel.confirm", lambda *_: answers.pop(0))
    assert not panel.cards[1].remove.isVisible()
    panel.cards[0].remove.click()
    assert len(panel.cards) == 2
    panel.cards[0].remove.click()
    assert len(panel.cards) == 1
    assert trained.learning.state == "idle"


def test_any_version_can_be_compared_from_the_list(trained: Home) -> None:
    panel_of(trained).cards[0].compare.click()
    assert trained.window.pages.currentWidget() is trained.window.trial


def test_using_a_version_in_the_middle_ends_the_comparison(trained: Home) -> None:
    begin(trained)
    wait_question(trained)
    trained.window.panel.learning_page.offer.use.click()
    assert trained.window.pages.currentIndex() == 0
    assert trained.learning.trial_length == 0


def test_leaving_while_both_answer_stops_them(
    trained: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(trained.engine, "stop", lambda asked: stopped.append(asked.request_id))
    trial = begin(trained)
    trial.leave.click()
    assert len(stopped) == 1


def test_opening_a_conversation_leaves_the_comparison(trained: Home) -> None:
    begin(trained)
    wait_question(trained)
    others = [c.id for c in trained.chat.conversations()]
    others.remove(trained.chat.current_conversation)
    trained.chat.open_conversation(others[0])
    assert trained.window.pages.currentIndex() == 0


def test_a_new_conversation_leaves_the_result_of_a_comparison(trained: Home) -> None:
    trial = begin(trained)
    for _ in range(5):
        wait_question(trained)
        trial.answer(None, "all_good")
    trained.qtbot.waitUntil(lambda: trial.pages.currentWidget() is trial.result_page)
    trained.window.conversations.new_button.click()
    assert trained.window.pages.currentIndex() == 0


def test_versions_that_answer_alike_are_not_asked_about_but_told_so(trained: Home) -> None:
    answer = Completion("Yes.")
    finish = trained.learning._on_trial_event

    def alike(event: Event) -> None:
        running = trained.learning._trial
        if running is not None and isinstance(event, RequestDone):
            running.completions = {0: answer, 1: answer}
        finish(event)

    trained.chat.engine.event_received.disconnect(finish)
    trained.chat.engine.event_received.connect(alike)
    trained.window.panel.learning_page.offer.compare.click()
    trained.qtbot.waitUntil(lambda: trained.window.notices.notice("problem") is not None)
    notice = trained.window.notices.notice("problem")
    assert notice is not None
    assert "same answers" in notice.accessibleName()
    assert trained.window.pages.currentIndex() == 0


def test_what_the_engine_left_out_of_a_prompt_is_not_kept_as_seen(trained: Home) -> None:
    given: list[TrialQuestion] = []
    trained.learning.trial_question.connect(given.append)
    trained.learning.start_trial(trained.learning.versions()[1].version_id)
    running = trained.learning._trial
    assert running is not None
    history = tuple(Message("user", f"Turn {n}") for n in range(3))
    running.place = ("c", "m", (Message("system", "Be kind."), *history))
    running.completions = {0: Completion("Yes."), 1: Completion("No.")}
    trained.learning._on_trial_event(RequestDone(running.request_id, 12, 0, 64, 2))
    assert [m.content for m in given[-1].prompt] == ["Be kind.", "Turn 2"]


def test_versions_of_different_models_are_not_compared(trained: Home) -> None:
    new = trained.learning.versions()[1].version_id
    loaded = trained.chat.engine.model
    assert loaded is not None
    trained.chat.engine.load(replace(loaded, sha256="cd" * 32))
    trained.qtbot.waitUntil(lambda: trained.chat.engine.state.status == "ready")
    trained.window._start_trial(new)
    notice = trained.window.notices.notice("problem")
    assert notice is not None
    assert "different models" in notice.accessibleName()


def test_one_question_that_fails_costs_no_more_than_itself(trained: Home) -> None:
    given: list[TrialQuestion | None] = []
    trained.learning.trial_question.connect(given.append)
    trained.learning.start_trial(trained.learning.versions()[1].version_id)
    running = trained.learning._trial
    assert running is not None
    first = running.request_id
    trained.chat.engine.request_failed.emit(first, "This message is too long.", "")
    assert trained.learning._trial is running
    assert running.request_id != first
    trained.qtbot.waitUntil(lambda: bool(given))
    assert isinstance(given[0], TrialQuestion)
    assert trained.window.notices.notice("problem") is None


def test_a_trial_whose_every_question_fails_ends_with_the_reason(trained: Home) -> None:
    trained.learning.start_trial(trained.learning.versions()[1].version_id)
    while (running := trained.learning._trial) is not None and running.failure != ("Gone.", ""):
        running.prompts = iter(())
        trained.chat.engine.request_failed.emit(running.request_id, "Gone.", "")
    notice = trained.window.notices.notice("problem")
    assert notice is not None
    assert "Gone." in notice.accessibleName()
