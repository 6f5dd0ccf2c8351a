"""One run as a process: whatever happens inside, exactly one final event and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from finetune.console import EventStream, StopRequest
from finetune.contract.errors import InputError
from finetune.contract.events import Event, FailureCode, RunDone, RunFailed
from finetune.out_of_memory import is_out_of_memory
from finetune.run_lock import RunLock

log = logging.getLogger(__name__)

DONE, FAILED, MISUSED, STOPPED = 0, 1, 2, 3
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Emit = Callable[[Event], None]


def run_to_end(
    run_dir: Path, stream: EventStream, *, resumed: bool, tensorboard: bool = False
) -> int:
    """Run the pipeline on a prepared folder and emit its final event; the exit code."""
    should_stop = StopRequest()
    should_stop.watch()
    if os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0":
        return _follow(run_dir, should_stop, resumed=resumed)

    def work() -> RunDone:
        return _run(run_dir, stream.emit, should_stop, resumed=resumed)

    lock: RunLock | None = None
    try:
        if not (run_dir / "run.json").is_file():
            raise InputError(f"{run_dir} is not a run folder: run.json is missing.")
        lock = RunLock(run_dir)  # before the first byte that another trainer would see
        stream.keep_in(run_dir)
        if tensorboard:
            stream.draw_in(run_dir)
        _log_to(run_dir / "log.txt")
    except InputError as error:
        result: RunDone | RunFailed = RunFailed("bad_input", str(error))
    except OSError as error:
        result = _failure(error)
    else:
        result = guarded(work)
    stream.emit(result)
    stream.close()
    if lock is not None:
        lock.release()
    if isinstance(result, RunDone):
        return DONE
    if result.code == "bad_input":
        print(result.message, file=sys.stderr)
        return MISUSED
    return STOPPED if result.code == "stopped" else FAILED


def _run(run_dir: Path, emit: Emit, should_stop: Callable[[], bool], *, resumed: bool) -> RunDone:
    from finetune import distributed  # seconds of imports: the watcher listens already
    from finetune.pipeline import run

    distributed.start()
    try:
        return run(run_dir, emit, should_stop, resumed=resumed)
    finally:
        distributed.stop()


def _follow(run_dir: Path, should_stop: Callable[[], bool], *, resumed: bool) -> int:
    """One of several processes that train together, and not the one that writes and speaks.

    The exit code is that of a failure only where it failed alone: what all of them came to, the
    first one says.
    """
    result = guarded(lambda: _run(run_dir, lambda event: None, should_stop, resumed=resumed))
    alone = isinstance(result, RunFailed) and result.code in ("bug", "out_of_memory", "disk_full")
    return FAILED if alone else DONE


def guarded(work: Callable[[], RunDone]) -> RunDone | RunFailed:
    """The result of ``work``, or what its exception means to a person."""
    try:
        return work()
    except (Exception, KeyboardInterrupt) as error:
        result = _failure(error)
        if result.code in ("bug", "out_of_memory", "disk_full", "diverged"):
            log.exception("the run failed")
        else:
            log.info("the run ended: %s", result.message)
        return result


def _failure(error: BaseException) -> RunFailed:
    code, message = _meaning(error)
    return RunFailed(code, message)


def _meaning(error: BaseException) -> tuple[FailureCode, str]:
    name = type(error).__name__
    text = str(error)
    if isinstance(error, InputError):
        return "bad_input", text
    if name == "Stopped" or isinstance(error, KeyboardInterrupt):
        return "stopped", "The training was stopped. It can go on from where it was."
    if name == "NotEnoughFeedback":
        return "not_enough_feedback", text
    if name in ("GateFailed", "ExportFailed"):
        return "gate_failed", text
    if name == "Diverged":
        return "diverged", f"The training lost its footing: {text}. Your model is unchanged."
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return "disk_full", "The disk is full. Free some space, then resume the training."
    if is_out_of_memory(error):
        return (
            "out_of_memory",
            "There was not enough memory. Close other programs or choose a smaller model, then "
            "resume the training.",
        )
    return "bug", f"The training failed unexpectedly ({name}). Details are in its log.txt."


def _log_to(path: Path) -> None:
    """Everything worth knowing afterwards goes into the run's own log, warnings included."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    log.info("process %d, Python %s", os.getpid(), sys.version.split()[0])
