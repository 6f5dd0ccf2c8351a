"""How fast is found by trying; what is written does not depend on what was found."""

from __future__ import annotations

import pytest

from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.pace import Pace, measure
from tests.desktop_app.inference.asking import ask, begin_alike


def test_measuring_leaves_the_context_empty_and_chooses_what_there_is(engine: LlamaEngine) -> None:
    loaded = engine._loaded
    assert loaded is not None
    assert loaded.context is not None
    before = ask(engine, "Hello").text
    loaded.cache.clear()
    pace = measure(loaded.context, cores=2, limit=9)
    assert pace.threads in (1, 2)
    assert pace.batch_threads in (1, 2)
    assert pace.smallest_batch in (2, 4, 8, 10)
    assert ask(engine, "Hello").text == before


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_is_tried_than_is_allowed(engine: LlamaEngine, limit: int) -> None:
    assert engine._loaded is not None
    assert engine._loaded.context is not None
    assert measure(engine._loaded.context, cores=1, limit=limit).smallest_batch in (2, limit + 1)


def test_one_by_one_each_completion_is_what_it_is_alone(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = [1, 2, 3, 4]
    alone = [ask(engine, "Hello there", seeds=[seed]).text for seed in seeds]
    monkeypatch.setattr(engine._loaded, "pace", Pace(1, 1, smallest_batch=10))
    answer = ask(engine, "Hello there", seeds=seeds)
    assert answer.texts == alone
    assert answer.done.computed_tokens == 1
    order = [event.stream for event in answer.events if hasattr(event, "stream")]
    assert sorted(order[:4]) == [0, 1, 2, 3]  # side by side, not one after another
    monkeypatch.setattr(engine._loaded, "pace", Pace(1, 1, smallest_batch=2))
    assert begin_alike(ask(engine, "Hello there", seeds=seeds).texts, alone)
