"""What a broken file does to llama.cpp, for the parity child. Imports nothing heavy."""

import ctypes


def crash(*_: object) -> None:
    """Read address 0."""
    ctypes.string_at(0)
