"""Feedback as it is kept and as it is trained on: ratings, comparisons, demonstrations.

Every record holds all that training needs (the messages up to the turn, the completion
exactly as generated) and all that tells where a completion came from. A snapshot is a folder
of JSON-lines files, one record a line; ``read_records`` reports bad lines by number and keeps
the others. It reads files in KoChatGPT's form as well, arrays or lines.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from finetune.contract.chat_template import ROLES, Message
from finetune.contract.errors import InputError
from finetune.contract.manifest import write_whole

Verdict = Literal["ordered", "all_good", "all_bad"]
_HALVES: Final = re.compile("[\ud800-\udfff]")
"""Half a character, which JSON can spell and UTF-8 cannot."""


@dataclass(frozen=True)
class Origin:
    """Which files and settings really made a completion, as the engine reported them."""

    model_version: str
    """The version's id in the model store, or the file's name where it has none."""
    model_sha256: str
    adapter_sha256: str | None = None
    adapter_scale: float = 0.0
    template_id: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completion:
    """A text for a prompt. ``origin`` is None where a person wrote it."""

    text: str
    origin: Origin | None = None


@dataclass(frozen=True)
class Rating:
    """A thumb: up (``liked``) or down."""

    id: str
    conversation_id: str
    prompt: tuple[Message, ...]
    completion: Completion
    liked: bool
    created_at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class Comparison:
    """Two or more completions of one prompt, put in order by a person.

    ``ranks[i]`` is the place of ``completions[i]``: 0 is best, equal numbers are ties.
    ``verdict`` tells whether it is an order or a shared judgement of all of them.
    """

    id: str
    conversation_id: str
    prompt: tuple[Message, ...]
    completions: tuple[Completion, ...]
    ranks: tuple[int, ...]
    verdict: Verdict
    created_at: str

    def pairs(self) -> list[tuple[int, int]]:
        """Indices (better, worse) of every pair that is not a tie."""
        count = range(len(self.ranks))
        return [(i, j) for i in count for j in count if self.ranks[i] < self.ranks[j]]


@dataclass(frozen=True)
class Demonstration:
    """What a person would have wanted to read. ``corrects`` is the completion it replaces."""

    id: str
    conversation_id: str
    prompt: tuple[Message, ...]
    completion: Completion
    corrects: Completion | None
    created_at: str


Record = Rating | Comparison | Demonstration
_KINDS: Mapping[str, type[Record]] = {
    "rating": Rating,
    "comparison": Comparison,
    "demonstration": Demonstration,
}


@dataclass(frozen=True)
class BadLine:
    """A line that could not be read: where it stands and why."""

    path: Path
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}, line {self.line}: {self.reason}"


def to_json_line(record: Record) -> str:
    """One line of JSON, without the newline."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(record, cls))
    return json.dumps({"kind": kind, **asdict(record)}, ensure_ascii=False)


def from_json_line(line: str) -> Record:
    """Read what ``to_json_line`` wrote.

    Raises:
        InputError: the line is not JSON, of an unknown kind, or lacks something.
    """
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _no_json(error)[1] from error
    return _checked(raw)


def _no_json(error: ValueError | RecursionError) -> tuple[int, InputError]:
    """In which line of what was read, and what is wrong."""
    if isinstance(error, json.JSONDecodeError):
        return error.lineno, InputError(f"not JSON ({error.msg} at character {error.colno})")
    # A number of 5,000 digits, brackets without end.
    return 1, InputError(f"not JSON that can be read ({error})")


def _checked(raw: object) -> Record:
    if not isinstance(raw, dict):
        raise InputError("not a JSON object")
    try:
        return _record(raw)
    except KeyError as error:
        raise InputError(f"{error.args[0]!r} is missing") from error
    except InputError:
        raise
    except (TypeError, AttributeError, ValueError, OverflowError) as error:
        raise InputError(f"a value has the wrong type ({error})") from error


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write JSON lines to a new file, whole or not at all."""
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    text = "".join(to_json_line(record) + "\n" for record in records)
    write_whole(path, text.encode("utf-8"))


def read_records(
    paths: Iterable[Path], ranking: Literal["best_first", "places"] = "best_first"
) -> tuple[list[Record], list[BadLine]]:
    """All readable records of these files, and the lines that are not.

    ``ranking``: how KoChatGPT's rankings are meant. In an array, a row's number stands for its
    line's.
    """
    records: list[Record] = []
    bad: list[BadLine] = []
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            bad.append(BadLine(path, 1, f"not UTF-8 text ({error.reason})"))
            continue
        for number, row in _rows(text):
            try:
                if isinstance(row, InputError):
                    raise row
                records.append(_any_record(row, number, ranking))
            except InputError as error:
                bad.append(BadLine(path, number, str(error)))
    return records, bad


def _rows(text: str) -> Iterator[tuple[int, object]]:
    """The JSON values of an array, or of lines, with their numbers; errors in their place."""
    if text.lstrip().startswith("["):
        try:
            yield from enumerate(json.loads(text), start=1)
        except (ValueError, RecursionError) as error:
            yield _no_json(error)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield number, _no_json(error)[1]


def _any_record(raw: object, number: int, ranking: Literal["best_first", "places"]) -> Record:
    if isinstance(raw, dict) and "kind" not in raw and isinstance(raw.get("prompt"), str):
        from finetune.contract.kochatgpt import record_of_row

        return record_of_row(raw, number, ranking)
    return _checked(raw)


def _record(raw: Mapping[str, Any]) -> Record:
    kind = raw["kind"]
    if kind not in _KINDS:
        raise InputError(f"unknown kind {kind!r}")
    common: dict[str, Any] = {
        "id": _text(raw["id"]),
        "conversation_id": _text(raw["conversation_id"]),
        "prompt": _messages(raw["prompt"]),
        "created_at": _text(raw["created_at"]),
    }
    if kind == "rating":
        return Rating(
            **common, completion=_completion(raw["completion"]), liked=_boolean(raw["liked"])
        )
    if kind == "demonstration":
        corrects = raw["corrects"]
        return Demonstration(
            **common,
            completion=_completion(raw["completion"]),
            corrects=None if corrects is None else _completion(corrects),
        )
    completions = tuple(_completion(c) for c in raw["completions"])
    ranks = tuple(int(rank) for rank in raw["ranks"])
    if len(completions) < 2 or len(completions) != len(ranks):
        raise InputError("a comparison needs at least two completions and a rank for each")
    verdict = raw["verdict"]
    if verdict not in ("ordered", "all_good", "all_bad"):
        raise InputError(f"unknown verdict {verdict!r}")
    return Comparison(**common, completions=completions, ranks=ranks, verdict=verdict)


def _messages(raw: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    messages = tuple(Message(m["role"], _text(m["content"])) for m in raw)
    unknown = [m.role for m in messages if m.role not in ROLES]
    if unknown:
        raise InputError(f"unknown role {unknown[0]!r}")
    if not messages:
        raise InputError("the prompt has no messages")
    return messages


def _completion(raw: Mapping[str, Any]) -> Completion:
    origin = raw["origin"]
    return Completion(_text(raw["text"]), None if origin is None else Origin(**origin))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise InputError(f"expected text, found {value!r:.60}")
    return whole_characters(value)


def whole_characters(text: str) -> str:
    """The text with the sign for an unreadable character in place of each half of one."""
    return _HALVES.sub("\N{REPLACEMENT CHARACTER}", text)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"expected true or false, found {value!r:.60}")
    return value
