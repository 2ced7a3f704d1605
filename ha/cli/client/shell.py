"""What the client does with a statement or a command, wherever it comes from."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

import ha.dbapi as db
from ha.cli.client import commands
from ha.cli.client.output import Mode, Row, Screen, write
from ha.cli.client.statements import Item, split
from ha.core.values import Value
from ha.dbapi.types import Parameters

_FETCH = 500


class Refused(Exception):
    """A command of the client's own cannot be carried out; the text says why."""


class Leave(Exception):
    """EXIT, QUIT, ``.quit``."""


class Shell:
    """``interactive``: somebody sits there and wants to know what was done, and how fast."""

    def __init__(self, connection: db.Connection, out: TextIO, err: TextIO) -> None:
        self.connection = connection
        self.out = out
        self.err = err
        self.mode = Mode.TABLE
        self.interactive = False
        self.timing = True
        self.schema_changed = True
        self._reconnected = connection.reconnected

    # --- scripts ---------------------------------------------------------------------

    def run_script(self, source: str | Iterable[str], name: str) -> bool:
        """Run statement after statement; False if one failed, which is the last one then."""
        lines = source.splitlines(keepends=True) if isinstance(source, str) else source
        for item in split(lines):
            try:
                self.run(item)
            except Leave:
                return True
            except BrokenPipeError:
                self._silence()
                return False
            except (db.Error, Refused, OSError) as error:
                self.complain(error, f"{name}, line {item.line}: ")
                return False
            except KeyboardInterrupt:
                self.err.write("interrupted\n")
                return False
        return True

    def _silence(self) -> None:
        """Whoever read our output has gone (``| head``): nothing is left to say, or to flush."""
        if self.out is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def complain(self, error: Exception, where: str = "") -> None:
        notes = "".join(f"{note}: " for note in getattr(error, "__notes__", ()))
        self.out.flush()
        self.err.write(f"{where}{notes}error: {error}\n")
        self.err.flush()

    # --- one item --------------------------------------------------------------------

    def run(self, item: Item) -> None:
        """Raises db.Error, Refused, Leave, or KeyboardInterrupt for the second Ctrl-C."""
        if item.leaves:
            raise Leave
        try:
            with self.interruptible():
                if item.command:
                    commands.run(self, item.text)
                else:
                    self.execute(item.text)
        finally:
            self.out.flush()
            self.note_reconnection()

    def execute(self, sql: str) -> None:
        """Run one statement and write what it answers."""
        started = time.monotonic()
        cursor = self.connection.execute(sql)
        if cursor.description is None:
            self._tell(_done(cursor), started)
        else:
            columns = [column[0] for column in cursor.description]
            count = write(self.mode, self.out, columns, _rows(cursor), self.screen())
            self._tell(f"{count} row{'' if count == 1 else 's'}", started)
        if _changes_schema(sql):
            self.schema_changed = True

    def query(self, sql: str, parameters: Parameters = ()) -> list[tuple[Value, ...]]:
        """Rows for a command's own use."""
        return self.connection.execute(sql, parameters).fetchall()

    def show(self, columns: list[str], rows: Iterable[Row]) -> None:
        write(self.mode, self.out, columns, rows, self.screen())

    def tell(self, text: str) -> None:
        """What only a person wants to know."""
        if self.interactive:
            self.out.write(text + "\n")

    def _tell(self, text: str, started: float) -> None:
        if self.timing:
            text += f" ({_duration(time.monotonic() - started)})"
        self.tell(text)

    def screen(self) -> Screen:
        if not self.out.isatty():
            return Screen()
        colours = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        return Screen(shutil.get_terminal_size().columns, colours)

    def note_reconnection(self) -> None:
        """Say that the session is a new one, if it is."""
        if self.connection.reconnected == self._reconnected:
            return
        if self.connection.address is None:
            return  # not yet: the next statement tries again
        self._reconnected = self.connection.reconnected
        self.schema_changed = True
        self.out.flush()
        self.err.write(
            f"connected again, to {self.connection.address}: the session is new "
            "(TEMP tables and pragmas are gone)\n"
        )
        self.err.flush()

    # --- Ctrl-C ----------------------------------------------------------------------

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C cancels the statement that runs; a second one drops the connection."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        pressed = 0

        def on_signal(number: int, frame: FrameType | None) -> None:
            nonlocal pressed
            pressed += 1
            if pressed > 1:
                raise KeyboardInterrupt
            # In a thread: this one may hold the connection's lock at this very moment.
            threading.Thread(target=self.connection.interrupt, daemon=True).start()

        former: Callable[[int, FrameType | None], object] | int | None
        former = signal.signal(signal.SIGINT, on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)


def _rows(cursor: db.Cursor) -> Iterator[tuple[Value, ...]]:
    while rows := cursor.fetchmany(_FETCH):
        yield from rows


def _done(cursor: db.Cursor) -> str:
    if cursor.rowcount < 0:
        return "done"
    return f"{cursor.rowcount} row{'' if cursor.rowcount == 1 else 's'} changed"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.2f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def _changes_schema(sql: str) -> bool:
    words = sql.upper().split(None, 2)
    return any(word in ("CREATE", "DROP", "ALTER", "SET", "UNSET", "USE", "ATTACH", "UNDO")
               for word in words[:1])  # fmt: skip
