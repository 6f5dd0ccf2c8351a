"""What makes this computer write fastest with this model: found by trying, and tried again.

In a small model threads wait for each other longer than they compute, the more so while
something else keeps the cores busy. And a batch of a few tokens, one of each completion, may
take longer than the same tokens one after another: llama.cpp computes it with other kernels,
which pay only where the weights come from memory more slowly than they are multiplied. Both
depend on the model, on its kind of weights and on the computer; no rule tells. Both are tried
when a model is loaded; the threads are tried again and again while it writes, because other
programs come and go: two threads on two free cores write half as fast again as one, and beside a
busy program a quarter as fast.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Collection, Sequence
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
BLOCK: Final = 4
"""Steps that are timed together."""
REMEMBERED: Final = 8
"""Blocks that say what the pace is now."""
ENOUGH: Final = 3
"""Of them, before other threads are tried."""
CONVINCING: Final = 5
"""Blocks in which other threads have to be faster."""
HELD_UP: Final = 10.0
"""Times the median: a block that took longer counts as this long. Where cores are shared, two
threads are now and then held up for as long as fifty steps take: that has to be seen, and once is
not to outweigh all else."""
WORTH_CHANGING: Final = 0.95
"""Share of the time of a step now, below which other threads are worth changing to."""
PATIENCE: Final = 64
"""Another number of threads is tried after as many times what trying it takes: that costs a
sixtieth of the time at most."""


@dataclass(frozen=True)
class Pace:
    """How to write.

    Attributes:
        threads: that compute one token.
        batch_threads: that compute one token of each of several completions in a batch.
        smallest_batch: completions side by side from which on batches are worth it.
        seconds: for one token, alone.
    """

    threads: int
    batch_threads: int
    smallest_batch: int
    seconds: float


def thread_counts(cores: int) -> list[int]:
    """Numbers of threads worth trying: one, half of the cores, all of them."""
    return sorted({1, (cores + 1) // 2, cores})


class Contest:
    """Which number of threads makes a kind of step fastest at the time.

    Args:
        counts: numbers of threads to choose from.
        first: which of them begins.
    """

    def __init__(self, counts: Sequence[int], first: int) -> None:
        self.threads = self._chosen = first
        self._others = deque(count for count in counts if count != first)
        self._tried: dict[int, float] = {}  # what a step took when it was tried last
        self._trial: list[float] = []  # blocks of the number that is being tried
        self._blocks: deque[float] = deque(maxlen=REMEMBERED)  # of the chosen number
        self._steps = 0
        self._seconds = self._since = 0.0

    def note(self, seconds: float) -> bool:
        """Take in what a step took; True where other threads shall make the next one."""
        if not self._others:
            return False
        self._steps += 1
        if self._steps == 1:  # it may have had to make the threads, or to wake them
            return False
        self._seconds += seconds
        if self._steps <= BLOCK:
            return False
        pace, self._steps = self._seconds / BLOCK, 0
        self._since, self._seconds = self._since + self._seconds, 0.0
        before = self.threads
        self.threads = self._after_try(pace) if before != self._chosen else self._next(pace)
        return self.threads != before

    def _after_try(self, pace: float) -> int:
        """The number of threads that is tried as long as it is promising; the chosen one else."""
        tried = self.threads
        self._trial.append(pace)
        found, mine = _pace(self._trial), _pace(self._blocks)
        is_better = found < WORTH_CHANGING * mine
        if is_better and len(self._trial) < CONVINCING:
            return tried
        self._tried[tried] = found
        self._since = 0.0
        if is_better:
            self._tried[self._chosen] = mine
            self._others.remove(tried)
            self._others.append(self._chosen)
            self._chosen = tried
            self._blocks.clear()
            self._blocks.extend(self._trial)
        self._trial.clear()
        return self._chosen

    def _next(self, pace: float) -> int:
        """The chosen number of threads, or another whose turn it is to be tried."""
        self._blocks.append(pace)
        if len(self._blocks) < ENOUGH:
            return self._chosen
        mine = _pace(self._blocks)
        better = [c for c in self._others if self._tried.get(c, mine) < WORTH_CHANGING * mine]
        other = better[0] if better else self._others[0]
        if not better and self._since < PATIENCE * BLOCK * self._tried.get(other, 0.0):
            return self._chosen
        self._others.remove(other)
        self._others.append(other)
        return other


def _pace(blocks: Collection[float]) -> float:
    """What a step takes, from what it took in each block."""
    most = HELD_UP * statistics.median(blocks)
    return statistics.fmean(min(block, most) for block in blocks)


class Writer:
    """Computes tokens with the threads that are fastest at the time.

    A large model has all cores: its weights come from memory, and trying would be felt. Where a
    token takes less than ``SLOW_SECONDS``, threads that must wait for a core lose as much when
    they read as when they write: reading then follows writing.

    Args:
        cores: threads at most.
    """

    def __init__(self, context: Context, pace: Pace, cores: int) -> None:
        self._context = context
        self._cores = cores
        self._is_small = pace.seconds <= SLOW_SECONDS
        counts = thread_counts(cores)
        large = pace.seconds > LARGE_SECONDS
        self._alone = Contest([cores] if large else counts, pace.threads)
        self._batch = Contest(counts if self._is_small else [cores], pace.batch_threads)
        self.smallest_batch: Final = pace.smallest_batch

    def step(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int]
    ) -> None:
        """Compute one token of each sequence, with logits at each. Raises as ``Context.step``."""
        is_alone = len(tokens) == 1
        contest = self._alone if is_alone else self._batch
        began = time.perf_counter()
        self._context.step(tokens, positions, sequences)
        self._context.wait()
        if is_alone and not self._context.has_choice:
            return
        if contest.note(time.perf_counter() - began):
            reading = self._alone.threads if self._is_small else self._cores
            self._context.use_threads(self._alone.threads, self._batch.threads, reading)


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
    return Pace(threads, batch_threads, smallest, single)


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
    took: dict[int, list[float]] = {count: [] for count in reversed(thread_counts(cores))}
    for _ in range(rounds):
        for threads, seconds in took.items():
            context.use_threads(threads, threads, cores)
            seconds.append(_seconds(context, rows, tokens))
    # The median: where cores are shared, two threads are lucky now and then.
    pace = {threads: statistics.median(seconds) for threads, seconds in took.items()}
    best = min(pace, key=lambda count: pace[count])
    return pace[best], best


def _seconds(context: Context, rows: int, steps: int) -> float:
    context.clear()
    tokens, sequences = [0] * rows, range(rows)
    began = time.perf_counter()
    for position in range(steps):
        context.step(tokens, [position] * rows, sequences)
    context.wait()
    return (time.perf_counter() - began) / steps
