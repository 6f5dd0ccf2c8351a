"""Two trainers never work in one folder; a killed one leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.contract.errors import InputError
from finetune.run_lock import RunLock

HOLD = """
import sys
from pathlib import Path
from finetune.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(repository: Path, folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, folder],
        cwd=repository,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_trainer_is_told_who_is_there(repository: Path, tmp_path: Path) -> None:
    with holder(repository, tmp_path) as process:
        with pytest.raises(InputError, match=rf"\(process {process.pid}\) is at work"):
            RunLock(tmp_path)
        process.kill()


def test_what_a_killed_trainer_held_is_free(repository: Path, tmp_path: Path) -> None:
    with holder(repository, tmp_path) as process:
        process.kill()
        process.wait()
        RunLock(tmp_path).release()


def test_a_lock_that_was_let_go_can_be_taken_again(tmp_path: Path) -> None:
    RunLock(tmp_path).release()
    lock = RunLock(tmp_path)
    with pytest.raises(InputError, match="at work"):
        RunLock(tmp_path)
    lock.release()
