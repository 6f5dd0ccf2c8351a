"""What makes this computer write fastest with this model: found by trying, when it is loaded.

In a small model threads wait for each other longer than they compute, the more so while
something else keeps the cores busy. And a batch of a few tokens, one of each completion, may
take longer than the same tokens one after another: llama.cpp computes it with other kernels,
which pay only where the weights come from memory more slowly than they are multiplied. Both
depend on the model, on its kind of weights and on the computer; no rule tells.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from desktop_app.inference.llama_api import Context

ROUNDS: Final = 4
TOKENS: Final = 4
"""Computed in one round."""
SLOW_SECONDS: Final = 0.01
"""For one step: a model that needs longer is tried with fewer steps. Not trying costs more: one
of 0.5B wrote 34 tokens/s with two threads that sleep while they wait, and 49 with one."""
SLOW_ROUNDS: Final = 2
SLOW_TOKENS: Final = 2
LARGE_SECONDS: Final = 0.1
"""For one token: the weights of a model that needs longer surely come from memory, where several
completions share the way, and all cores are its own. Trying would make loading seconds longer."""
WORTH_BATCHING: Final = 0.87
"""Share of the time of single tokens that a batch may take. One by one, a completion is the
same text as if it were written alone, to the last digit: that is given up for a gain only."""
BATCHES: Final = (8, 4, 2)
"""Completions side by side that are tried, from those that gain most."""


@dataclass(frozen=True)
class Pace:
    """How to write.

    Attributes:
        threads: that compute one token.
        batch_threads: that compute one token of each of several completions in a batch.
        smallest_batch: completions side by side from which on batches are worth it.
    """

    threads: int
    batch_threads: int
    smallest_batch: int


def measure(context: Context, cores: int, limit: int) -> Pace:
    """Try what is fastest, and leave ``context`` empty and set to it.

    Args:
        cores: threads at most.
        limit: completions side by side at most.
    """
    single, threads = _fastest(context, cores, 1)
    batch_threads, smallest = threads, limit + 1
    if single > LARGE_SECONDS:
        smallest = 2
    else:
        for rows in BATCHES:
            if rows > limit:
                continue
            seconds, with_threads = _fastest(context, cores, rows)
            if seconds > WORTH_BATCHING * rows * single:
                break
            smallest, batch_threads = rows, with_threads
    context.clear()
    context.use_threads(threads, batch_threads, cores)
    return Pace(threads, batch_threads, smallest)


def _fastest(context: Context, cores: int, rows: int) -> tuple[float, int]:
    """Seconds for one step of ``rows`` sequences, and the threads that made it."""
    context.use_threads(cores, cores, cores)
    first = _seconds(context, rows, 1)
    rounds, tokens = ROUNDS, TOKENS
    if first > SLOW_SECONDS:  # again: the first one also fetched the weights from the disk
        first = min(first, _seconds(context, rows, 1))
        if rows > 1 or first > LARGE_SECONDS:  # a batch has work enough for all cores
            return first, cores
        rounds, tokens = SLOW_ROUNDS, SLOW_TOKENS
    best: dict[int, float] = {}
    for _ in range(rounds):
        for threads in sorted({1, cores}, reverse=True):
            context.use_threads(threads, threads, cores)
            took = _seconds(context, rows, tokens)
            best[threads] = min(took, best.get(threads, took))
    threads = min(best, key=lambda count: best[count])
    return best[threads], threads


def _seconds(context: Context, rows: int, steps: int) -> float:
    context.clear()
    tokens, sequences = [0] * rows, range(rows)
    began = time.perf_counter()
    for position in range(steps):
        context.step(tokens, [position] * rows, sequences)
    context.wait()
    return (time.perf_counter() - began) / steps
