"""Checkpoints are there whole or not at all, and a damaged one is passed over."""

from pathlib import Path

import pytest
import torch

from finetune.checkpoint import (
    Checkpoint,
    load_checkpoint,
    newest_step,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    save_step,
)

TENSORS = {"a.b": torch.arange(6.0).reshape(2, 3).T, "c": torch.tensor(1e-30)}
STATE = {"step": 3, "loss": 0.1 + 0.2, "nothing": None, "metrics": {"kl": 1 / 3}}


def test_tensors_and_numbers_come_back_to_the_last_bit(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "done", TENSORS, STATE)
    found = load_checkpoint(tmp_path / "done")
    assert found is not None
    assert found.state == STATE
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert [p.name for p in tmp_path.iterdir()] == ["done"]


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "COMPLETE"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_the_newest_damaged_one_is_passed_over(tmp_path: Path, file: str, damage: str) -> None:
    for step in (10, 20):
        save_step(tmp_path, step, Checkpoint(TENSORS, {"step": step}))
    path = tmp_path / "step-000020" / file
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[-1] ^= 1
        path.write_bytes(data)
    found = newest_step(tmp_path)
    assert found is not None
    assert found.state["step"] == 10


def test_what_was_being_written_at_the_time_of_death_does_not_count(tmp_path: Path) -> None:
    save_step(tmp_path, 1, Checkpoint(TENSORS, {"step": 1}))
    partial = tmp_path / ".step-000002.partial"
    partial.mkdir()
    (partial / "state.json").write_text("{")
    found = newest_step(tmp_path)
    assert found is not None
    assert found.state["step"] == 1
    save_step(tmp_path, 2, Checkpoint(TENSORS, {"step": 2}))
    assert not partial.exists()


def test_two_steps_are_kept(tmp_path: Path) -> None:
    for step in range(1, 6):
        save_step(tmp_path, step, Checkpoint({}, {"step": step}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000004", "step-000005"]


def test_an_empty_folder_has_no_checkpoint(tmp_path: Path) -> None:
    assert newest_step(tmp_path) is None
    assert newest_step(tmp_path / "nowhere") is None
    assert load_checkpoint(tmp_path) is None


def test_an_optimizer_goes_on_as_if_never_stopped() -> None:
    def steps(parameter: torch.nn.Parameter, optimizer: torch.optim.Optimizer, n: int) -> None:
        for _ in range(n):
            (parameter**2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

    first = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.AdamW([first], lr=0.1)
    steps(first, optimizer, 3)
    second = torch.nn.Parameter(first.detach().clone())
    resumed = torch.optim.AdamW([second], lr=0.1)
    restore_optimizer(resumed, optimizer_tensors(optimizer))
    steps(first, optimizer, 3)
    steps(second, resumed, 3)
    assert torch.equal(first, second)
