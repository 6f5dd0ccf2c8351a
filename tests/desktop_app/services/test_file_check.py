"""Work on a thread: its progress and its end arrive on the GUI thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from pytestqt.qtbot import QtBot

from desktop_app.errors import UserError
from desktop_app.services.file_check import FileCheck


def test_progress_and_the_end_are_told_on_the_gui_thread(qtbot: QtBot) -> None:
    threads: list[int] = []

    def work(note: Callable[[float], bool]) -> None:
        threads.append(threading.get_ident())
        for step in range(1001):
            assert note(step / 1000)

    check = FileCheck(work)
    told: list[float] = []
    check.progressed.connect(told.append)
    with qtbot.waitSignal(check.ended) as ended:
        check.start()
    assert ended.args == ["", ""]
    assert threads != [threading.get_ident()]
    assert told == sorted(told)
    assert 50 < len(told) <= 101  # in steps of a hundredth


def test_it_can_be_cancelled(qtbot: QtBot) -> None:
    going = threading.Event()

    def work(note: Callable[[float], bool]) -> None:
        while note(0.5):
            going.set()

    check = FileCheck(work)
    with qtbot.waitSignal(check.ended):
        check.start()
        assert going.wait(5)
        check.cancel()
    assert check.is_cancelled
    check.close()


def test_an_error_is_a_sentence(qtbot: QtBot) -> None:
    def work(note: Callable[[float], bool]) -> None:
        raise UserError("The disk is gone.", "Plug it in.")

    check = FileCheck(work)
    with qtbot.waitSignal(check.ended) as ended:
        check.start()
    assert ended.args == ["The disk is gone.", "Plug it in."]


def test_closing_waits_until_nothing_is_read_any_more(qtbot: QtBot) -> None:
    left = threading.Event()

    def work(note: Callable[[float], bool]) -> None:
        while note(0.0):
            pass
        left.set()

    check = FileCheck(work)
    check.start()
    check.close()
    assert left.is_set()
