"""An offer beside other versions: its end, names, removed parents, full disks, the next start."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from desktop_app.inference.model_store import ModelStore
from desktop_app.services.learning_service import LearningService
from tests import tiny_models
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
    last = max(run.name for run in home.profile.runs.iterdir())
    # Runs are told apart by the second they began in.
    home.qtbot.waitUntil(lambda: f"{datetime.now():%Y%m%d-%H%M%S}" > last)
    home.like(1)
    home.learning.start()
    home.qtbot.waitUntil(lambda: home.learning.state == "offered", timeout=20_000)
    offered = home.learning.offered
    assert offered is not None
    return offered.version_id


def next_start(home: Home, models: ModelStore | None = None) -> LearningService:
    """What a new start finds in the same profile."""
    return LearningService(
        home.profile.runs,
        models or home.models,
        home.feedback_store,
        home.chat,
        home.feedback,
        home.trainer,
    )


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


def test_an_offer_that_was_left_open_comes_back_at_the_next_start(trained: Home) -> None:
    offered = trained.learning.offered
    trained.learning = next_start(trained)
    assert offered is not None
    assert (trained.learning.state, trained.learning.offered) == ("offered", offered)
    page = trained.open_window().panel.learning_page
    assert page.offer.isHidden() is False
    page.offer.later.click()
    assert page.offer.isHidden()
    assert next_start(trained).state == "idle"


def use(learning: LearningService, version_id: str) -> None:
    learning.activate(version_id)
    learning.roll_back()  # what is in use would not be offered in any case


def decline(learning: LearningService, version_id: str) -> None:
    learning.dismiss_offer()


@pytest.mark.parametrize("decide", [use, decline, LearningService.remove_version])
def test_what_was_decided_on_is_not_offered_again(
    trained: Home, decide: Callable[[LearningService, str], None]
) -> None:
    decide(trained.learning, trained.learning.versions()[1].version_id)
    (run,) = trained.profile.runs.iterdir()
    assert (run / "decided").is_file()
    assert next_start(trained).offered is None


def test_of_runs_that_no_mark_tells_of_only_the_newest_is_offered(trained: Home) -> None:
    newer = train_again(trained)
    for mark in trained.profile.runs.glob("*/decided"):
        mark.unlink()
    offered = next_start(trained).offered
    assert offered is not None
    assert offered.version_id == newer
    trained.models.activate(newer)
    assert next_start(trained).offered is None


def test_nothing_is_offered_that_is_of_another_model_than_the_one_in_use(
    trained: Home, tmp_path: Path
) -> None:
    other = tiny_models.write_model(tmp_path / "other.gguf", seed=1)
    chosen = ModelStore(trained.profile.models, other, is_chosen=True)
    assert next_start(trained, chosen).offered is None
    assert next_start(trained).offered is not None


def test_the_offer_says_where_the_version_is_found_later(trained: Home) -> None:
    offer = trained.window.panel.learning_page.offer
    assert offer.afterwards.text() == "If you decide later, you find it under Versions."
    assert offer.later.accessibleDescription() == offer.afterwards.text()
