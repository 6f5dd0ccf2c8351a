"""The estimate of memory: by hand, with made-up machines, and against real processes."""

from __future__ import annotations

import queue
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import llama_cpp
import pytest

from desktop_app.inference import devices, fit
from desktop_app.inference.engine import (
    EngineFailure,
    Event,
    ModelReady,
    ModelRef,
    RequestDone,
)
from desktop_app.inference.engine_client import EngineClient, engine_command
from desktop_app.inference.fit import MIB, Machine, Measures, measure, needed, plan
from desktop_app.inference.free_memory import free_memory
from desktop_app.ui.sentences import template_of
from finetune.contract.gguf_file import GgufHeader, TensorInfo, read_header
from tests.desktop_app.inference.asking import request
from tests.sized_models import (
    SIZE_30M,
    SIZE_500M,
    SIZE_1500M,
    Size,
    quantize,
    write_sized_model,
)

GIB = 1 << 30
# A model of 7 billion weights in four bits, in round numbers.
LARGE = Measures(
    layer_weights=(120 * MIB,) * 32,
    input_weights=100 * MIB,
    output_weights=100 * MIB,
    repacked=3000 * MIB,
    layer_numbers=(2048,) * 32,
    width=4096,
    feed_forward=14_336,
    vocabulary=32_000,
    tables=10 * MIB,
    trained=32_768,
)
KV_F16 = 2048 * 32 * 2  # bytes of a token


def test_the_header_of_a_tiny_model_by_hand(model_file: Path) -> None:
    header = read_header(model_file)
    measures = measure(header)
    tensors = header.tensors
    assert measures.weights == sum(tensor.size for tensor in tensors.values())
    assert measures.input_weights == tensors["token_embd.weight"].size
    norms, output = tensors["output_norm.weight"].size, tensors["output.weight"].size
    assert measures.output_weights == norms + output
    assert measures.layer_numbers == (2 * 2 * 16, 2 * 2 * 16)  # K and V, two heads of 16
    assert (measures.width, measures.feed_forward, measures.trained) == (64, 96, 512)
    assert measures.repacked == 0  # F32
    assert not measures.has_blocks  # 16 numbers are half a block
    assert plan(measures, Machine(0)).cell_type == "f16"


def test_every_part_of_the_sum_by_hand() -> None:
    need = needed(LARGE, 4096, "f16", repack=False)
    cells = 4096 + 2048
    assert LARGE.cells_of(4096) == cells
    assert LARGE.cells_of(1000) == 3072  # a multiple of 256
    assert need.weights == (32 * 120 + 200) * MIB
    assert need.cells == cells * KV_F16
    batch = 128 * 4 * 3 * (14_336 + 4096)
    logits = 2 * 9 * 32_000 * 4
    mask = 128 * cells * 2
    assert need.work == batch + logits + mask + (10 + 12) * MIB
    assert need.total == need.weights + need.cells + need.work
    assert needed(LARGE, 4096, "f16", repack=True).weights == need.weights + 3000 * MIB
    assert needed(LARGE, 4096, "q8_0", repack=False).cells == need.cells * 34 // 64
    with_adapter = replace(LARGE, adapters=5 * MIB)
    assert needed(with_adapter, 4096, "f16", repack=False).total == need.total + 5 * MIB


@pytest.mark.parametrize(
    ("free", "length", "cell_type", "repack", "fits"),
    [
        (64 * GIB, 8192, "f16", True, True),
        (12 * GIB, 8192, "f16", True, True),
        (9 * GIB, 8192, "f16", False, True),  # the second copy goes before the context
        (7 * GIB, 4096, "f16", False, True),  # a long context takes half of the rest at most
        (5.9 * GIB, 4096, "f16", False, True),
        (5.1 * GIB, 4096, "q8_0", False, True),  # smaller cells only where nothing else helps
        (4.75 * GIB, 2048, "q8_0", False, True),
        (4 * GIB, 2048, "q8_0", False, False),
    ],
)
def test_the_less_there_is_the_more_is_given_up_in_order(
    free: float, length: int, cell_type: str, repack: bool, fits: bool
) -> None:
    found = plan(LARGE, Machine(int(free)))
    assert (found.context_length, found.cell_type, found.repack, found.fits) == (
        length, cell_type, repack, fits,
    )  # fmt: skip
    if fits:
        assert found.need.total <= free - fit.spare(int(free))


def test_the_context_is_what_was_asked_for_or_what_the_model_knows() -> None:
    machine = Machine(64 * GIB)
    assert plan(LARGE, machine, 16_000).context_length == 16_000
    assert plan(LARGE, machine, 100_000).context_length == 32_768
    assert plan(replace(LARGE, trained=1024), machine).context_length == 1024
    in_small_cells = plan(LARGE, Machine(8 * GIB), 32_768)
    assert (in_small_cells.cell_type, in_small_cells.fits) == ("q8_0", True)
    too_long = plan(LARGE, Machine(6 * GIB), 32_768)
    assert (too_long.context_length, too_long.fits) == (32_768, False)


def test_more_memory_never_gives_less() -> None:
    """A plan for more memory fits, has no shorter context and no coarser cells."""
    before = (False, False, 0)
    for free in range(4 * GIB, 16 * GIB, 32 * MIB):
        found = plan(LARGE, Machine(free))
        now = (found.fits, found.cell_type == "f16", found.context_length)
        assert now >= before, free
        assert not found.fits or found.need.total <= free - fit.spare(free)
        before = now


def test_no_more_cells_than_the_positions_of_the_table_that_was_trained_with() -> None:
    """Streams share the cells, and llama.cpp takes the long table for more of them than these."""
    tables = {"rope_factors_long__weight": ((8, 1), "F32", 32)}
    long_ago = {"x.context_length": 131_072, "x.rope.scaling.original_context_length": 4096}
    for wanted in (0, 1000, 100_000):
        found = plan(measure(header_of(long_ago, **tables)), Machine(64 * GIB), wanted)
        assert found.cells == (3072 if wanted == 1000 else 4096)
        assert found.context_length == (1000 if wanted == 1000 else 4096)
    assert plan(measure(header_of(long_ago)), Machine(64 * GIB)).cells == 8192 + 2048
    unsaid = measure(header_of({"x.context_length": 1024}, **tables))
    assert plan(unsaid, Machine(64 * GIB)).cells == 1024


# --- graphics memory, with made-up numbers ------------------------------------------------------


def test_all_layers_go_to_a_device_that_has_room_for_them() -> None:
    found = plan(LARGE, Machine(16 * GIB, (24 * GIB,)))
    assert found.gpu_layers == 33  # 32, and what writes the logits
    assert found.context_length == fit.LONGEST_ON_GPU
    assert found.need.weights == LARGE.input_weights
    assert found.need.cells == 0
    weights = (32 * 120 + 100) * MIB
    assert found.graphics >= weights + LARGE.cells_of(32_768) * KV_F16
    assert found.fits


def test_the_context_gives_way_before_the_layers_do() -> None:
    found = plan(LARGE, Machine(16 * GIB, (6 * GIB,)))
    assert found.gpu_layers == 33
    assert fit.COMFORTABLE <= found.context_length < fit.LONGEST_ON_GPU


def test_a_small_device_takes_some_layers_and_memory_the_others() -> None:
    found = plan(LARGE, Machine(16 * GIB, (3 * GIB,)))
    assert 0 < found.gpu_layers < 33
    stays = 32 - (found.gpu_layers - 1)
    assert found.need.weights == LARGE.input_weights + stays * 120 * MIB
    assert found.graphics <= 3 * GIB - fit.spare(3 * GIB)
    more = plan(LARGE, Machine(16 * GIB, (3 * GIB, 3 * GIB)))
    assert more.gpu_layers > found.gpu_layers


def test_a_device_without_room_is_not_used() -> None:
    found = plan(LARGE, Machine(16 * GIB, (300 * MIB,)))
    assert (found.gpu_layers, found.graphics) == (0, 0)
    assert found.fits


# --- odd headers --------------------------------------------------------------------------------


def header_of(
    metadata: dict[str, object], **tensors: tuple[tuple[int, ...], str, int]
) -> GgufHeader:
    table = {
        name.replace("__", "."): TensorInfo(name.replace("__", "."), shape, kind, 0, size)
        for name, (shape, kind, size) in tensors.items()
    }
    return GgufHeader(3, {"general.architecture": "x", **metadata}, table, 1000)


def test_recurrent_layers_keep_no_keys_and_experts_work_side_by_side() -> None:
    measures = measure(
        header_of(
            {
                "x.block_count": 3,
                "x.embedding_length": 128,
                "x.attention.head_count": 4,
                "x.attention.head_count_kv": [0, 2, 0],
                "x.attention.key_length": 40,
                "x.feed_forward_length": [100, 200, 300],
                "x.expert_used_count": 8,
                "x.expert_feed_forward_length": 64,
            },
            blk__0__a__weight=((128, 128), "Q4_K", 10),
            blk__2__b__weight=((128, 100), "Q4_K", 20),  # 100 rows cannot be repacked
            token_embd__weight=((128, 800), "Q4_K", 30),  # looked up, not multiplied
        )
    )
    assert measures.layer_numbers == (0, 2 * (40 + 32), 0)
    assert measures.feed_forward == 8 * 64
    assert measures.layer_weights == (10, 0, 20)
    assert measures.repacked == 10
    assert measure(header_of({}), repacks=False).weights == 0  # says nothing, breaks nothing


# --- the sentence -------------------------------------------------------------------------------


def test_the_sentence_shows_the_sum_and_it_adds_up() -> None:
    found = plan(LARGE, Machine(4 * GIB))
    text = fit.refusal("Large", found)
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]
    total, weights, context, work, free = numbers
    assert 0 <= weights + context + work - total <= 2  # each is rounded up
    assert total == -(-found.need.total // MIB)
    assert free == 4096 - 409  # a tenth is left to others
    assert template_of(text) is not None  # the window can say it in Korean


# --- what a process then uses -------------------------------------------------------------------


def peak_of(path: Path, wanted: int = 0) -> tuple[ModelReady, int]:
    """Load and ask a fresh engine child; how many bytes its peak lies above its idle size."""
    heard: queue.SimpleQueue[Event] = queue.SimpleQueue()
    client = EngineClient(engine_command(), heard.put, silence_limit=250)

    def until(*kinds: type[Event]) -> Event:
        while not isinstance(event := heard.get(timeout=280), (*kinds, EngineFailure)):
            pass
        return event

    def resident(what: str) -> int:
        lines = Path(f"/proc/{client.process_id}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) * 1024

    client.start()
    try:
        client.generate(request("Hello"))
        until(RequestDone)  # nothing is loaded: but by now the child has started
        idle = resident("VmRSS:")
        client.load(ModelRef("v", str(path), "ab", None, wanted))
        ready = until(ModelReady)
        assert isinstance(ready, ModelReady), ready
        client.generate(request("park " * min(520, ready.context_length - 300)))
        assert isinstance(until(RequestDone), RequestDone)
        return ready, resident("VmHWM:") - idle
    finally:
        client.close()


def check(path: Path) -> None:
    ready, peak = peak_of(path)
    assert ready.need is not None
    assert 0.85 < ready.need.total / peak < 1.15, (ready.need, peak)


linux = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


@linux
def test_the_bundled_model_takes_what_was_estimated(starter_model: Path) -> None:
    check(starter_model)


@linux
def test_a_model_of_30_million_weights_takes_what_was_estimated(tmp_path: Path) -> None:
    check(write_sized_model(tmp_path / "model.gguf", SIZE_30M))


def _as_it_is(path: Path) -> Path:
    return path


def _in_four_bits(path: Path) -> Path:
    """As Q4_0, which is written in a tenth of Q4_K_M's time and laid out anew as well."""
    return quantize(path, path.with_suffix(".q4.gguf"), llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0)


@linux
@pytest.mark.slow
@pytest.mark.timeout(560)
@pytest.mark.parametrize("prepare", [_as_it_is, _in_four_bits])
@pytest.mark.parametrize(("size", "wanted"), [(SIZE_500M, 2 * GIB), (SIZE_1500M, 5 * GIB)])
def test_larger_models_take_what_was_estimated(
    size: Size, wanted: int, prepare: Callable[[Path], Path], tmp_path: Path
) -> None:
    if free_memory() < wanted:
        pytest.skip(f"{wanted / GIB:.0f} GB of free memory are wanted")
    if shutil.disk_usage(tmp_path).free < wanted:
        pytest.skip(f"{wanted / GIB:.0f} GB of free disk are wanted")
    path = write_sized_model(tmp_path / "model.gguf", size)
    check(prepare(path))
    for file in tmp_path.glob("*.gguf"):
        file.unlink()


def test_this_machine_can_be_asked() -> None:
    machine = devices.machine(held=5)
    assert machine.free > 5
    assert all(free >= 0 for free in machine.graphics)
    assert devices.repacks() in (True, False)
