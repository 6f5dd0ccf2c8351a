"""The page of results: medians, spreads, ratios, and everything needed to doubt them."""

from __future__ import annotations

import datetime
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import torch
from one_click import OneClick
from trainer_material import Size
from trainer_task import Task

UNITS: Final = {"sft": "tokens/s", "reward": "completions/s", "ppo": "episodes/s"}
GOALS: Final = {
    "cpu": {"SFT": 1.6, "reward model, pairs": 2.0, "reward model, rankings of four": 2.0,
            "PPO": 4.0},
    "cuda": {"SFT": 1.2, "PPO": 5.0},
}  # fmt: skip


@dataclass(frozen=True)
class Peak:
    """What this machine makes of one large matrix product, in 1e9 operations a second."""

    float32: float
    bfloat16: float

    @staticmethod
    def measured(device: str, threads: int) -> Peak:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        found = [_product_pace(dtype, device) for dtype in (torch.float32, torch.bfloat16)]
        torch.set_num_threads(before)
        return Peak(*found)


def _product_pace(dtype: torch.dtype, device: str) -> float:
    size = 1024 if device == "cpu" else 8192
    a = torch.ones(size, size, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        (a @ a)[0, 0].item()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best / 1e9


@dataclass(frozen=True)
class Measured:
    """One size and work: all runs, and what the gate said."""

    work: str
    size: Size
    task: Task
    """Of the last repeat; lengths differ from it by seed in PPO alone."""
    ours: Sequence[Mapping[str, Any]]
    theirs: Sequence[Mapping[str, Any]]
    default: Mapping[str, Any]
    tuning: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any]
    gate: Mapping[str, Any]

    def rate(self, run: Mapping[str, Any], measure: str) -> float:
        """Units of work a second."""
        steps = run["steps"]
        if self.task.stage == "ppo":
            recipe = self.task.recipe
            units = steps * recipe["prompts_per_step"] * recipe["completions_per_prompt"]
        elif self.task.stage == "reward":
            batches = self.task.batches[1 : steps + 1]
            units = sum(len(self.task.groups[i]) for batch in batches for i in batch)
        else:
            units = sum(self.task.step_tokens[1 : steps + 1])
        return float(units / run[measure])

    def ratio(self, measure: str) -> float:
        """Medians, ours over TRL's best."""
        ours, theirs = (
            median(self.rate(run, measure) for run in runs) for runs in (self.ours, self.theirs)
        )
        return ours / theirs

    def peak_share(self, peak: Peak) -> float | None:
        """Operations of SFT that nobody can spare, against the peak of the type they are done
        in: 4 for each weight, 6 for each of the LoRA's, 4 for each of the head's and learned
        token."""
        if self.task.stage != "sft":
            return None
        run = sorted(self.ours, key=lambda run: run["wall"])[len(self.ours) // 2]
        batches = self.task.batches[1 : run["steps"] + 1]
        rows = [self.task.rows[i] for batch in batches for i in batch]
        adapters = 6 * self.task.rank * self.size.adapter_weights
        head = 4 * self.size.vocabulary * self.size.shape.width
        operations = sum(
            len(r.ids) * (4 * self.size.block_weights + adapters) + (len(r.ids) - r.start) * head
            for r in rows
        )
        pace = peak.bfloat16 if run["how"]["products"] == "bfloat16" else peak.float32
        return operations / float(run["wall"]) / 1e9 / pace


def page(
    measured: Sequence[Measured], whole: OneClick | None, peak: Peak, options: Mapping[str, Any]
) -> str:
    measure, device = options["measure"], options["device"]
    lines = [
        "# The trainer, measured against TRL",
        "",
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {platform.machine()}, "
        f"{options['threads']} threads, {device}, PyTorch {torch.__version__}: `python "
        "tests/benchmarks/trainer.py --trl-sft PYTHON --trl-ppo PYTHON`. SFT and reward model "
        "against TRL 1.16, PPO against TRL 1.12. What is compared with what stands in the "
        "script. Rates are of "
        + ("time on the wall" if measure == "wall" else "processor time, for the machine was busy")
        + f", without the first step; medians of {options['repeats']} runs in turn, least and "
        "most behind them. A matrix product of this machine: "
        f"{peak.float32:.0f} billion operations a second in float32, {peak.bfloat16:.0f} in "
        "bfloat16.",
        "",
        "| work | size | unit | ours | TRL at its best | TRL's defaults | ours / best | goal | "
        "gate |",
        "|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for m in measured:
        passed = m.gate["passed"]
        ratio = f"**{m.ratio(measure):.2f}**" if passed else "none"
        goal = GOALS[device].get(m.work)
        lines.append(
            f"| {m.work} | {m.size.name} | {UNITS[m.task.stage]} | {_spread(m, m.ours, measure)} "
            f"| {_spread(m, m.theirs, measure)} | {_default(m, measure)} | {ratio} "
            f"| {'' if goal is None else f'{goal:g}'} | {'passed' if passed else 'failed'} |"
        )
    lines += ["", "| work | size | gate |", "|---|---|---|"]
    lines += [f"| {m.work} | {m.size.name} | {m.gate['text']} |" for m in measured]
    lines += _memory(measured, device)
    lines += _parts(measured)
    shares = [(m.size.name, share) for m in measured if (share := m.peak_share(peak)) is not None]
    if shares:
        told = ", ".join(f"{share:.0%} ({name})" for name, share in shares)
        lines += ["", f"SFT does its unavoidable operations at {told} of a matrix product's pace."]
    lines += _tuning(measured, measure)
    if whole is not None:
        lines += _whole(whole)
    return "\n".join(lines) + "\n"


def _memory(measured: Sequence[Measured], device: str) -> list[str]:
    kind = "of the process" if device == "cpu" else "of the GPU"
    lines = [
        "",
        f"| work | size | peak memory {kind}, ours | TRL at its best | ours / best "
        "| cold start, ours | TRL |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for m in measured:
        sides = [median(run["peak_bytes"] for run in runs) for runs in (m.ours, m.theirs)]
        cold = [median(run["cold_cpu"] for run in runs) for runs in (m.ours, m.theirs)]
        lines.append(
            f"| {m.work} | {m.size.name} | {sides[0] / 1e6:.0f} MB | {sides[1] / 1e6:.0f} MB "
            f"| {sides[0] / sides[1]:.2f} | {cold[0]:.1f} s | {cold[1]:.1f} s |"
        )
    return [*lines, "", "Cold start: processor time to the end of the first step, Python's and "
            "the libraries' start included."]  # fmt: skip


def _parts(measured: Sequence[Measured]) -> list[str]:
    found = [m for m in measured if m.task.stage == "ppo"]
    if not found:
        return []
    lines = [
        "",
        "| PPO, seconds a step on the wall | generate | score | train |",
        "|---|--:|--:|--:|",
    ]
    for m in found:
        for name, runs in (("ours", m.ours), ("TRL at its best", m.theirs)):
            parts = [
                median(run["parts"][part] / run["steps"] for run in runs)
                for part in ("generate", "score", "train")
            ]
            lines.append(f"| {m.size.name}, {name} | {' | '.join(f'{p:.2f}' for p in parts)} |")
    return lines


def _tuning(measured: Sequence[Measured], measure: str) -> list[str]:
    lines = ["", "TRL's settings that were tried, each without gradient checkpointing; the fastest "
             "is the best above.", "", "| work | size | settings | seconds a step |",
             "|---|---|---|--:|"]  # fmt: skip
    for m in measured:
        for candidate in m.tuning:
            shown = candidate["settings"].items()
            settings = {k: v for k, v in shown if k != "gradient_checkpointing"}
            figure = candidate.get("failed", "")[:80] or f"{candidate[measure]:.2f}"
            chosen = " (best)" if candidate["settings"] == m.settings else ""
            lines.append(
                f"| {m.work} | {m.size.name} | `{json.dumps(settings)}`{chosen} | {figure} |"
            )
    return lines


def _whole(whole: OneClick) -> list[str]:
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in whole.stages.items())
    return [
        "",
        f"The whole run on the bundled model with {whole.pieces} pieces of feedback and the "
        f"recipe's defaults (goal: 180 s): **{whole.wall:.0f} s**, {whole.cpu:.0f} s of processor "
        f"time, at most {whole.peak_bytes / 1e6:.0f} MB; it ended: {whole.ended}. {stages}.",
    ]


def _spread(m: Measured, runs: Sequence[Mapping[str, Any]], measure: str) -> str:
    rates = [m.rate(run, measure) for run in runs]
    return f"{_figure(median(rates))} ({_figure(min(rates))} to {_figure(max(rates))})"


def _default(m: Measured, measure: str) -> str:
    """From a few steps of one run: nothing is claimed of it."""
    if measure not in m.default:
        return "fails"
    whole = {"steps": m.default["steps"], measure: m.default[measure] * m.default["steps"]}
    return _figure(m.rate(whole, measure))


def _figure(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.2f}"
