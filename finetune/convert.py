"""Feedback in other forms -> a file of records, to look at or to train on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from finetune.contract.errors import InputError
from finetune.contract.kochatgpt import Ranking
from finetune.contract.records import read_records, write_records
from finetune.run_folder import feedback_files


def convert(paths: Sequence[Path], output: Path, ranking: Ranking) -> int:
    """Write everything readable in ``paths`` to ``output``; 0 if anything was.

    Raises:
        InputError: nothing to read, or no place to write to.
    """
    if output.exists():
        raise InputError(f"{output} exists already; choose another name.")
    if not output.parent.is_dir():
        raise InputError(f"There is no folder {output.parent}.")
    records, bad = read_records(feedback_files(paths), ranking)
    for line in bad:
        print(f"Skipped: {line}.", file=sys.stderr)
    if not records:
        raise InputError("There is no feedback in these files.")
    write_records(output, records)
    print(output)
    return 0
