"""The whole run a person starts with one button: 60 pieces of feedback on the bundled model.

A simulated person who likes it short is shown two completions of each of 30 everyday prompts,
chooses one and gives it a thumb. What is measured is the trainer's own command, start of Python
included, with the recipe's defaults.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from everyday import read_prompts

from finetune.contract.chat_template import Message
from finetune.contract.events import RunDone, RunFailed, StageStarted, from_line
from finetune.contract.records import Comparison, Completion, Rating, Record, write_records
from finetune.data import Encoder
from finetune.generate import sample
from finetune.gguf_weights import load_trunk
from finetune.policy import Policy
from finetune.vocabulary import GgufVocabulary

ROOT: Final = Path(__file__).resolve().parents[2]
BUNDLED: Final = ROOT / "resources/models/attune-starter.gguf"
PROMPTS: Final = 30
SHORT: Final = 30
"""Characters up to which this person likes a completion."""
WHEN: Final = "2026-11-01T12:00:00+00:00"


@dataclass(frozen=True)
class OneClick:
    """Seconds of the whole run and of each stage, and how it ended."""

    pieces: int
    wall: float
    cpu: float
    stages: Mapping[str, float]
    peak_bytes: int
    ended: str


def feedback() -> list[Record]:
    """Thirty choices and thirty thumbs."""
    vocabulary = GgufVocabulary(BUNDLED)
    encoder = Encoder(vocabulary, vocabulary_template(), 1024)
    policy = Policy(load_trunk(BUNDLED))
    half = PROMPTS // 2
    texts = [p.text for language in ("en", "ko") for p in read_prompts(language)[:100:7][:half]]
    conversations = [(Message("user", text),) for text in texts]
    prompts = [ids for c in conversations if (ids := encoder.prompt(c, 96)) is not None]
    luck = torch.Generator().manual_seed(5)
    with policy.merged():
        found = sample(
            policy, prompts, copies=2, max_new_tokens=96, end_ids=vocabulary.end_ids,
            generator=luck,
        )  # fmt: skip
    records: list[Record] = []
    for number, messages in enumerate(conversations):
        pair = [vocabulary.text_of(c.ids).strip() for c in found[2 * number : 2 * number + 2]]
        shorter, longer = sorted(pair, key=len)
        if len(shorter) == len(longer):
            longer += " ..."
        completions = Completion(shorter), Completion(longer)
        name = f"conversation {number}"
        records.append(
            Comparison(f"c{number}", name, messages, completions, (0, 1), "ordered", WHEN)
        )
        liked = len(shorter) <= SHORT
        records.append(Rating(f"r{number}", name, messages, completions[0], liked, WHEN))
    vocabulary.close()
    return records


def vocabulary_template() -> str | None:
    from finetune.contract.gguf_file import read_header

    return read_header(BUNDLED).chat_template


def measure(folder: Path, environment: Mapping[str, str]) -> OneClick:
    """Run ``python -m finetune train`` in ``folder`` and read its events as they come."""
    records = feedback()
    write_records(folder / "feedback.jsonl", records)
    command = [
        sys.executable, "-m", "finetune", "train", "--run-dir", str(folder / "run"),
        "--base", str(BUNDLED), "--feedback", str(folder / "feedback.jsonl"),
    ]  # fmt: skip
    began = time.perf_counter()
    marks: list[tuple[str, float]] = [("start", began)]
    ended = "without a word"
    with (folder / "one_click.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=subprocess.PIPE, stderr=log,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        usage: list[tuple[float, int]] = []

        def wait() -> None:
            _, _, found = os.wait4(process.pid, 0)
            usage.append((found.ru_utime + found.ru_stime, found.ru_maxrss * 1024))

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert process.stdout is not None
        for line in process.stdout:
            event = from_line(line.decode("utf-8"))
            if isinstance(event, StageStarted):
                marks.append((event.stage, time.perf_counter()))
            elif isinstance(event, RunDone):
                ended = "done"
            elif isinstance(event, RunFailed):
                ended = f"{event.code}: {event.message}"
        waiting.join()
    end = time.perf_counter()
    stages: dict[str, float] = {}
    for (name, at), (_, until) in zip(marks, [*marks[1:], ("", end)], strict=True):
        stages[name] = stages.get(name, 0.0) + until - at
    cpu, peak = usage[0]
    return OneClick(len(records), end - began, cpu, stages, peak, ended)
