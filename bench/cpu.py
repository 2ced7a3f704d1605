"""Processor time of other processes, from Linux's /proc. Other load changes it less than rates."""

from __future__ import annotations

import os
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int, *, family: bool = False) -> float:
    """What process ``pid`` has used since it began; with ``family`` its children too. 0 where there
    is no /proc."""
    own = _fields(pid)
    if own is None:
        return 0.0
    total = int(own[11]) + int(own[12])
    if family:
        total += int(own[13]) + int(own[14])  # of those that have ended
        for path in Path("/proc").glob("[0-9]*"):
            child = _fields(int(path.name))
            if child is not None and int(child[1]) == pid:
                total += int(child[11]) + int(child[12])
    return total / _TICKS


def _fields(pid: int) -> list[str] | None:
    """Of /proc/PID/stat, from the state on: the name before it may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
