"""Reads a large model file through on a thread, so that the window stays alive meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from PySide6.QtCore import QObject, Signal

from desktop_app.errors import sentence

STEP = 0.01
"""Progress is told in steps of this size."""


class FileCheck(QObject):
    """One piece of work with progress.

    Signals:
        progressed(fraction): how far it is, 0..1.
        ended(message, hint): it is over; both are "" where it went well.
    """

    progressed = Signal(float)
    ended = Signal(str, str)

    _over = Signal(str, str)

    def __init__(
        self, work: Callable[[Callable[[float], bool]], None], parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._work = work
        self._cancelled = threading.Event()
        self._told = -1.0
        self._thread = threading.Thread(target=self._run, name="file-check", daemon=True)
        # Emitted on the thread; the connection brings it to this object's own thread.
        self._over.connect(self._end)

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def start(self) -> None:
        self._thread.start()

    def cancel(self) -> None:
        """Give up; ``ended`` still comes."""
        self._cancelled.set()

    def close(self) -> None:
        """Give up and wait until nothing is read any more."""
        self._cancelled.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            self._work(self._note)
        except Exception as error:
            self._over.emit(*sentence(error))
        else:
            self._over.emit("", "")

    def _note(self, fraction: float) -> bool:
        if fraction - self._told >= STEP and not self._cancelled.is_set():
            self._told = fraction
            self.progressed.emit(fraction)
        return not self._cancelled.is_set()

    def _end(self, message: str, hint: str) -> None:
        self.ended.emit(message, hint)
