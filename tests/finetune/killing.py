"""A run that is killed (SIGKILL) again and again until it has got through, for the resume tests.

    python -m tests.finetune.killing RUN_DIR events|writes|clock

Each try is a process of its own, forked after the slow imports. In "events" it dies after every
event nobody has seen yet: at each boundary of a stage and in each step. In "writes" it dies in
the middle of every file of every checkpoint and of the export, before each rename and after it.
In "clock" it dies whenever its time has come, wherever it then is. Prints how often it died.
"""

from __future__ import annotations

import builtins
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from finetune import checkpoint, gguf_writer, pipeline, version
from finetune.contract import events, manifest
from finetune.contract.events import Event

MOST_TRIES = 400


class Deaths:
    """Every place kills once; which ones have, is kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = set(path.read_text().splitlines()) if path.exists() else set()

    def at(self, place: str) -> None:
        if place in self._seen:
            return
        with self._path.open("a") as file:
            file.write(place + "\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def pending(self, place: str) -> bool:
        return place not in self._seen


def after_events(deaths: Deaths) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        place = f"{event.kind} {getattr(event, 'stage', '')} {getattr(event, 'step', '')}"
        deaths.at(place)

    return emit


def in_writes(deaths: Deaths) -> Callable[[Event], None]:
    """Break off writing in the middle of each file, and around each rename."""
    write, replace = checkpoint._write, os.replace

    def half(path: Path, data: bytes) -> None:
        place = f"write {path.parent.name}/{path.name}"
        if deaths.pending(place):
            with builtins.open(path, "wb") as file:
                file.write(data[: len(data) // 2])
            deaths.at(place)
        write(path, data)

    def renamed(source: Any, target: Any) -> None:
        name = f"{Path(target).parent.name}/{Path(target).name}"
        deaths.at(f"before {name}")
        replace(source, target)
        deaths.at(f"after {name}")

    checkpoint._write = half
    for module in (checkpoint, version, manifest):
        module.os = Renaming(renamed)  # type: ignore[attr-defined]
    tensor = gguf_writer.TensorWriter.pad

    def pad(self: gguf_writer.TensorWriter) -> None:
        tensor(self)
        deaths.at("tensors")

    gguf_writer.TensorWriter.pad = pad  # type: ignore[method-assign]
    return lambda event: None


class Renaming:
    """The module ``os`` with another ``replace``."""

    def __init__(self, replace: Callable[[Any, Any], None]) -> None:
        self.replace = replace

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


def run_once(run_dir: Path, how: str, deaths: Path) -> None:
    """One try, in this process; it never returns."""
    code = 1
    try:
        emit: Callable[[Event], None] = {
            "events": after_events,
            "writes": in_writes,
            "clock": lambda _: lambda event: None,
        }[how](Deaths(deaths))
        done = pipeline.run(run_dir, emit, lambda: False, resumed=True)
        code = 0 if isinstance(done, events.RunDone) else 1
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    run_dir, how = Path(sys.argv[1]), sys.argv[2]
    luck = random.Random(7)
    torch.set_num_threads(1)
    for tries in range(MOST_TRIES):
        # Later and later: tries that never reach a checkpoint would go on for ever.
        seconds = luck.uniform(0.01, 0.5 + 0.15 * tries)
        process = os.fork()
        if process == 0:
            if how == "clock":  # of its own processor time; nobody handles this signal either
                signal.setitimer(signal.ITIMER_PROF, seconds)
            run_once(run_dir, how, run_dir.parent / "deaths.txt")
        _, status = os.waitpid(process, 0)
        if os.WIFEXITED(status):
            if os.WEXITSTATUS(status) == 0:
                print(tries)
                return
            sys.exit("the run failed")
    sys.exit("the run never got through")


if __name__ == "__main__":
    main()
