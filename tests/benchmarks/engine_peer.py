"""llama.cpp's own benchmark programs: what the engine child is held against."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Speeds:
    """Tokens a second and a processor second, one value for each repetition."""

    wall: list[float]
    per_cpu_second: float
    peak_megabytes: float


@dataclass(frozen=True)
class Peer:
    """``llama-bench`` and ``llama-batched-bench`` of one build.

    Attributes:
        environment: further variables they run with.
    """

    llama_bench: Path
    environment: dict[str, str]

    def bench(
        self, model: Path, threads: int, *, prompt: int = 0, generate: int = 0, times: int = 1
    ) -> Speeds:
        """Read ``prompt`` tokens, or write ``generate`` tokens, ``times`` times."""
        arguments = ["-m", str(model), "-t", str(threads), "-o", "json"]
        arguments += ["-p", str(prompt), "-n", str(generate), "-r"]
        out, cpu, peak = self._run([str(self.llama_bench), *arguments, str(times)])
        # What it costs to start, load and warm up is not counted: a run without repetitions.
        _, start, _ = self._run([str(self.llama_bench), *arguments, "0"])
        tokens = (prompt or generate) * times
        return Speeds(json.loads(out)[0]["samples_ts"], tokens / max(cpu - start, 1e-9), peak)

    def batched(
        self, model: Path, threads: int, *, prompt: int, generate: int, counts: list[int]
    ) -> dict[int, float]:
        """Tokens a second of several sequences that share a prompt, by their number."""
        program = self.llama_bench.with_name("llama-batched-bench")
        cells = prompt + generate * max(counts)
        out, _, _ = self._run(
            [
                str(program), "-m", str(model), "-t", str(threads), "-c", str(cells),
                "-b", "512", "-ub", "512", "-npp", str(prompt), "-ntg", str(generate),
                "-npl", ",".join(map(str, counts)), "-pps", "-kvu",
                "--output-format", "jsonl",
            ]
        )  # fmt: skip
        rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        return {row["pl"]: row["speed_tg"] for row in rows}

    def _run(self, command: list[str]) -> tuple[str, float, float]:
        """Output, processor seconds, peak memory in MB."""
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **self.environment},
        ) as process:
            assert process.stdout is not None
            out = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}")
        return out, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
