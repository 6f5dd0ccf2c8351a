"""One trainer at a time in a run folder.

The lock is the operating system's, on a file of the folder, and not the file's being there: a
trainer that is killed or loses its power gives it back with its life, so nothing stale is left
that a person would have to remove.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from finetune.contract.errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

FILE_NAME: Final = "trainer.lock"
_PLACE: Final = 1 << 30
"""The byte that is locked on Windows: far behind the text, which must stay readable."""


class RunLock:
    """Holds a run folder until it is let go, or until the process ends."""

    def __init__(self, run_dir: Path) -> None:
        """Take the lock.

        Raises:
            InputError: another trainer holds it.
            OSError: the folder cannot be written to.
        """
        path = run_dir / FILE_NAME
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(self._descriptor)
        except OSError:
            with suppress(OSError):
                os.close(self._descriptor)
            holder = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
            raise InputError(
                f"Another trainer (process {holder}) is at work in {run_dir}; let it finish or "
                "stop it first."
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, f"{os.getpid()}\n".encode("ascii"))

    def release(self) -> None:
        """Let another trainer in."""
        os.close(self._descriptor)


def _lock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, _PLACE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
