"""The whole window with a real engine child (speaking the fake engine), used hard."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from desktop_app.app import App, Options, lock_profile
from desktop_app.errors import UserError
from desktop_app.paths import Profile, open_profile

TALKING_APP = Path(__file__).with_name("talking_app.py")


@pytest.fixture
def app(qtbot: QtBot, tmp_path: Path) -> Iterator[App]:
    opened = App(open_profile(tmp_path / "profile"), Options(fake_engine=True))
    qtbot.addWidget(opened.window)
    opened.start()
    qtbot.waitUntil(lambda: opened.chat.engine.state.status == "ready", timeout=20_000)
    yield opened
    opened.close()
    opened.deleteLater()


def test_twenty_comparisons_in_new_conversations(app: App, qtbot: QtBot) -> None:
    for number in range(20):
        app.chat.new_conversation()
        app.chat.send(f"tell me about number {number} please", compare=True)
        qtbot.waitUntil(lambda: not app.chat.is_busy, timeout=20_000)
        pending = app.chat.pending_comparison
        assert pending is not None
        app.feedback.compare(pending.message_ids, pending.message_ids[0], "ordered")
        app.chat.choose(pending.message_ids[0])
        qtbot.wait(5)
    assert app.feedback.collected().comparisons == 20
    assert len(app.chat.conversations()) == 20


def test_a_choice_the_disk_does_not_take_is_in_force_and_told(app: App, qtbot: QtBot) -> None:
    (app.profile.root / ".settings.json.partial").mkdir()  # so that nothing can be written there
    app.window.zoom(1)
    assert app.theme.font_scale == pytest.approx(1.1)
    notice = app.window.notices.notice("problem")
    assert notice is not None
    assert notice.accessibleName().startswith("This could not be saved (")


def test_the_window_appears_where_the_disk_takes_nothing(qtbot: QtBot, tmp_path: Path) -> None:
    app = App(open_profile(tmp_path / "profile"), Options(fake_engine=True))
    qtbot.addWidget(app.window)
    app.database.connection.execute("PRAGMA query_only = ON")
    app.start()
    try:
        assert app.window.isVisible()
        notice = app.window.notices.notice("problem")
        assert notice is not None
        assert notice.accessibleName().startswith("This could not be saved (")
        qtbot.waitUntil(lambda: app.chat.engine.state.status == "ready", timeout=20_000)
    finally:
        app.close()
        app.deleteLater()


def test_the_correction_is_in_sight_when_a_notice_takes_room(app: App, qtbot: QtBot) -> None:
    app.window.resize(1080, 720)
    for text in ("Hi there, you", "What is your name?"):
        app.chat.send(text)
        qtbot.waitUntil(lambda: not app.chat.is_busy, timeout=20_000)
    rows = app.window.view.list
    answer = app.chat.messages(app.chat.current_conversation)[-1]
    rows.row(answer.id).down.click()
    bar = rows.verticalScrollBar()
    qtbot.waitUntil(lambda: bar.pageStep() == rows.viewport().height() and bar.maximum() > 0)
    qtbot.waitUntil(lambda: bar.value() == bar.maximum())


def test_without_a_screen_one_sentence_is_said(repository: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment.pop("QT_QPA_PLATFORM", None)
    result = subprocess.run(
        [sys.executable, "-m", "desktop_app"],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("There is no screen")
    assert len(result.stderr.splitlines()) == 1


def test_a_second_window_on_the_same_profile_is_refused_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "desktop_app", "--fake-engine", "--profile-dir"]
    first = subprocess.Popen([*command, str(tmp_path)])
    try:
        wait_for((tmp_path / "attune.db").exists)
        second = start_and_read_the_box(tmp_path)
        assert second.returncode == 1
        assert "open already" in second.stdout
        assert "Traceback" not in second.stderr
    finally:
        first.kill()
        first.wait()


def test_a_folder_that_takes_no_lock_is_not_called_open(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    with pytest.raises(UserError) as refusal:
        lock_profile(Profile(folder))
    assert refusal.value.message == f"Attune cannot write in the folder {folder}."
    folder.mkdir()
    lock = lock_profile(Profile(folder))
    with pytest.raises(UserError, match="open already"):
        lock_profile(Profile(folder))
    lock.unlock()


@pytest.mark.parametrize("in_the_way", ["logs/app.log", "models/versions"])
def test_a_profile_that_cannot_be_begun_is_a_sentence_and_a_code(
    tmp_path: Path, in_the_way: str
) -> None:
    """A folder stands where the log belongs, or a file where a folder belongs."""
    place = open_profile(tmp_path).root / in_the_way
    place.mkdir() if place.suffix else place.touch()
    result = start_and_read_the_box(tmp_path)
    assert result.returncode == 1
    assert f"The folder {tmp_path} cannot be used: " in result.stdout
    assert result.stderr.count("\n") == 1, result.stderr


def start_and_read_the_box(profile: Path) -> subprocess.CompletedProcess[str]:
    """Start Attune, which refuses; what its message box would say is on stdout."""
    program = (
        "import sys\n"
        "from PySide6.QtWidgets import QMessageBox\n"
        "QMessageBox.critical = lambda *a: print('shown:', a[2])\n"
        "from desktop_app.__main__ import main\n"
        "sys.exit(main(['--fake-engine', '--profile-dir', sys.argv[1]]))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, str(profile)], capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX")
@pytest.mark.slow
def test_kill_9_in_the_middle_of_a_completion_keeps_all_but_the_last_second(
    tmp_path: Path, repository: Path
) -> None:
    """The user message always, the completion up to its last second, and no child left."""
    process = subprocess.Popen(
        [sys.executable, str(TALKING_APP), str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    assert process.stdout is not None
    seen: list[tuple[float, int]] = []
    child = 0
    began = 0.0
    for line in process.stdout:
        if line.startswith("child"):
            child = int(line.split()[1])
            continue
        began = began or time.monotonic()
        seen.append((time.monotonic(), int(line)))
        if child and time.monotonic() - began > 3.0:
            break
    killed_at = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    with closing(sqlite3.connect(tmp_path / "attune.db")) as connection:
        rows = connection.execute("SELECT role, content, state FROM messages ORDER BY rowid")
        asked, answered = rows.fetchall()
    assert asked[:2] == ("user", "!long one two three four five")
    shown_a_second_ago = max((length for at, length in seen if at < killed_at - 1.0), default=0)
    assert shown_a_second_ago > 20
    assert len(answered[1]) >= shown_a_second_ago
    wait_for(lambda: not Path(f"/proc/{child}").exists())


def wait_for(condition: object, seconds: float = 20.0) -> None:
    """Wait until ``condition()`` is true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
