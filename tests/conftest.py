"""Settings for all tests: no screen, no network, and the folders they look into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # before Qt is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_window_outlives_its_test() -> Iterator[None]:
    """Windows, their language and font end with their test: a later one's is none of theirs.

    Left to the interpreter's end, they would be torn down in an order that Qt does not bear.
    """
    yield
    from PySide6.QtCore import QCoreApplication, QEvent, QTranslator
    from PySide6.QtGui import QFontDatabase
    from PySide6.QtWidgets import QApplication

    application = QApplication.instance()
    if application is None:
        return
    windows = QApplication.topLevelWidgets()
    for window in windows:
        window.close()
        window.deleteLater()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    for translator in application.findChildren(QTranslator):
        QCoreApplication.removeTranslator(translator)
        translator.deleteLater()
    if not windows:
        return
    # A theme starts from the application's font, which the one before it may have enlarged.
    QApplication.setFont(QFontDatabase.systemFont(QFontDatabase.SystemFont.GeneralFont))
    # The offscreen clipboard is a static of Qt: data made by Python must not outlive Python.
    QApplication.clipboard().clear()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def starter_model(repository: Path) -> Path:
    """The bundled model."""
    return repository / "resources" / "models" / "attune-starter.gguf"


def shared_folder(name: str) -> Path:
    """A folder beside the checkout with data or models that are not part of the project."""
    folder = REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"shared/{name} is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_models() -> Path:
    return shared_folder("models")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return shared_folder("data")
