"""How much ordinary memory this process may still take: the system's word, and a container's."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Final

MEMINFO: Final = Path("/proc/meminfo")
OWN_GROUPS: Final = Path("/proc/self/cgroup")
GROUPS: Final = Path("/sys/fs/cgroup")


def free_memory(
    meminfo: Path = MEMINFO, own_groups: Path = OWN_GROUPS, groups: Path = GROUPS
) -> int:
    """Bytes that can be had without swapping; files in the cache count as free.

    Where the system does not tell, half of the machine's memory counts as free.
    """
    if sys.platform == "win32":
        return _free_on_windows()
    free = _available(meminfo)
    if free is None:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min(free, *_left_in_groups(own_groups, groups), free)


def _available(meminfo: Path) -> int | None:
    """``MemAvailable``: what is free, and what the kernel can take back at once."""
    try:
        for line in meminfo.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _left_in_groups(own_groups: Path, groups: Path) -> list[int]:
    """What the control groups above us leave (Linux's cgroups, versions 2 and 1)."""
    try:
        lines = own_groups.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    left = []
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers == "":  # version 2: one tree for everything
            root, limit, used = groups, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root = groups / "memory"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(root):
                break
            most, taken = _number(place / limit), _number(place / used)
            if most is not None and taken is not None:
                left.append(max(0, most - taken + _cached(place)))
    return left


def _cached(group: Path) -> int:
    """Files in the cache that a group would give up, which count as used."""
    try:
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    wanted = ("inactive_file", "total_inactive_file")
    found = {
        name: int(value) for name, value in (line.split() for line in lines) if value.isdigit()
    }
    return next((found[name] for name in reversed(wanted) if name in found), 0)


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max" is no limit


def _free_on_windows() -> int:
    """``GlobalMemoryStatusEx``: the fields of MEMORYSTATUSEX in their order."""

    class Status(ctypes.Structure):
        _fields_ = [
            ("length", ctypes.c_uint32),
            ("load", ctypes.c_uint32),
            ("total_physical", ctypes.c_uint64),
            ("free_physical", ctypes.c_uint64),
            ("others", ctypes.c_uint64 * 5),
        ]

    status = Status()
    status.length = ctypes.sizeof(Status)
    kernel = ctypes.CDLL("kernel32")
    kernel.GlobalMemoryStatusEx(ctypes.byref(status))
    return int(status.free_physical)
