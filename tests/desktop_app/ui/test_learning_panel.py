"""Learning in the panel: what is collected, a run from start to end, stopping, dying, resuming."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from desktop_app.ui.figures import basis, figures
from desktop_app.ui.learning_panel import LearningPage
from desktop_app.ui.run_view import MOST_NOTES
from desktop_app.ui.stage_timeline import StageTimeline
from desktop_app.ui.theme import Theme
from finetune.contract.events import STAGES, Note, RunFailed, StepDone
from tests.desktop_app.ui.home import Home


@pytest.fixture(autouse=True)
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.002")


def page_of(home: Home) -> LearningPage:
    home.window.toggle_panel()
    return home.window.panel.learning_page


def wait_for(home: Home, state: str) -> None:
    home.qtbot.waitUntil(lambda: home.learning.state == state, timeout=20_000)


def test_with_too_little_feedback_it_says_how_much_is_missing(home: Home) -> None:
    page = page_of(home)
    assert not page.train.isEnabled()
    home.like(3)
    assert page.collected.counters["liked"].number.text() == "3"
    assert "1 more answer," in page.collected.sentence.text()
    assert page.collected.imitate.amount.text() == "3 of 4"
    home.like(1)
    assert page.train.isEnabled()
    assert "imitate" in page.collected.sentence.text()
    assert "Thumbs up and down" in page.collected.sentence.text()  # one kind shows no taste
    home.feedback.rate(home.add_conversation("Other"), False)
    assert "7 more judgements" in page.collected.sentence.text()


def test_undoing_feedback_counts_down(home: Home) -> None:
    page = page_of(home)
    home.like(1)
    home.feedback.undo()
    assert page.collected.counters["liked"].number.text() == "0"


def test_a_run_from_the_button_to_the_offer(qtbot: QtBot, home: Home) -> None:
    page = page_of(home)
    at_work: list[str] = []
    with_score: list[tuple[str, bool]] = []  # a busy machine shows PPO for a moment only

    def note_stage() -> None:
        names = [stage for stage, row in page.run.timeline.rows.items() if row.state == "at_work"]
        at_work.extend(name for name in names if name not in at_work)
        if page.run.curves["score"].isVisible():
            sft = page.run.timeline.rows["sft"].state
            with_score.append((sft, page.run.curves["loss"].isVisible()))

    home.learning.progress_changed.connect(note_stage)
    home.like(12)
    page.train.click()
    assert home.learning.state == "training"
    assert page.run.isVisible()
    assert not page.train.isVisible()
    assert not page.collected.isVisible()
    wait_for(home, "offered")
    assert set(with_score) == {("done", False)}
    assert at_work == ["prepare", "sft", "reward", "ppo", "evaluate", "export"]
    assert page.offer.isVisible()
    assert page.run.notes() == ["One conversation in five is kept for the examination."]
    assert page.run.sample_count() == 2
    qtbot.waitUntil(lambda: texts_in_sight(page).count("Compared with the original model") == 1)
    assert [texts_in_sight(page).count(t) for t in ("Original model", "New version")] == [2, 2]
    assert page.run.isVisible()
    assert not page.run.stop.isVisible()
    page.offer.later.click()
    assert home.learning.state == "idle"
    assert not page.offer.isVisible()
    assert page.train.isVisible()
    assert len(home.learning.versions()) == 2
    assert home.learning.active_version() == home.learning.versions()[0].version_id


def test_a_run_is_not_resumed_with_feedback_that_was_taken_back(
    qtbot: QtBot, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.05")
    page = page_of(home)
    liked = home.like(12)
    page.train.click()
    qtbot.waitUntil(lambda: home.learning.progress.step > 1, timeout=20_000)
    page.run.stop.click()
    wait_for(home, "idle")
    assert home.learning.resumable() is not None
    conversation = home.chat.message(liked[3]).conversation_id
    home.chat.delete_conversation(conversation)
    assert home.learning.resumable() is None
    home.chat.restore_conversation(conversation)
    assert home.learning.resumable() is not None
    home.feedback.rate(liked[3], None)
    assert home.learning.resumable() is None


def test_an_estimated_distance_is_never_shown_below_zero(qtbot: QtBot, home: Home) -> None:
    page = page_of(home)
    home.learning.event_received.emit(StepDone("ppo", 1, 4, {"kl": -0.012}, None))
    assert page.run.curves["kl"].last_value() == "0.00"
    assert [figure.value for figure in figures({"kl": -0.012})] == ["0.00 nats"]


def test_using_the_offer_at_once(qtbot: QtBot, home: Home) -> None:
    page = page_of(home)
    home.like(4)
    page.train.click()
    wait_for(home, "offered")
    page.offer.use.click()
    assert home.learning.active_version() == home.learning.versions()[1].version_id
    qtbot.waitUntil(lambda: home.chat.engine.state.status == "ready")
    assert "Personal model 1" in home.window.header.status.text()


def test_stages_without_enough_feedback_are_left_out(open_home: Callable[..., Home]) -> None:
    home = open_home(trainer="little")
    page = page_of(home)
    home.like(4)
    page.train.click()
    wait_for(home, "offered")
    states = {stage: row.state for stage, row in page.run.timeline.rows.items()}
    assert states["sft"] == "done"
    assert states["reward"] == states["ppo"] == "left_out"


def test_a_stage_that_was_passed_over_is_left_out_at_once(qtbot: QtBot, theme: Theme) -> None:
    timeline = StageTimeline(theme)
    qtbot.addWidget(timeline)
    timeline.show_stages(STAGES, "evaluate", ("prepare", "sft"))
    assert [timeline.rows[stage].state for stage in STAGES] == [
        "done", "done", "left_out", "left_out", "at_work", "to_come",
    ]  # fmt: skip
    timeline.show_stages(STAGES, None, ("prepare",))
    assert timeline.rows["sft"].state == "to_come"


def test_agreement_on_a_handful_of_choices_is_not_told() -> None:
    metrics = {"reward_accuracy": 1.0, "win_rate": 0.64}
    measured = {"reward_held_out_pairs": 6.0, **metrics}
    assert [f.metric for f in figures(metrics)] == ["reward_accuracy", "win_rate"]
    assert figures(measured) == figures(metrics)
    few = {"reward_held_out_pairs": 5.0, **metrics}
    assert [f.metric for f in figures(few)] == ["win_rate"]


def test_figures_on_practised_prompts_are_not_called_unseen() -> None:
    metrics = {"win_rate": 0.64, "loss_ratio": 0.9}
    for measured in (metrics, {"held_out_prompts": 4.0, **metrics}):
        assert basis(measured) == "Compared with the original model"
        assert [f.label for f in figures(measured)][-1] == "Loss on unseen text"
    known = {"held_out_prompts": 0.0, **metrics}
    assert basis(known).endswith("on prompts this version practised with")
    assert [f.label for f in figures(known)] == ["Nearer to your taste", "Loss on known text"]


def test_the_examination_is_said_to_be_against_the_original_model(
    qtbot: QtBot, theme: Theme
) -> None:
    timeline = StageTimeline(theme)
    qtbot.addWidget(timeline)
    assert "with the original model" in timeline.rows["evaluate"].explanation.text()


def test_the_notes_of_a_run_stay_beside_the_offer(home: Home) -> None:
    page = page_of(home)
    home.like(4)
    page.train.click()
    wait_for(home, "offered")
    assert note_labels(page, "One conversation in five") == [True]
    page.offer.later.click()
    assert note_labels(page, "One conversation in five") == [False]


def test_the_notes_of_a_run_stay_beside_the_failure(open_home: Callable[..., Home]) -> None:
    home = open_home(trainer="failure")
    page = page_of(home)
    home.like(12)
    page.train.click()
    wait_for(home, "idle")
    assert page.failure.isVisible()
    assert note_labels(page, "One conversation in five") == [True]
    assert not page.run.stop.isVisible()
    page.failure.close_button.click()
    assert not page.run.isVisible()


def test_of_many_notes_the_newest_are_kept(home: Home) -> None:
    page = page_of(home)
    for number in range(MOST_NOTES + 2):
        home.learning.event_received.emit(Note(f"Note {number}."))
    assert page.run.notes() == [f"Note {number}." for number in range(2, MOST_NOTES + 2)]
    home.language.set("ko")
    home.learning.event_received.emit(Note("The disk is full."))
    assert page.run.notes()[-1] == "The disk is full."
    assert not note_labels(page, "The disk is full.")
    home.language.set("en")
    home.qtbot.waitUntil(lambda: bool(note_labels(page, "The disk is full.")))


def texts_in_sight(page: LearningPage) -> list[str]:
    return [label.text() for label in page.findChildren(QLabel) if label.isVisible()]


def note_labels(page: LearningPage, beginning: str) -> list[bool]:
    """Whether the labels that begin so are in sight."""
    labels = page.run.findChildren(QLabel)
    return [label.isVisible() for label in labels if label.text().startswith(beginning)]


def test_a_stopped_run_is_offered_for_resuming(
    qtbot: QtBot, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.05")
    page = page_of(home)
    home.like(12)
    page.train.click()
    qtbot.waitUntil(lambda: home.learning.progress.step > 1, timeout=20_000)
    page.run.stop.click()
    assert home.learning.state == "stopping"
    assert not page.run.stop.isEnabled()
    wait_for(home, "idle")
    assert page.resume.isVisible()
    assert not page.failure.isVisible()
    assert not page.run.isVisible()
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.002")
    page.resume.resume.click()
    assert home.learning.state == "training"
    wait_for(home, "offered")
    assert not page.resume.isVisible()


def test_a_run_can_be_thrown_away(
    qtbot: QtBot, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.05")
    page = page_of(home)
    home.like(4)
    page.train.click()
    qtbot.waitUntil(lambda: home.learning.progress.step > 1, timeout=20_000)
    page.run.stop.click()
    wait_for(home, "idle")
    answers = [False, True]
    monkeypatch.setattr("desktop_app.ui.learning_panel.confirm", lambda *_: answers.pop(0))
    page.resume.discard.click()
    assert page.resume.isVisible()
    page.resume.discard.click()
    assert not page.resume.isVisible()
    assert page.train.isEnabled()


def test_a_trainer_that_dies_leaves_a_sentence_and_a_way_on(
    open_home: Callable[..., Home],
) -> None:
    home = open_home(trainer="death")
    page = page_of(home)
    home.like(12)
    page.train.click()
    wait_for(home, "idle")
    assert page.failure.isVisible()
    assert "ended unexpectedly" in page.failure.title.text()
    assert "resume" in page.failure.next_step.text()
    assert page.resume.isVisible()
    assert page.train.property("kind") == "plain"


def test_only_what_can_go_on_is_promised_to(
    open_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("desktop_app.ui.learning_panel.confirm", lambda *_: True)
    home = open_home(trainer="death")
    page = page_of(home)
    liked = home.like(12)
    page.train.click()
    wait_for(home, "idle")
    assert "resume" in page.failure.next_step.text()
    home.feedback.rate(liked[0], None)
    assert page.failure.next_step.text() == "Your model stays as it was."
    assert not page.resume.isVisible()
    home.feedback.undo()
    assert "resume" in page.failure.next_step.text()
    page.resume.discard.click()
    assert page.failure.isVisible()
    assert page.failure.next_step.text() == "Your model stays as it was."
    for code in ("stopped", "out_of_memory", "disk_full", "bug"):
        page.failure.show_failure(RunFailed(code, "Free some space, then resume the training."))  # type: ignore[arg-type]
        assert "resume" not in page.failure.next_step.text()
        assert page.failure.detail.isVisible() == (code == "bug")


def test_a_result_that_is_not_better_is_told_and_not_offered(
    open_home: Callable[..., Home],
) -> None:
    home = open_home(trainer="failure")
    page = page_of(home)
    home.like(12)
    page.train.click()
    wait_for(home, "idle")
    assert "not better" in page.failure.title.text()
    assert "0.48" in page.failure.detail.text()
    assert not page.resume.isVisible()
    page.failure.close_button.click()
    assert not page.failure.isVisible()


def test_an_unfinished_run_is_offered_at_the_next_start(
    qtbot: QtBot, open_home: Callable[..., Home]
) -> None:
    home = open_home(trainer="death")
    home.like(12)
    home.learning.start()
    wait_for(home, "idle")
    again = home.open_window()
    assert again.notices.notice("resume") is not None
    again.toggle_panel()
    assert again.panel.learning_page.resume.isVisible()


@pytest.mark.parametrize(
    "code",
    ["stopped", "not_enough_feedback", "out_of_memory", "disk_full", "diverged", "gate_failed",
     "bad_input", "bug"],
)  # fmt: skip
def test_every_way_to_fail_has_a_sentence_and_a_next_step(home: Home, code: str) -> None:
    card = page_of(home).failure
    card.show_failure(RunFailed(code, "detail"))  # type: ignore[arg-type]
    assert card.title.text().endswith(".")
    assert card.next_step.text().endswith(".")


def test_closing_during_a_run_asks_first(
    qtbot: QtBot, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.05")
    answers = [False, True]
    monkeypatch.setattr("desktop_app.ui.main_window.confirm", lambda *_: answers.pop(0))
    home.like(4)
    home.learning.start()
    assert not home.window.close()
    assert home.window.isVisible()
    assert home.window.close()


def test_a_result_that_found_no_room_can_be_installed_later(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_of(home)
    home.like(12)
    with monkeypatch.context() as full:
        full.setattr("desktop_app.inference.model_store._SPARE_BYTES", 1 << 60)
        page.train.click()
        wait_for(home, "idle")
    assert page.failure.title.text() == "The disk is full."
    assert page.resume.isVisible()
    page.resume.resume.click()
    assert home.learning.state == "offered"
    assert page.offer.isVisible()
    assert not page.failure.isVisible()
    home.learning.dismiss_offer()
    home.learning.remove_version(home.learning.versions()[1].version_id)
    assert home.learning.resumable() is None


def test_a_run_whose_end_cannot_be_noted_ends_all_the_same(
    open_home: Callable[..., Home],
) -> None:
    home = open_home(trainer="death")
    page = page_of(home)
    home.like(12)
    page.train.click()
    run = next(path for path in home.profile.runs.iterdir() if not path.name.startswith("."))
    home.qtbot.waitUntil(lambda: home.learning.progress.step > 1, timeout=20_000)
    # In one step: the trainer writes all the while.
    (run / "nowhere").symlink_to(run / "no folder" / "events.jsonl")
    (run / "nowhere").replace(run / "events.jsonl")
    wait_for(home, "idle")
    assert page.failure.isVisible()


def test_a_disk_that_takes_no_run_is_told_and_nothing_is_left_of_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = page_of(home)
    home.like(4)

    def fill(folder: Path) -> int:
        folder.mkdir(parents=True)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(home.feedback_store, "write_snapshot", fill)
        page.train.click()
    notice = home.window.notices.notice("problem")
    assert notice is not None
    assert "The disk is full" in notice.accessibleName()
    assert home.learning.state == "idle"
    assert list(home.profile.runs.iterdir()) == []
    page.train.click()
    wait_for(home, "offered")
