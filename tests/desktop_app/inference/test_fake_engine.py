"""The fake keeps the promises of a real engine."""

from __future__ import annotations

from desktop_app.inference.engine import (
    AdapterRef,
    LoadProgress,
    ModelReady,
    ModelRef,
    Stop,
    TextDelta,
)
from desktop_app.inference.fake_engine import FakeEngine
from tests.desktop_app.inference.asking import ask


def loaded() -> FakeEngine:
    engine = FakeEngine()
    events = list(engine.load(ModelRef("v1", "/nowhere", "ab")))
    assert [type(event) for event in events] == [LoadProgress, LoadProgress, ModelReady]
    return engine


def test_it_says_the_words_back_and_the_pieces_make_the_text() -> None:
    answer = ask(loaded(), "one two three", seeds=[0])
    assert answer.text == "You said: one two three"
    assert "".join(answer.pieces()) == answer.text
    assert answer.done.prompt_tokens == 5


def test_a_seed_can_be_repeated_and_seeds_differ() -> None:
    engine = loaded()
    texts = ask(engine, "one two three", seeds=[0, 1, 2]).texts
    assert len(set(texts)) == 3
    assert ask(engine, "one two three", seeds=[1]).text == texts[1]


def test_an_adapter_changes_the_text_and_is_named_in_the_origin() -> None:
    adapter = AdapterRef("/a.gguf", "cd", 0.5)
    answer = ask(loaded(), "hello", seeds=[7, 7], adapters=[None, adapter])
    assert answer.texts[0] != answer.texts[1]
    origins = [answer.streams[i].origin for i in (0, 1)]
    assert [origin.adapter_sha256 for origin in origins] == [None, "cd"]
    assert origins[1].adapter_scale == 0.5
    assert origins[1].model_sha256 == "ab"
    assert origins[1].sampling["seed"] == 7


def test_it_can_think_first() -> None:
    answer = ask(loaded(), "!think hello", seeds=[0])
    stream = answer.streams[0]
    assert (stream.reasoning, stream.text) == ("Somebody says hello", "You said: hello")
    thought = [e.text for e in answer.events if isinstance(e, TextDelta) and e.part == "reasoning"]
    assert "".join(thought) == stream.reasoning


def test_limits_and_stop_strings_are_kept() -> None:
    engine = loaded()
    assert ask(engine, "a b c", max_tokens=3).streams[0].reason == "max_tokens"
    stopped = ask(engine, "a STOP b", stop=("STOP",), seeds=[0]).streams[0]
    assert (stopped.reason, stopped.text) == ("stop_string", "You said: a")


def test_one_stream_can_be_stopped_alone() -> None:
    engine = loaded()
    engine.stop(Stop("r", 1))
    answer = ask(engine, "a b c", seeds=[0, 1])
    assert [answer.streams[i].reason for i in (0, 1)] == ["end_of_turn", "stopped"]


def test_without_a_model_and_when_asked_to_it_fails_with_a_sentence() -> None:
    assert ask(FakeEngine(), "hello").failure
    failure = ask(loaded(), "please !fail").failure
    assert failure is not None
    assert failure.request_id == "r"
