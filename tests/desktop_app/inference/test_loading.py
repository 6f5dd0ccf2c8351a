"""Loading: refused where it does not fit, cancelled when nobody waits, told all the time."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from desktop_app.errors import UserError
from desktop_app.inference import devices, llama_api, loaded_model
from desktop_app.inference.engine import (
    EngineFailure,
    Event,
    LoadProgress,
    ModelReady,
    ModelRef,
    PromptProgress,
    RequestDone,
    Stop,
    StreamDone,
)
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.inference.fit import MIB, Machine
from desktop_app.inference.llama_engine import LlamaEngine
from tests.desktop_app.inference.asking import ask, request
from tests.sized_models import SIZE_30M, SIZE_500M, write_sized_model
from tests.tiny_models import TinyShape, write_model

FAKE = ModelRef("v1", "/nowhere", "ab")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    shape = TinyShape(layers=3)
    path = write_model(tmp_path_factory.mktemp("other") / "other.gguf", shape=shape, seed=3)
    return ModelRef("other", str(path), "cd")


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One number: what is free, in MB, beside what the engine holds itself."""
    free = [100_000]

    def machine(held: int = 0, held_graphics: int = 0) -> Machine:
        return Machine(free[0] * MIB + held)

    monkeypatch.setattr(devices, "machine", machine)
    return free


def test_a_model_that_does_not_fit_is_refused_with_the_sum_and_the_other_one_stays(
    engine: LlamaEngine, other: ModelRef, memory: list[int]
) -> None:
    text = ask(engine, "Hello").text
    memory[0] = 1
    (event,) = engine.load(other)
    assert isinstance(event, EngineFailure)
    assert event.reason == "does_not_fit"
    assert "weights" in event.message
    assert ask(engine, "Hello").text == text
    assert isinstance(list(engine.load(other, anyway=True))[-1], ModelReady)
    assert ask(engine, "Hello").text != text


def test_what_the_engine_holds_itself_counts_as_free(
    tmp_path: Path, memory: list[int], other: ModelRef
) -> None:
    """A second model of the same size fits where the first one makes way for it."""
    paths = [write_sized_model(tmp_path / f"{i}.gguf", SIZE_30M, seed=i) for i in range(2)]
    refs = [ModelRef(str(i), str(path), str(i)) for i, path in enumerate(paths)]
    engine = LlamaEngine(threads=1)
    ready = list(engine.load(refs[0]))[-1]
    assert isinstance(ready, ModelReady)
    assert ready.need is not None
    # What is left is what the file's own pages take, and what must stay free.
    memory[0] = paths[0].stat().st_size // MIB + 300
    assert isinstance(list(engine.load(refs[1]))[-1], ModelReady)
    engine.close()
    assert isinstance(list(engine.load(refs[0]))[-1], EngineFailure)  # nothing makes way now


def test_ready_tells_the_plan(model: ModelRef, memory: list[int]) -> None:
    engine = LlamaEngine(threads=1)
    ready = list(engine.load(model))[-1]
    assert isinstance(ready, ModelReady)
    assert ready.need is not None
    assert ready.need.weights >= 300_000
    assert (ready.cell_type, ready.gpu_layers) == ("f16", 0)
    engine.close()


def test_cells_in_eight_bits_write_nearly_the_same(model: ModelRef) -> None:
    """The greedy text of a random model begins alike; rows are longer than a block of 32."""
    path = Path(model.path).with_name("wide-heads.gguf")
    if not path.exists():
        write_model(path, shape=TinyShape(width=128, heads=2, kv_heads=1), ends=False)
    texts = []
    for cell_type in ("f16", "q8_0"):
        candidate = loaded_model.look_at(ModelRef("v", str(path), "x"))
        plan = loaded_model.replace(candidate.plan, cell_type=cell_type)
        loaded = loaded_model.LoadedModel(
            loaded_model.replace(candidate, plan=plan), 1, lambda _: True
        )
        engine = LlamaEngine(threads=1)
        engine._loaded = loaded
        texts.append(ask(engine, "Tell me about the park", temperature=0).text)
        engine.close()
    assert texts[0][:8] == texts[1][:8]


# --- cancelling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [1, 3])
def test_loading_can_be_cancelled_at_any_step(tmp_path: Path, model: ModelRef, after: int) -> None:
    path = write_sized_model(tmp_path / "m.gguf", SIZE_30M)
    engine = LlamaEngine(threads=1)
    told: list[Event] = []
    for event in engine.load(
        ModelRef("v", str(path), "x"), is_cancelled=lambda: len(told) >= after
    ):
        told.append(event)
    last = told[-1]
    assert isinstance(last, EngineFailure)
    assert (last.message, last.reason) == ("Loading was stopped.", "cancelled")
    assert ask(engine, "hello").failure == EngineFailure("No model is loaded.", "r")
    assert isinstance(list(engine.load(model))[-1], ModelReady)
    assert ask(engine, "hello").done
    engine.close()


def test_llama_cpps_own_reading_can_be_cancelled(model: ModelRef) -> None:
    with pytest.raises(llama_api.LoadCancelledError):
        llama_api.Model(Path(model.path), lambda fraction: False)


def test_progress_grows_from_reading_to_the_end(tmp_path: Path) -> None:
    path = write_sized_model(tmp_path / "m.gguf", SIZE_30M)
    engine = LlamaEngine(threads=1)
    events = list(engine.load(ModelRef("v", str(path), "x")))
    fractions = [event.fraction for event in events if isinstance(event, LoadProgress)]
    engine.close()
    assert fractions == sorted(fractions)
    assert len([f for f in fractions if f < 0.8]) >= 3  # 34 MB in steps of 8
    assert fractions[-1] == 1


@pytest.fixture
def client() -> Iterator[tuple[EngineClient, Callable[..., Event]]]:
    heard: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def until(*kinds: type[Event]) -> Event:
        while not isinstance(event := heard.get(timeout=20), kinds):
            pass
        return event

    client = EngineClient(engine_command("--fake"), heard.put)
    client.start()
    yield client, until
    client.close()


def test_a_cancellation_arrives_while_the_model_loads(
    client: tuple[EngineClient, Callable[..., Event]],
) -> None:
    child, until = client
    child.load(ModelRef("!slow", "/nowhere", "ab"))
    until(LoadProgress)
    child.cancel_load()
    failure = until(EngineFailure)
    assert isinstance(failure, EngineFailure)
    assert failure.reason == "cancelled"
    child.load(FAKE)  # asked for later: not cancelled
    assert isinstance(until(ModelReady, EngineFailure), ModelReady)


def test_a_load_that_waits_behind_another_is_cancelled_with_it(
    client: tuple[EngineClient, Callable[..., Event]],
) -> None:
    child, until = client
    child.load(ModelRef("!slow", "/nowhere", "ab"))
    child.load(ModelRef("!slow 2", "/nowhere", "ab"))
    child.cancel_load()
    for _ in range(2):
        failure = until(EngineFailure, ModelReady)
        assert isinstance(failure, EngineFailure)
        assert failure.reason == "cancelled"


def test_cancelling_where_nothing_is_loaded_does_nothing(
    client: tuple[EngineClient, Callable[..., Event]],
) -> None:
    child, until = client
    child.cancel_load()
    child.load(FAKE)
    assert isinstance(until(ModelReady, EngineFailure), ModelReady)
    child.cancel_load()
    child.generate(request("hello"))
    assert isinstance(until(RequestDone, EngineFailure), RequestDone)


# --- stopping ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_half_a_billion_weights_stop_within_300_ms_in_the_middle_of_a_prompt(
    tmp_path: Path,
) -> None:
    if os.name == "posix" and os.getloadavg()[0] > (os.cpu_count() or 1):
        pytest.skip("other programs keep the cores busy, so nothing can be said about time")
    heard: queue.SimpleQueue[tuple[float, Event]] = queue.SimpleQueue()

    def until(*kinds: type[Event]) -> float:
        while True:
            when, event = heard.get(timeout=120)
            assert not isinstance(event, EngineFailure), event
            if isinstance(event, kinds):
                return when

    path = write_sized_model(tmp_path / "m.gguf", SIZE_500M)
    client = EngineClient(engine_command(), lambda event: heard.put((time.monotonic(), event)))
    client.start()
    try:
        client.load(ModelRef("v", str(path), "x"))
        until(ModelReady)
        waits = []
        for number in range(20):
            client.generate(request(f"{number} " + "park " * 2000, request_id=str(number)))
            until(PromptProgress)
            time.sleep(0.05 + 0.04 * number)
            asked = time.monotonic()
            client.stop(Stop(str(number)))
            waits.append(until(StreamDone) - asked)
            until(RequestDone)
    finally:
        client.close()
    assert sorted(waits)[-2] < 0.3, waits  # the 95th percentile


# --- adapters that llama.cpp itself refuses -------------------------------------------------------


def test_an_adapter_that_llama_cpp_refuses_is_noticed(model: ModelRef, tmp_path: Path) -> None:
    """It hands out NULL, which is neither an adapter nor None."""
    loaded = llama_api.Model(Path(model.path), lambda fraction: True)
    with pytest.raises(UserError, match="refused the adapter"):
        llama_api.Adapter(loaded, Path(model.path))
    loaded.close()
