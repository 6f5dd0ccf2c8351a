"""The quick repeat penalty draws what llama.cpp's own link draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from desktop_app.inference.engine import ModelRef
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.sampler import ChainSampler, Sampling
from tests.desktop_app.inference.asking import ask
from tests.tiny_models import write_model


@pytest.mark.parametrize("penalty", [0.5, 1.05, 1.7, 3.0])
@pytest.mark.parametrize("window", [1, 7, 64])
def test_the_same_tokens_are_drawn(
    model: ModelRef, penalty: float, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def texts() -> list[str]:
        engine = LlamaEngine(threads=1)
        list(engine.load(model))
        options: dict[str, Any] = {"repeat_penalty": penalty, "penalty_window": window}
        found = [
            ask(engine, "Hello", seeds=[seed], temperature=heat, max_tokens=90, **options).text
            for seed in (1, 2)
            for heat in (0.0, 1.2)
        ]
        engine.close()
        return found

    quick = texts()
    made = []

    def slow(self: Sampling, seed: int, is_reasoning: object) -> ChainSampler:
        made.append(seed)
        return ChainSampler(self._chain(seed, self._params.repeat_penalty))

    monkeypatch.setattr(Sampling, "sampler", slow)
    assert texts() == quick
    assert len(made) == 4


def test_it_is_what_streams_side_by_side_use_too(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", ends=False)
    engine = LlamaEngine(threads=1)
    list(engine.load(ModelRef("v", str(path), "ab")))
    alone = [ask(engine, "Hello", seeds=[seed], repeat_penalty=2.0).text for seed in (1, 2, 3)]
    assert len(set(alone)) == 3
    together = ask(engine, "Hello", seeds=[1, 2, 3], repeat_penalty=2.0).texts
    assert [text[:12] for text in together] == [text[:12] for text in alone]
    engine.close()
