"""Device, number type and threads: all such choices are made here; memory is ``memory_plan``'s.

By probe and not by flag: bfloat16 on a processor without the instructions for it is thirty
times slower than float32, and two threads on a busy machine can be fifty times slower than one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from finetune.contract.gguf_file import GgufHeader
from finetune.contract.recipe import Recipe
from finetune.memory_plan import MemoryPlan, plan_memory

SMALL: Final = 300_000_000
"""Parameters below which float32 is affordable on any GPU, and exact."""


WORTH_NARROWING: Final = 2_000_000
"""Parameters from which a narrower type is considered for matrix products on a processor."""


@dataclass(frozen=True)
class Device:
    """Where a run computes, and in which type the trunk is held."""

    kind: str
    name: str
    dtype: torch.dtype
    threads: int
    free_bytes: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def choose_device(parameters: int = 0) -> Device:
    """The best device of this machine for a model of so many parameters.

    "cuda" is AMD's too, by PyTorch for ROCm. Under torchrun it is this process's own GPU.
    """
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        return Device("cuda", torch.cuda.get_device_name(), _type("cuda", parameters), 1, free)
    if torch.xpu.is_available():
        free, _ = torch.xpu.mem_get_info()
        return Device("xpu", torch.xpu.get_device_name(), _type("xpu", parameters), 1, free)
    if torch.backends.mps.is_available():
        free = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
        return Device("mps", "Apple GPU", _type("mps", parameters), 1, free)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Device("cpu", "CPU", torch.float32, _best_threads(cores or 1), free_memory())


def _type(kind: str, parameters: int) -> torch.dtype:
    """The type a trunk is held in on a GPU: bfloat16 for a large one, where the GPU can."""
    wide = parameters <= SMALL or not computes(kind, torch.bfloat16)
    return torch.float32 if wide else torch.bfloat16


def computes(kind: str, dtype: torch.dtype) -> bool:
    """Whether a product of matrices and its gradient come out right, tried on the device.

    Drivers say that they can and fail, or compute zeros.
    """
    try:
        a = torch.full((64, 64), 0.5, dtype=dtype, device=kind, requires_grad=True)
        product = a @ torch.eye(64, dtype=dtype, device=kind)
        product.sum().backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None
        return bool((product == 0.5).all()) and bool((a.grad == 1.0).all())
    except (RuntimeError, TypeError):
        return False


def _best_threads(cores: int) -> int:
    """The fastest number of threads for small matrices now; OMP_NUM_THREADS decides if set."""
    fixed = os.environ.get("OMP_NUM_THREADS", "")
    if fixed.isdigit() and int(fixed) > 0:
        return int(fixed)
    best, best_seconds = 1, float("inf")
    before = torch.get_num_threads()
    for threads in sorted({1, max(1, cores // 2), cores}):
        torch.set_num_threads(threads)
        seconds = min(_matmul_seconds(512, 512) for _ in range(5))
        if seconds < 0.9 * best_seconds:  # another thread has to earn its place
            best, best_seconds = threads, seconds
    torch.set_num_threads(before)
    return best


def _matmul_seconds(size: int, rows: int) -> float:
    a, b = torch.ones(rows, size), torch.ones(size, size)
    start = time.perf_counter()
    for _ in range(10):
        a = (a @ b).clamp(max=1.0)
    return (time.perf_counter() - start) / 10


def product_type(device: Device, parameters: int) -> torch.dtype:
    """The type in which training computes its matrix products: bfloat16 where that is faster.

    Both are measured, a product alone and a small layer forward and back with everything it
    costs to get into the type and out of it: processors without the instructions for bfloat16
    are thirty times slower with it, those with them about four times faster. A tiny model gains
    nothing worth the rounding.
    """
    if device.kind != "cpu" or parameters < WORTH_NARROWING:
        return device.dtype
    before = torch.get_num_threads()
    torch.set_num_threads(device.threads)
    seconds = {
        dtype: [
            min(measure(dtype) for _ in range(4)) for measure in (_product_seconds, _layer_seconds)
        ]
        for dtype in (torch.float32, torch.bfloat16)
    }
    torch.set_num_threads(before)
    wide, narrow = seconds[torch.float32], seconds[torch.bfloat16]
    wins = all(n < 0.8 * w for n, w in zip(narrow, wide, strict=True))
    return torch.bfloat16 if wins else torch.float32


def _product_seconds(dtype: torch.dtype) -> float:
    a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start


def _layer_seconds(dtype: torch.dtype) -> float:
    x = torch.ones(256, 512, requires_grad=True)
    weight = torch.ones(512, 512, dtype=dtype)
    start = time.perf_counter()
    (x.to(dtype) @ weight).float().sum().backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def free_memory() -> int:
    """Bytes of main memory that can be used now; 0 where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 0


def parameter_count(header: GgufHeader) -> int:
    """Numbers in all tensors of a file."""
    total = 0
    for info in header.tensors.values():
        count = 1
        for length in info.shape:
            count *= length
        total += count
    return total


def memory_plan(
    device: Device, header: GgufHeader, recipe: Recipe, weights: Path | None = None
) -> MemoryPlan:
    """How the model is held on this device, and how many tokens go through it at once.

    ``weights``: the Hugging Face folder they come from, if they do not come from the GGUF.
    """
    in_blocks = weights is None  # a folder has none
    return plan_memory(
        header, recipe, device.kind, device.dtype, device.free_bytes, in_blocks=in_blocks
    )
