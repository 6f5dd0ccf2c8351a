"""Which model files have ended the engine while they were loaded, remembered across starts.

A load that has begun is written down before it begins. If the app ends with it, perhaps
because the memory of the whole machine was full, the next start finds it open and counts it
as a crash. What is loaded well is struck off.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Final

from finetune.contract.manifest import write_whole

log = logging.getLogger(__name__)

MOST_CRASHES: Final = 2
"""After as many, a model is not loaded by itself any more."""


class LoadRecord:
    """A small file; one that cannot be read or written costs the memory, not the start.

    Args:
        path: None remembers only as long as the app runs.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._crashes: dict[str, int] = {}
        self._open = ""
        self._read()
        if self._open:
            self.crash(self._open)

    def is_barred(self, key: str) -> bool:
        """Whether this has crashed so often that only the person may load it.

        Args:
            key: names a model file and its adapter by their hashes.
        """
        return self._crashes.get(key, 0) >= MOST_CRASHES

    def begin(self, key: str) -> None:
        """It is about to be loaded."""
        self._change(self._crashes, key)

    def crash(self, key: str) -> None:
        """The engine died while it was loaded."""
        self._change({**self._crashes, key: self._crashes.get(key, 0) + 1}, "")

    def succeed(self, key: str) -> None:
        """It is loaded, or the person wants it to be tried as if nothing had happened."""
        self._change({k: n for k, n in self._crashes.items() if k != key}, "")

    def end(self) -> None:
        """The load has ended without a crash: refused, cancelled, or the app is closed."""
        self._change(self._crashes, "")

    def _change(self, crashes: dict[str, int], open_key: str) -> None:
        if (crashes, open_key) == (self._crashes, self._open):
            return
        self._crashes, self._open = crashes, open_key
        if self._path is None:
            return
        text = json.dumps({"open": open_key, "crashes": crashes}, indent=2) + "\n"
        try:
            write_whole(self._path, text.encode("utf-8"))
        except OSError:
            log.warning("How the loading went could not be remembered", exc_info=True)

    def _read(self) -> None:
        if self._path is None:
            return
        try:
            raw = json.loads(self._path.read_text(encoding="utf-8"))
            self._open = str(raw["open"])
            self._crashes = {str(key): int(count) for key, count in raw["crashes"].items()}
        except FileNotFoundError:
            pass
        except (
            OSError,
            ValueError,
            OverflowError,
            RecursionError,
            KeyError,
            TypeError,
            AttributeError,
        ):
            log.warning("How earlier loading went cannot be read")
