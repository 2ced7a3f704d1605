"""A temporary folder that only we can read, and that does not outlive us for long.

A process that is killed leaves its folder behind; the next one that makes a folder of the
same prefix removes those whose lock nobody holds.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

_log = logging.getLogger("ha.nats")
_LOCK = "lock"


class Lock:
    """An advisory lock on a file (flock). Whoever inherits its descriptor holds it too."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def fileno(self) -> int:
        return self._fd

    def acquire(self) -> bool:
        """Without waiting. False: somebody else holds it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class PrivateFolder:
    """A context manager: ``path`` exists inside, with mode 0700."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __enter__(self) -> Self:
        _remove_abandoned(self._prefix)
        self.path = Path(tempfile.mkdtemp(prefix=self._prefix))
        # Named only when it is held, so that nobody takes a new folder for an abandoned one.
        new = self.path / "lock.new"
        self._lock = Lock(new)
        self._lock.acquire()
        new.rename(self.path / _LOCK)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def write(self, name: str, text: str) -> None:
        """A file that only we can read."""
        fd = os.open(self.path / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)


def _remove_abandoned(prefix: str) -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        try:
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            if not (path / _LOCK).is_file():
                continue
            with Lock(path / _LOCK) as lock:
                if lock.acquire():
                    _log.info("removing %s, which a killed process left", path)
                    shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue  # somebody else is removing it
