"""A command in a terminal: keys go in, and what a person would see comes out."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pexpect
import pyte

TIMEOUT = 20.0


class Terminal:
    """``size``: columns and rows."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: dict[str, str],
        cwd: Path,
        size: tuple[int, int] = (100, 40),
    ) -> None:
        columns, rows = size
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self.process = pexpect.spawn(
            sys.executable,
            ["-m", "ha", *arguments],
            env={**env, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""},
            cwd=str(cwd),
            dimensions=(rows, columns),
        )

    def type(self, keys: str) -> None:
        self.process.send(keys)

    def line(self, text: str) -> None:
        self.type(text + "\r")

    def read(self, seconds: float = 0.05) -> None:
        """Take in what it writes within so many seconds."""
        try:
            data = self.process.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        self._stream.feed(data)
        if b"\x1b[6n" in data:  # where is the cursor? a terminal answers that
            row, column = self.screen.cursor.y + 1, self.screen.cursor.x + 1
            self.process.send(f"\x1b[{row};{column}R")

    @property
    def text(self) -> str:
        """All lines there are, from the first."""
        above = ["".join(line[x].data for x in range(self.screen.columns)).rstrip()
                 for line in self.screen.history.top]  # fmt: skip
        return "\n".join([*above, *(line.rstrip() for line in self.screen.display)]).rstrip()

    def wait_for(self, *texts: str) -> str:
        """Until all of ``texts`` can be seen; everything that can be."""
        end = time.monotonic() + TIMEOUT
        while not all(text in self.text for text in texts):
            assert time.monotonic() < end, f"no {texts} in:\n{self.text}"
            try:
                self.read()
            except pexpect.EOF:
                assert all(text in self.text for text in texts), f"no {texts} in:\n{self.text}"
        return self.text

    def wait_prompt(self, prompt: str = "ha> ") -> str:
        """Until the cursor stands behind an empty prompt."""
        end = time.monotonic() + TIMEOUT
        while True:
            line = self.screen.display[self.screen.cursor.y][: self.screen.cursor.x]
            if line == prompt:
                return self.text
            assert time.monotonic() < end, f"no prompt in:\n{self.text}"
            self.read()

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        end = time.monotonic() + TIMEOUT
        try:
            while time.monotonic() < end:
                self.read()
        except pexpect.EOF:
            pass
        self.process.close()
        assert self.process.exitstatus is not None, self.text
        return int(self.process.exitstatus)

    def close(self) -> None:
        self.process.close(force=True)
