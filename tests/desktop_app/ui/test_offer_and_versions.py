"""An offer beside other versions: what ends it, names, removed parents, a disk that is full."""

from __future__ import annotations

import pytest

from tests.desktop_app.ui.home import Home


@pytest.fixture
def trained(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a new version on offer."""
    monkeypatch.setenv("ATTUNE_FAKE_STEP_SECONDS", "0")
    home.like(6)
    home.learning.start()
    home.qtbot.waitUntil(lambda: home.learning.state == "offered", timeout=20_000)
    return home


def train_again(home: Home) -> str:
    """Leave what is on offer, learn from more, and stand before the next offer: its id."""
    home.learning.dismiss_offer()
    home.like(1)
    home.learning.start()
    home.qtbot.waitUntil(lambda: home.learning.state == "offered", timeout=20_000)
    offered = home.learning.offered
    assert offered is not None
    return offered.version_id


def test_only_using_what_is_offered_ends_the_offer(trained: Home) -> None:
    learning = trained.learning
    older = learning.versions()[1].version_id
    newer = train_again(trained)
    learning.activate(older)
    assert (learning.state, learning.offered is not None) == ("offered", True)
    learning.start_trial(newer)
    learning.roll_back()
    assert learning.trial_length == 0
    assert learning.active_version() == learning.versions()[0].version_id
    assert trained.window.panel.learning_page.offer.isHidden() is False
    learning.activate(newer)
    assert (learning.state, learning.offered) == ("idle", None)


def test_names_do_not_repeat_after_a_removal(trained: Home) -> None:
    learning = trained.learning
    first = learning.versions()[1].version_id
    learning.activate(first)
    second = train_again(trained)
    learning.activate(second)
    learning.remove_version(first)
    card = trained.window.panel.versions.cards[0]
    assert card.origin.text().startswith("Learned from a version that was removed")
    train_again(trained)
    names = [version.name for version in learning.versions()[1:]]
    assert names == ["Personal model 2", "Personal model 3"]


def test_a_disk_that_does_not_take_the_choice_of_a_version_is_told(trained: Home) -> None:
    active = trained.learning.active_version()
    (trained.profile.models / "current.json").mkdir()
    trained.window.panel.versions.cards[0].use.click()
    notice = trained.window.notices.notice("problem")
    assert notice is not None
    assert "could not be saved" in notice.accessibleName()
    assert trained.learning.active_version() == active
    assert trained.learning.state == "offered"
