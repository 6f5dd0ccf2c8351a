"""Requests and events survive the pipe; what is broken is refused."""

from __future__ import annotations

import pytest

from desktop_app.inference.engine import (
    AdapterRef,
    EngineDied,
    EngineFailure,
    Event,
    Generate,
    Load,
    LoadProgress,
    ModelReady,
    ModelRef,
    PromptProgress,
    Request,
    RequestDone,
    SamplingParams,
    Stop,
    StreamDone,
    StreamSpec,
    TextDelta,
)
from desktop_app.inference.engine_wire import clean_text, decode_event, decode_request, encode
from finetune.contract.chat_template import Message
from finetune.contract.records import Origin

ADAPTER = AdapterRef("/tmp/한글.gguf", "ab", 0.5)
REQUESTS: list[Request] = [
    Load(ModelRef("v1", "/m.gguf", "cd", ADAPTER, 2048)),
    Load(ModelRef("v1", "/not-utf8-\udcff.gguf", "cd")),
    Generate(
        "r1",
        (Message("system", "Be kind."), Message("user", '안녕\u2028👋 "quoted"\n')),
        SamplingParams(temperature=0, stop=("\nUser:", "끝")),
        (StreamSpec(1, "v1"), StreamSpec(2, "v2", ADAPTER)),
    ),
    Stop("r1"),
    Stop("r1", 3),
]
EVENTS: list[Event] = [
    LoadProgress(0.25),
    ModelReady("v1", "Name", 4096, "ef", 0.5),
    PromptProgress("r1", 3, 10),
    TextDelta("r1", 0, "글\n\u2028"),
    StreamDone(
        "r1", 0, "text", "stop_string", 7, 1.5, Origin("v1", "ab", "cd", 0.5, "t", {"seed": 1})
    ),
    RequestDone("r1", 10, 3, 4096, 2),
    EngineFailure("Sentence.", None),
    EngineDied("Sentence.", -9, True, ("r1", "r2")),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_requests_come_back_as_they_were(request_: Request) -> None:
    line = encode(request_)
    assert line.isascii()
    assert "\n" not in line
    assert decode_request(line) == request_


@pytest.mark.parametrize("event", EVENTS)
def test_events_come_back_as_they_were(event: Event) -> None:
    line = encode(event)
    assert line.isascii()
    assert "\n" not in line
    assert decode_event(line) == event


def test_halves_of_surrogate_pairs_and_nul_are_mended_on_the_way() -> None:
    sent = Generate("r", (Message("user", "a\ud83d\ude00b\ud800c\0d"),), SamplingParams(), ())
    received = decode_request(encode(sent))
    assert isinstance(received, Generate)
    assert received.messages[0].content == "a😀b�c�d"
    assert clean_text("한글 stays") == "한글 stays"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"kind":"text_delta"',
        '{"kind":"no_such"}',
        '{"kind":"text_delta","request_id":"r","stream":"0","text":"x"}',
        '{"kind":"text_delta","request_id":"r","stream":true,"text":"x"}',
        '{"kind":"text_delta","request_id":"r","stream":0}',
        '{"kind":"text_delta","request_id":"r","stream":0,"text":"x","more":1}',
        '{"kind":"died","message":"m","request_ids":[1]}',
        "[" * 100_000,
    ],
)
def test_a_broken_line_is_a_value_error(line: str) -> None:
    for decode in (decode_event, decode_request):
        with pytest.raises(ValueError, match=r"."):
            decode(line)
