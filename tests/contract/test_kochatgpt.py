"""KoChatGPT's files: arrays and lines, both readings of a ranking, one conversation a prompt."""

import json
from pathlib import Path

import pytest

from finetune.__main__ import main
from finetune.contract.kochatgpt import ranks_of
from finetune.contract.records import Comparison, Demonstration, read_records

RM = {
    "prompt": "누구에게 말했나?",
    "completion_0": "감독에게 말했다.",
    "completion_1": "라이언에게 말했다.",
    "completion_2": "It is said that...",
    "ranking": [1, 2, 0],
}
SFT = {"prompt": "술 먹고 싶어", "completion": "술은 건강에 나쁩니다.", "tokens": 189}
PPO = {"prompt": "술 먹고 싶어"}


def test_a_ranking_has_two_readings() -> None:
    # Best first: completion 1 is best, then 2, then 0. Places: 0 is in place 1, 1 in 2, 2 in 0.
    assert ranks_of([1, 2, 0], 3, "best_first") == (2, 0, 1)
    assert ranks_of([1, 2, 0], 3, "places") == (1, 2, 0)
    for published in ([1, 0, 2], [2, 1, 0]):  # the two published examples mean the same in both
        assert ranks_of(published, 3, "best_first") == ranks_of(published, 3, "places")


@pytest.mark.parametrize("form", ["array", "lines", "array with a byte order mark"])
def test_the_three_kinds_of_rows_in_each_form(tmp_path: Path, form: str) -> None:
    rows = [RM, SFT, PPO]
    text = json.dumps(rows, ensure_ascii=False, indent=4)
    if form == "lines":
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path = tmp_path / "kochatgpt.jsonl"
    path.write_text(text, encoding="utf-8-sig" if "mark" in form else "utf-8")
    records, bad = read_records([path])
    assert bad == []
    comparison, demonstration, prompt = records
    assert isinstance(comparison, Comparison)
    assert sorted(comparison.pairs()) == [(1, 0), (1, 2), (2, 0)]  # three pairs of one ranking
    assert [c.text for c in comparison.completions][1] == "라이언에게 말했다."
    assert isinstance(demonstration, Demonstration)
    assert demonstration.completion.text == "술은 건강에 나쁩니다."
    assert isinstance(prompt, Demonstration)
    assert prompt.completion.text == ""  # nothing to learn, a prompt to practise on
    assert prompt.conversation_id == demonstration.conversation_id != comparison.conversation_id


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**RM, "ranking": [0, 1, 1]}, "no order of 3 completions"),
        ({**RM, "ranking": None}, "no order"),
        ({**RM, "ranking": [0, "b", 1]}, "no order"),
        ({**SFT, "completion": 3}, "'completion' is missing or no text"),
        ({"prompt": "x", "completion_1": "a", "ranking": [0]}, "'completion_0' is missing"),
    ],
)
def test_a_faulty_row_is_named_and_the_others_are_kept(
    tmp_path: Path, row: object, reason: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps([SFT, row]))
    records, bad = read_records([path])
    assert len(records) == 1
    assert bad[0].line == 2
    assert reason in str(bad[0])


def test_a_broken_array_is_one_sentence_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('[\n{"prompt": "x"},\n{"prompt" "y"}]')
    records, bad = read_records([path])
    assert records == []
    assert "rows.jsonl, line 3: not JSON" in str(bad[0])


def test_convert_writes_records_in_the_chosen_reading(tmp_path: Path) -> None:
    path, output = tmp_path / "kochatgpt_2_RM.jsonl", tmp_path / "records.jsonl"
    path.write_text(json.dumps([RM]))
    command = ["convert", "--feedback", str(path), "--output", str(output), "--ranking", "places"]
    assert main(command) == 0
    (record,), _ = read_records([output])
    assert isinstance(record, Comparison)
    assert record.ranks == (1, 2, 0)
    assert main(command) == 2  # it exists already


def test_the_real_files_are_read(shared_data: Path) -> None:
    folder = shared_data / "original_formats" / "kochatgpt"
    if not folder.is_dir():
        pytest.skip("KoChatGPT's files are not beside this checkout")
    rm, bad = read_records([folder / "rows_from_readme_2_RM.jsonl"])
    assert bad == []
    assert all(isinstance(r, Comparison) and len(r.pairs()) == 3 for r in rm)
    prompts, bad = read_records([folder / "kochatgpt_3_PPO.jsonl"])
    assert bad == []
    assert len(prompts) > 10_000
    examples, bad = read_records([folder / "rows_from_readme_1_SFT.jsonl"])
    assert isinstance(examples[0], Demonstration)
    assert examples[0].completion.text
