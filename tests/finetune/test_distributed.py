"""Two processes under torchrun make the adapter that one makes of the same global batch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune import distributed
from finetune.contract import events
from finetune.contract.events import RunDone
from finetune.contract.gguf_file import read_header
from finetune.contract.manifest import read_manifest, verify_files
from finetune.gguf_weights import read_adapter
from tests.finetune.test_command_line import environment, finetune, parsed
from tests.finetune.test_resume import prepared

NEAR = 1e-5
"""Sums are made in another order: an update differs by so much, where weights are about 0.1."""


def together(
    repository: Path, *arguments: object, processes: int = 2
) -> subprocess.CompletedProcess[str]:
    """Under torchrun, on a port of this machine alone that torchrun finds."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*launcher, "--nproc-per-node", str(processes), *map(str, arguments)],
        cwd=repository, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, encoding="utf-8", check=False, timeout=280,
    )  # fmt: skip


def updates_of(run_dir: Path, base: Path, name: str) -> dict[str, torch.Tensor]:
    header = read_header(base)
    adapter = read_adapter(run_dir / "export" / name, header)
    return {module: b @ a for module, (a, b) in adapter.items()}


@pytest.mark.slow
def test_two_processes_make_the_adapter_of_one(
    repository: Path, tmp_path: Path, tiny_gguf: Path
) -> None:
    alone, both = prepared(tmp_path / "a", tiny_gguf), prepared(tmp_path / "b", tiny_gguf)
    one = finetune("resume", "--run-dir", alone, cwd=repository)
    assert one.returncode == 0, one.stderr
    two = together(repository, "-m", "finetune", "resume", "--run-dir", both)
    assert two.returncode == 0, two.stderr
    for name in ("adapter.gguf", "reward.gguf"):
        ours, theirs = (updates_of(run_dir, tiny_gguf, name) for run_dir in (alone, both))
        largest = max(float(update.abs().max()) for update in ours.values())
        worst = max(float((ours[m] - theirs[m]).abs().max()) for m in ours)
        assert worst < NEAR < 1e-3 * largest, (name, worst, largest)
    # One of them speaks and writes; what it says is what one alone would say.
    said, heard = parsed(one.stdout), parsed(two.stdout)
    assert isinstance(heard[-1], RunDone)
    assert [(e.kind, getattr(e, "stage", "")) for e in heard] == [
        (e.kind, getattr(e, "stage", "")) for e in said
    ]
    for mine, other in zip(said, heard, strict=True):
        if isinstance(mine, events.StepDone) and "score" in mine.metrics:
            assert other.metrics["score"] == pytest.approx(mine.metrics["score"], abs=1e-4)
            assert other.metrics["kl"] == pytest.approx(mine.metrics["kl"], abs=1e-4)
    verify_files(both / "export", read_manifest(both / "export"))


def test_alone_nothing_is_shared_out() -> None:
    values = torch.tensor([1.0, 2.0])
    distributed.add_up(values)
    assert distributed.world() == 1
    assert distributed.leads()
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert distributed.summed({"a": 0.1, "b": -2.0}) == {"a": 0.1, "b": -2.0}
    assert values.tolist() == [1.0, 2.0]
    assert distributed.agreed(bool) is bool


@pytest.mark.slow
def test_what_processes_do_for_each_other(repository: Path) -> None:
    result = together(repository, "-m", "tests.finetune.in_three_processes", processes=3)
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split()) == ["0", "1", "2"]
