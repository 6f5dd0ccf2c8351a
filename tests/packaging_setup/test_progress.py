"""A long command as the set-up runs it: what is read from its output, and where that goes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


def test_progress_is_read_from_the_lines_of_pip_and_ninja(
    load: Callable[[str], ModuleType],
) -> None:
    status = load("progress").StatusLine("installing")
    assert status.text() == "  installing, 0:00 so far"
    status.read("  Downloading torch-2.13.0-cp311-linux_x86_64.whl (191.8 MB)\n")
    assert status.text() == "  installing: downloading torch (191.8 MB), 0:00 so far"
    assert not status.read("Progress 500 of 1000\n")
    assert status.text() == "  installing: downloading torch (191.8 MB), 50 %, 0:00 so far"
    status.read("  [30/120] Building CXX object ggml.cpp.o\n")
    assert "compiling llama.cpp, usually 5 to 15 minutes, 25 %, 0:00 so far" in status.text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk, as Linux plays it")
def test_a_record_that_cannot_be_written_stops_no_command(
    load: Callable[[str], ModuleType],
) -> None:
    talk = "import signal; signal.alarm(20); print('much\\n' * 50_000, 'the end')"
    outcome = load("progress").run_logged("x", [sys.executable, "-c", talk], Path("/dev/full"))
    assert outcome.code == 0
    assert outcome.output.endswith("much\n the end\n")
