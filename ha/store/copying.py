"""Whole copies of a database file: out (backup) and in (restore)."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import apsw

from ha.store.connection import Connection
from ha.store.control import Position, position

if TYPE_CHECKING:
    from ha.store.file import Store

CHUNK = 128 * 1024


class Copy:
    """A consistent copy in a private temporary file; :meth:`remove` it after use."""

    def __init__(self, source: str, vfs: str | None) -> None:
        self._folder = tempfile.mkdtemp(prefix="ha-copy-")
        self.path = os.path.join(self._folder, "copy.db")
        try:
            backup(source, self.path, vfs)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def backup(source: str, target: str, vfs: str | None = None) -> None:
    """Copy page by page in one read transaction: rowids stay (VACUUM INTO would renumber them).

    The copy is a plain file without a WAL beside it.
    """
    origin = apsw.Connection(source, vfs=vfs)
    copy = apsw.Connection(target)
    try:
        with copy.backup("main", origin, "main") as work:
            work.step(-1)
        copy.execute("PRAGMA journal_mode = DELETE").fetchall()
    finally:
        copy.close(True)
        origin.close(True)


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


async def restore(store: Store, chunks: AsyncIterator[bytes], run_in_thread: RunInThread) -> None:
    """Replace the store's file by ``chunks``, whole or not at all."""
    incoming = store.path + ".incoming"
    with open(incoming, "wb") as file:  # noqa: ASYNC230  # opening waits for nothing
        async for chunk in chunks:
            await run_in_thread(partial(file.write, chunk))
        file.flush()
        await run_in_thread(lambda: os.fsync(file.fileno()))
    store.replace_by(incoming)
