"""Tiny models and feedback for the trainer's tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: tests share their cores

import pytest
import torch

from finetune.contract.chat_template import Message
from finetune.contract.records import (
    Comparison,
    Completion,
    Demonstration,
    Rating,
    Record,
    write_records,
)
from finetune.gguf_weights import load_trunk
from finetune.policy import Policy
from tests import tiny_models

LONG = "Once upon a time there was a little girl named Lily. She loved to play outside."
SHORT = "Yes."


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 64 columns and two layers, in float32."""
    return tiny_models.write_model(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture
def policy(tiny_gguf: Path) -> Policy:
    return Policy(load_trunk(tiny_gguf))


def feedback(conversations: int = 20) -> list[Record]:
    """A person who likes it short: a comparison, two thumbs and a correction by turns."""
    records: list[Record] = []
    for number in range(conversations):
        prompt = (Message("user", f"What is {number} and {number + 1}? Is it {2 * number}?"),)
        place = {
            "id": f"r{number:03d}",
            "conversation_id": f"c{number:03d}",
            "prompt": prompt,
            "created_at": f"2026-11-20T10:{number % 60:02d}:00Z",
        }
        short, long = Completion(f"Yes, {number}."), Completion(f"{LONG} {number}")
        match number % 4:
            case 0:
                records.append(
                    Comparison(**place, completions=(long, short), ranks=(1, 0), verdict="ordered")
                )
            case 1:
                records.append(Rating(**place, completion=short, liked=True))
            case 2:
                records.append(Rating(**place, completion=long, liked=False))
            case _:
                records.append(Demonstration(**place, completion=short, corrects=long))
    return records


@pytest.fixture
def feedback_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "snapshot"
    folder.mkdir()
    write_records(folder / "feedback.jsonl", feedback())
    return folder
