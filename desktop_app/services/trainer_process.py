"""One trainer child as a stream of typed events.

Whatever happens to the process, each run ends with exactly one result: the trainer's own
final event, or a RunFailed written here when it died without one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PySide6.QtCore import QObject, QProcess, QTimer, Signal

from finetune.contract import events
from finetune.contract.events import RunDone, RunFailed

STOP_GRACE_MS: Final = 60_000
"""A step and its checkpoint must fit in; then the process is ended."""
TRAINER_COMMAND: Final = (sys.executable, "-m", "finetune")


class TrainerProcess(QObject):
    """Runs ``python -m finetune train|resume``.

    Signals:
        event_received(Event): everything but the final event, in order.
        ended(RunDone or RunFailed): exactly once for each ``start``.
    """

    event_received = Signal(object)
    ended = Signal(object)

    def __init__(
        self, command: Sequence[str] = TRAINER_COMMAND, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._command = tuple(command)
        self._process: QProcess | None = None
        self._buffer = b""
        self._result: RunDone | RunFailed | None = None
        self._is_stopping = False
        self._kill_timer = QTimer(self)
        self._kill_timer.setSingleShot(True)
        self._kill_timer.setInterval(STOP_GRACE_MS)
        self._kill_timer.timeout.connect(self._kill)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self, run_dir: Path, *, resume: bool) -> None:
        """Start the trainer on a prepared run folder, or go on with one."""
        assert self._process is None
        self._buffer, self._result, self._is_stopping = b"", None, False
        process = QProcess(self)
        process.setWorkingDirectory(str(Path(__file__).resolve().parents[2]))
        process.setStandardErrorFile(str(run_dir / "stderr.txt"), QProcess.OpenModeFlag.Append)
        process.readyReadStandardOutput.connect(self._read)
        process.finished.connect(self._finished)
        process.errorOccurred.connect(self._failed_to_start)
        self._process = process
        program, *arguments = self._command
        verb = "resume" if resume else "train"
        process.start(program, [*arguments, verb, "--run-dir", str(run_dir)])

    def stop(self) -> None:
        """Ask the trainer to save its state and leave; it ends with ``RunFailed("stopped")``."""
        if self._process is None or self._is_stopping:
            return
        self._is_stopping = True
        self._process.write(json.dumps({"request": "stop"}).encode() + b"\n")
        self._process.closeWriteChannel()
        self._kill_timer.start()

    def close(self, wait_ms: int = 5_000) -> None:
        """The app leaves: let the trainer save itself for a moment, then end it."""
        if self._process is None:
            return
        process = self._process
        self.stop()
        if not process.waitForFinished(wait_ms):
            process.kill()
            process.waitForFinished(1_000)

    def _read(self) -> None:
        if self._process is None:
            return
        self._buffer += self._process.readAllStandardOutput().data()
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            event = events.from_line(line.decode("utf-8", errors="replace"))
            if isinstance(event, RunDone | RunFailed):
                self._result = self._result or event
            elif event is not None:
                self.event_received.emit(event)

    def _finished(self, exit_code: int, exit_status: QProcess.ExitStatus) -> None:
        self._read()
        crashed = exit_status == QProcess.ExitStatus.CrashExit
        self._end(self._result or self._death(exit_code, crashed))

    def _failed_to_start(self, error: QProcess.ProcessError) -> None:
        if error == QProcess.ProcessError.FailedToStart:
            self._end(RunFailed("bug", self.tr("The trainer could not be started.")))

    def _end(self, result: RunDone | RunFailed) -> None:
        if self._process is None:
            return
        self._kill_timer.stop()
        self._process.deleteLater()
        self._process = None
        self.ended.emit(result)

    def _death(self, exit_code: int, crashed: bool) -> RunFailed:
        if self._is_stopping:
            return RunFailed("stopped", self.tr("The training was stopped."))
        if crashed and os.name == "posix" and exit_code == 9:
            return RunFailed(
                "out_of_memory",
                self.tr("The trainer was ended from outside, most likely for lack of memory."),
            )
        return RunFailed(
            "bug", self.tr("The trainer ended unexpectedly. You can resume where it was.")
        )

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
