"""Crashes while loading are counted across starts, and forgotten once loading goes well."""

from __future__ import annotations

from pathlib import Path

import pytest

from desktop_app.storage.load_record import LoadRecord

KEY = "ab" * 32


def test_two_crashes_bar_a_model_and_no_other_one(tmp_path: Path) -> None:
    record = LoadRecord(tmp_path / "loads.json")
    for barred in (False, True):
        record.begin(KEY)
        record.crash(KEY)
        assert record.is_barred(KEY) == barred
    assert not record.is_barred("cd")
    assert LoadRecord(tmp_path / "loads.json").is_barred(KEY)


def test_a_load_that_the_app_did_not_survive_is_a_crash(tmp_path: Path) -> None:
    for _ in range(2):
        assert not LoadRecord(tmp_path / "loads.json").is_barred(KEY)
        LoadRecord(tmp_path / "loads.json").begin(KEY)  # and the power fails
    assert LoadRecord(tmp_path / "loads.json").is_barred(KEY)


def test_what_ends_without_a_crash_does_not_count(tmp_path: Path) -> None:
    for _ in range(5):
        record = LoadRecord(tmp_path / "loads.json")
        record.begin(KEY)
        record.end()  # refused, cancelled, or the app was closed
    assert not LoadRecord(tmp_path / "loads.json").is_barred(KEY)


def test_loading_well_clears_it(tmp_path: Path) -> None:
    record = LoadRecord(tmp_path / "loads.json")
    record.crash(KEY)
    record.begin(KEY)
    record.succeed(KEY)
    record.crash(KEY)
    assert not LoadRecord(tmp_path / "loads.json").is_barred(KEY)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"open": "", "crashes": {"a": 1e999}}',
        "[]",
        "{",
        '{"open": 1, "crashes": 2}',
        '{"crashes": {"a": "x"}, "open": ""}',
    ],
)
def test_a_damaged_file_costs_the_memory_and_not_the_start(tmp_path: Path, text: str) -> None:
    path = tmp_path / "loads.json"
    path.write_text(text)
    record = LoadRecord(path)
    assert not record.is_barred(KEY)
    record.crash(KEY)
    record.crash(KEY)
    assert LoadRecord(path).is_barred(KEY)


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    record = LoadRecord(tmp_path / "missing" / "loads.json")
    record.begin(KEY)
    record.crash(KEY)
    record.crash(KEY)
    assert record.is_barred(KEY)


def test_without_a_file_it_remembers_as_long_as_it_lives() -> None:
    record = LoadRecord()
    record.crash(KEY)
    record.crash(KEY)
    assert record.is_barred(KEY)
