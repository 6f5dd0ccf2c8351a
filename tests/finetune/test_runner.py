"""One final event on every path, with the right code and sentence; a clean line out."""

import errno
import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from finetune.console import EventStream, StopRequest, in_words
from finetune.contract import events
from finetune.contract.errors import InputError
from finetune.contract.events import Note, RunDone, RunFailed
from finetune.enough import NotEnoughFeedback
from finetune.export import ExportFailed
from finetune.pipeline import GateFailed
from finetune.runner import guarded
from finetune.stage import Diverged, Stopped
from tests.contract.test_events import EVENTS

DONE = RunDone("/export", ("prepare",))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("The model is missing."), "bad_input"),
        (Stopped(), "stopped"),
        (KeyboardInterrupt(), "stopped"),
        (NotEnoughFeedback("Too little."), "not_enough_feedback"),
        (GateFailed("Worse."), "gate_failed"),
        (ExportFailed("Another model."), "gate_failed"),
        (Diverged("loss is not a number any more"), "diverged"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (MemoryError(), "out_of_memory"),
        (torch.OutOfMemoryError("CUDA out of memory."), "out_of_memory"),
        (
            RuntimeError("[alloc_cpu.cpp:124] DefaultCPUAllocator: not enough memory: you tried"),
            "out_of_memory",
        ),
        (OSError(errno.EIO, "I/O error"), "bug"),
        (ZeroDivisionError("division by zero"), "bug"),
    ],
)  # fmt: skip
def test_each_exception_has_its_code_and_a_sentence(error: BaseException, code: str) -> None:
    def work() -> RunDone:
        raise error

    result = guarded(work)
    assert isinstance(result, RunFailed)
    assert result.code == code
    assert result.message.endswith(".")
    assert "Traceback" not in result.message


def test_a_real_allocation_that_fails_is_out_of_memory() -> None:
    def work() -> RunDone:
        torch.empty(1 << 60, dtype=torch.uint8)
        return DONE

    result = guarded(work)
    assert isinstance(result, RunFailed)
    assert result.code == "out_of_memory"


def test_nothing_follows_the_final_event(tmp_path: Path) -> None:
    out = io.StringIO()
    stream = EventStream(out, for_people=False)
    stream.keep_in(tmp_path)
    for event in (Note("one"), DONE, Note("two"), RunFailed("bug", "x")):
        stream.emit(event)
    kept = (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    assert out.getvalue() == kept
    assert [events.from_line(line) for line in kept.splitlines()] == [Note("one"), DONE]
    stream.close()


def test_half_a_line_of_a_killed_run_is_closed(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "no')
    stream = EventStream(io.StringIO(), for_people=False)
    stream.keep_in(tmp_path)
    stream.emit(DONE)
    stream.close()
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [events.from_line(line) for line in lines] == [None, DONE]


def test_a_reader_that_left_does_not_stop_the_run(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    stream = EventStream(os.fdopen(writing, "w"), for_people=False)
    stream.keep_in(tmp_path)
    os.close(reading)
    stream.emit(Note("one"))
    stream.emit(DONE)
    assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2
    stream.close()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_every_event_can_be_said_to_a_person(event: events.Event) -> None:
    assert in_words(event).strip()


@pytest.mark.parametrize(
    ("sent", "stops"),
    [
        (b'{"request": "stop"}\n', True),
        (b'hello\n{"request"', False),
        (b'{"request": "go"}\n[]\n', False),
    ],
)
def test_a_stop_line_or_a_closed_pipe_asks_to_stop(
    sent: bytes, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, writing = os.pipe()
    read = os.read
    monkeypatch.setattr(os, "read", lambda _, size: read(reading, size))
    request = StopRequest()
    thread = threading.Thread(target=request._read_requests)
    thread.start()
    os.write(writing, sent)
    thread.join(0.5)
    assert request() == stops
    os.close(writing)
    thread.join(5)
    assert request()
    os.close(reading)


def test_the_contract_of_the_line_holds_without_torch() -> None:
    """Reading events must not cost the app seconds of imports."""
    script = "import sys, finetune.contract.events; print('torch' in sys.modules)"
    import subprocess

    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert json.loads(found.stdout.strip().lower()) is False
