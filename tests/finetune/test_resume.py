"""A run that dies anywhere goes on to the same bits; a full disk and a second trainer are told."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from finetune.contract import events
from finetune.contract.events import RunFailed
from finetune.contract.records import write_records
from finetune.ppo import ValueHead, _fit_values
from finetune.run_folder import prepare_run
from tests.finetune.conftest import feedback
from tests.finetune.test_command_line import RECIPE, command, environment, finetune, parsed
from tests.finetune.test_run_lock import holder

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and limits of POSIX")
EXPORTED = ("adapter.gguf", "model.gguf", "reward.gguf")


def prepared(folder: Path, base: Path, checkpoint_every: int = 2) -> Path:
    """A run folder named "run" in ``folder``: the name is in the files."""
    folder.mkdir()
    write_records(folder / "f.jsonl", feedback(24))
    (folder / "recipe.json").write_text(
        json.dumps({**RECIPE, "checkpoint_every": checkpoint_every})
    )
    prepare_run(folder / "run", base, [folder / "f.jsonl"], folder / "recipe.json", None, "Test")
    return folder / "run"


@pytest.fixture(scope="module")
def whole(repository: Path, tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupted."""
    run_dir = prepared(tmp_path_factory.mktemp("whole") / "a", tiny_gguf)
    assert finetune("resume", "--run-dir", run_dir, cwd=repository).returncode == 0
    return run_dir


def assert_same(run_dir: Path, whole: Path) -> None:
    for name in EXPORTED:
        found, wanted = run_dir / "export" / name, whole / "export" / name
        assert found.read_bytes() == wanted.read_bytes(), name
    left = [p.name for p in run_dir.rglob("*") if "partial" in p.name or p.name.startswith(".")]
    assert left == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("how", "least"), [("events", 25), ("writes", 25), ("clock", 3)])
def test_a_run_killed_at_every_turn_ends_with_the_same_bits(
    repository: Path, tmp_path: Path, tiny_gguf: Path, whole: Path, how: str, least: int
) -> None:
    run_dir = prepared(tmp_path / "b", tiny_gguf)
    result = subprocess.run(
        [sys.executable, "-m", "tests.finetune.killing", run_dir, how],
        cwd=repository, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= least
    assert_same(run_dir, whole)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_passed_over(
    repository: Path, tmp_path: Path, tiny_gguf: Path, whole: Path
) -> None:
    run_dir = prepared(tmp_path / "b", tiny_gguf, checkpoint_every=1)
    with subprocess.Popen(
        command("resume", "--run-dir", run_dir),
        cwd=repository, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            event = events.from_line(line)
            if isinstance(event, events.StepDone) and (event.stage, event.step) == ("ppo", 3):
                process.kill()
    before, newest = sorted((run_dir / "ppo").glob("step-*"))
    data = bytearray((newest / "tensors.safetensors").read_bytes())
    data[-1] ^= 1
    (newest / "tensors.safetensors").write_bytes(data)
    resumed = finetune("resume", "--run-dir", run_dir, cwd=repository)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{newest.name} is damaged and is passed over" in (run_dir / "log.txt").read_text()
    steps = [e.step for e in parsed(resumed.stdout)
             if isinstance(e, events.StepDone) and e.stage == "ppo"]  # fmt: skip
    assert steps[0] == int(before.name[-6:]) + 1
    assert_same(run_dir, whole)


@pytest.mark.slow
def test_a_full_disk_is_one_event_and_the_run_can_go_on(
    repository: Path, tmp_path: Path, tiny_gguf: Path, whole: Path
) -> None:
    run_dir = prepared(tmp_path / "b", tiny_gguf)

    def small_disk() -> None:
        # No file may grow beyond this: a write then fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    result = subprocess.run(
        command("resume", "--run-dir", run_dir),
        cwd=repository, env=environment(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False, preexec_fn=small_disk,
    )  # fmt: skip
    assert result.returncode == 1, result.stderr
    finals = [event for event in parsed(result.stdout) if isinstance(event, RunFailed)]
    assert finals == [
        RunFailed("disk_full", "The disk is full. Free some space, then resume the training.")
    ]
    assert not (run_dir / "export").exists()
    assert finetune("resume", "--run-dir", run_dir, cwd=repository).returncode == 0
    assert_same(run_dir, whole)


def test_a_second_trainer_is_refused_in_one_sentence(
    repository: Path, tmp_path: Path, tiny_gguf: Path
) -> None:
    run_dir = prepared(tmp_path / "b", tiny_gguf)
    with holder(repository, run_dir) as process:
        result = finetune("resume", "--run-dir", run_dir, cwd=repository)
        process.kill()
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    (final,) = parsed(result.stdout)
    assert final == RunFailed("bad_input", result.stderr.strip())
    assert f"process {process.pid}" in final.message
    # Not a byte of the other trainer's folder was touched.
    assert not (run_dir / "events.jsonl").exists()
    assert not (run_dir / "log.txt").exists()


def test_fitting_the_value_head_leaves_no_gradient_for_the_next_step() -> None:
    """It did once, and a run resumed after its warm-up differed in the last bits."""
    values = ValueHead(4)
    states, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    _fit_values(values, states, torch.ones(2, 3), mask, 0.01)
    assert all(parameter.grad is None for parameter in values.parameters())
