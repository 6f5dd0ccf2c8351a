"""The three files of KoChatGPT (2023) as records, and anything in their form.

    1_SFT   {"prompt", "completion", ...}                            a demonstration
    2_RM    {"prompt", "completion_0", "completion_1"..., "ranking"}   a comparison
    3_PPO   {"prompt"}                                               a prompt to practise on

They are called .jsonl and are JSON arrays; rows one a line are read as well. A prompt has the same
conversation in all three, so one that is held out is held out everywhere.

``ranking`` is read as *best first*: [1, 2, 0] says that completion 1 is best and 0 worst. Its
other reading, *places*, says that completion 0 is in place 1, 1 in place 2 and 2 in place 0. The
published examples, [1, 0, 2] and [2, 1, 0], mean the same in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError
from finetune.contract.records import (
    Comparison,
    Completion,
    Demonstration,
    Record,
    whole_characters,
)

Ranking = Literal["best_first", "places"]
PUBLISHED = "2023-03-20T00:00:00Z"


def record_of_row(row: Mapping[str, Any], number: int, ranking: Ranking) -> Record:
    """The record of a row. ``number``: its place in the file, which makes its id.

    Raises:
        InputError: it is none of the three kinds, or its ranking is no order of its completions.
    """
    prompt = _text(row, "prompt")
    digest = hashlib.sha256(prompt.encode("utf-8")).hexdigest()[:16]
    place: dict[str, Any] = {
        "id": f"kochatgpt-{number:07d}",
        "conversation_id": f"kochatgpt-{digest}",
        "prompt": (Message("user", prompt),),
        "created_at": PUBLISHED,
    }
    names = sorted(name for name in row if name.startswith("completion_"))
    if names:
        completions = tuple(Completion(_text(row, f"completion_{i}")) for i in range(len(names)))
        ranks = ranks_of(row.get("ranking"), len(completions), ranking)
        return Comparison(**place, completions=completions, ranks=ranks, verdict="ordered")
    # Without a completion there is nothing to learn from, and a prompt to practise on.
    text = _text(row, "completion") if "completion" in row else ""
    return Demonstration(**place, completion=Completion(text), corrects=None)


def ranks_of(given: object, count: int, ranking: Ranking) -> tuple[int, ...]:
    """The place of each completion, 0 is best."""
    if (
        not isinstance(given, list)
        or not all(isinstance(place, int) for place in given)
        or sorted(given) != list(range(count))
        or count < 2
    ):
        raise InputError(f"the ranking {given!r:.40} is no order of {count} completions")
    if ranking == "places":
        return tuple(given)
    return tuple(given.index(completion) for completion in range(count))


def _text(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise InputError(f"{name!r} is missing or no text")
    return whole_characters(value)
