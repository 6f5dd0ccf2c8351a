"""Korean and English are complete, current, and change while the window is open."""

from __future__ import annotations

import ast
import gc
import re
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import PySide6
import pytest
from PySide6.QtCore import QCoreApplication, QEvent, QLocale
from PySide6.QtWidgets import QWidget
from pytestqt.qtbot import QtBot

from desktop_app.paths import resources
from desktop_app.settings import Settings
from desktop_app.ui.language import Language
from desktop_app.ui.sentences import TEMPLATES, in_our_language, template_of
from tests.desktop_app.ui.home import Home

# How to bring the catalogues up to date (the tests below use the same commands):
#   pyside6-lupdate desktop_app/*.py desktop_app/services/*.py desktop_app/ui/*.py
#       -ts resources/translations/attune_ko.ts -locations none -no-obsolete
#   (for attune_en.ts also -pluralonly), write what is "unfinished" there, then
#   pyside6-lrelease resources/translations/attune_ko.ts
PLACEHOLDER = re.compile(r"\{\d\}|%n")
HANGUL = re.compile("[가-힣]")
SPEAKS_IN_A_TRAINING = (
    "architectures", "data", "enough", "evaluate", "export", "gguf_weights", "out_of_memory",
    "pipeline", "ppo", "rollouts", "run_lock", "runner", "stage", "vocabulary",
)  # fmt: skip
SAME_IN_KOREAN = {"Enter", "Shift+Enter", "{0} nats", "{0} of {1}", "Attune"}


def messages(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """(context, source, translations) of a catalogue; an unfinished one has an empty text."""
    for context in ElementTree.parse(path).getroot().iter("context"):
        for message in context.iter("message"):
            translation = message.find("translation")
            assert translation is not None
            forms = [f.text or "" for f in translation.findall("numerusform")]
            texts = forms or [translation.text or ""]
            if translation.get("type"):
                texts = [""]
            yield context.findtext("name", ""), message.findtext("source", ""), texts


def catalogue(language: str) -> Path:
    return resources() / "translations" / f"attune_{language}.ts"


def tool(name: str) -> Path:
    return Path(PySide6.__file__).parent / name


@pytest.mark.parametrize("language", ["ko", "en"])
def test_the_catalogues_hold_every_string_of_the_sources(
    repository: Path, tmp_path: Path, language: str
) -> None:
    copy = tmp_path / catalogue(language).name
    copy.write_bytes(catalogue(language).read_bytes())
    sources = [
        str(path.relative_to(repository))
        for folder in ("", "services", "ui")
        for path in sorted((repository / "desktop_app" / folder).glob("*.py"))
    ]
    options = ["-locations", "none", "-no-obsolete"]
    if language == "en":
        options.append("-pluralonly")
    command = [tool("lupdate"), *sources, "-ts", copy, *options]
    subprocess.run(command, cwd=repository, check=True, capture_output=True)
    old, new = ({m[:2] for m in messages(path)} for path in (catalogue(language), copy))
    assert new - old == set(), "new strings: run the commands at the top of this file"
    assert old - new == set(), "strings nobody uses: run the commands at the top of this file"


@pytest.mark.parametrize("language", ["ko", "en"])
def test_every_string_is_translated_with_the_same_placeholders(language: str) -> None:
    for context, source, texts in messages(catalogue(language)):
        for text in texts:
            assert text, f"{context}: {source!r} is not translated"
            wanted = set(PLACEHOLDER.findall(source))
            found = set(PLACEHOLDER.findall(text))
            allowed = (wanted, wanted - {"%n"}) if language == "en" else (wanted,)
            assert found in allowed, f"{context}: {source!r} -> {text!r}"


def test_korean_is_korean_and_ends_like_the_english() -> None:
    for context, source, texts in messages(catalogue("ko")):
        for text in texts:
            place = f"{context}: {source!r} -> {text!r}"
            assert HANGUL.search(text) or source in SAME_IN_KOREAN, place
            assert text.endswith("…") == source.endswith("…"), place
            assert "  " not in text, place


@pytest.mark.parametrize("language", ["ko", "en"])
def test_the_compiled_catalogues_are_current(tmp_path: Path, language: str) -> None:
    compiled = tmp_path / "new.qm"
    command = [tool("lrelease"), catalogue(language), "-qm", compiled]
    subprocess.run(command, check=True, capture_output=True)
    shipped = catalogue(language).with_suffix(".qm").read_bytes()
    assert shipped == compiled.read_bytes(), "run pyside6-lrelease on the catalogue"


def test_the_window_changes_its_language_while_open(
    qtbot: QtBot, open_home: Callable[..., Home]
) -> None:
    home = open_home(settings=Settings(language="ko"))
    window = home.window
    assert window.header.badge.words.text() == "이 컴퓨터에서만"
    home.like(1)
    assert "3개" in window.panel.learning_page.collected.sentence.text()
    home.language.set("en")
    qtbot.waitUntil(lambda: window.header.badge.words.text() == "On this computer only")
    assert "3 more answers," in window.panel.learning_page.collected.sentence.text()
    assert window.shortcuts.actions["settings"].text() == "Settings"
    assert window.trial.leave.accessibleName() == "Leave the comparison"


def test_services_and_qt_itself_speak_korean_too(qtbot: QtBot, home: Home) -> None:
    home.language.set("ko")
    assert home.learning.tr("There is no training to go on with.") == "이어 갈 학습이 없어요."
    assert QCoreApplication.translate("QPlatformTheme", "Cancel") == "취소"
    assert QLocale().language() == QLocale.Language.Korean


def test_english_has_proper_plurals(qtbot: QtBot, home: Home) -> None:
    tr = home.learning.tr
    source = "Like or correct %n more answer(s) first."
    assert tr(source, "", 1) == "Like or correct 1 more answer first."
    assert tr(source, "", 2) == "Like or correct 2 more answers first."


def test_an_unknown_choice_follows_the_system_or_is_english(qtbot: QtBot) -> None:
    language = Language()
    language.set("tlh")
    assert language.code in ("en", "ko")
    language.set("en")


def test_only_a_choice_changes_the_language(qtbot: QtBot) -> None:
    """What was shown stays shown when the object that chose it is gone."""
    told: list[QEvent.Type] = []

    class Listener(QWidget):
        def changeEvent(self, event: QEvent) -> None:
            told.append(event.type())

    Language().set("en")
    listener = Listener()
    qtbot.addWidget(listener)
    Language().set("ko")
    QCoreApplication.processEvents()
    assert QEvent.Type.LanguageChange in told
    told.clear()
    gc.collect()
    QCoreApplication.sendPostedEvents(None, QEvent.Type.DeferredDelete)
    QCoreApplication.processEvents()
    assert told == []
    assert QCoreApplication.translate("QPlatformTheme", "Cancel") == "취소"
    Language().set("en")
    assert QCoreApplication.translate("QPlatformTheme", "Cancel") == "Cancel"


# --- sentences of the parts without Qt ---


def test_sentences_with_names_and_numbers_are_translated(qtbot: QtBot, home: Home) -> None:
    home.language.set("ko")
    assert in_our_language("The file a.gguf of Mine is missing or incomplete.") == (
        "Mine 버전의 a.gguf 파일이 없거나 완전하지 않아요."
    )
    two = in_our_language(
        "There is not enough memory for this. Close other programs or use a smaller model."
    )
    assert HANGUL.search(two)
    assert "memory" not in two
    assert in_our_language("Nobody knows this. Free some space.") == (
        "Nobody knows this. 공간을 비워 주세요."
    )


def test_in_english_nothing_changes(qtbot: QtBot, home: Home) -> None:
    for text in ("Free 12 MB.", "Anything at all", "", "Two sentences. The disk is full."):
        assert in_our_language(text) == text


def test_every_error_a_person_can_meet_has_a_template(repository: Path) -> None:
    app = repository / "desktop_app"
    sources = [
        app / "app.py",
        app / "errors.py",
        app / "paths.py",
        *(app / "inference").glob("*.py"),
        *(app / "storage").glob("*.py"),
    ]
    named = ("UserError", "InputError", "EngineFailure")
    sources = [path for path in sources if path.name != "fake_engine.py"]
    assert _unknown(sources, named) == [], "add them to desktop_app/ui/sentences.py"


def test_every_sentence_of_a_training_has_a_template(repository: Path) -> None:
    """And every reason; those that are put together of words are in ``test_sentences``."""
    sources = [repository / "finetune" / f"{name}.py" for name in SPEAKS_IN_A_TRAINING]
    named = (
        "InputError", "NotEnoughFeedback", "GateFailed", "ExportFailed", "Diverged", "Note",
        "note", "failures.append", "notes.append",
    )  # fmt: skip
    assert _unknown(sources, named) == [], "add them to desktop_app/ui/trainer_sentences.py"


def _unknown(sources: Iterable[Path], named: Collection[str]) -> list[str]:
    return [
        f"{path.name}: {sentence}"
        for path in sources
        for sentence in _sentences(path, named)
        if sentence not in TEMPLATES and template_of(sentence) is None
    ]


def _sentences(path: Path, named: Collection[str]) -> Iterator[str]:
    """What a module passes to these classes and functions, f-strings as templates."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if name in named or ast.unparse(node.func) in named:
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                text = _template(argument)
                if " " in text:
                    yield from re.split(r"(?<=[.!?])\s+", text)


def _template(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return ""
    text, number = "", 0
    for part in node.values:
        if isinstance(part, ast.Constant):
            text += str(part.value)
        else:
            text += f"{{{number}}}"
            number += 1
    return text
