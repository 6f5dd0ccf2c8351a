"""What a run's folder says of it: how it ended, and what the app has done with it since."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from finetune.contract import events
from finetune.contract.errors import InputError
from finetune.contract.events import RunDone, RunFailed
from finetune.contract.manifest import Manifest, read_manifest

log = logging.getLogger(__name__)

INSTALLED: Final = "installed"
"""A file in the folder of a run whose result is among the versions, or was."""
DISCARDED: Final = "discarded"
"""A file in the folder of a run that is not to be gone on with."""
DECIDED: Final = "decided"
"""A file in the folder of a run whose version was on offer and was used, declined or removed."""


def newest_run(runs: Path) -> Path | None:
    """The folder of the run that was begun last."""
    return max((path for path in runs.iterdir() if (path / "run.json").is_file()), default=None)


def undecided(runs: Path, versions: Iterable[Manifest]) -> Manifest | None:
    """What the newest run made, where nobody has decided on it yet.

    Older runs do not count: whoever trained again has gone on from them.
    """
    run_dir = newest_run(runs)
    if run_dir is None or (run_dir / DECIDED).exists():
        return None
    return next((version for version in versions if version.run_id == run_dir.name), None)


def mark(run_dir: Path, name: str) -> None:
    """Leave a file in a run's folder; without room for it the run is offered again, no more."""
    try:
        (run_dir / name).touch()
    except OSError:
        log.exception("%s could not be noted", name)


def note_end(run_dir: Path, result: RunFailed) -> None:
    """Write how a run ended into its folder, where its trainer died without a word."""
    try:
        with (run_dir / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write("\n" + events.to_line(result) + "\n")
    except OSError:  # without an end it can be resumed as well
        log.exception("The end of the run could not be noted")


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


def can_go_on(run_dir: Path, versions: Callable[[], Iterable[Manifest]]) -> bool:
    """Whether a run has not ended well and is not done with: it, or installing its result.

    Args:
        versions: those that are installed; looked through only where no mark tells.
    """
    if (run_dir / DISCARDED).exists():
        return False
    result = result_of(run_dir)
    if isinstance(result, RunFailed):
        return result.code in ("stopped", "bug", "out_of_memory", "disk_full")
    return result is None or not _was_installed(run_dir, result, versions)


def _was_installed(
    run_dir: Path, result: RunDone, versions: Callable[[], Iterable[Manifest]]
) -> bool:
    """Whether a result is among the versions, was, or cannot be any more."""
    if (run_dir / INSTALLED).exists():
        return True
    try:
        version_id = read_manifest(Path(result.export_dir)).version_id
    except (InputError, OSError):
        return True
    return version_id in {version.version_id for version in versions()}
