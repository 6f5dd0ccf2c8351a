"""What ``finetune.distributed`` promises, asked in each of three processes by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn

from finetune import distributed
from finetune.out_of_memory import smaller_if_needed
from finetune.stage import StageRun


def one_runs_out(rank: int, poor: int, *, fails_early: bool, fits: int = 16) -> None:
    """One process has memory for ``fits`` tokens; it notices before or after it has added up."""
    run = StageRun("sft", Path("unused"), lambda event: None, lambda: False, 1000, 64)
    tried = []

    def work(tokens: int) -> float:
        tried.append(tokens)
        is_too_much = rank == poor and tokens > fits
        if is_too_much and fails_early:
            raise MemoryError
        total = distributed.total(rank + 1.0)
        if is_too_much:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return total

    assert smaller_if_needed(run, work) == 6.0
    assert tried == [64, 32, 16]
    assert run.micro_batch_tokens == 16


def main() -> None:
    distributed.start()
    rank = distributed.rank()
    assert distributed.world() == 3
    assert distributed.leads() == (rank == 0)

    assert distributed.share("abcdefg") == ("adg", "be", "cf")[rank]
    assert distributed.summed({"x": rank + 0.5, "y": -1.0}) == {"x": 4.5, "y": -3.0}
    whole = torch.zeros(4)
    whole[rank] = rank + 1.0
    distributed.add_up(whole)
    assert whole.tolist() == [1.0, 2.0, 3.0, 0.0]

    everybody, somebody, nobody = (nn.Parameter(torch.zeros(2, 2)) for _ in range(3))
    everybody.grad = torch.full((2, 2), float(rank))
    if rank == 1:
        somebody.grad = torch.full((2, 2), 5.0)
    distributed.reduce_gradients([everybody, somebody, nobody])
    assert everybody.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    assert somebody.grad is not None
    assert somebody.grad.tolist() == [[5.0, 5.0], [5.0, 5.0]]
    assert nobody.grad is None

    assert distributed.agreed(lambda: rank == 2)()
    assert not distributed.agreed(lambda: False)()
    with distributed.leader_first():
        pass
    for poor in range(3):
        for fails_early in (True, False):
            one_runs_out(rank, poor, fails_early=fails_early)
    try:
        one_runs_out(rank, 1, fails_early=True, fits=0)
    except MemoryError:
        pass
    else:
        raise AssertionError("nothing fits, and nobody minds")
    distributed.stop()
    # One write: print() makes two where Python runs unbuffered, and the processes share a pipe.
    sys.stdout.write(f"{rank}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
