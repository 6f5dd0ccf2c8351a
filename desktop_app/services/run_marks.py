"""What a run's folder says of it: how it ended, and what the app has done with it since."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from finetune.contract import events
from finetune.contract.events import RunDone, RunFailed

log = logging.getLogger(__name__)

INSTALLED: Final = "installed"
"""A file in the folder of a run whose result is among the versions, or was."""
DISCARDED: Final = "discarded"
"""A file in the folder of a run that is not to be gone on with."""


def mark(run_dir: Path, name: str) -> None:
    """Leave a file in a run's folder; without room for it the run is offered again, no more."""
    try:
        (run_dir / name).touch()
    except OSError:
        log.exception("%s could not be noted", name)


def result_of(run_dir: Path) -> RunDone | RunFailed | None:
    """The final event in a run's folder."""
    try:
        lines = (run_dir / "events.jsonl").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    for line in reversed(lines.splitlines()):
        event = events.from_line(line)
        if isinstance(event, RunDone | RunFailed):
            return event
        if isinstance(event, events.RunStarted):
            return None  # a resumed run that has not ended
    return None
