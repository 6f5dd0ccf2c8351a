"""Tiny models, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from desktop_app.inference.engine import AdapterRef, ModelReady, ModelRef
from desktop_app.inference.llama_engine import LlamaEngine
from finetune.contract.manifest import file_sha256
from tests.tiny_models import write_adapter, write_model


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model whose answers go on until they are stopped."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny.gguf", ends=False)


@pytest.fixture(scope="session")
def adapter_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter.gguf")


@pytest.fixture
def model(model_file: Path) -> ModelRef:
    return ModelRef("base", str(model_file), file_sha256(model_file))


@pytest.fixture
def adapter(adapter_file: Path) -> AdapterRef:
    return AdapterRef(str(adapter_file), file_sha256(adapter_file))


@pytest.fixture
def engine(model: ModelRef) -> Iterator[LlamaEngine]:
    """A real engine on one thread, with the tiny model loaded."""
    engine = LlamaEngine(threads=1)
    assert isinstance(list(engine.load(model))[-1], ModelReady)
    yield engine
    engine.close()
