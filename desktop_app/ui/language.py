"""The language of the window: installs translations, and switches them while running.

Qt sends ``LanguageChange`` to every widget afterwards; widgets set their texts again then.
English has a catalogue too, for its plurals.
"""

from __future__ import annotations

from typing import Final

from PySide6.QtCore import (
    QCoreApplication,
    QLibraryInfo,
    QLocale,
    QObject,
    QTranslator,
    Signal,
)

from desktop_app.paths import resources

LANGUAGES: Final = {"en": "English", "ko": "한국어"}
"""Codes with the language's own name, as a chooser shows it."""


class Language(QObject):
    """The language in force.

    Signals:
        changed(code): another language, "en" or "ko".
    """

    changed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._code = ""

    @property
    def code(self) -> str:
        """The language shown: "en" or "ko"; "" before the first ``set``."""
        return self._code

    def set(self, choice: str) -> None:
        """Show "en", "ko", or with "" what the system speaks (English where it has neither)."""
        code = choice if choice in LANGUAGES else _system_language()
        if code == self._code:
            return
        self._code = code
        application = QCoreApplication.instance()
        assert application is not None
        for translator in application.findChildren(QTranslator):
            QCoreApplication.removeTranslator(translator)
            translator.deleteLater()
        translations = QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)
        _install(f"qtbase_{code}", translations, application)
        _install(f"attune_{code}", str(resources() / "translations"), application)
        QLocale.setDefault(QLocale(code))
        self.changed.emit(code)


def _install(name: str, folder: str, application: QCoreApplication) -> None:
    """For as long as the application runs: a translator that went with its Python object would
    change every window's language at a moment that nobody chose."""
    translator = QTranslator(application)
    if translator.load(name, folder):
        QCoreApplication.installTranslator(translator)


def _system_language() -> str:
    for name in QLocale.system().uiLanguages():
        code = name.split("-")[0]
        if code in LANGUAGES:
            return code
    return "en"
