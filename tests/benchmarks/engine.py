"""How fast the engine child is, held against llama.cpp's own benchmarks; writes ``engine.md``.

    python -m tests.benchmarks.engine --llama-bench PATH --work DIR

``PATH`` is ``llama-bench``, with ``llama-batched-bench`` beside it, built from the sources inside
llama-cpp-python's source package of the installed version:

    cmake -S vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF
    cmake --build build --target llama-bench llama-batched-bench

``DIR`` keeps the random models (1 GB) between runs. Both sides run in turn on the same file; what
is told is the median, with the spread (largest less smallest, of the median). The child chooses
its threads itself; llama-bench is run with each number of threads and its best counts. A quiet
machine is needed: on a busy one, ``--busy`` lets llama-bench's threads sleep while they wait, as
the child's do, or it would lose a hundredfold.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import llama_cpp

from finetune.contract.chat_template import Message
from tests.benchmarks.engine_child import Child, Measured
from tests.benchmarks.engine_peer import Peer, Speeds
from tests.sized_models import SIZE_30M, SIZE_500M, quantize, write_sized_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).with_suffix(".md")
BUNDLED = ROOT / "resources" / "models" / "attune-starter.gguf"
STORY = "Tell me a story about a small dog who lives near the sea"
SHORT_LINE = "Is it far from here?"
LINE = "What would you like to know about the park today, and is it far from here? "
GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0}


@dataclass(frozen=True)
class Row:
    """One line of the page."""

    what: str
    ours: str
    peer: str
    ratio: str
    goal: str


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def spread(values: Sequence[float]) -> str:
    return f"{(max(values) - min(values)) / median(values):.0%}"


def user(text: str) -> list[Message]:
    return [Message("user", text)]


def long_text(child: Child, tokens: int, number: int) -> str:
    """A text whose prompt has about so many tokens, and that begins as no other."""
    few, many = (_prompt_tokens(child, LINE * count) for count in (2, 6))
    each = (many - few) / 4
    return f"{number:06d} " + LINE * max(1, round((tokens - few) / each) + 2)


def _prompt_tokens(child: Child, text: str) -> int:
    done = child.ask(user(text), max_tokens=1).done
    assert done is not None
    return done.prompt_tokens


# --- generation and prompt evaluation --------------------------------------------------------


def write(child: Child, tokens: int, seed: int, **sampling: object) -> tuple[float, float]:
    """Tokens a second and a processor second, of completions of so many tokens in all.

    What a request costs besides its tokens is measured by one of a single token and taken off.
    """
    written, seconds, cpu = 0, 0.0, 0.0
    child.ask(user(STORY), max_tokens=1, **sampling)
    single = [child.ask(user(STORY), max_tokens=1, **sampling) for _ in range(9)]
    while written < tokens:
        seed += 1000
        one = child.ask(user(STORY), seeds=[seed], max_tokens=tokens, **sampling)
        if one.tokens > 8:
            written += one.tokens - 1
            seconds += one.ended_at - median(one.ended_at for one in single)
            cpu += one.cpu - median(one.cpu for one in single)
    return written / seconds, written / cpu


def generation(name: str, model: Path, peer: Peer, rounds: int, goal: str) -> list[Row]:
    child = Child(model)
    threads = sorted({1, os.cpu_count() or 1})
    ours: list[tuple[float, float]] = []
    greedy: list[tuple[float, float]] = []
    theirs: dict[int, list[Speeds]] = {count: [] for count in threads}
    write(child, 64, 0)
    for number in range(rounds):
        ours.append(write(child, 128, number))
        greedy.append(write(child, 128, number, **GREEDY))
        for count in threads:
            theirs[count].append(peer.bench(model, count, generate=128, times=2))
    child.close()
    walls = {count: [median(run.wall) for run in runs] for count, runs in theirs.items()}
    best = max(threads, key=lambda count: median(walls[count]))
    wall, cpu = (median(value[i] for value in ours) for i in (0, 1))
    peer_wall = median(walls[best])
    peer_cpu = median(run.per_cpu_second for run in theirs[best])
    plain = median(value[0] for value in greedy)
    return [
        Row(
            f"{name}: generation, tokens/s",
            f"{wall:,.1f} (spread {spread([value[0] for value in ours])})",
            f"{peer_wall:,.1f} ({best} threads, spread {spread(walls[best])})",
            f"{wall / peer_wall:.3f}",
            goal,
        ),
        Row(
            f"{name}: generation, tokens per processor second",
            f"{cpu:,.1f}", f"{peer_cpu:,.1f}", f"{cpu / peer_cpu:.3f}", goal,
        ),
        Row(
            f"{name}: the same without penalty and sampling (greedy)",
            f"{plain:,.1f}", f"{peer_wall:,.1f}", f"{plain / peer_wall:.3f}",
            f"sampling costs {1 - wall / plain:.1%}",
        ),
    ]  # fmt: skip


def prompt_evaluation(name: str, model: Path, peer: Peer, rounds: int) -> list[Row]:
    child = Child(model)
    threads = sorted({1, os.cpu_count() or 1})
    ours: list[tuple[float, float]] = []
    theirs: dict[int, list[Speeds]] = {count: [] for count in threads}
    for number in range(rounds):
        one = child.ask(user(long_text(child, 490, number)), max_tokens=1)
        assert one.done is not None
        tokens = one.done.computed_tokens
        ours.append((tokens / one.read_at, tokens / one.cpu))
        for count in threads:
            theirs[count].append(peer.bench(model, count, prompt=512, times=2))
    child.close()
    walls = {count: [median(run.wall) for run in runs] for count, runs in theirs.items()}
    best = max(threads, key=lambda count: median(walls[count]))
    wall, cpu = (median(value[i] for value in ours) for i in (0, 1))
    peer_cpu = median(run.per_cpu_second for run in theirs[best])
    peer_wall = median(walls[best])
    return [
        Row(
            f"{name}: reading 512 tokens, tokens/s",
            f"{wall:,.0f} (spread {spread([value[0] for value in ours])})",
            f"{peer_wall:,.0f} ({best} threads, spread {spread(walls[best])})",
            f"{wall / peer_wall:.3f}",
            "0.97",
        ),
        Row(
            f"{name}: reading 512 tokens, tokens per processor second",
            f"{cpu:,.0f}", f"{peer_cpu:,.0f}", f"{cpu / peer_cpu:.3f}", "0.97",
        ),
    ]  # fmt: skip


# --- the token cache -------------------------------------------------------------------------


def long_conversation(name: str, model: Path) -> list[Row]:
    """Time to first token at turn 50 against turn 2, with the same new tokens.

    Each new token looks back on all before it. In a small model that is a good part of the
    work, so its time must grow with the conversation, whatever is kept.
    """
    child = Child(model, context_length=4096)
    messages: list[Message] = []
    first_at, computed = [], []
    for turn in range(52):
        messages += user(f"{turn:02d} {SHORT_LINE}")
        for seed in range(5):
            one = child.ask(messages, seeds=[seed], max_tokens=8)
            assert one.done is not None
            if seed == 0:
                first_at.append(one.first_at)
                computed.append(one.done.computed_tokens)
            # A random model may end with half a character, which no conversation keeps as it is.
            if one.tokens == 8 and "\ufffd" not in one.texts[0]:
                break
        messages.append(Message("assistant", one.texts[0]))
    child.close()
    early, late = median(first_at[1:4]), median(first_at[-3:])
    return [
        Row(
            f"{name}: first token at turn 50 against turn 2, ms",
            f"{late * 1e3:.1f} ({median(computed[-3:]):.0f} tokens computed)",
            f"{early * 1e3:.1f} ({median(computed[1:4]):.0f} tokens computed)",
            f"{late / early:.2f}",
            "at most 1.3",
        )
    ]


def switching(name: str, model: Path, folder: Path, rounds: int) -> list[Row]:
    """Going on with a conversation of 1,500 tokens that another one has pushed out."""
    shutil.rmtree(folder, ignore_errors=True)
    child = Child(model, context_length=4096, states_folder=folder)
    fresh, back, files = [], [], []
    for number in range(rounds):
        text = long_text(child, 1500, 10 * number)
        read = child.ask(user(text), max_tokens=8)
        fresh.append(read.first_at)
        child.ask(user(f"{number} something else entirely"), max_tokens=4)
        going_on = [*user(text), Message("assistant", read.texts[0]), *user("Go on")]
        back.append(_again(child, going_on, read))
        child.ask(user(f"{number} something else again"), max_tokens=4)
        child.close()
        child = Child(model, context_length=4096, states_folder=folder)
        child.ask(user("warm"), max_tokens=2)
        going_on += [Message("assistant", "Yes."), *user("Go on")]
        files.append(_again(child, going_on, read))
    child.close()
    rows = []
    for where, times in (("memory", back), ("a file, in a new process", files)):
        rows.append(
            Row(
                f"{name}: first token, back in 1,500 tokens kept in {where}, ms",
                f"{median(times) * 1e3:.0f}",
                f"{median(fresh) * 1e3:.0f} (read afresh)",
                f"{median(times) / median(fresh):.3f}",
                "at most 0.10",
            )
        )
    return rows


def _again(child: Child, messages: list[Message], before: Measured) -> float:
    one = child.ask(messages, max_tokens=2)
    assert one.done is not None
    assert before.done is not None
    assert one.done.reused_tokens >= before.done.prompt_tokens - 1, one.done
    return one.first_at


# --- several completions ---------------------------------------------------------------------


def several(name: str, model: Path, peer: Peer, rounds: int, tokens: int) -> list[Row]:
    child = Child(model, context_length=1024)
    child.ask(user(STORY), max_tokens=8)
    counts = [2, 4, 8]
    together: dict[int, list[float]] = {count: [] for count in counts}
    together_cpu: dict[int, list[float]] = {count: [] for count in counts}
    alone: list[float] = []
    alone_cpu: list[float] = []
    theirs: dict[tuple[int, int], list[float]] = {}
    for number in range(rounds):
        for count in counts:
            seeds = range(number * 100, number * 100 + count)
            one = child.ask(user(STORY), seeds=seeds, max_tokens=tokens)
            together[count].append(one.tokens / one.ended_at)
            together_cpu[count].append(one.tokens / one.cpu)
        single = [
            child.ask(user(STORY), seeds=[number * 100 + seed], max_tokens=tokens)
            for seed in range(4)
        ]
        alone.append(sum(one.tokens for one in single) / sum(one.ended_at for one in single))
        alone_cpu.append(sum(one.tokens for one in single) / sum(one.cpu for one in single))
        for threads in sorted({1, os.cpu_count() or 1}):
            speeds = peer.batched(model, threads, prompt=64, generate=tokens, counts=[1, *counts])
            for count, speed in speeds.items():
                theirs.setdefault((count, threads), []).append(speed)
    child.close()
    best = {
        count: max(median(speeds) for (of, _), speeds in theirs.items() if of == count)
        for count in counts
    }
    return [
        Row(
            f"{name}: {count} completions side by side, tokens/s in all",
            f"{median(together[count]):,.1f} (one after another {median(alone):,.1f})",
            f"{best[count]:,.1f} (llama-batched-bench)",
            f"{median(together[count]) / median(alone):.2f} of one after another "
            f"({median(together_cpu[count]) / median(alone_cpu):.2f} by processor time), "
            f"{median(together[count]) / best[count]:.2f} of llama-batched-bench",
            "at least 1",
        )
        for count in counts
    ]


def memory(name: str, model: Path, peer: Peer) -> list[Row]:
    """Peak memory of reading 512 tokens and writing some."""
    child = Child(model, context_length=1024)
    child.ask(user(long_text(child, 512, 1)), max_tokens=32)
    ours = child.peak_megabytes()
    need = child.ready.need
    cells = need.cells / 2**20 if need else 0.0
    child.close()
    theirs = peer.bench(model, 1, prompt=512, generate=32).peak_megabytes
    return [
        Row(
            f"{name}: peak memory, MB",
            f"{ours:,.0f} (of which {cells:,.0f} are cells for {child.ready.context_length:,} "
            "tokens and more completions)",
            f"{theirs:,.0f}",
            f"{ours - theirs:+,.0f}",
            "at most +60",
        )
    ]


# --- the page --------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description="Speed of the engine child")
    parser.add_argument("--llama-bench", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the random models")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--busy", action="store_true", help="the machine has other work, too")
    parser.add_argument("--only", default="", help="measure what has this word in its name")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    peer = Peer(
        options.llama_bench.absolute(), {"OMP_WAIT_POLICY": "passive"} if options.busy else {}
    )
    work: Path = options.work
    work.mkdir(parents=True, exist_ok=True)
    small, large = work / "30m-q8_0.gguf", work / "500m-q4_k_m.gguf"
    if not small.exists():
        write_sized_model(small, SIZE_30M)
    if not large.exists():
        raw = write_sized_model(work / "500m-q8_0.gguf", SIZE_500M)
        quantize(raw, large)
        raw.unlink()
    rounds = options.rounds
    few = max(2, rounds // 2)
    states = work / "states"
    parts: list[tuple[str, Callable[[], list[Row]]]] = [
        ("generation bundled", lambda: generation("bundled", BUNDLED, peer, rounds, "0.90")),
        ("generation 0.5B", lambda: generation("0.5B Q4_K_M", large, peer, rounds, "0.97")),
        ("reading bundled", lambda: prompt_evaluation("bundled", BUNDLED, peer, rounds)),
        ("reading 0.5B", lambda: prompt_evaluation("0.5B Q4_K_M", large, peer, few)),
        ("turns 30M", lambda: long_conversation("30M Q8_0", small)),
        ("turns 0.5B", lambda: long_conversation("0.5B Q4_K_M", large)),
        ("switching 30M", lambda: switching("30M Q8_0", small, states, rounds)),
        ("switching 0.5B", lambda: switching("0.5B Q4_K_M", large, states, 1)),
        ("several bundled", lambda: several("bundled", BUNDLED, peer, rounds, 64)),
        ("several 30M", lambda: several("30M Q8_0", small, peer, few, 48)),
        ("several 0.5B", lambda: several("0.5B Q4_K_M", large, peer, few, 24)),
        ("memory bundled", lambda: memory("bundled", BUNDLED, peer)),
        ("memory 0.5B", lambda: memory("0.5B Q4_K_M", large, peer)),
    ]
    rows: list[Row] = []
    began = datetime.datetime.now()
    for name, part in parts:
        if options.only in name:
            for row in part():
                rows.append(row)
                print(" | ".join(vars(row).values()), flush=True)
    seconds = (datetime.datetime.now() - began).total_seconds()
    options.page.write_text(page(rows, options.busy, rounds, seconds), encoding="utf-8")
    return 0


def page(rows: Sequence[Row], is_busy: bool, rounds: int, seconds: float) -> str:
    busy = " --busy" if is_busy else ""
    load = f"{os.getloadavg()[1]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    lines = [
        "# The engine child against llama.cpp's own benchmarks",
        "",
        f"Measured {datetime.date.today().isoformat()} by `python -m tests.benchmarks.engine "
        f"--llama-bench PATH --work DIR{busy}` in {seconds / 60:.0f} minutes, medians of {rounds} "
        "interleaved rounds (fewer for the slow ones).",
        "",
        f"{os.cpu_count()} cores ({_processor()}), {platform.system()}, "
        f"Python {platform.python_version()}, llama-cpp-python {llama_cpp.__version__}; load of "
        f"the last five minutes {load}. Ours goes through the child and the pipe, with penalty, "
        "top-k, top-p, min-p, temperature and draw; llama-bench does not sample.",
        "",
        "| what | ours | peer | ratio | goal |",
        "| --- | --- | --- | --- | --- |",
        *("| " + " | ".join(vars(row).values()) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")


if __name__ == "__main__":
    sys.exit(main())
