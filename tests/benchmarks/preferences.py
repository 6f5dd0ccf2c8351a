"""How well a reward model on the bundled model learns open preference data.

Each set becomes feedback files as the app writes them, and ``python -m finetune train`` runs
with the reward stage alone; the figures are those it reports on held-out conversations. Called
by ``bundled_model.py --preferences``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune.contract.chat_template import Message
from finetune.contract.events import StageDone, from_line
from finetune.contract.records import Comparison, Completion, Rating, Record, write_records

ROOT = Path(__file__).resolve().parents[2]

SETS = {
    "hh_helpful_en": 2400,
    "llmbar_en": 369,
    "dpo_demo_en": 192,
    "taskmaster_thumbs_en": 2067,
}
"""File -> rows that are used, the first ones in an order by hash."""
HELD_OUT = 0.3
EPOCHS = 2
MOST_TOKENS = 320


def preference_lines(data: Path, model: Path) -> list[str]:
    """A table: held-out pairs, the share put in the people's order, its 95 % lower bound."""
    lines = [
        f"Reward models: {EPOCHS} passes, {round(100 * HELD_OUT)} % of the conversations held "
        f"out, at most {MOST_TOKENS} tokens. Choosing the longer one is the floor that says "
        "nothing.",
        "",
        "| set | held-out pairs | accuracy | lower bound | choosing the longer |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, most in SETS.items():
        records = list(_records(data / f"{name}.jsonl.gz", most))
        figures = _trained(records, model)
        longer = _longer(records)
        lines.append(
            f"| {name} | {figures['held_out_pairs']:.0f} | {figures['accuracy']:.3f} | "
            f"{figures['accuracy_bound']:.3f} | {'' if longer is None else f'{longer:.3f}'} |"
        )
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _records(path: Path, most: int) -> Iterator[Record]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    rows.sort(key=lambda row: hashlib.sha256(json.dumps(row).encode()).digest())
    for number, row in enumerate(rows[:most]):
        prompt = tuple(Message(m["role"], m["content"]) for m in row["prompt"])
        opening = next(m.content for m in prompt if m.role == "user")
        common: dict[str, Any] = {
            "id": str(number),
            "conversation_id": hashlib.sha256(opening.encode()).hexdigest(),
            "prompt": prompt,
            "created_at": "2026-01-01T00:00:00Z",
        }
        if "ranking" in row:
            ranks = [0] * len(row["ranking"])
            for place, index in enumerate(row["ranking"]):
                ranks[index] = place
            completions = tuple(Completion(text) for text in row["completions"])
            yield Comparison(
                **common, completions=completions, ranks=tuple(ranks), verdict="ordered"
            )
        else:
            yield Rating(
                **common, completion=Completion(row["completion"]), liked=bool(row["reward"])
            )


def _longer(records: list[Record]) -> float | None:
    """How often the longer completion is the better one."""
    pairs = [
        (record.completions[i].text, record.completions[j].text)
        for record in records
        if isinstance(record, Comparison)
        for i, j in record.pairs()
    ]
    return sum(len(a) > len(b) for a, b in pairs) / len(pairs) if pairs else None


def _trained(records: list[Record], model: Path) -> dict[str, float]:
    """The figures of the reward stage's end."""
    recipe = {
        "stages": ["reward", "ppo"],  # a reward model alone is nothing a person could use
        "max_tokens": MOST_TOKENS,
        "reward": {"epochs": EPOCHS},
        "evaluation": {"held_out_fraction": HELD_OUT},
    }
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_records(work / "feedback.jsonl", records)
        (work / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
        command = [sys.executable, "-m", "finetune", "train", "--run-dir", str(work / "run")]
        command += ["--base", str(model), "--feedback", str(work / "feedback.jsonl")]
        command += ["--recipe", str(work / "recipe.json")]
        trainer = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert trainer.stdout is not None
        with trainer:
            for line in trainer.stdout:
                event = from_line(line)
                if isinstance(event, StageDone) and event.stage == "reward":
                    trainer.terminate()  # what comes after is of no interest here
                    return dict(event.metrics)
    raise SystemExit("The trainer ended without a reward model.")
