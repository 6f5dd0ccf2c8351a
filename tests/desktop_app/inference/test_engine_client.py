"""The child from the outside: every death is one event, and a fresh child works."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from desktop_app.errors import UserError
from desktop_app.inference.engine import (
    ContextOverflow,
    EngineDied,
    EngineFailure,
    Event,
    Load,
    ModelReady,
    ModelRef,
    RequestDone,
    Stop,
    StreamDone,
    TextDelta,
)
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.inference.engine_wire import decode_event, encode
from tests.desktop_app.inference.asking import Answer, request

FAKE = ModelRef("v1", "/nowhere", "ab")
posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


class Listener:
    """Collects events and waits for the one that is wanted."""

    def __init__(self) -> None:
        self.all: list[Event] = []
        self._queue: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def __call__(self, event: Event) -> None:
        self.all.append(event)
        self._queue.put(event)

    def wait(self, *kinds: type[Event], seconds: float = 20) -> Event:
        deadline = time.monotonic() + seconds
        while True:
            event = self._queue.get(timeout=max(0.01, deadline - time.monotonic()))
            if isinstance(event, kinds):
                return event

    def died(self) -> EngineDied:
        event = self.wait(EngineDied)
        assert isinstance(event, EngineDied)
        return event


Start = Callable[..., tuple[EngineClient, Listener]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    clients: list[EngineClient] = []

    def start(*arguments: str, **options: float) -> tuple[EngineClient, Listener]:
        heard = Listener()
        client = EngineClient(engine_command(*arguments), heard, tmp_path / "engine.log", **options)
        clients.append(client)
        client.start()
        return client, heard

    yield start
    for client in clients:
        client.close()


@pytest.fixture
def fake(start: Start) -> tuple[EngineClient, Listener]:
    """A running fake that is slow enough to be interrupted."""
    client, heard = start("--fake", "--seconds-per-token", "0.005")
    client.load(FAKE)
    heard.wait(ModelReady)
    return client, heard


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return False


# --- asking ----------------------------------------------------------------------------------


def test_a_request_is_answered_through_the_pipe(fake: tuple[EngineClient, Listener]) -> None:
    client, heard = fake
    client.generate(request("안녕 \ud800 there", seeds=[0]))
    heard.wait(RequestDone)
    answer = Answer(heard.all)
    assert answer.text == "You said: 안녕 � there"
    assert "".join(answer.pieces()) == answer.text


def test_requests_are_served_one_after_another(fake: tuple[EngineClient, Listener]) -> None:
    client, heard = fake
    for number in range(5):
        client.generate(request("hello", request_id=f"r{number}"))
    done = [heard.wait(RequestDone) for _ in range(5)]
    assert [event.request_id for event in done if isinstance(event, RequestDone)] == [
        f"r{number}" for number in range(5)
    ]


def test_a_stop_arrives_in_the_middle_of_an_answer(fake: tuple[EngineClient, Listener]) -> None:
    client, heard = fake
    client.generate(request("word !long", max_tokens=9999, seeds=[1, 2]))
    heard.wait(TextDelta)
    client.stop(Stop("r", 1))
    first = heard.wait(StreamDone)
    client.stop(Stop("r"))
    began = time.monotonic()
    heard.wait(RequestDone)
    assert time.monotonic() - began < 0.3
    assert isinstance(first, StreamDone)
    assert (first.stream, first.reason) == (1, "stopped")
    assert Answer(heard.all).streams[0].reason == "stopped"


def test_a_stop_for_something_that_does_not_run_is_ignored(
    fake: tuple[EngineClient, Listener],
) -> None:
    client, heard = fake
    client.stop(Stop("r"))
    client.generate(request("hello"))
    heard.wait(RequestDone)
    assert Answer(heard.all).streams[0].reason == "end_of_turn"


def test_an_exception_in_the_child_is_a_calm_sentence_and_its_trace_is_in_the_log(
    fake: tuple[EngineClient, Listener], tmp_path: Path
) -> None:
    client, heard = fake
    client.generate(request("please !bug"))
    failure = heard.wait(EngineFailure)
    assert isinstance(failure, EngineFailure)
    assert failure.request_id == "r"
    assert "Traceback" not in failure.message
    assert "a bug that was asked for" in (tmp_path / "engine.log").read_text()
    client.generate(request("hello", request_id="r2"))
    heard.wait(RequestDone)


def test_asking_without_a_child_is_a_sentence(start: Start) -> None:
    client = EngineClient(engine_command("--fake"), lambda event: None)
    with pytest.raises(UserError, match="not running"):
        client.generate(request("hello"))
    client.stop(Stop("r"))
    client.close()


def test_a_command_that_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    client = EngineClient([str(tmp_path / "no such program")], lambda event: None)
    with pytest.raises(UserError, match="could not be started"):
        client.start()


def test_an_error_in_the_listener_does_not_stop_the_events(tmp_path: Path) -> None:
    heard = Listener()

    def grumble(event: Event) -> None:
        heard(event)
        raise RuntimeError("a listener's bug")

    client = EngineClient(engine_command("--fake"), grumble)
    client.start()
    client.load(FAKE)
    client.generate(request("hello"))
    heard.wait(RequestDone)
    client.close()


# --- dying -----------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT", "SIGBUS"])
def test_every_death_is_one_event_with_a_sentence_and_a_fresh_child_works(
    fake: tuple[EngineClient, Listener], name: str
) -> None:
    client, heard = fake
    client.generate(request("word !long", request_id="first", max_tokens=9999))
    client.generate(request("waiting", request_id="second"))
    heard.wait(TextDelta)
    pid = client.process_id
    assert pid is not None
    os.kill(pid, signal.Signals[name])
    died = heard.died()
    assert died.exit_code == -signal.Signals[name]
    assert died.request_ids == ("first", "second")
    assert not died.during_load
    assert ("ended from outside" if name == "SIGKILL" else "crashed") in died.message
    assert not client.is_running
    assert not is_alive(pid)

    client.start()
    client.load(FAKE)
    heard.wait(ModelReady)
    client.generate(request("hello", request_id="third"))
    heard.wait(RequestDone)
    assert sum(isinstance(event, EngineDied) for event in heard.all) == 1


def test_a_crash_while_loading_says_so(start: Start) -> None:
    client, heard = start("--fake")
    client.load(ModelRef("!crash", "/nowhere", "ab"))
    assert heard.died().during_load


def test_an_end_of_its_own_accord_is_a_death_too(fake: tuple[EngineClient, Listener]) -> None:
    client, heard = fake
    client.generate(request("please !exit"))
    died = heard.died()
    assert died.exit_code == 3
    assert "unexpectedly" in died.message


def test_a_memory_kill_is_told_apart(
    fake: tuple[EngineClient, Listener], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, heard = fake
    monkeypatch.setattr("desktop_app.inference.engine_client._memory_kills", lambda: 10**9)
    assert client.process_id is not None
    os.kill(client.process_id, signal.SIGKILL)
    assert "out of memory" in heard.died().message


@pytest.mark.parametrize("what", ["load", "request"])
def test_a_child_that_hangs_is_ended(start: Start, what: str) -> None:
    client, heard = start("--fake", silence_limit=1.0 if what == "load" else 3.0)
    client.load(ModelRef("!hang" if what == "load" else "v1", "/nowhere", "ab"))
    if what == "request":
        client.generate(request("please !hang"))
    died = heard.died()
    assert "did not answer for" in died.message
    assert died.during_load == (what == "load")


def test_an_idle_child_is_not_taken_for_a_hung_one(start: Start) -> None:
    client, heard = start("--fake", silence_limit=2.5)
    client.load(FAKE)
    heard.wait(ModelReady)
    time.sleep(2.8)
    client.generate(request("hello"))
    heard.wait(RequestDone)


# --- leaving ---------------------------------------------------------------------------------


def test_closing_is_no_death_and_start_works_again(fake: tuple[EngineClient, Listener]) -> None:
    client, heard = fake
    client.generate(request("word !long", max_tokens=9999))
    heard.wait(TextDelta)
    pid = client.process_id
    assert pid is not None
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 2
    assert not is_alive(pid)
    assert not client.is_running
    client.start()
    client.load(FAKE)
    heard.wait(ModelReady)
    client.close()
    assert not any(isinstance(event, EngineDied) for event in heard.all)


def test_a_hung_child_is_closed_by_force(start: Start) -> None:
    client, heard = start("--fake")
    client.load(FAKE)
    client.generate(request("please !hang"))
    heard.wait(ModelReady)
    pid = client.process_id
    assert pid is not None
    client.close()
    assert not is_alive(pid)


PARENT = """
    import sys, time
    from desktop_app.inference.engine import ModelReady, ModelRef, TextDelta
    from desktop_app.inference.engine_client import EngineClient, engine_command
    from tests.desktop_app.inference.asking import request

    kind, *arguments = sys.argv[1:]
    told = set()

    def hear(event):
        if isinstance(event, TextDelta if kind == "writing" else ModelReady):
            if client.process_id not in told:
                told.add(client.process_id)
                print(client.process_id, flush=True)

    client = EngineClient(engine_command("--fake", "--seconds-per-token", "0.005"), hear)
    client.start()
    client.load(ModelRef("v1", "/nowhere", "ab"))
    if kind == "writing":
        client.generate(request("word !long", max_tokens=9999))
    elif kind == "hanging":
        client.generate(request("please !hang"))
    time.sleep(60)
"""


@posix
@pytest.mark.parametrize("kind", ["idle", "writing", "hanging"])
def test_the_child_does_not_outlive_an_app_that_is_killed(kind: str, repository: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), kind],
        stdout=subprocess.PIPE,
        cwd=repository,
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.kill()
    assert wait_until(lambda: not is_alive(pid), seconds=3)


# --- the real engine in its child --------------------------------------------------------------


@posix
def test_the_real_engine_answers_dies_and_comes_back(
    start: Start, model: ModelRef, tmp_path: Path
) -> None:
    client, heard = start()
    client.load(model)
    heard.wait(ModelReady)
    client.generate(request("Hello"))
    heard.wait(RequestDone)
    text = Answer(heard.all).text

    client.generate(request("Hello", request_id="long", max_tokens=500))
    heard.wait(TextDelta)
    assert client.process_id is not None
    os.kill(client.process_id, signal.SIGSEGV)
    assert heard.died().request_ids == ("long",)

    heard.all.clear()
    client.start()
    client.load(model)
    client.generate(request("Hello"))
    heard.wait(RequestDone)
    assert Answer(heard.all).text == text
    assert "llama" in (tmp_path / "engine.log").read_text()  # the library's own words


def test_a_request_that_ends_with_an_overflow_is_open_no_more(
    start: Start, model: ModelRef
) -> None:
    client, heard = start()
    client.load(model)
    long = request("Tell me about the park. " * 60, "Yes.", "And then?")
    client.generate(replace(long, overflow="summarise"))
    heard.wait(ContextOverflow)
    assert client.process_id is not None
    os.kill(client.process_id, signal.SIGTERM)
    assert heard.died().request_ids == ()


def test_nothing_but_events_is_on_the_childs_stdout(model: ModelRef, repository: Path) -> None:
    asked = [encode(Load(model)), encode(request("Hello")), "this is no request"]
    child = subprocess.Popen(
        engine_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("\n".join(asked) + "\n")
        child.stdin.flush()
        waited_for: set[type[Event]] = {ModelReady, RequestDone, EngineFailure}
        while waited_for:
            waited_for.discard(type(decode_event(child.stdout.readline())))
        child.stdin.close()
        assert [decode_event(line) for line in child.stdout] == []
    assert child.returncode == 0
