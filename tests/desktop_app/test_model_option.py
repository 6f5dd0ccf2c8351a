"""``--model``: a large file of unknown hash is checked first, and the window lives meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication, QEvent
from pytestqt.qtbot import QtBot

from desktop_app.app import App, Options
from desktop_app.inference import model_store
from desktop_app.paths import open_profile
from desktop_app.services.engine_service import EngineState
from desktop_app.storage.load_record import LoadRecord
from tests.tiny_models import write_model


@pytest.fixture
def open_app(
    qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], App]]:
    monkeypatch.setattr(model_store, "_READ_AT_ONCE", 1000)
    monkeypatch.setattr(model_store, "_PIECE", 20_000)
    model = write_model(tmp_path / "own.gguf")
    opened: list[App] = []

    def open_one() -> App:
        profile = open_profile(tmp_path / "profile")
        opened.append(App(profile, Options(model=model, fake_engine=True)))
        opened[-1].start()
        return opened[-1]

    yield open_one
    if not opened[-1]._is_closed:
        leave(opened[-1])


def leave(app: App) -> None:
    """Close it wholly: a later one's change of language is none of its windows'."""
    app.close()
    app.window.hide()
    app.window.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)


def test_it_is_checked_then_loaded_and_known_at_the_next_start(
    qtbot: QtBot, open_app: Callable[[], App]
) -> None:
    app = open_app()
    statuses: list[str] = []
    app.chat.engine.state_changed.connect(lambda state: statuses.append(state.status))
    qtbot.waitUntil(lambda: app.chat.engine.state.status == "ready", timeout=20_000)
    assert statuses[0] == "checking"
    model = app.chat.engine.model
    assert model is not None
    assert len(model.sha256) == 64
    assert app.learning.active_version() == model.version_id
    fallback = app.chat.engine.fallback
    assert fallback is not None  # the bundled model, in case this one cannot be loaded
    assert fallback.path.endswith("attune-starter.gguf")
    leave(app)

    again = open_app()
    qtbot.waitUntil(lambda: again.chat.engine.state.status == "ready", timeout=20_000)
    assert again._check is None


def test_the_check_can_be_cancelled_and_begun_again(
    qtbot: QtBot, open_app: Callable[[], App]
) -> None:
    app = open_app()

    def give_up(state: EngineState) -> None:
        # At the first progress: on a quick disk the whole check is over a moment later.
        if state.status == "checking" and state.fraction > 0:
            app.chat.engine.cancel_load()

    app.chat.engine.state_changed.connect(give_up)
    qtbot.waitUntil(lambda: app.chat.engine.state.status == "failed")
    app.chat.engine.state_changed.disconnect(give_up)
    assert app.chat.engine.state.message == "Loading was stopped."
    assert not app.engine.is_running
    app.chat.engine.restart()
    qtbot.waitUntil(lambda: app.chat.engine.state.status == "ready", timeout=20_000)


def test_closing_in_the_middle_of_the_check_is_quick_and_quiet(open_app: Callable[[], App]) -> None:
    app = open_app()
    app._start_engine()
    leave(app)
    assert app._check is not None
    assert not app._check._thread.is_alive()


def test_one_that_ended_two_starts_is_not_loaded_by_itself(
    qtbot: QtBot, open_app: Callable[[], App]
) -> None:
    app = open_app()
    qtbot.waitUntil(lambda: app.chat.engine.state.status == "ready", timeout=20_000)
    model = app.chat.engine.model
    assert model is not None
    leave(app)
    for _ in range(2):  # twice the whole app ended while it was being loaded
        LoadRecord(app.profile.models / "loads.json").begin(model.sha256)
    again = open_app()
    qtbot.waitUntil(lambda: again.chat.engine.state.status == "failed", timeout=20_000)
    notice = again.window.notices.notice("engine")
    assert notice is not None
    assert "twice" in notice.accessibleName()
    again.window._use_bundled()
    qtbot.waitUntil(lambda: again.chat.engine.state.status == "ready", timeout=20_000)
    loaded = again.chat.engine.model
    assert loaded is not None
    assert loaded == again.chat.engine.fallback
