"""Device, number type, threads and batch size: all such choices are made here.

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

SMALL: Final = 300_000_000
"""Parameters below which float32 is affordable on any GPU, and exact."""
BYTES: Final = {torch.float32: 4, torch.bfloat16: 2}


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


@dataclass(frozen=True)
class Fit:
    """What training a model would need on a device, in bytes and seconds."""

    parameters: int
    weights: int
    adapters: int
    activations: int
    available: int
    seconds: float

    @property
    def needed(self) -> int:
        return self.weights + self.adapters + self.activations

    @property
    def fits(self) -> bool:
        return self.needed <= self.available


def choose_device(parameters: int = 0) -> Device:
    """The best device of this machine for a model of so many parameters."""
    if torch.cuda.is_available():
        free, _ = torch.cuda.mem_get_info()
        wide = parameters <= SMALL or not torch.cuda.is_bf16_supported()
        dtype = torch.float32 if wide else torch.bfloat16
        return Device("cuda", torch.cuda.get_device_name(), dtype, 1, free)
    for kind in ("xpu", "mps"):
        backend = getattr(torch, kind, None)
        if backend is not None and backend.is_available():
            return Device(kind, kind.upper(), torch.float32, 1, free_memory())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Device("cpu", "CPU", torch.float32, _best_threads(cores or 1), free_memory())


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


def micro_batch_tokens(device: Device, header: GgufHeader) -> int:
    """Padded tokens that go through the network at once, from the memory that is free."""
    spare = max(0, device.free_bytes - parameter_count(header) * BYTES[device.dtype])
    affordable = int(0.25 * spare) // max(1, _activation_bytes_per_token(device, header))
    # Small on a processor: nothing is gained by more, and rows of like length waste no padding.
    return max(256, min(1024 if device.kind == "cpu" else 16384, affordable))


def estimate(device: Device, header: GgufHeader, recipe: Recipe) -> Fit:
    """Memory and time of a whole run with some sixty pieces of feedback.

    Per token and parameter a forward pass costs 2 operations and a pass through frozen weights
    and back 4; the device's pace is measured on one matrix product.
    """
    parameters = parameter_count(header)
    width = int(header.hyperparameter("embedding_length", 0))
    layers = int(header.hyperparameter("block_count", 0))
    feed_forward = int(header.hyperparameter("feed_forward_length", 4 * width))
    ranks = recipe.sft.lora.rank + recipe.reward.lora.rank + recipe.ppo.lora.rank
    adapter = layers * ranks * (4 * 2 * width + 3 * (width + feed_forward))
    tokens = micro_batch_tokens(device, header)
    # Merged copies for rollouts, and adapters with gradient and two moments.
    weights = 2 * parameters * BYTES[device.dtype]
    fit = Fit(
        parameters,
        weights,
        16 * adapter,
        tokens * _activation_bytes_per_token(device, header),
        device.free_bytes,
        0.0,
    )
    ppo = recipe.ppo
    rows = ppo.prompts_per_step * ppo.completions_per_prompt
    each = 60 + ppo.max_new_tokens // 2
    passes = (recipe.sft.epochs + recipe.reward.epochs) * 60 * each * 4
    passes += ppo.steps * rows * each * (2 + 2 * 2 + 4 * ppo.epochs)
    passes += 2 * 3 * recipe.evaluation.prompts * 2 * (60 + recipe.evaluation.max_new_tokens) * 2
    seconds = passes * parameters / _operations_per_second(device)
    return Fit(fit.parameters, fit.weights, fit.adapters, fit.activations, fit.available, seconds)


def _activation_bytes_per_token(device: Device, header: GgufHeader) -> int:
    """What autograd keeps for one token: some twenty vectors a layer, and the logits."""
    width = int(header.hyperparameter("embedding_length", 0))
    layers = int(header.hyperparameter("block_count", 0))
    feed_forward = int(header.hyperparameter("feed_forward_length", 4 * width))
    vocabulary = header.tensors["token_embd.weight"].shape[1]
    kept = layers * (14 * width + 4 * feed_forward) * BYTES[device.dtype]
    return kept + 3 * 4 * vocabulary


def _operations_per_second(device: Device) -> float:
    """Of matrix products, halved: the rest of a network is slower than they are."""
    size = 512 if device.kind == "cpu" else 4096
    before = torch.get_num_threads()
    torch.set_num_threads(device.threads)
    a = torch.ones(size, size, dtype=device.dtype, device=device.torch_device)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        (a @ a).sum().item()
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(before)
    return 2 * size**3 / best / 2
