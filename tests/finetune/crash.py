"""What may befall the parity child. Imports nothing heavy."""

import ctypes
import os
import signal


def crash(*_: object) -> None:
    """Read address 0, as llama.cpp does with a broken file."""
    ctypes.string_at(0)


def killed(*_: object) -> None:
    """What a system without memory does."""
    os.kill(os.getpid(), signal.SIGKILL)
