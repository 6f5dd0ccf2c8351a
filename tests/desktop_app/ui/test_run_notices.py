"""What is told of trainings above the composer, and when it goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from desktop_app.ui.learning_panel import LearningPage
from tests.desktop_app.ui.home import Home, button


@pytest.fixture(autouse=True)
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.002")


def page_of(home: Home) -> LearningPage:
    home.window.toggle_panel()
    return home.window.panel.learning_page


def wait_for(home: Home, state: str) -> None:
    home.qtbot.waitUntil(lambda: home.learning.state == state, timeout=20_000)


@pytest.mark.parametrize("way", ["discard", "resume"])
def test_the_notice_of_an_unfinished_run_goes_with_it(
    open_home: Callable[..., Home], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr("desktop_app.ui.learning_panel.confirm", lambda *_: True)
    home = open_home(trainer="death")
    home.like(12)
    home.learning.start()
    wait_for(home, "idle")
    again = home.open_window()
    notice = again.notices.notice("resume")
    assert notice is not None
    getattr(again.panel.learning_page.resume, way).click()
    assert again.notices.notice("resume") is None


def told(home: Home) -> str:
    """What the notice says of the run that ended."""
    notice = home.window.notices.notice("run")
    return "" if notice is None else notice.accessibleName()


def test_the_end_of_a_run_is_told_where_the_panel_is_closed(home: Home) -> None:
    home.like(4)
    home.learning.start()
    wait_for(home, "offered")
    home.qtbot.waitUntil(lambda: bool(told(home)))
    assert told(home) == "Your model has learned."
    assert not home.window.panel.isVisible()
    home.window.panel.tabs.setCurrentIndex(1)
    notice = home.window.notices.notice("run")
    assert notice is not None
    button(notice, "Show").click()
    assert home.window.panel.learning_page.offer.isVisible()
    assert told(home) == ""


def test_a_version_that_still_waits_is_told_of_at_the_next_start(home: Home) -> None:
    home.like(4)
    home.learning.start()
    wait_for(home, "offered")
    again = home.open_window()
    notice = again.notices.notice("run")
    assert notice is not None
    assert notice.accessibleName() == "Your model has learned."
    button(notice, "Show").click()
    assert again.panel.learning_page.offer.isVisible()
    assert again.notices.notice("run") is None


def test_the_end_of_a_run_is_told_where_the_other_tab_is_chosen(
    open_home: Callable[..., Home],
) -> None:
    home = open_home(trainer="failure")
    page_of(home)
    home.window.panel.tabs.setCurrentIndex(1)
    home.like(12)
    home.learning.start()
    wait_for(home, "idle")
    home.qtbot.waitUntil(lambda: bool(told(home)))
    assert told(home) == "The training ended without a new model."
    assert home.window.panel.tabs.currentIndex() == 1
    home.window.panel.tabs.setCurrentIndex(0)
    assert told(home) == ""
    assert home.window.panel.learning_page.failure.isVisible()


def test_an_offer_that_was_decided_is_no_news_any_more(home: Home) -> None:
    home.like(4)
    home.learning.start()
    wait_for(home, "offered")
    home.qtbot.waitUntil(lambda: bool(told(home)))
    home.learning.dismiss_offer()
    assert told(home) == ""


def test_the_end_of_a_run_in_sight_is_not_told_twice(home: Home) -> None:
    page = page_of(home)
    ended: list[object] = []
    home.learning.run_ended.connect(ended.append)
    home.like(4)
    page.train.click()
    home.qtbot.waitUntil(lambda: bool(ended), timeout=20_000)
    assert page.offer.isVisible()
    assert told(home) == ""


def test_a_run_that_the_person_stopped_is_not_told(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0.05")
    ended: list[object] = []
    home.learning.run_ended.connect(ended.append)
    home.like(12)
    home.learning.start()
    home.qtbot.waitUntil(lambda: home.learning.progress.step > 1, timeout=20_000)
    home.learning.stop()
    home.qtbot.waitUntil(lambda: bool(ended), timeout=20_000)
    assert told(home) == ""
    assert not home.window.panel.isVisible()
