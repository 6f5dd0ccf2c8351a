"""What is kept of earlier conversations in files: found again, bounded, private, never wrong."""

from __future__ import annotations

import ctypes
import os
import queue
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from desktop_app.inference.engine import (
    AdapterRef,
    EngineDied,
    EngineFailure,
    Event,
    ModelReady,
    ModelRef,
    RequestDone,
)
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.inference.llama_engine import LlamaEngine
from desktop_app.inference.parked_states import Parked, ParkedStates, State
from desktop_app.inference.prefix_cache import WORTH_RESTORING
from tests.desktop_app.inference.asking import ask, request

LONG = "Tell me about the park. " * 12


def state(size: int, fill: int = 7) -> State:
    return (ctypes.c_uint8 * size)(*[fill] * size)


def parked(number: int, size: int = 1000) -> Parked:
    return Parked(adapter=("ab", 0.5), tokens=[number, 2, 3], prompt_length=2,
                  state=state(size, number))  # fmt: skip


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# --- the store alone -----------------------------------------------------------------------------


def test_what_memory_has_no_room_for_goes_to_a_file_and_comes_back(tmp_path: Path) -> None:
    states = ParkedStates("model", tmp_path / "states", memory_bytes=2500)
    for number in range(4):
        states.add(parked(number))
    assert states.bytes_in_memory == 2000
    assert [entry.tokens[0] for entry in states if entry.state is None] == [0, 1]
    first = next(iter(states))
    assert bytes(states.read(first) or b"") == bytes([0]) * 1000
    assert [entry.tokens[0] for entry in states] == [1, 2, 3, 0]


def test_a_new_process_finds_the_files_of_its_model_only(tmp_path: Path) -> None:
    states = ParkedStates("model", tmp_path)
    states.add(parked(1))
    states.add(parked(2))
    states.save()
    again = ParkedStates("model", tmp_path)
    assert [(e.adapter, e.tokens, e.prompt_length) for e in again] == [
        (("ab", 0.5), [2, 2, 3], 2), (("ab", 0.5), [1, 2, 3], 2),
    ]  # fmt: skip
    assert bytes(again.read(next(iter(again))) or b"") == bytes([2]) * 1000
    assert list(ParkedStates("another model", tmp_path)) == []
    assert len(names(tmp_path)) == 2  # they are not ours to delete


def test_files_are_bounded_and_the_one_used_longest_ago_goes(tmp_path: Path) -> None:
    states = ParkedStates("model", tmp_path, memory_bytes=0, file_bytes=4000)
    for number in range(3):
        states.add(parked(number))
        os.utime(sorted(tmp_path.iterdir(), key=os.path.getmtime)[-1], (number, number))
    assert states.read(next(iter(states))) is not None  # 0 is used: 1 is the oldest now
    states.add(parked(3))
    assert sorted(entry.tokens[0] for entry in states) == [0, 2, 3]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4000
    states.add(parked(9, size=5000))  # larger than all that is allowed: kept nowhere
    assert sorted(entry.tokens[0] for entry in states) == [0, 2, 3]


def overwrite(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit in the state": lambda path: overwrite(path, -1),
    "a flipped bit in the tokens": lambda path: overwrite(path, -1001),
    "shortened": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "empty": lambda path: path.write_bytes(b""),
    "no header": lambda path: path.write_bytes(b"[1, 2]\n" + b"x" * 100),
    "text": lambda path: path.write_bytes(b"hello" * 2000),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("when", ["before it is found", "after it was found"])
def test_damaged_files_are_passed_over(
    tmp_path: Path, damage: Callable[[Path], object], when: str
) -> None:
    states = ParkedStates("model", tmp_path)
    states.add(parked(1))
    states.save()
    (path,) = tmp_path.iterdir()
    if when == "before it is found":
        damage(path)
        again = ParkedStates("model", tmp_path)
    else:
        again = ParkedStates("model", tmp_path)
        damage(path)
    for entry in list(again):
        assert again.read(entry) is None
    assert list(again) == []
    assert names(tmp_path) == set()


def test_an_unfinished_file_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "abc.part").write_bytes(b"half")
    (tmp_path / "note.txt").write_bytes(b"not ours")
    ParkedStates("model", tmp_path)
    assert names(tmp_path) == {"note.txt"}


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    folder = tmp_path / "states"
    states = ParkedStates("model", folder, memory_bytes=0)
    states.add(parked(1))
    (path,) = folder.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    states = ParkedStates("model", blocked / "states", memory_bytes=0)
    states.add(parked(1))
    assert list(states) == []


def test_an_entry_that_is_gone_is_no_failure() -> None:
    states = ParkedStates("model", None, memory_bytes=0)
    gone = parked(1)
    states.add(gone)  # there is room nowhere
    assert states.read(gone) is None
    states.release(gone)
    states.remove(gone)
    assert list(states) == []


# --- with the engine -----------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


def engine_with(model: ModelRef, folder: Path | None) -> LlamaEngine:
    engine = LlamaEngine(threads=1, states_folder=folder)
    assert isinstance(list(engine.load(model))[-1], ModelReady)
    return engine


def test_a_conversation_goes_on_after_a_restart_as_if_there_had_been_none(
    model: ModelRef, adapter: AdapterRef, folder: Path
) -> None:
    uncut = engine_with(model, None)
    engine = engine_with(model, folder)
    for one in (uncut, engine):
        ask(one, LONG)
        ask(one, LONG, adapters=[adapter])
    engine.close()
    again = engine_with(model, folder)
    for which in (None, adapter):
        warm = ask(again, LONG, adapters=[which], max_tokens=60)
        assert warm.done.computed_tokens == 1
        assert warm.text == ask(uncut, LONG, adapters=[which], max_tokens=60).text
    uncut.close()
    again.close()


def test_a_turn_edited_after_a_restart_goes_on_from_what_was_kept(
    model: ModelRef, folder: Path
) -> None:
    """What is kept of it is the beginning of what is in the cells, and parking these drops it."""
    engine = engine_with(model, folder)
    text = ask(engine, "Hi", max_tokens=8, grammar="root ::= [a-z ]+").text
    engine.close()
    again = engine_with(model, folder)
    kept = ask(again, "Hi", text, "And then?").done.reused_tokens
    (parked_file,) = folder.iterdir()
    assert kept > WORTH_RESTORING
    edited = ask(again, "Hi", text, "Why?")
    assert edited.done.reused_tokens == kept
    assert not parked_file.exists()
    again.close()


def test_another_model_or_adapter_or_a_damaged_file_computes_afresh(
    model: ModelRef, adapter: AdapterRef, folder: Path
) -> None:
    engine = engine_with(model, folder)
    text = ask(engine, LONG).text
    engine.close()
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    other = engine_with(ModelRef("v", model.path, "another hash"), folder)
    assert ask(other, LONG).done.reused_tokens == 0
    other.close()
    again = engine_with(model, folder)
    assert ask(again, LONG, adapters=[adapter]).done.reused_tokens == 0
    again.close()
    for path in kept.iterdir():
        overwrite(path, -1)
    damaged = engine_with(model, kept)
    answer = ask(damaged, LONG)
    assert (answer.done.reused_tokens, answer.text) == (0, text)
    damaged.close()


def test_forgetting_leaves_nothing(model: ModelRef, folder: Path) -> None:
    engine = engine_with(model, folder)
    ask(engine, LONG)
    engine.close()
    engine = engine_with(model, folder)
    ask(engine, "Something else, much longer than that")
    engine.forget()
    assert names(folder) == set()
    assert ask(engine, LONG).done.reused_tokens == 0
    engine.forget()
    engine.close()
    assert names(folder) == set()


def test_the_app_deletes_the_files_where_no_engine_runs(model: ModelRef, folder: Path) -> None:
    engine = engine_with(model, folder)
    ask(engine, LONG)
    engine.close()
    assert names(folder)
    EngineClient(engine_command(), lambda event: None, states_folder=folder).forget()
    assert names(folder) == set()


def test_a_child_is_told_to_forget_and_keeps_nothing(model: ModelRef, folder: Path) -> None:
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    client = EngineClient(engine_command("--states", str(folder)), events.put, states_folder=folder)

    def done(number: int) -> RequestDone:
        client.generate(request(LONG, request_id=str(number)))
        while not isinstance(event := events.get(timeout=60), RequestDone):
            assert not isinstance(event, EngineFailure | EngineDied), event
        return event

    client.start()
    client.load(model)
    assert [done(1).computed_tokens > 100, done(2).computed_tokens] == [True, 1]
    client.forget()
    assert done(3).reused_tokens == 0
    client.forget()
    client.close()
    assert not folder.exists() or names(folder) == set()


def test_texts_are_the_same_with_files_and_without(model: ModelRef, folder: Path) -> None:
    with_files, without = engine_with(model, folder), engine_with(model, None)
    with_files._loaded.cache._parked._memory_bytes = 0  # type: ignore[union-attr]
    for number in (0, 1, 2, 0, 1, 2, 1, 0):
        said = f"{number} {LONG}", "Yes.", "And then?"
        answers = [ask(engine, *said, max_tokens=40) for engine in (with_files, without)]
        assert answers[0].text == answers[1].text
        assert answers[0].done == answers[1].done
    assert with_files._loaded.cache._parked.bytes_in_memory == 0  # type: ignore[union-attr]
    with_files.close()
    without.close()
