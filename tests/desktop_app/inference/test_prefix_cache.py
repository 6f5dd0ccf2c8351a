"""What the cache keeps, drops and parks, told by the tokens an engine says it reused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from desktop_app.inference.engine import AdapterRef, ModelRef
from desktop_app.inference.llama_engine import LlamaEngine
from tests.desktop_app.inference.asking import ask

LONG = "Tell me about the park. " * 12


@pytest.fixture
def cold(model: ModelRef) -> Iterator[LlamaEngine]:
    """A second engine, to compare with one that has a past."""
    engine = LlamaEngine(threads=1)
    list(engine.load(model))
    yield engine
    engine.close()


def test_asking_again_computes_one_token_of_the_prompt(engine: LlamaEngine) -> None:
    first = ask(engine, LONG).done
    again = ask(engine, LONG).done
    assert first.reused_tokens == 0
    assert again.reused_tokens == again.prompt_tokens - 1
    assert (first.computed_tokens, again.computed_tokens) == (first.prompt_tokens, 1)


def test_another_question_reuses_the_common_beginning(engine: LlamaEngine) -> None:
    ask(engine, LONG, "Yes.", "Is it far?")
    other = ask(engine, LONG, "Yes.", "Was it nice?").done
    assert 0.6 * other.prompt_tokens < other.reused_tokens < other.prompt_tokens - 1


def test_the_next_turn_computes_what_is_new_only(engine: LlamaEngine) -> None:
    first = ask(engine, LONG)
    following = ask(engine, LONG, "Yes.", "Thank you").done
    # All of the first prompt but at most the last tokens, which may join with the answer.
    assert following.reused_tokens >= first.done.prompt_tokens - 2


def test_the_next_turn_after_several_completions_goes_on_from_the_chosen_one(
    engine: LlamaEngine, cold: LlamaEngine
) -> None:
    first = ask(engine, LONG, seeds=[1, 2, 3])
    following = ask(engine, LONG, "Yes.", "Thank you")
    assert following.done.reused_tokens >= first.done.prompt_tokens - 2
    ask(cold, LONG)
    assert following.text == ask(cold, LONG, "Yes.", "Thank you").text


def test_going_back_to_an_earlier_conversation_finds_it_parked(engine: LlamaEngine) -> None:
    texts = [ask(engine, f"{number}: {LONG}", max_tokens=8).text for number in range(5)]
    for number in range(5):
        back = ask(engine, f"{number}: {LONG}", max_tokens=8)
        assert back.done.reused_tokens == back.done.prompt_tokens - 1
        assert back.text == texts[number]


def test_parked_conversations_are_bounded_and_the_oldest_goes_first(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = engine._loaded.cache  # type: ignore[union-attr]
    monkeypatch.setattr(cache, "_parked_bytes", 250_000)
    for number in range(6):
        ask(engine, f"{number}: {LONG}", max_tokens=8)
    assert sum(len(parked.state) for parked in cache._parked) <= 250_000
    assert ask(engine, f"0: {LONG}").done.reused_tokens < 40
    assert ask(engine, f"5: {LONG}").done.reused_tokens > 100


def test_base_and_tuned_keep_their_own_cells(engine: LlamaEngine, adapter: AdapterRef) -> None:
    ask(engine, LONG)
    assert ask(engine, LONG, adapters=[adapter]).done.reused_tokens == 0
    for which in (None, adapter, None, adapter):
        again = ask(engine, LONG, adapters=[which]).done
        assert again.reused_tokens == again.prompt_tokens - 1


def test_a_side_by_side_conversation_reuses_both_sides_on_the_next_turn(
    engine: LlamaEngine, adapter: AdapterRef
) -> None:
    first = ask(engine, LONG, seeds=[1, 1], adapters=[None, adapter]).done
    following = ask(engine, LONG, "Yes.", "Thank you", seeds=[1, 1], adapters=[None, adapter]).done
    assert first.computed_tokens == 2 * first.prompt_tokens
    new = following.prompt_tokens - first.prompt_tokens
    assert following.computed_tokens <= 2 * (new + 2)


def test_what_was_asked_in_between_changes_no_text(
    engine: LlamaEngine, adapter: AdapterRef
) -> None:
    before = ask(engine, LONG, max_tokens=60).text
    for said in ("a", "Something else entirely", LONG * 2, "b"):
        ask(engine, said, seeds=[1, 2, 3])
        ask(engine, said, adapters=[adapter])
    assert ask(engine, LONG, max_tokens=60).text == before


def test_a_fresh_engine_writes_the_same(engine: LlamaEngine, cold: LlamaEngine) -> None:
    for number in range(4):
        ask(engine, f"{number} {LONG}", seeds=[1, 2])
    assert ask(engine, "Hello", max_tokens=100).text == ask(cold, "Hello", max_tokens=100).text


def test_loading_another_file_forgets_everything(
    engine: LlamaEngine, model: ModelRef, model_file: Path, tmp_path: Path
) -> None:
    ask(engine, LONG)
    other = tmp_path / "other.gguf"
    other.write_bytes(model_file.read_bytes())
    list(engine.load(ModelRef("other", str(other), model.sha256)))
    assert ask(engine, LONG).done.reused_tokens == 0
