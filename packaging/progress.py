"""Runs a long command for bootstrap.py: records all its output, shows a person where it stands.

On a terminal one line is rewritten; elsewhere (a log of CI) a line is written now and then.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

QUIET_SECONDS = 30.0
"""How often a line is written where lines cannot be rewritten."""

CUDA_ROOM = "; 10 GB with the CUDA build of PyTorch" if sys.platform == "linux" else ""
"""pip prefers that build on Linux: 3 GB to fetch, kept in its cache, and twice as much unpacked."""
DISK_FULL = f"The disk is full. Make room (about 2 GB{CUDA_ROOM})"
"""Whoever says it goes on with what to do then."""

_COMPILED = re.compile(r"\s*\[(\d+)/(\d+)\] ")  # ninja
_DOWNLOADED = re.compile(r"Progress (\d+) of (\d+)")  # pip --progress-bar=raw
_DOWNLOADING = re.compile(r"\s*Downloading (\S+?)(?:-\d\S*)?( \([\d.]+ [kMG]B\))?$")


class SetupError(Exception):
    """The set-up cannot go on. The text is all that the person sees: what is wrong, what to do."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code (None: it took too long), and its last lines."""

    code: int | None
    output: str


def say(text: str) -> None:
    print(text, flush=True)


class StatusLine:
    """What is being done, what of it, and for how long."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._detail = ""
        self._started = self._written = time.monotonic()
        self._rewrites = sys.stdout.isatty()

    def read(self, line: str) -> bool:
        """Learns from a line of the command's output. False: the line is not worth recording."""
        if match := _COMPILED.match(line):
            done, total = map(int, match.groups())
            self._detail = (
                f": compiling llama.cpp, usually 5 to 15 minutes, {done * 100 // total} %"
            )
        elif line.lstrip().startswith("Building wheel for llama"):
            self._detail = ": compiling llama.cpp, usually 5 to 15 minutes"
        elif match := _DOWNLOADING.match(line):
            name = match[1].rpartition("/")[2]
            self._detail = f": downloading {name}{match[2] or ''}"
        elif match := _DOWNLOADED.match(line):
            done, total = map(int, match.groups())
            self._detail = f"{self._detail.partition(',')[0]}, {done * 100 // max(total, 1)} %"
            return False
        elif line.startswith("Installing collected packages"):
            self._detail = ""
        return True

    def text(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        return f"  {self._doing}{self._detail}, {minutes}:{seconds:02} so far"

    def show(self) -> None:
        if self._rewrites:
            print(f"\r\x1b[2K{self.text()[:100]}", end="", flush=True)
        elif time.monotonic() - self._written > QUIET_SECONDS:
            self._written = time.monotonic()
            say(self.text())

    def clear(self) -> None:
        if self._rewrites:
            print("\r\x1b[2K", end="", flush=True)


def run_logged(
    doing: str,
    command: list[str],
    log: Path,
    *,
    limit: float | None = None,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """Runs ``command`` to its end, or for ``limit`` seconds, and appends its output to ``log``."""
    status, last_lines = StatusLine(doing), deque[str](maxlen=2000)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=os.environ | (environment or {}),
        close_fds=False,  # hands on the lock of the set-up, see only_one_setup
        start_new_session=True,  # so that all of its children can be ended with it
    )

    assert process.stdout is not None
    lines = process.stdout

    def kept_lines() -> Iterator[str]:
        for line in lines:
            if status.read(line):
                last_lines.append(line)
                yield line

    def read_output() -> None:
        kept = kept_lines()
        with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as record:
            record.write(f"\n$ {' '.join(command)}\n")
            record.writelines(kept)
        for _ in kept:  # the disk is full, say: unread, the command would wait for ever
            pass

    reader = threading.Thread(target=read_output, daemon=True)
    reader.start()
    ends = time.monotonic() + limit if limit is not None else float("inf")
    code: int | None = None
    try:
        while (code := process.poll()) is None and time.monotonic() < ends:
            reader.join(timeout=0.2)
            status.show()
            if not reader.is_alive():  # its last line is read: it is about to end
                code = process.wait()
                break
    finally:
        status.clear()
        end_with_children(process)
        reader.join()
        lines.close()
    return Outcome(code, "".join(last_lines))


def end_with_children(process: subprocess.Popen[str]) -> None:
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        everything = ["taskkill", "/T", "/F", "/PID", str(process.pid)]
        subprocess.run(everything, capture_output=True, check=False)
    else:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
