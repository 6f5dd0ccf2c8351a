"""What sequences of tokens have left in the cells, kept outside of them: in memory, then in files.

The one used longest ago goes from memory to a file, and from the files for good. A file names
the model, the adapter and the settings that computed it and carries a hash of its contents: one
of something else, or a damaged one, is passed over. The folder is readable by its owner alone,
and ``forget_files`` empties it; it is worth nothing but time, so no failure to write is told.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Final

AdapterKey = tuple[str, float] | None
"""Hash and scale of the adapter that computed some cells; None for the plain base."""

State = ctypes.Array[ctypes.c_uint8]
"""What a sequence's cells hold, in ordinary memory."""

MEMORY_BYTES: Final = 256 << 20
"""What parked sequences may take: 20,000 tokens of a model of 0.5 billion weights."""
FILE_BYTES: Final = 1 << 30
"""What all files may take, those of other models included."""
FAREWELL_SECONDS: Final = 0.3
"""For writing what is in memory when the engine ends."""

_SUFFIX: Final = ".cells"
_UNFINISHED: Final = ".part"
_LONGEST_HEADER: Final = 4096
_TOKEN_BYTES: Final = 4


@dataclass(eq=False, kw_only=True)
class Known:
    """Tokens that were computed, and by what."""

    adapter: AdapterKey
    tokens: list[int] = field(default_factory=list)
    prompt_length: int = 0
    """How many of the tokens were the prompt; the others were written by the model."""


@dataclass(eq=False, kw_only=True)
class Parked(Known):
    """A sequence outside the cells. ``state`` is None where it is in a file only."""

    state: State | None = None
    path: Path | None = None


class ParkedStates:
    """The parked sequences of one model and its context.

    Args:
        identity: names the model and the settings that a state depends on.
        folder: for the files; None keeps all in memory.
        memory_bytes, file_bytes: see ``MEMORY_BYTES`` and ``FILE_BYTES``.
    """

    def __init__(
        self,
        identity: str,
        folder: Path | None,
        memory_bytes: int = MEMORY_BYTES,
        file_bytes: int = FILE_BYTES,
    ) -> None:
        self._identity = identity
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._file_bytes = file_bytes
        self._entries: list[Parked] = []  # from the one used longest ago to the last
        if folder is not None:
            self._entries = _index(folder, identity)

    def __iter__(self) -> Iterator[Parked]:
        return iter(self._entries)

    @property
    def have_files(self) -> bool:
        return self._folder is not None

    @property
    def bytes_in_memory(self) -> int:
        return sum(len(entry.state) for entry in self._entries if entry.state is not None)

    def add(self, parked: Parked) -> None:
        """Keep a state, and let go of those used longest ago that there is no room for."""
        self._entries.append(parked)
        while self.bytes_in_memory > self._memory_bytes:
            oldest = next(entry for entry in self._entries if entry.state is not None)
            self._write(oldest)
            oldest.state = None
            if oldest.path is None:
                self._entries.remove(oldest)

    def read(self, parked: Parked) -> State | None:
        """Its state, which counts as used now; None, and no trace of it, where it is damaged."""
        state = parked.state
        if state is None:
            state = _read(parked, self._identity)
        if state is None:
            self.remove(parked)
            return None
        self._entries.remove(parked)
        self._entries.append(parked)
        if parked.path is not None:
            with contextlib.suppress(OSError):
                os.utime(parked.path)
        return state

    def remove(self, parked: Parked) -> None:
        """Let go of a state, and of its file. Does nothing where it is gone already."""
        if parked not in self._entries:
            return
        self._entries.remove(parked)
        if parked.path is not None:
            _delete(parked.path)

    def release(self, parked: Parked) -> None:
        """It is in the cells now: forget the copy in memory. A file stays, for after a crash."""
        parked.state = None
        if parked.path is None and parked in self._entries:
            self._entries.remove(parked)

    def forget(self) -> None:
        """Let go of everything, files of other models included."""
        self._entries.clear()
        if self._folder is not None:
            forget_files(self._folder)

    def save(self) -> None:
        """Write what is in memory to files, the last used first, as far as the time allows."""
        until = time.monotonic() + FAREWELL_SECONDS
        for entry in reversed(self._entries):
            if time.monotonic() < until:
                self._write(entry)

    def _write(self, entry: Parked) -> None:
        if self._folder is None or entry.path is not None or entry.state is None:
            return
        if len(entry.state) > self._file_bytes:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            entry.path = _write(self._folder, self._identity, entry)
        except OSError:  # a full disk must not keep a person from chatting
            return
        for path in _surplus(self._folder, self._file_bytes):
            _delete(path)
            for other in [other for other in self._entries if other.path == path]:
                other.path = None
                if other.state is None:
                    self._entries.remove(other)


def forget_files(folder: Path) -> None:
    """Delete all states in a folder, as when a conversation is deleted: they hold its text."""
    for path in _files(folder, _SUFFIX, _UNFINISHED):
        _delete(path)


# --- files -----------------------------------------------------------------------------------
#
# A line of JSON, the tokens (4 bytes each, the machine's order), the state.


def _write(folder: Path, identity: str, entry: Parked) -> Path:
    assert entry.state is not None
    tokens = bytes((ctypes.c_int32 * len(entry.tokens))(*entry.tokens))
    described = json.dumps([identity, entry.adapter])
    name = sha256(described.encode() + tokens).hexdigest()[:40]
    header = {
        "identity": identity,
        "adapter": entry.adapter,
        "tokens": len(entry.tokens),
        "prompt_length": entry.prompt_length,
        "state": len(entry.state),
        "sha256": _hash(tokens, entry.state),
    }
    path = folder / (name + _SUFFIX)
    unfinished = folder / (name + _UNFINISHED)
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(json.dumps(header).encode("ascii") + b"\n")
            file.write(tokens)
            file.write(memoryview(entry.state))
        os.replace(unfinished, path)
    except OSError:
        _delete(unfinished)
        raise
    return path


def _index(folder: Path, identity: str) -> list[Parked]:
    """The states of this identity in a folder, from the one used longest ago to the last."""
    for path in _files(folder, _UNFINISHED):
        _delete(path)
    found = []
    for path in _files(folder, _SUFFIX):
        try:
            with path.open("rb") as file:
                header = _header(file, path)
                if header["identity"] == identity:
                    found.append(_described(header, file, path))
        except (OSError, ValueError, KeyError, TypeError):
            _delete(path)
    return found


def _read(entry: Parked, identity: str) -> State | None:
    if entry.path is None:
        return None
    try:
        with entry.path.open("rb") as file:
            header = _header(file, entry.path)
            again = _described(header, file, entry.path)
            state: State = (ctypes.c_uint8 * int(header["state"]))()
            if file.readinto(state) != len(state):
                return None
            tokens = bytes((ctypes.c_int32 * len(again.tokens))(*again.tokens))
            is_right = (
                header["identity"] == identity
                and (again.adapter, again.tokens) == (entry.adapter, entry.tokens)
                and header["sha256"] == _hash(tokens, state)
            )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if is_right else None


def _header(file: IO[bytes], path: Path) -> dict[str, Any]:
    header = json.loads(file.readline(_LONGEST_HEADER))
    if not isinstance(header, dict):
        raise ValueError("no header")
    whole = file.tell() + _TOKEN_BYTES * int(header["tokens"]) + int(header["state"])
    if whole != path.stat().st_size:
        raise ValueError("not whole")
    return header


def _described(header: dict[str, Any], file: IO[bytes], path: Path) -> Parked:
    count = int(header["tokens"])
    raw = (ctypes.c_int32 * count).from_buffer_copy(file.read(count * _TOKEN_BYTES))
    adapter = header["adapter"]
    return Parked(
        adapter=None if adapter is None else (str(adapter[0]), float(adapter[1])),
        tokens=list(raw),
        prompt_length=int(header["prompt_length"]),
        path=path,
    )


def _hash(tokens: bytes, state: State) -> str:
    digest = sha256(tokens)
    digest.update(memoryview(state))
    return digest.hexdigest()


def _surplus(folder: Path, allowed: int) -> list[Path]:
    """The files used longest ago that there is no room for."""
    paths = _files(folder, _SUFFIX)
    sizes = [path.stat().st_size for path in paths]
    excess = sum(sizes) - allowed
    surplus = []
    for path, size in zip(paths, sizes, strict=True):
        if excess <= 0:
            break
        surplus.append(path)
        excess -= size
    return surplus


def _files(folder: Path, *suffixes: str) -> list[Path]:
    """Files of ours, from the one used longest ago to the last."""
    try:
        paths = [path for path in folder.iterdir() if path.suffix in suffixes]
        return sorted(paths, key=lambda path: path.stat().st_mtime_ns)
    except OSError:  # there is no such folder yet
        return []


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
