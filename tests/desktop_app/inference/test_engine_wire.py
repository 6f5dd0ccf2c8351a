"""Requests and events survive the pipe; what is broken is refused."""

from __future__ import annotations

import pytest

from desktop_app.inference.engine import (
    AdapterRef,
    CancelLoad,
    ContextOverflow,
    DrawnToken,
    EngineDied,
    EngineFailure,
    Event,
    Generate,
    Load,
    LoadProgress,
    MemoryNeed,
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
    TokenLogprob,
)
from desktop_app.inference.engine_wire import clean_text, decode_event, decode_request, encode
from finetune.contract.chat_template import Message
from finetune.contract.records import Origin

ADAPTER = AdapterRef("/tmp/한글.gguf", "ab", 0.5)
REQUESTS: list[Request] = [
    Load(ModelRef("v1", "/m.gguf", "cd", ADAPTER, 2048)),
    Load(ModelRef("v1", "/m.gguf", "cd"), anyway=True),
    CancelLoad(),
    Load(ModelRef("v1", "/not-utf8-\udcff.gguf", "cd")),
    Generate(
        "r1",
        (Message("system", "Be kind."), Message("user", '안녕\u2028👋 "quoted"\n')),
        SamplingParams(temperature=0, stop=("\nUser:", "끝")),
        (StreamSpec(1, "v1"), StreamSpec(2, "v2", ADAPTER)),
    ),
    Generate(
        "r1",
        (Message("user", "Hi"),),
        SamplingParams(
            typical_p=0.9,
            frequency_penalty=0.1,
            presence_penalty=0.2,
            penalty_window=32,
            dry_multiplier=0.8,
            dry_breakers=("\n", "。"),
            xtc_probability=0.5,
            mirostat=2,
            mirostat_tau=3,
            logit_bias=(("네", 1.5), (7, -100)),
            grammar='root ::= "네"',
            logprobs=5,
        ),
        (StreamSpec(1, "v1"),),
        "Begun",
        "Thought",
    ),
    Generate("r1", (), SamplingParams(json_schema={"type": "object", "enum": [None, 1]}), ()),
    Generate("r1", (), SamplingParams(json_schema='{"type":"string"}'), ()),
    Stop("r1"),
    Stop("r1", 3),
]
EVENTS: list[Event] = [
    LoadProgress(0.25),
    ModelReady("v1", "Name", 4096, "ef", 0.5),
    ModelReady("v1", "Name", 4096, "ef", 0.5, MemoryNeed(4, 3, 2, 1), "q8_0", 7),
    ContextOverflow("r1", 6, 5000, 4096),
    EngineFailure("Too big.", None, "does_not_fit"),
    PromptProgress("r1", 3, 10),
    TextDelta("r1", 0, "글\n\u2028"),
    StreamDone(
        "r1", 0, "text", "stop_string", 7, 1.5, Origin("v1", "ab", "cd", 0.5, "t", {"seed": 1})
    ),
    TextDelta("r1", 0, "hm", "reasoning"),
    StreamDone(
        "r1",
        0,
        "a",
        "end_of_turn",
        1,
        1.5,
        Origin("v1", "ab"),
        "hm",
        0.25,
        (DrawnToken(TokenLogprob(5, "a", -0.5), (TokenLogprob(7, "\ufffd", -0.25),)),),
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
    broken = SamplingParams(
        stop=("\ud800",), grammar="a\0", json_schema="\ud800", dry_breakers=("\0",),
        logit_bias=(("\ud800", 1.0), (3, 1.0)),
    )  # fmt: skip
    received = decode_request(encode(Generate("r", (), broken, ())))
    assert isinstance(received, Generate)
    assert received.sampling == SamplingParams(
        stop=("�",), grammar="a�", json_schema="�", dry_breakers=("�",),
        logit_bias=(("�", 1.0), (3, 1.0)),
    )  # fmt: skip


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
        '{"kind":"text_delta","request_id":"r","stream":0,"text":"x","part":"other"}',
        "[" * 100_000,
    ],
)
def test_a_broken_line_is_a_value_error(line: str) -> None:
    for decode in (decode_event, decode_request):
        with pytest.raises(ValueError, match=r"."):
            decode(line)


def test_a_record_says_the_common_settings_and_what_was_changed() -> None:
    common = {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "max_tokens", "stop"}
    assert set(SamplingParams().recorded()) == common
    changed = SamplingParams(top_k=1, mirostat=2, logit_bias=(("a", 1.0),)).recorded()
    assert set(changed) == common | {"mirostat", "logit_bias"}
    assert changed["top_k"] == 1
