"""The scripts of packaging/, to be looked at from the inside."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def load(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of packaging/, which is a folder of scripts and not a package."""
    monkeypatch.syspath_prepend(str(repository / "packaging"))
    before = set(sys.modules)
    yield importlib.import_module
    for name in {"bootstrap", "progress", "system_packages"} - before:
        sys.modules.pop(name, None)
