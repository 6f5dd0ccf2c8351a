"""Free memory: what the system says, and what a container leaves of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from desktop_app.inference.free_memory import free_memory

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the files are Linux's")
MIB = 1 << 20


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 9000000 kB\nMemFree: 100000 kB\nMemAvailable: 2048000 kB\n")
    return path


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_files_in_the_cache_count_as_free(meminfo: Path, tmp_path: Path) -> None:
    assert free_memory(meminfo, tmp_path / "none", tmp_path) == 2_048_000 * 1024


def test_a_limit_of_any_group_above_us_counts(meminfo: Path, tmp_path: Path) -> None:
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    own.write_text("0::/app/ours\n")
    group(groups / "app" / "ours", memory__max="max\n", memory__current="5\n")
    group(groups / "app", memory__max=f"{500 * MIB}\n", memory__current=f"{200 * MIB}\n")
    assert free_memory(meminfo, own, groups) == 300 * MIB
    group(groups / "app", memory__stat=f"anon 3\ninactive_file {50 * MIB}\n")
    assert free_memory(meminfo, own, groups) == 350 * MIB


def test_the_first_version_of_groups_is_read_too(meminfo: Path, tmp_path: Path) -> None:
    own, groups = tmp_path / "cgroup", tmp_path / "groups"
    own.write_text("5:cpu:/x\n4:memory:/ours\n")
    group(
        groups / "memory" / "ours",
        memory__limit_in_bytes=f"{100 * MIB}\n",
        memory__usage_in_bytes=f"{120 * MIB}\n",
    )
    assert free_memory(meminfo, own, groups) == 0  # more is taken than allowed: nothing is free


def test_where_nothing_can_be_read_half_of_the_memory_counts(tmp_path: Path) -> None:
    assert free_memory(tmp_path / "no", tmp_path / "no", tmp_path) > 64 * MIB


def test_this_machine_has_some_left() -> None:
    assert free_memory() > 64 * MIB
