"""Which model is used after one was refused, cancelled or has crashed, now or at a start before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from desktop_app.inference.engine import AdapterRef, ModelRef
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.services.engine_service import EngineService, EngineState
from desktop_app.storage.load_record import LoadRecord

GOOD = ModelRef("good", "/nowhere/good.gguf", "aa")
BIG = ModelRef("!big", "/nowhere/big.gguf", "bb")
SLOW = ModelRef("!slow", "/nowhere/slow.gguf", "cc")
CRASHING = ModelRef("!crash", "/nowhere/crash.gguf", "dd")
BROKEN = ModelRef("!fail", "/nowhere/broken.gguf", "ee")


class Started:
    """A service with a real child that speaks the fake engine, and what it told."""

    def __init__(self, qtbot: QtBot, record: Path | None) -> None:
        self._qtbot = qtbot
        self._record = record
        self.service = EngineService()
        self.client = EngineClient(engine_command("--fake"), self.service.receive)
        self.problems: list[str] = []
        self.states: list[EngineState] = []
        self.service.problem.connect(self._note)
        self.service.state_changed.connect(self.states.append)

    def _note(self, message: str, hint: str) -> None:
        self.problems.append(f"{message} {hint}".strip())

    def attach(self, model: ModelRef) -> None:
        self.service.attach(self.client, model, LoadRecord(self._record))

    def wait(self, status: str) -> EngineState:
        self._qtbot.waitUntil(lambda: self.service.state.status == status, timeout=20_000)
        return self.service.state

    def wait_loading(self) -> None:
        self._qtbot.waitUntil(lambda: self.service.state.fraction > 0, timeout=20_000)

    @property
    def loads(self) -> int:
        """How often loading was begun."""
        return sum(state.status == "loading" and not state.fraction for state in self.states)


Start = Callable[..., Started]


@pytest.fixture
def start(qtbot: QtBot) -> Iterator[Start]:
    opened: list[Started] = []

    def start(model: ModelRef, record: Path | None = None) -> Started:
        opened.append(Started(qtbot, record))
        opened[-1].attach(model)
        return opened[-1]

    yield start
    for one in opened:
        one.service.close()


# --- what does not fit ----------------------------------------------------------------------------


def test_a_model_that_does_not_fit_makes_way_for_the_one_before(start: Start) -> None:
    started = start(GOOD)
    started.wait("ready")
    started.service.load(BIG)
    started.wait("loading")
    state = started.wait("ready")
    assert started.service.model == GOOD
    assert state.refused is not None
    assert (state.refused.model, state.refused.reason) == (BIG, "does_not_fit")
    assert state.refused.message == "The fake model is too big."


def test_it_is_loaded_anyway_where_the_person_says_so(start: Start) -> None:
    started = start(BIG)
    state = started.wait("failed")
    assert state.refused is not None
    started.service.load_anyway()
    state = started.wait("ready")
    assert (started.service.model, state.refused) == (BIG, None)


def test_a_file_that_cannot_be_used_makes_way_too(start: Start) -> None:
    started = start(GOOD)
    started.wait("ready")
    started.service.load(BROKEN)
    started.wait("loading")
    started.wait("ready")
    assert started.service.model == GOOD
    assert "The model before is used again." in started.problems[-1]


# --- cancelling -----------------------------------------------------------------------------------


def test_after_a_cancellation_the_model_before_is_loaded_again(start: Start) -> None:
    started = start(GOOD)
    started.wait("ready")
    started.service.load(SLOW)
    started.wait_loading()
    started.service.cancel_load()
    state = started.wait("ready")
    assert started.service.model == GOOD
    assert state.refused is not None
    assert (state.refused.model, state.refused.reason) == (SLOW, "cancelled")


def test_without_one_before_a_sentence_says_that_none_is_loaded(start: Start) -> None:
    started = start(SLOW)
    started.wait_loading()
    started.service.cancel_load()
    state = started.wait("failed")
    assert state.message == "Loading was stopped."
    assert not started.service.can_be_asked
    started.service.load(GOOD)
    assert started.wait("ready").refused is None


def test_a_check_of_the_file_can_be_cancelled_as_well(qtbot: QtBot, start: Start) -> None:
    service = EngineService()
    service.show_check(0.3)
    assert (service.state.status, service.state.fraction) == ("checking", 0.3)
    with qtbot.waitSignal(service.check_cancelled, timeout=100):
        service.cancel_load()
    service.fail("Loading was stopped.", "")
    with qtbot.waitSignal(service.start_wanted, timeout=100):
        service.restart()


def test_asking_for_two_models_in_a_row_ends_with_the_second(start: Start) -> None:
    started = start(GOOD)
    second = ModelRef("second", "/nowhere/second.gguf", "ff")
    started.service.load(second)
    started.wait("ready")
    assert started.service.model == second
    ready = [state for state in started.states if state.status == "ready"]
    assert len(ready) == 1  # the first one's arrival is not told


# --- crashes --------------------------------------------------------------------------------------


def test_two_crashes_end_it_and_the_model_before_is_used(start: Start) -> None:
    started = start(GOOD)
    started.wait("ready")
    started.service.load(CRASHING)
    started.wait("loading")
    state = started.wait("ready")
    assert started.service.model == GOOD
    assert state.refused is not None
    assert (state.refused.model, state.refused.reason) == (CRASHING, "crashed")
    assert "ended the engine twice" in state.refused.message


def test_an_engine_that_does_not_start_again_is_told_and_can_be_restarted(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = start(GOOD)
    started.wait("ready")
    with monkeypatch.context() as gone:
        gone.setattr(started.client, "_command", ["/nowhere/engine"])
        assert started.client.process_id is not None
        os.kill(started.client.process_id, signal.SIGTERM)
        state = started.wait("failed")
    assert state.message.startswith("The engine could not be started: ")
    assert started.problems[-1] == state.message
    assert not started.service.can_be_asked
    started.service.restart()
    started.wait("ready")


def test_crashes_are_counted_across_starts(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    LoadRecord(path).begin("dd")  # and the whole app ended with it
    started = start(CRASHING, path)
    started.wait("failed")
    assert started.loads == 1  # the first crash of this start is the second one
    again = start(CRASHING, path)
    state = again.wait("failed")
    assert again.loads == 0
    assert not again.client.is_running
    assert state.refused is not None
    assert state.refused.reason == "crashed"


def test_trying_again_begins_from_nought(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    for _ in range(2):
        LoadRecord(path).begin("aa")
    started = start(GOOD, path)
    assert started.wait("failed").refused is not None
    started.service.load_anyway()
    assert started.wait("ready").refused is None
    assert not LoadRecord(path).is_barred("aa")


def test_a_crash_with_one_adapter_does_not_bar_its_base(start: Start) -> None:
    tuned = ModelRef("!crash", "/nowhere/good.gguf", "aa", AdapterRef("/nowhere/a.gguf", "12"))
    started = start(tuned)
    started.wait("failed")
    started.service.load(GOOD)
    assert started.wait("ready").refused is None


def test_closing_while_a_model_loads_is_no_crash(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "loads.json"
    for _ in range(3):
        started = start(SLOW, path)
        started.wait_loading()
        started.service.close()
    assert not LoadRecord(path).is_barred("cc")
