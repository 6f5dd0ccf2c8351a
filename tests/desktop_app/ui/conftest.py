"""Fixtures of the window's tests; what they are made of is in ``home``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PySide6.QtGui import QAccessible, QAccessibleAnnouncementEvent
from pytestqt.qtbot import QtBot

from desktop_app.settings import Settings
from desktop_app.ui.theme import Theme
from tests import tiny_models
from tests.desktop_app.ui.home import Home

ENGLISH = Settings(language="en")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The offscreen screen cannot tell a window manager how small a window may be."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.qt_log_ignore("propagateSizeHints", extend=True))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a few hundred kilobytes."""
    return tiny_models.write_model(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def open_home(qtbot: QtBot, tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., Home]]:
    """Open a window; ``trainer`` is a mode of the fake trainer."""
    homes: list[Home] = []

    def open_one(*, trainer: str = "success", settings: Settings = ENGLISH) -> Home:
        homes.append(Home(qtbot, tmp_path / "profile", tiny_model, trainer, settings))
        return homes[-1]

    yield open_one
    for home in homes:
        home.close()


@pytest.fixture
def home(open_home: Callable[..., Home]) -> Home:
    return open_home()


@pytest.fixture
def theme(qtbot: QtBot) -> Iterator[Theme]:
    """A theme that dresses nobody."""
    theme = Theme()
    theme.set_appearance("light")
    yield theme
    theme.set_appearance("system")


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is announced to screen readers, in order."""
    said: list[str] = []

    def hear(event: object) -> None:
        if isinstance(event, QAccessibleAnnouncementEvent):
            said.append(event.message())

    monkeypatch.setattr(QAccessible, "updateAccessibility", hear)
    return said
