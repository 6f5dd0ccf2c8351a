"""What the cache keeps, drops and parks, told by the tokens an engine says it reused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from desktop_app.inference.engine import AdapterRef, ModelRef, Stop, StreamDone, TextDelta
from desktop_app.inference.generation import cut
from desktop_app.inference.llama_engine import LlamaEngine
from finetune.contract.chat_template import Message
from tests.desktop_app.inference.asking import Answer, ask, begin_alike, request
from tests.memory_models import write_mamba, write_sliding_window
from tests.tiny_models import TinyShape, write_model

LONG = "Tell me about the park. " * 12
WORDS = "root ::= [a-z ]+"
"""A grammar, so that what a random model writes is text and not halves of characters."""


def ids(engine: LlamaEngine, *said: str) -> list[int]:
    """The token ids of a prompt, in the tokenizer's own spelling."""
    return engine._loaded.encode(request(*said).messages)  # type: ignore[union-attr]


def cuts(engine: LlamaEngine, *said: str) -> list[int]:
    return cuts_of(engine, request(*said).messages)


def cuts_of(engine: LlamaEngine, messages: Sequence[Message]) -> list[int]:
    loaded = engine._loaded
    assert loaded is not None
    return cut(loaded.encode(messages), loaded.special_ids, loaded.piece)


def shared_length(one: list[int], other: list[int]) -> int:
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


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
    # Up to the last cut before they part: where the answer's turn begins.
    shared = shared_length(
        ids(engine, LONG, "Yes.", "Is it far?"), ids(engine, LONG, "Yes.", "Was it nice?")
    )
    at = max(place for place in cuts(engine, LONG, "Yes.", "Was it nice?") if place <= shared)
    assert (other.reused_tokens, other.computed_tokens) == (at, other.prompt_tokens - at)
    assert at > 0.6 * other.prompt_tokens


def test_the_next_turn_computes_what_is_new_only(engine: LlamaEngine) -> None:
    """The model's own tokens are kept, although the tokenizer would cut their text otherwise."""
    for seed in range(6):
        first = ask(engine, f"{seed} {LONG}", seeds=[seed], grammar=WORDS)
        stream = first.streams[0]
        assert "\ufffd" not in stream.text
        known = first.done.prompt_tokens + stream.completion_tokens - 1  # the last was not computed
        following = ask(engine, f"{seed} {LONG}", stream.text, "Thank you").done
        assert following.reused_tokens == known
        assert following.computed_tokens == following.prompt_tokens - known


def test_thirty_turns_compute_their_new_tokens_only(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", shape=TinyShape(context=4096), ends=False)
    engine = LlamaEngine(threads=1)
    list(engine.load(ModelRef("v", str(path), "ab")))
    said, known = ["Hello"], 0
    for turn in range(30):
        answer = ask(engine, *said, seeds=[turn], max_tokens=20, grammar=WORDS)
        assert answer.done.reused_tokens == known
        assert answer.done.computed_tokens == answer.done.prompt_tokens - known
        known = answer.done.prompt_tokens + answer.streams[0].completion_tokens - 1
        said += [answer.text, "And then?"]
    assert known > 900
    engine.close()


def test_an_early_message_edited_computes_from_there_only(engine: LlamaEngine) -> None:
    turns = [LONG, "Yes.", "Is it far? " * 4, "No.", "Was it nice? " * 4, "Well.", "Go on"]
    ask(engine, *turns)
    edited = [*turns[:2], "Is it near?", *turns[3:]]
    done = ask(engine, *edited).done
    shared = shared_length(ids(engine, *turns), ids(engine, *edited))
    at = max(place for place in cuts(engine, *edited) if place <= shared)
    assert done.reused_tokens == at > 90
    # And the one before the edit was not lost.
    assert ask(engine, *turns).done.computed_tokens == 1


def test_a_system_prompt_is_read_once_for_all_conversations(engine: LlamaEngine) -> None:
    system = Message("system", LONG)
    sizes = []
    for number in range(4):
        asked = replace(request("x"), messages=(system, Message("user", f"{number}, please")))
        sizes.append(Answer(engine.generate(asked)).done)
    begins = cuts_of(engine, [system, Message("user", "0, please")])[0]
    assert begins > 90  # all of the system prompt
    assert [done.reused_tokens for done in sizes] == [0, begins, begins, begins]


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
    parked = engine._loaded.cache._parked  # type: ignore[union-attr]
    monkeypatch.setattr(parked, "_memory_bytes", 250_000)
    for number in range(6):
        ask(engine, f"{number}: {LONG}", max_tokens=8)
    assert parked.bytes_in_memory <= 250_000
    assert ask(engine, f"0: {LONG}").done.reused_tokens < 40
    assert ask(engine, f"5: {LONG}").done.reused_tokens > 100


def test_two_conversations_change_places_where_there_is_room_for_one(
    engine: LlamaEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    parked = engine._loaded.cache._parked  # type: ignore[union-attr]
    for said in ("one", "two"):
        ask(engine, f"{said}: {LONG}", max_tokens=8)
    monkeypatch.setattr(parked, "_memory_bytes", parked.bytes_in_memory * 3 // 2)
    for said in ("one", "two", "one"):
        assert ask(engine, f"{said}: {LONG}", max_tokens=8).done.computed_tokens == 1


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


# --- two adapters side by side -------------------------------------------------------------------


def test_base_and_tuned_write_in_turns_and_both_stop_alone(
    engine: LlamaEngine, adapter: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("desktop_app.inference.generation.TURN_SECONDS", 0.0)
    alone = [ask(engine, LONG, max_tokens=40, adapters=[which]).text for which in (None, adapter)]
    both = ask(engine, LONG, seeds=[1, 1], max_tokens=40, adapters=[None, adapter])
    assert begin_alike(both.texts, alone)
    order = [event.stream for event in both.events if isinstance(event, TextDelta)]
    assert sum(a != b for a, b in pairwise(order)) > 20

    events = []
    asked = request(LONG, seeds=[1, 1], max_tokens=40, adapters=[None, adapter])
    for event in engine.generate(asked):
        events.append(event)
        if sum(isinstance(e, TextDelta) for e in events) == 10:
            engine.stop(Stop("r", 0))
    streams = Answer(events).streams
    assert (streams[0].reason, streams[1].reason) == ("stopped", "max_tokens")
    assert streams[1].text == both.texts[1]
    ended = [event.stream for event in events if isinstance(event, StreamDone)]
    assert ended == [0, 1]


# --- models whose memory cannot be cut -----------------------------------------------------------


@pytest.fixture(params=[write_mamba, write_sliding_window], ids=["recurrent", "sliding window"])
def peculiar(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[LlamaEngine, LlamaEngine]]:
    """Two engines with the same model: one with a past, one to compare with."""
    write: Callable[[Path], Path] = request.param
    path = write(tmp_path / "m.gguf")
    engines = LlamaEngine(threads=1), LlamaEngine(threads=1)
    for engine in engines:
        list(engine.load(ModelRef("v", str(path), "ab")))
    yield engines
    for engine in engines:
        engine.close()


def test_peculiar_memories_write_what_a_fresh_one_writes(
    peculiar: tuple[LlamaEngine, LlamaEngine],
) -> None:
    engine, cold = peculiar
    first = ask(engine, LONG, seeds=[1], grammar=WORDS)
    ask(engine, "Something else", seeds=[1, 2, 3])
    again = ask(engine, LONG, seeds=[1], grammar=WORDS)
    assert again.text == first.text == ask(cold, LONG, seeds=[1], grammar=WORDS).text
    following = ask(engine, LONG, first.text, "Thank you", grammar=WORDS)
    assert following.done.reused_tokens >= first.done.prompt_tokens - 1
    other = ask(engine, "Something else", grammar=WORDS)
    back = ask(engine, LONG, first.text, "Thank you", following.text, "Why?", grammar=WORDS)
    assert back.done.reused_tokens >= following.done.prompt_tokens - 1
    assert other.text == ask(cold, "Something else", grammar=WORDS).text
    edited = ask(engine, LONG + "!", first.text, "Thank you", grammar=WORDS)
    for cold_answer, warm in (
        (ask(cold, LONG, first.text, "Thank you", grammar=WORDS), following),
        (ask(cold, LONG + "!", first.text, "Thank you", grammar=WORDS), edited),
    ):
        assert begin_alike([warm.text], [cold_answer.text])
    several = ask(engine, LONG, seeds=[1, 2, 3], grammar=WORDS)
    assert begin_alike(several.texts[:1], [first.text])


def test_a_recurrent_model_goes_on_from_the_end_of_its_prompt(tmp_path: Path) -> None:
    path = write_mamba(tmp_path / "m.gguf")
    engine = LlamaEngine(threads=1)
    list(engine.load(ModelRef("v", str(path), "ab")))
    first = ask(engine, LONG).done
    assert ask(engine, LONG).done.reused_tokens == first.prompt_tokens - 1
    edited = ask(engine, LONG.replace("park", "yard", 1)).done
    assert edited.reused_tokens == 0  # a part of it cannot be kept
    other = ask(engine, LONG, "Another answer", "Thank you").done
    assert other.reused_tokens == first.prompt_tokens - 1
    engine.close()
