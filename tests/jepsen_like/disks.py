"""Disks of nodes: what :mod:`tests.jepsen_like.disk` mounts, or a small file system in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path

_FILLER = "filler"
_ROOT = Path(__file__).parents[2]


class Mount(ABC):
    """Mounted at ``point``. The kinds of faults that it can have are in ``kinds``."""

    kinds: tuple[str, ...] = ()

    @abstractmethod
    def fill(self) -> None:
        """Nothing may grow any more, until :meth:`make_room`."""

    @abstractmethod
    def make_room(self) -> None: ...

    def slow(self, seconds: float) -> None:
        """Each write and each sync takes longer."""
        raise NotImplementedError

    def lose(self, seed: int) -> None:
        """What was not synced is gone; nobody may use it meanwhile."""
        raise NotImplementedError

    @abstractmethod
    def close(self) -> None: ...


class FuseDisk(Mount):
    """In a process of its own, which ends with this one. Raises OSError."""

    kinds = ("disk_full", "slow_disk", "power_loss")

    def __init__(self, point: Path, mib: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.jepsen_like.disk", str(point), str(mib)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            process_group=0,  # a Ctrl-C of the terminal is for the test, which ends this one
        )
        try:
            self._answer()
        except OSError:
            self.close()
            raise

    def _answer(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if line != "ok":
            raise OSError(line or "the disk's process ended")

    def _tell(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(words + "\n")
        self._process.stdin.flush()
        self._answer()

    def fill(self) -> None:
        self._tell("full")

    def make_room(self) -> None:
        self._tell("room")

    def slow(self, seconds: float) -> None:
        self._tell(f"slow {seconds}")

    def lose(self, seed: int) -> None:
        self._tell(f"lose {seed}")

    def close(self) -> None:
        self._process.communicate()
        self._process.wait(10)


class Tmpfs(Mount):
    """It can only be full. Raises OSError."""

    kinds = ("disk_full",)

    def __init__(self, point: Path, mib: int) -> None:
        self._point = point
        self._run("mount", "-t", "tmpfs", "-o", f"size={mib}m", f"ha-jepsen-{os.getpid()}", point)

    @staticmethod
    def _run(*words: str | Path) -> None:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.strip().partition("\n")[0])

    def fill(self) -> None:
        with (self._point / _FILLER).open("wb", buffering=0) as filler:
            for size in (1 << 20, 4096):
                with suppress(OSError):  # that it is full is what we are after
                    while filler.write(bytes(size)) == size:
                        pass

    def make_room(self) -> None:
        (self._point / _FILLER).unlink(missing_ok=True)

    def close(self) -> None:
        self._run("umount", "-l", self._point)
