"""Settings for all tests: no screen, no network, and the folders they look into."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")  # before Qt is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def starter_model(repository: Path) -> Path:
    """The bundled model."""
    return repository / "resources" / "models" / "attune-starter.gguf"


def shared_folder(name: str) -> Path:
    """A folder beside the checkout with data or models that are not part of the project."""
    folder = REPOSITORY.parent / "shared" / name
    if not folder.is_dir():
        pytest.skip(f"shared/{name} is not beside this checkout")
    return folder


@pytest.fixture(scope="session")
def shared_models() -> Path:
    return shared_folder("models")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return shared_folder("data")
