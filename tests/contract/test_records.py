"""Feedback travels as JSON lines and comes back as it was; what is broken is named by line."""

import errno
import json
from pathlib import Path

import pytest

from finetune.contract.chat_template import Message
from finetune.contract.errors import InputError
from finetune.contract.records import (
    Comparison,
    Completion,
    Demonstration,
    Origin,
    Rating,
    Record,
    from_json_line,
    read_records,
    to_json_line,
    write_records,
)

PROMPT = (Message("system", "Be kind."), Message("user", "안녕 🙂\n\u2028next"))
ORIGIN = Origin("v1", "ab" * 32, "cd" * 32, 0.5, "t", {"temperature": 0.8, "top_k": 40})
PLACE = {
    "id": "r1",
    "conversation_id": "c1",
    "prompt": PROMPT,
    "created_at": "2026-11-20T10:00:00Z",
}
RECORDS: list[Record] = [
    Rating(**PLACE, completion=Completion("Hi", ORIGIN), liked=False),
    Comparison(
        **PLACE,
        completions=(Completion("a", ORIGIN), Completion("b"), Completion("c")),
        ranks=(1, 0, 1),
        verdict="ordered",
    ),
    Demonstration(**PLACE, completion=Completion("mine"), corrects=Completion("its", ORIGIN)),
    Demonstration(**PLACE, completion=Completion("mine"), corrects=None),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_its_line_of_json(record: Record) -> None:
    line = to_json_line(record)
    assert "\n" not in line
    assert from_json_line(line) == record


def test_ties_make_no_pairs() -> None:
    comparison = RECORDS[1]
    assert isinstance(comparison, Comparison)
    assert comparison.pairs() == [(1, 0), (1, 2)]


def test_bad_lines_are_numbered_and_the_others_kept(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    good = to_json_line(RECORDS[0])
    path.write_text(f"{good}\n{{\n\n{good}\n", encoding="utf-8")
    records, bad = read_records([path])
    assert records == [RECORDS[0], RECORDS[0]]
    assert [line.line for line in bad] == [2]
    assert str(bad[0]).startswith("feedback.jsonl, line 2: not JSON")


@pytest.mark.parametrize("rank", ['"first"', "NaN", "Infinity", '"1.5"', "null"])
def test_a_rank_that_is_no_number_is_a_bad_line(tmp_path: Path, rank: str) -> None:
    path = tmp_path / "feedback.jsonl"
    good = to_json_line(RECORDS[1])
    path.write_text(good.replace("[1, 0, 1]", f"[1, {rank}, 1]") + f"\n{good}\n", encoding="utf-8")
    records, bad = read_records([path])
    assert records == [RECORDS[1]]
    assert [line.line for line in bad] == [1]


def test_half_a_character_is_read_as_an_unreadable_one(tmp_path: Path) -> None:
    """JSON can spell it, and no stream that speaks UTF-8 can be told of it afterwards."""
    record = Demonstration(**PLACE, completion=Completion("hi HERE"), corrects=None)
    line = to_json_line(record).replace("HERE", "\\ud83d")
    row = json.dumps({"prompt": "\ud83d?", "completion": "x"})
    path = tmp_path / "feedback.jsonl"
    path.write_text(f"{line}\n{row}\n", encoding="utf-8")
    (ours, theirs), bad = read_records([path])
    assert not bad
    assert isinstance(ours, Demonstration)
    assert ours.completion.text == "hi \ufffd"
    assert theirs.prompt[0].content == "\ufffd?"


def test_a_full_disk_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("finetune.contract.manifest.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_records(tmp_path / "f.jsonl", RECORDS)
    assert not list(tmp_path.glob("*.jsonl"))


def test_a_file_that_is_not_text_is_one_bad_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    records, bad = read_records([tmp_path / "x.jsonl"])
    assert not records
    assert "UTF-8" in bad[0].reason


def test_write_records_does_not_replace_a_file(tmp_path: Path) -> None:
    write_records(tmp_path / "a.jsonl", RECORDS)
    assert read_records([tmp_path / "a.jsonl"]) == (RECORDS, [])
    with pytest.raises(FileExistsError):
        write_records(tmp_path / "a.jsonl", RECORDS)


def _changed(**changes: object) -> str:
    raw = json.loads(to_json_line(RECORDS[0]))
    return json.dumps({**raw, **changes})


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        "{}",
        _changed(kind="love letter"),
        _changed(liked="yes"),
        _changed(prompt=[]),
        _changed(prompt=[{"role": "root", "content": "x"}]),
        _changed(prompt=[{"role": "user", "content": 7}]),
        _changed(completion="text"),
        _changed(completion={"text": "a", "origin": {"unknown": 1}}),
        _changed(id=None),
    ],
)
def test_a_broken_record_is_refused_with_a_reason(line: str) -> None:
    with pytest.raises(InputError) as refusal:
        from_json_line(line)
    assert str(refusal.value)


def test_a_comparison_needs_a_rank_for_each_of_two_completions() -> None:
    raw = json.loads(to_json_line(RECORDS[1]))
    for ranks in ([0], [0, 1]):
        with pytest.raises(InputError, match="rank"):
            from_json_line(json.dumps({**raw, "ranks": ranks}))


@pytest.mark.parametrize("odd", ['{"tokens": ' + "9" * 5000 + "}", '{"a":' * 100_000])
def test_numbers_and_brackets_without_end_cost_their_line_only(tmp_path: Path, odd: str) -> None:
    path = tmp_path / "feedback.jsonl"
    good = '{"prompt": "Hi", "completion": "Hello!"}'
    path.write_text(f"{odd}\n{good}\n", encoding="utf-8")
    records, bad = read_records([path])
    assert len(records) == 1
    assert [line.line for line in bad] == [1]
