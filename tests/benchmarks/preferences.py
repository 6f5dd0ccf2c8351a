"""How well a reward model on the bundled model learns open preference data.

Each set becomes feedback files as the app writes them, and ``python -m finetune train`` runs
with the reward stage alone; the figures are those it reports on held-out conversations. It writes
``preferences.md``:

    python tests/benchmarks/preferences.py --data DATA
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from finetune.contract.chat_template import Message  # noqa: E402
from finetune.contract.events import StageDone, from_line  # noqa: E402
from finetune.contract.records import Comparison, Completion, Rating, Record, write_records  # noqa: E402

BUNDLED = ROOT / "resources/models/attune-starter.gguf"
PAGE = Path(__file__).with_suffix(".md")
SETS = {
    "hh_helpful_en": (2400, 320),
    "llmbar_en": (369, 1024),
    "dpo_demo_en": (192, 1024),
    "taskmaster_thumbs_en": (2067, 320),
}
"""File -> rows that are used, the first ones in an order by hash, and the longest in tokens."""
HELD_OUT = 0.3
EPOCHS = 2


def preference_lines(data: Path, model: Path) -> list[str]:
    """A table: held-out pairs, the share put in the people's order, its 95 % lower bound."""
    lines = [
        f"Reward models: {EPOCHS} passes, {round(100 * HELD_OUT)} % of the conversations held "
        "out, texts of at most so many tokens. Choosing the longer one is the floor that says "
        "nothing.",
        "",
        "| set | tokens | held-out pairs | accuracy | lower bound | choosing the longer |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, (most, tokens) in SETS.items():
        records = list(_records(data / f"{name}.jsonl.gz", most))
        figures = _trained(records, model, tokens)
        longer = _longer(records)
        lines.append(
            f"| {name} | {tokens} | {figures['held_out_pairs']:.0f} | {figures['accuracy']:.3f} | "
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


def _trained(records: list[Record], model: Path, tokens: int) -> dict[str, float]:
    """The figures of the reward stage's end."""
    recipe = {
        "stages": ["reward", "ppo"],  # a reward model alone is nothing a person could use
        "max_tokens": tokens,
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


def main() -> int:
    parser = argparse.ArgumentParser(description="Reward models on open preference data.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the public sets")
    arguments = parser.parse_args()
    head = [
        "# What a reward model on the bundled model learns of open preferences",
        "",
        f"{datetime.date.today()}, {platform.machine()}, "
        f"{os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads: "
        "`python tests/benchmarks/preferences.py --data DATA`. The lower bound is Wilson's, "
        "one-sided 95 %: above a half the skill is proven.",
        "",
    ]
    lines = preference_lines(arguments.data, BUNDLED)
    PAGE.write_text("\n".join([*head, *lines, ""]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
