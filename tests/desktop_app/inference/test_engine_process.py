"""The child's output: events in order, quick pieces of text joined, nothing lost."""

from __future__ import annotations

import io

import pytest

from desktop_app.inference.engine import Event, PromptProgress, RequestDone, TextDelta
from desktop_app.inference.engine_process import EventStream
from desktop_app.inference.engine_wire import decode_event

DONE = RequestDone("r", 1, 0, 512)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("desktop_app.inference.engine_process.time.monotonic", lambda: now[0])
    return now


def written(stream: io.StringIO) -> list[Event]:
    return [decode_event(line) for line in stream.getvalue().splitlines()]


def test_quick_pieces_are_joined_for_each_stream_and_slow_ones_are_not(clock: list[float]) -> None:
    out = io.StringIO()
    emit = EventStream(out).emit
    emit(TextDelta("r", 0, "a"))  # the first comes at once
    for text in "bcd":
        clock[0] += 0.001
        emit(TextDelta("r", 0, text))
        emit(TextDelta("r", 1, text.upper()))
    assert written(out) == [TextDelta("r", 0, "a")]
    clock[0] += 0.05
    emit(TextDelta("r", 0, "e"))
    clock[0] += 0.05
    emit(TextDelta("r", 0, "f"))
    assert written(out)[1:] == [
        TextDelta("r", 0, "bcde"),
        TextDelta("r", 1, "BCD"),
        TextDelta("r", 0, "f"),
    ]


def test_reasoning_and_answer_are_joined_each_for_itself(clock: list[float]) -> None:
    out = io.StringIO()
    emit = EventStream(out).emit
    emit(TextDelta("r", 0, "first"))
    for text in "hm":
        emit(TextDelta("r", 0, text, "reasoning"))
    for text in "yes":
        emit(TextDelta("r", 0, text))
    emit(DONE)
    assert written(out) == [
        TextDelta("r", 0, "first"),
        TextDelta("r", 0, "hm", "reasoning"),
        TextDelta("r", 0, "yes"),
        DONE,
    ]


def test_what_is_held_is_written_before_any_other_event(clock: list[float]) -> None:
    out = io.StringIO()
    emit = EventStream(out).emit
    emit(PromptProgress("r", 1, 1))
    emit(TextDelta("r", 0, "a"))
    emit(TextDelta("r", 0, "b"))
    emit(DONE)
    assert written(out) == [PromptProgress("r", 1, 1), TextDelta("r", 0, "ab"), DONE]
