"""What a run computes in is measured once and then kept."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from finetune import devices
from finetune.machine import same_machine

DEVICE = devices.Device("cpu", "CPU", torch.float32, 2, 10**9)
LARGE = 10**8


def measured(monkeypatch: pytest.MonkeyPatch, product: float, layer: float) -> None:
    """Let bfloat16 take these multiples of float32's time."""
    factor = {torch.float32: (1.0, 1.0), torch.bfloat16: (product, layer)}
    monkeypatch.setattr(devices, "_product_seconds", lambda dtype: factor[dtype][0])
    monkeypatch.setattr(devices, "_layer_seconds", lambda dtype: factor[dtype][1])


@pytest.mark.parametrize(
    ("product", "layer", "wanted"),
    [
        (0.25, 0.4, torch.bfloat16),
        (30.0, 25.0, torch.float32),  # a processor without the instructions
        (0.25, 1.1, torch.float32),  # the product wins, the way to it costs more
        (0.95, 0.95, torch.float32),  # not worth the rounding
    ],
)
def test_bfloat16_has_to_win_twice(
    product: float, layer: float, wanted: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, product, layer)
    assert devices.product_type(DEVICE, LARGE) == wanted
    assert devices.product_type(DEVICE, 100_000) == torch.float32


def test_other_devices_compute_in_the_trunks_type(monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, 0.1, 0.1)
    gpu = dataclasses.replace(DEVICE, kind="cuda")
    assert devices.product_type(gpu, LARGE) == torch.float32


def test_the_real_measurement_takes_a_moment_and_leaves_the_threads_alone() -> None:
    before = torch.get_num_threads()
    assert devices.product_type(DEVICE, LARGE) in (torch.float32, torch.bfloat16)
    assert torch.get_num_threads() == before


def test_a_resumed_run_computes_as_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(monkeypatch, 0.25, 0.4)
    assert same_machine(tmp_path, DEVICE, LARGE) == (DEVICE, torch.bfloat16)
    measured(monkeypatch, 30.0, 30.0)  # busier now
    other = dataclasses.replace(DEVICE, threads=1, free_bytes=5)
    assert same_machine(tmp_path, other, LARGE) == (DEVICE, torch.bfloat16)
    moved = dataclasses.replace(DEVICE, kind="cuda", dtype=torch.bfloat16)
    assert same_machine(tmp_path, moved, LARGE) == (moved, torch.bfloat16)
    assert json.loads((tmp_path / "machine.json").read_text())["kind"] == "cuda"
