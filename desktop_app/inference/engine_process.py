"""The engine child: reads requests on stdin, writes events to stdout, holds llama.cpp.

It is a process of its own because a native crash or a memory kill here must not take the
conversation along, and because its end is the only sure way to give graphics memory back. It
ends when its stdin ends, whatever it is doing, so it never outlives the app.

    python -m desktop_app.inference.engine_process [--states DIR]
    python -m desktop_app.inference.engine_process --fake [--seconds-per-token 0.02]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, TextIO

from desktop_app.errors import UserError, sentence
from desktop_app.inference.engine import (
    CancelLoad,
    Engine,
    EngineFailure,
    Event,
    Forget,
    Generate,
    Load,
    Part,
    Request,
    Score,
    Stop,
    TextDelta,
)
from desktop_app.inference.engine_wire import decode_request, encode
from finetune.contract.errors import InputError

DIE_WITH_PARENT: Final = "ATTUNE_DIE_WITH_PARENT"
"""Set by the client where the thread that starts the child lives as long as the app."""
FAREWELL_SECONDS: Final = 0.5
"""How long a computation may go on once the app has gone."""
JOINED_SECONDS: Final = 0.016
"""Text is written at most this often; the screen is painted every 33 ms at most."""

_Work = Load | Generate | Score | Forget
"""Requests that are served one after another; the others are heard at once."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve requests until stdin ends."""
    parser = argparse.ArgumentParser(prog="engine_process", description="Attune's engine child")
    parser.add_argument("--fake", action="store_true", help="answer without a model")
    parser.add_argument("--seconds-per-token", type=float, default=0.0, help="of the fake")
    parser.add_argument("--states", type=Path, help="folder for what was computed")
    options = parser.parse_args(arguments)

    _forbid_core_dumps()
    _die_with_parent()
    emit = open_event_stream().emit
    requests = open(0, encoding="utf-8", errors="replace", closefd=False)
    _Server(_make_engine(options), emit).run(requests)
    return 0


class EventStream:
    """Events as lines on ``stream``; text that comes faster than it can be read is joined.

    A small model writes a token in less than a millisecond. A line for each would wake the
    app a thousand times a second and slow down both.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._held: dict[tuple[str, int, Part], str] = {}
        self._written_at = 0.0

    def emit(self, event: Event) -> None:
        """Write an event, or hold a piece of text back for a moment."""
        with self._lock:
            if isinstance(event, TextDelta):
                key = event.request_id, event.stream, event.part
                self._held[key] = self._held.get(key, "") + event.text
                if time.monotonic() - self._written_at >= JOINED_SECONDS:
                    self._write()
            else:
                self._write(event)

    def _write(self, *events: Event) -> None:
        texts = [
            TextDelta(request_id, stream, text, part)
            for (request_id, stream, part), text in self._held.items()
        ]
        self._held.clear()
        try:
            self._stream.write("".join(encode(event) + "\n" for event in (*texts, *events)))
            self._stream.flush()
        except OSError:  # nobody reads any more: the app is gone
            os._exit(0)
        self._written_at = time.monotonic()


def open_event_stream() -> EventStream:
    """Keep the real stdout for events and send everybody else's prints to stderr."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
    os.dup2(2, 1)
    return EventStream(stream)


class _Server:
    """One thread computes; another reads, so that a stop is heard in the middle of it."""

    def __init__(self, engine: Engine, emit: Callable[[Event], None]) -> None:
        self._engine = engine
        self._emit = emit
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        # Loads are counted, so that a cancellation is of those before it and of no other.
        self._loads_received = self._loads_begun = self._loads_cancelled = 0
        self._open_ids: set[str] = set()
        self._closed = threading.Event()

    def run(self, requests: TextIO) -> None:
        """Serve until ``requests`` ends. The last thing it does is to end the process."""
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        while (request := self._inbox.get()) is not None:
            self._serve(request)
        self._engine.close()
        self._closed.set()

    def _serve(self, request: _Work) -> None:
        request_id = None if isinstance(request, Load | Forget) else request.request_id
        try:
            if isinstance(request, Load):
                # Not wanted back: what was loaded stays, and searching it for garbage costs
                # a percent of a small model's speed.
                gc.freeze()
                events = self._load(request)
            elif isinstance(request, Score):
                events = self._engine.score(request)
            elif isinstance(request, Forget):
                self._engine.forget()
                return
            else:
                events = self._engine.generate(request)
            for event in events:
                self._emit(event)
        except Exception as error:
            if not isinstance(error, UserError | InputError):
                traceback.print_exc()
            self._emit(EngineFailure(_say(error), request_id))
        if request_id is not None:
            self._open_ids.discard(request_id)

    def _load(self, request: Load) -> Iterator[Event]:
        self._loads_begun += 1
        number = self._loads_begun
        return self._engine.load(
            request.model,
            anyway=request.anyway,
            is_cancelled=lambda: number <= self._loads_cancelled,
        )

    def _read(self, requests: TextIO) -> None:
        for line in requests:
            try:
                self._receive(decode_request(line))
            except Exception:
                traceback.print_exc()
                self._emit(EngineFailure("The engine was asked something it does not know."))
        # The app has closed our stdin, or died. Whatever runs gets a moment to end well.
        for request_id in tuple(self._open_ids):
            self._engine.stop(Stop(request_id))
        self._inbox.put(None)
        self._closed.wait(FAREWELL_SECONDS)
        os._exit(0)

    def _receive(self, request: Request) -> None:
        if isinstance(request, Stop):
            if request.request_id in self._open_ids:
                self._engine.stop(request)
            return
        if isinstance(request, CancelLoad):
            self._loads_cancelled = self._loads_received
            return
        if isinstance(request, Generate | Score):
            self._open_ids.add(request.request_id)
        elif isinstance(request, Load):
            self._loads_received += 1
        self._inbox.put(request)


def _make_engine(options: argparse.Namespace) -> Engine:
    if options.fake:
        from desktop_app.inference.fake_engine import FakeEngine

        return FakeEngine(options.seconds_per_token)
    # Threads that wait for each other spin for a moment, longer than a token is drawn for, and
    # sleep then. One that sleeps between tokens wakes on the core of the one that woke it, which
    # is slower than one thread alone; and spinning for as long as it takes, as OpenMP does by
    # itself, makes everything many times slower as soon as another program wants a core.
    os.environ.setdefault("GOMP_SPINCOUNT", "100000")
    from desktop_app.inference.llama_engine import LlamaEngine

    return LlamaEngine(states_folder=options.states)


def _say(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "There is not enough memory for this. Close other programs or use a smaller model."
    message, hint = sentence(error)
    return f"{message} {hint}".strip()


def _forbid_core_dumps() -> None:
    """A dump would leave the conversation on the disk, and take minutes with a large model."""
    if os.name == "posix":
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _die_with_parent() -> None:
    """Linux ends us with the app even where Python cannot run any more to read stdin's end."""
    if sys.platform == "linux" and os.environ.get(DIE_WITH_PARENT):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
