"""The trainer's line to whoever started it: events out, the wish to stop in.

Events are JSON lines on the real stdout, which is kept aside at the start: whatever a library
prints goes to stderr. A closed stdin or a line {"request": "stop"} asks to stop. On a terminal,
where a person reads, events are sentences and only Ctrl-C stops.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from finetune.contract import events
from finetune.contract.events import Event, RunDone, RunFailed
from finetune.tensorboard_file import TensorBoardFile

log = logging.getLogger(__name__)


class EventStream:
    """Writes every event to ``events.jsonl`` and to stdout; the final one exactly once.

    On request it draws them for TensorBoard too.
    """

    def __init__(self, stream: TextIO, for_people: bool) -> None:
        self._stream: TextIO | None = stream
        self._for_people = for_people
        self._file: TextIO | None = None
        self._drawn: TensorBoardFile | None = None
        self._lock = threading.Lock()
        self.final: RunDone | RunFailed | None = None

    def keep_in(self, run_dir: Path) -> None:
        """From now on, append to the run folder's ``events.jsonl`` too."""
        path = run_dir / "events.jsonl"
        broken = path.exists() and not path.read_bytes().endswith(b"\n") and path.stat().st_size
        self._file = path.open("a", encoding="utf-8", newline="\n")
        if broken:
            self._file.write("\n")  # half a line of a killed run

    def draw_in(self, run_dir: Path) -> None:
        """From now on, add to a TensorBoard file in the run folder too."""
        self._drawn = TensorBoardFile(run_dir)

    def emit(self, event: Event) -> None:
        """Send one event. Nothing follows a final one."""
        with self._lock:
            if self.final is not None:
                log.error("an event after the final one: %s", event)
                return
            if isinstance(event, RunDone | RunFailed):
                self.final = event
            self._write_file(event)
            self._write_stream(event)
            self._draw(event)

    def close(self) -> None:
        """Close the file and the stream; nothing can be emitted afterwards."""
        for stream in (self._file, self._stream, self._drawn):
            if stream is not None:
                stream.close()
        self._file = self._stream = self._drawn = None

    def _write_file(self, event: Event) -> None:
        if self._file is None:
            return
        try:
            self._file.write(events.to_line(event) + "\n")
            self._file.flush()
            if self.final is not None:
                os.fsync(self._file.fileno())
        except OSError as error:  # a full disk must not hide the event from the pipe
            log.warning("events.jsonl cannot be written: %s", error)

    def _draw(self, event: Event) -> None:
        if self._drawn is None:
            return
        try:
            self._drawn.add(event)
        except OSError as error:
            log.warning("the TensorBoard file cannot be written: %s", error)
            self._drawn = None

    def _write_stream(self, event: Event) -> None:
        if self._stream is None:
            return
        try:
            line = in_words(event) if self._for_people else events.to_line(event)
            self._stream.write(line + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            with suppress(OSError):
                self._stream.close()
            self._stream = None  # the reader is gone; the file is the truth


def open_event_stream() -> EventStream:
    """Keep the real stdout for events and send everybody else's prints to stderr."""
    for_people = sys.stdout.isatty()
    sys.stdout.flush()
    kept = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", newline="\n")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return EventStream(kept, for_people)


class StopRequest:
    """Set once, by a closed stdin, a request line, Ctrl-C or SIGTERM."""

    def __init__(self) -> None:
        self._asked = threading.Event()

    def __call__(self) -> bool:
        return self._asked.is_set()

    def watch(self) -> None:
        """Listen to signals, and to stdin where another program holds it.

        Only a pipe or a socket can be closed on purpose: a terminal, a file or /dev/null at its
        end means nothing.
        """
        for name in ("SIGINT", "SIGTERM"):
            signal.signal(getattr(signal, name), self._on_signal)
        try:
            mode = os.fstat(0).st_mode
        except OSError:
            return
        if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            threading.Thread(target=self._read_requests, name="stop watcher", daemon=True).start()

    def _on_signal(self, *_: Any) -> None:
        if self._asked.is_set():
            raise KeyboardInterrupt  # the second time it is meant at once
        self._asked.set()

    def _read_requests(self) -> None:
        # os.read and not sys.stdin: a thread inside a buffered reader's lock may abort the
        # interpreter when it leaves.
        rest = b""
        while not self._asked.is_set():
            try:
                data = os.read(0, 4096)
            except OSError:
                data = b""
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            if any(_is_stop(line) for line in lines):
                break
        self._asked.set()


def _is_stop(line: bytes) -> bool:
    try:
        request = json.loads(line)
    except ValueError:
        return False
    return isinstance(request, dict) and request.get("request") == "stop"


def in_words(event: Event) -> str:
    """One line for a person at a terminal."""
    match event:
        case events.RunStarted():
            stages = ", ".join(event.stages)
            return f"run {event.run_id} on {event.device} ({event.dtype}): {stages}"
        case events.MemoryPlan():
            free = f" of {_gigabytes(event.available)} free" if event.available else ""
            way = "quantised" if event.held == "blocks" else "dequantised"
            return (
                f"memory: about {_gigabytes(event.needed)}{free} ({way} weights "
                f"{_gigabytes(event.weights)}, adapters {_gigabytes(event.adapters)}, activations "
                f"{_gigabytes(event.activations)}, working {_gigabytes(event.working)})"
            )
        case events.StageStarted():
            return f"{event.stage}: begins"
        case events.StepDone():
            left = "" if event.seconds_left is None else f"  ({event.seconds_left:.0f} s left)"
            return f"{event.stage}: {event.step}/{event.steps}  {_figures(event.metrics)}{left}"
        case events.StageDone():
            return f"{event.stage}: done  {_figures(event.metrics)}"
        case events.Sample():
            return f"prompt: {event.prompt}\n  before: {event.before}\n  after:  {event.after}"
        case events.Note() | events.RunFailed():
            return event.message
        case events.RunDone():
            return f"The new model is in {event.export_dir}."


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _figures(metrics: Any) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
