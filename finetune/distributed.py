"""Several processes that train one adapter: data parallel, under ``torchrun``.

    torchrun --standalone --nproc-per-node 2 -m finetune train --run-dir DIR ...

Every process holds the trunk and goes through the same program with the same random numbers;
what takes the time is divided: prompts that are sampled, sequences that are scored, sequences
whose gradient is computed. Results and gradients are added up, so that all processes hold the
same numbers afterwards, come to the same decisions, and end with the adapter that one process
would have made of the same global batch (up to the rounding of sums in another order). The first
process alone writes: events, checkpoints, the exported version. All read the run folder.

The optimiser is not sharded: an adapter and its moments are some megabytes, less than what
sharding would have to move. Without torchrun there is one process, and all of this does nothing;
nothing listens on a socket then. Under it the sockets are torchrun's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

Item = TypeVar("Item")


class OutOfMemoryElsewhereError(MemoryError):
    """Another process could not do its part of a work, so nobody can."""


def start() -> None:
    """Join the other processes where torchrun started some."""
    if _is_one_of_several() and not dist.is_initialized():
        if torch.cuda.is_available():  # also AMD's, under the same name
            torch.cuda.set_device(local_rank())
            dist.init_process_group("cpu:gloo,cuda:nccl")
        else:
            dist.init_process_group("gloo")


def stop() -> None:
    """Leave the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def local_rank() -> int:
    """Which of the processes of this machine this is: its number of a GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def leads() -> bool:
    """Whether this is the process that writes, asks and answers."""
    return not _is_one_of_several() or int(os.environ.get("RANK", "0")) == 0


def _is_one_of_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def share(items: Sequence[Item]) -> Sequence[Item]:
    """This process's part of a work that every process sees the whole of.

    Dealt out one by one: of a sorted sequence everybody gets as many long items as short ones.
    """
    return items[rank() :: world()]


def all_is_well(*, here: bool = True) -> None:
    """Hear from all processes whether one of them has run out of memory, and tell it of this one.

    Whoever adds something up asks first, so that nobody waits for one who cannot go on.

    Raises:
        OutOfMemoryElsewhereError: one has. Not where it is this one that says so.
    """
    if not dist.is_initialized():
        return
    failures = torch.tensor([0.0 if here else 1.0])
    dist.all_reduce(failures)
    if here and failures.item():
        raise OutOfMemoryElsewhereError("there is not enough memory in another process")


def add_up(*tensors: Tensor) -> None:
    """Add the tensors of all processes, in place; parts that others fill are zero here.

    Raises:
        OutOfMemoryElsewhereError: see ``all_is_well``.
    """
    if dist.is_initialized():
        all_is_well()
        for tensor in tensors:
            dist.all_reduce(tensor)


def summed(values: Mapping[str, float]) -> dict[str, float]:
    """The sum of each value over all processes."""
    found = torch.tensor([values[name] for name in values], dtype=torch.float64)
    add_up(found)
    return dict(zip(values, found.tolist(), strict=True))


def total(value: float) -> float:
    """The sum of a number over all processes."""
    return summed({"": value})[""]


def reduce_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Add the gradients of all processes, each of its own share of the batch's loss.

    One call for all of them. A parameter nobody has a gradient of stays without one, which an
    optimiser tells from a gradient of zero.
    """
    if not dist.is_initialized():
        return
    sizes = [parameter.numel() for parameter in parameters]
    found = [1.0 if parameter.grad is not None else 0.0 for parameter in parameters]
    device = parameters[0].device
    flat = torch.cat(
        [torch.tensor(found, device=device)]
        + [
            torch.zeros(size, device=device) if p.grad is None else p.grad.float().flatten()
            for p, size in zip(parameters, sizes, strict=True)
        ]
    )
    dist.all_reduce(flat)
    present, *parts = torch.split(flat, [len(found), *sizes])
    for parameter, part, count in zip(parameters, parts, present.tolist(), strict=True):
        if count:
            parameter.grad = part.view_as(parameter).to(parameter.dtype)


def agreed(asked: Callable[[], bool]) -> Callable[[], bool]:
    """``asked`` as a question all processes give one answer to: yes where one of them does.

    To be asked by all of them at the same places.
    """
    if not dist.is_initialized():
        return asked
    return lambda: total(float(asked())) > 0


@contextmanager
def leader_first() -> Iterator[None]:
    """The others enter the block when the first process has left it."""
    if dist.is_initialized() and not leads():
        dist.barrier()
    yield
    if dist.is_initialized() and leads():
        dist.barrier()
