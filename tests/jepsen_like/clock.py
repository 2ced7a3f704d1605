"""Wall clocks that the test sets: libfaketime below a node's process.

Only the wall clock is changed, not the monotonic one, as an operator or NTP would. It reaches
what asks libc: Python and SQLite. nats-server asks the kernel itself and keeps the true time.
"""

from __future__ import annotations

import glob
import os
import subprocess
import sys
import time
from pathlib import Path

_WHERE = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
)


def library() -> str | None:
    """The path of libfaketime, if it is here and works here."""
    for pattern in _WHERE:
        for path in glob.glob(pattern):
            told = subprocess.run(
                [sys.executable, "-S", "-c", "import time; print(time.time())"],
                env={**os.environ, "LD_PRELOAD": path, "FAKETIME": "+1000d"},
                capture_output=True,
                text=True,
                check=False,
            )
            if told.returncode == 0 and float(told.stdout) - time.time() > 999 * 86400:
                return path
    return None


class Clock:
    """One node's. Give :attr:`environment` to its process."""

    def __init__(self, file: Path, path: str) -> None:
        self._file = file
        self.set(0.0)
        self.environment = {
            "LD_PRELOAD": path,
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "NO_FAKE_STAT": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset: float, rate: float = 1.0) -> None:
        """``offset``: seconds before or after the true time; ``rate``: seconds a second."""
        words = f"{offset:+.3f}s" + (f" x{rate:g}" if rate != 1.0 else "")
        fresh = self._file.with_suffix(".new")
        fresh.write_text(words + "\n", encoding="ascii")
        fresh.replace(self._file)
