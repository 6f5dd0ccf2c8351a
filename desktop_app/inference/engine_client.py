"""The app's end of the engine child: starts it, speaks with it, and notices when it dies.

Typed calls in, typed events out. There is no Qt here: ``on_event`` is called on a thread of
the client's own, and the service that uses it hops to the GUI thread. Restarting after a
death is the service's decision; ``start`` is all it takes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from desktop_app.errors import UserError
from desktop_app.inference.engine import (
    CancelLoad,
    ContextOverflow,
    EngineDied,
    EngineFailure,
    Event,
    Forget,
    Generate,
    Load,
    ModelReady,
    ModelRef,
    Request,
    RequestDone,
    Score,
    Scored,
    Stop,
)
from desktop_app.inference.engine_process import DIE_WITH_PARENT
from desktop_app.inference.engine_wire import decode_event, encode
from desktop_app.inference.parked_states import forget_files

log = logging.getLogger(__name__)

SILENCE_LIMIT: Final = 60.0
"""Seconds without an event, while one is due, after which the child counts as hung. Reading
one piece of a prompt with a large model on a slow machine takes a few seconds."""
CLOSING_SECONDS: Final = 2.0
MAX_LOG_BYTES: Final = 2 << 20

# All a child gets of our environment: no tokens, no proxies. GGML_ and CUDA_ select devices.
_ENVIRONMENT: Final = (
    "PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TMPDIR", "TMP", "TEMP", "SYSTEMROOT",
    "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH", "OMP_NUM_THREADS",
)  # fmt: skip
_ENVIRONMENT_PREFIXES: Final = ("GGML_", "CUDA_", "HIP_", "VK_")


ENGINE_CHILD: Final = "--engine-child"
"""First argument of a frozen build that shall be the engine child."""


def engine_command(*arguments: str) -> list[str]:
    """How to start the engine child of this installation; ``--fake`` is one argument."""
    if getattr(sys, "frozen", False):  # one executable: __main__ knows this word
        return [sys.executable, ENGINE_CHILD, *arguments]
    # -P: the folder the app is started in must not be able to slip us another desktop_app.
    return [sys.executable, "-P", "-m", "desktop_app.inference.engine_process", *arguments]


class EngineClient:
    """One engine child at a time.

    Args:
        command: what to start, see ``engine_command``.
        on_event: gets every event, on the client's reader thread. A death in any way comes
            as exactly one ``EngineDied``, the child's last event; ``close`` is no death.
        log_path: where the child's stderr goes; nowhere if None.
        silence_limit: see ``SILENCE_LIMIT``.
        states_folder: where the child keeps what it computed (see ``parked_states``).
    """

    def __init__(
        self,
        command: Sequence[str],
        on_event: Callable[[Event], None],
        log_path: Path | None = None,
        *,
        silence_limit: float = SILENCE_LIMIT,
        states_folder: Path | None = None,
    ) -> None:
        self._command = list(command)
        self._on_event = on_event
        self._log_path = log_path
        self._silence_limit = silence_limit
        self._states_folder = states_folder
        self._child: _Child | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a child that can be asked something."""
        return self._child is not None and self._child.is_alive

    @property
    def process_id(self) -> int | None:
        """The child's, for memory figures and tests."""
        return self._child.process_id if self._child and self._child.is_alive else None

    def start(self) -> None:
        """Start a child unless one is running.

        Raises:
            UserError: the system would not start it.
        """
        if not self.is_running:
            self._child = _Child(self._command, self._on_event, self._log_path, self._silence_limit)

    def load(self, model: ModelRef, *, anyway: bool = False) -> None:
        """Ask for a model; LoadProgress and ModelReady or EngineFailure follow.

        ``anyway``: also where it does not fit into the memory that is free.
        """
        self._send(Load(model, anyway))

    def cancel_load(self) -> None:
        """Give up what is being loaded; EngineFailure follows. Does nothing where nothing is."""
        if self._child is not None:
            self._child.send(CancelLoad())

    def generate(self, request: Generate) -> None:
        """Ask for completions; requests are served one after another."""
        self._send(request)

    def score(self, request: Score) -> None:
        """Ask for scores; Scored or EngineFailure follows."""
        self._send(request)

    def stop(self, request: Stop) -> None:
        """End streams; they still report StreamDone. Does nothing where none runs."""
        if self._child is not None:
            self._child.send(request)

    def forget(self) -> None:
        """Let go of what was computed of earlier conversations: they hold its text."""
        if self._states_folder is not None:
            forget_files(self._states_folder)
        if self._child is not None:
            self._child.send(Forget())

    def close(self) -> None:
        """End the child: politely, and after two seconds by force."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def _send(self, request: Load | Generate | Score) -> None:
        if self._child is None or not self._child.send(request):
            raise UserError("The model is not running.", hint="Load a model first.")


class _Child:
    """One process from its start to its end, with the threads that serve its pipes."""

    def __init__(
        self,
        command: Sequence[str],
        on_event: Callable[[Event], None],
        log_path: Path | None,
        silence_limit: float,
    ) -> None:
        self._on_event = on_event
        self._silence_limit = silence_limit
        self._lock = threading.Lock()
        self._open_ids: list[str] = []
        self._loads = 0
        self._heard_at = time.monotonic()
        self._closing = False
        self._hung = False
        self._gone = threading.Event()
        self._outbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._memory_kills = _memory_kills()
        self._process = _spawn(command, log_path)
        self._threads = [
            threading.Thread(target=work, name=f"engine-{work.__name__}", daemon=True)
            for work in (self._read, self._write, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def is_alive(self) -> bool:
        return not self._gone.is_set()

    @property
    def process_id(self) -> int:
        return self._process.pid

    def send(self, request: Request) -> bool:
        """Queue a request; False where the child's death has been reported already."""
        with self._lock:
            if self._gone.is_set():
                return False
            if not self._is_busy():
                self._heard_at = time.monotonic()
            if isinstance(request, Generate | Score):
                self._open_ids.append(request.request_id)
            elif isinstance(request, Load):
                self._loads += 1
            self._outbox.put(request)
        return True

    def close(self) -> None:
        with self._lock:
            self._closing = True
        self._outbox.put(None)
        try:
            self._process.wait(CLOSING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(CLOSING_SECONDS)

    # --- the three threads -------------------------------------------------------------------

    def _write(self) -> None:
        """Requests to the pipe: on a thread, as a hung child may leave the pipe full."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            while (request := self._outbox.get()) is not None:
                pipe.write((encode(request) + "\n").encode("ascii"))
                pipe.flush()
        except OSError:  # the child is gone; _read reports it
            pass
        finally:
            with contextlib.suppress(OSError):
                pipe.close()

    def _read(self) -> None:
        """Events from the pipe, and at its end the report of a death."""
        pipe = self._process.stdout
        assert pipe is not None
        with pipe:
            for line in pipe:
                try:
                    event = decode_event(line.decode("ascii", "replace"))
                except ValueError:
                    continue  # half a line, written while dying
                self._note(event)
                self._tell(event)
        exit_code = self._process.wait()
        with self._lock:
            self._gone.set()
            closing, open_ids, loading = self._closing, tuple(self._open_ids), self._loads > 0
        self._outbox.put(None)
        if not closing:
            self._tell(EngineDied(self._cause_of_death(exit_code), exit_code, loading, open_ids))

    def _watch(self) -> None:
        """Kill a child that is busy and silent for too long."""
        while not self._gone.wait(min(1.0, self._silence_limit / 4)):
            with self._lock:
                silent = time.monotonic() - self._heard_at
                self._hung = self._is_busy() and silent > self._silence_limit
            if self._hung:
                self._process.kill()
                return

    # -----------------------------------------------------------------------------------------

    def _tell(self, event: Event) -> None:
        try:
            self._on_event(event)
        except Exception:  # a bug there must not leave the pipe unread for ever
            log.exception("A %s was not taken", event.kind)

    def _note(self, event: Event) -> None:
        with self._lock:
            self._heard_at = time.monotonic()
            if isinstance(event, RequestDone | ContextOverflow | Scored | EngineFailure):
                if event.request_id in self._open_ids:
                    self._open_ids.remove(event.request_id)
                elif event.request_id is None:
                    self._loads = max(0, self._loads - 1)
            elif isinstance(event, ModelReady):
                self._loads -= 1

    def _is_busy(self) -> bool:
        return bool(self._open_ids) or self._loads > 0

    def _cause_of_death(self, exit_code: int) -> str:
        """A sentence for the person about why the child ended."""
        if self._hung:
            return (
                f"The model did not answer for {self._silence_limit:.0f} seconds and was stopped."
            )
        if exit_code >= 0:
            if os.name != "posix" and exit_code >= 0x80000000:  # an NTSTATUS
                return "The model crashed."
            return "The model ended unexpectedly."
        number = -exit_code
        if number == signal.SIGKILL:
            if _memory_kills() > self._memory_kills:
                return (
                    "The computer ran out of memory and ended the model. "
                    "Close other programs or use a smaller model."
                )
            return "The model was ended from outside, perhaps because memory was short."
        if number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            return "The model was ended from outside."
        if number == signal.SIGBUS:
            return "The model crashed: its file changed or became unreadable while it was in use."
        return "The model crashed."


def _spawn(command: Sequence[str], log_path: Path | None) -> subprocess.Popen[bytes]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    root = str(Path(__file__).resolve().parents[2])
    known = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{root}{os.pathsep}{known}" if known else root
    if threading.current_thread() is threading.main_thread():
        # Linux sends the death signal when the *thread* that started the child ends.
        environment[DIE_WITH_PARENT] = "1"
    log = _open_log(log_path)
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            # Its own group: Ctrl+C in a terminal is the app's to handle.
            process_group=0 if os.name == "posix" else None,
        )
    except OSError as error:
        raise UserError(f"The engine could not be started: {error.strerror}.") from error
    finally:
        if log is not None:
            log.close()


def _open_log(path: Path | None) -> IO[bytes] | None:
    if path is None:
        return open(os.devnull, "wb")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
            os.replace(path, path.with_suffix(".old" + path.suffix))
        return path.open("ab")
    except OSError:  # a full disk must not keep a person from chatting
        return open(os.devnull, "wb")


def _memory_kills() -> int:
    """How many processes Linux has ended for want of memory since it started."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
