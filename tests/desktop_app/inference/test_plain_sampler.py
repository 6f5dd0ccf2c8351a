"""The quick sampler draws what llama.cpp's own chain draws from all tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from desktop_app.inference.engine import ModelRef
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.sampler import ChainSampler, Sampling
from tests.desktop_app.inference.asking import ask
from tests.tiny_models import write_model


@pytest.mark.parametrize(
    "options",
    [
        {"repeat_penalty": penalty, "penalty_window": window}
        for penalty in (0.5, 1.0, 1.05, 1.7, 3.0)
        for window in (0, 1, 7, 64)
    ]
    + [
        {"top_k": 0}, {"top_k": 1}, {"top_k": 5, "typical_p": 0.8}, {"top_k": 10_000},
        {"top_k": 20, "top_p": 0.5, "min_p": 0.2}, {"xtc_probability": 0.5}, {"mirostat": 1},
        {"mirostat": 2}, {"temperature": 5.0, "top_p": 1.0, "min_p": 0.0},
    ],
)  # fmt: skip
def test_the_same_tokens_are_drawn(
    model: ModelRef, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def texts() -> list[str]:
        engine = LlamaEngine(threads=1)
        list(engine.load(model))
        found = [
            ask(
                engine, "Hello", seeds=[seed], **({"temperature": heat, "max_tokens": 90} | options)
            )
            for seed in (1, 2)
            for heat in (0.0, 1.2)
        ]
        engine.close()
        return [answer.text for answer in found]

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
