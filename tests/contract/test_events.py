"""The line protocol: what is sent is what arrives, and garbage is no event."""

import pytest

from finetune.contract import events
from finetune.contract.events import Event

EVENTS: list[Event] = [
    events.RunStarted("r", ("prepare", "sft"), "CPU", "float32", resumed=True),
    events.MemoryPlan("blocks", 2_000_000, 300_000, 40_000, 1_000, 16_000_000_000),
    events.StageStarted("ppo", 40),
    events.StepDone("ppo", 1, 40, {"kl": 0.0, "score": -1.5}, 12.5),
    events.StageDone("sft", {"loss": 2.0}),
    events.Sample("안녕?", "before", "after\n🙂"),
    events.Note("A sentence."),
    events.RunDone("/somewhere/export", ("prepare", "sft"), {"win_rate": 0.7}),
    events.RunFailed("stopped", "Stopped."),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_an_event_survives_its_line(event: Event) -> None:
    line = events.to_line(event)
    assert "\n" not in line
    assert events.from_line(line) == event


@pytest.mark.parametrize(
    "line", ["", "hello", "7", "null", "[]", '{"event": "unknown"}', '{"event": "note"}',
             '{"event": "note", "message": "x", "more": 1}', '{"event": "step_do']
)  # fmt: skip
def test_anything_else_is_no_event(line: str) -> None:
    assert events.from_line(line) is None


def test_every_kind_of_event_is_tried_here() -> None:
    assert {type(event) for event in EVENTS} == set(events.Event.__args__)
