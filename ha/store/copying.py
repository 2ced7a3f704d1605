"""Whole copies of a database file: out (backup) and in (restore).

A copy is made page by page with SQLite's backup, inside of one read transaction: so it is
consistent, rowids stay (VACUUM INTO would renumber those that are no primary key), memory stays
flat, and it never starts again, which a backup between transactions does whenever another
connection writes (https://sqlite.org/backup.html). Meanwhile the WAL cannot be emptied.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import apsw

from ha.store.apply import Applier
from ha.store.connection import Connection
from ha.store.control import Position, position
from ha.store.outbox import Outbox
from ha.store.parse import CONTROL_TABLES

if TYPE_CHECKING:
    pass

CHUNK = 128 * 1024
_PAGES_A_STEP = 1_024
_PREFIX = ".ha-copy-"
_LEFT_OVER = re.compile(rf"{re.escape(_PREFIX)}(\d+)-")


class Stopped(Exception):
    """The copy was given up, since nobody waits for it any more."""


class Copy:
    """A consistent copy in a private folder; :meth:`remove` it after use.

    ``beside``: the folder to make it in, None for the system's one for temporary files, which
    may be in memory. ``stopped``: asked now and then; True ends the copying with Stopped.
    """

    def __init__(
        self,
        source: str,
        vfs: str | None,
        beside: str | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=beside)
        self.path = os.path.join(self._folder, "copy.db")
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        try:
            backup(source, self.path, vfs, stopped)
            take_back_suffix(self.path)
        except BaseException:
            self.remove()
            raise

    @property
    def size(self) -> int:
        """Bytes."""
        return os.path.getsize(self.path)

    def remove(self) -> None:
        self._finalizer()


def remove_left_over(folder: str) -> None:
    """Remove copies of processes that died while they made one."""
    with suppress(OSError):
        for name in os.listdir(folder):
            match = _LEFT_OVER.match(name)
            if match and not _lives(int(match[1])):
                shutil.rmtree(os.path.join(folder, name), ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def backup(
    source: str,
    target: str,
    vfs: str | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """The copy is a plain file without a WAL beside it. Raises Stopped, or APSW's errors."""
    origin = apsw.Connection(source, vfs=vfs)
    copy = apsw.Connection(target)
    try:
        # Nobody reads it before it is whole, and nobody needs it after a crash.
        copy.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").fetchall()
        origin.execute("BEGIN; SELECT 1 FROM sqlite_schema").fetchall()
        with copy.backup("main", origin, "main") as work:
            while not work.done:
                if stopped():
                    raise Stopped
                work.step(_PAGES_A_STEP)
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
    finally:
        copy.close(True)
        origin.close(True)


def take_back_suffix(path: str) -> None:
    """Leave in a copy what the log holds, and nothing else (see :mod:`ha.store.outbox`)."""
    raw = apsw.Connection(path)
    try:
        if not raw.execute("SELECT 1 FROM sqlite_schema WHERE name = 'ha_outbox'").get:
            return
        connection = Connection(raw)
        outbox = Outbox(connection)
        if outbox.depth:
            applier = Applier(raw, CONTROL_TABLES)
            with connection.writing():
                outbox.undo(connection, applier)
                outbox.clear(connection)
    finally:
        raw.close(True)


def position_of(path: str, subject: str) -> Position:
    """Where in the log the database file at ``path`` stands."""
    raw = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return position(Connection(raw), subject)
    finally:
        raw.close(True)


RunInThread = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs work that waits for the disk beside the event loop: ``Runtime.run_in_thread``."""


async def copy_chunks(path: str, run_in_thread: RunInThread) -> AsyncIterator[bytes]:
    """The bytes of a file, ``CHUNK`` at a time."""
    with open(path, "rb") as file:  # noqa: ASYNC230  # opening waits for nothing
        while chunk := await run_in_thread(lambda: file.read(CHUNK)):
            yield chunk


async def receive(path: str, chunks: AsyncIterator[bytes], run_in_thread: RunInThread) -> None:
    """Write ``chunks`` into a file, and sync it."""
    with open(path, "wb") as file:  # noqa: ASYNC230  # opening waits for nothing
        async for chunk in chunks:
            await run_in_thread(partial(file.write, chunk))
        file.flush()
        await run_in_thread(lambda: os.fsync(file.fileno()))
