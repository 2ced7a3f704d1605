"""A database file and its connections: one that executes, one that applies, many that read.

The file is in WAL mode whatever it is kept for, so that readers never block a writer: a
database "in memory" is a file in a private temporary folder, unsynced, gone with the node.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import apsw

from ha.core.errors import Code, HaError
from ha.store.connection import Connection, ConnectionHook, close
from ha.store.copying import Copy, remove_left_over
from ha.store.sqlite_errors import from_sqlite


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How files are opened.

    ``synchronous``: OFF, NORMAL or FULL. ``pragmas``: (name, value) from the DSN, applied to
    every connection that runs client statements. ``vfs`` names the virtual file system (None:
    SQLite's default); ``uri`` is the file as a ``file:`` URL, with SQLite's parameters.
    """

    synchronous: str = "NORMAL"
    pragmas: tuple[tuple[str, str], ...] = ()
    extensions: tuple[str, ...] = ()
    busy_timeout_ms: int = 5_000
    vfs: str | None = None
    uri: str | None = None
    hooks: Sequence[ConnectionHook] = field(default_factory=tuple)


_OPEN_FLAGS = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI


class Store:
    """One database file. Not safe for concurrent use but through the engine's locks.

    ``generation`` grows when the file is replaced: connections of an earlier one still see the
    former file.
    """

    def __init__(self, path: str, options: StoreOptions, *, temporary: str | None = None) -> None:
        self.path = path
        self.options = options
        self._temporary = temporary
        self._idle: list[Connection] = []
        self.generation = 0
        self.closed = False
        self._open()

    def _open(self) -> None:
        self.executor = self.connect()
        self.applier = self._open_applier()
        self.parser = self.connect(reading=True)

    @classmethod
    def open(cls, path: str, options: StoreOptions) -> Store:
        """Open or create ``path``. Raises HaError when it is no database or not writable."""
        folder = os.path.dirname(os.path.abspath(path))
        if options.vfs is None and not os.path.isdir(folder):
            raise HaError(Code.NOT_FOUND, f"no such folder: {folder}")
        if options.vfs is None:
            remove_left_over(folder)
        return cls(path, options)

    @classmethod
    def open_memory(cls, name: str, options: StoreOptions, load: str | None = None) -> Store:
        """A private temporary database, with a copy of the file ``load`` in it."""
        folder = tempfile.mkdtemp(prefix="ha-")
        try:
            path = os.path.join(folder, name)
            if load is not None:
                _copy(load, path)
            return cls(path, options, temporary=folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    # --- connections -----------------------------------------------------------------

    def connect(self, *, reading: bool = False) -> Connection:
        """A new connection for client statements; ``reading`` ones refuse to write."""
        raw = self._raw()
        try:
            for name, value in self.options.pragmas:
                raw.execute(f"PRAGMA {name} = {value}").fetchall()
            for hook in self.options.hooks:
                hook(raw)
            if reading:
                raw.execute("PRAGMA query_only = ON")
        except apsw.Error as error:
            close(raw)
            raise from_sqlite(error) from error
        return self._connection(raw)

    def _connection(self, raw: apsw.Connection) -> Connection:
        connection = Connection(raw)
        connection.generation = self.generation
        return connection

    def _open_applier(self, path: str | None = None) -> Connection:
        """Applies what others executed: no trigger fires, no constraint but uniqueness holds."""
        raw = self._raw() if path is None else self._raw(path, "DELETE")
        try:
            raw.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            raw.execute("PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON")
        except apsw.Error as error:
            close(raw)
            raise from_sqlite(error) from error
        return self._connection(raw)

    def incoming_path(self) -> str:
        """A name for a file that is to take this one's place. Nothing is there: of one that did not
        get so far, a journal would be played into the new one."""
        path = self.path + ".incoming"
        for suffix in ("", "-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path + suffix)
        return path

    @contextlib.contextmanager
    def incoming(self, path: str) -> Iterator[Connection]:
        """An applier for the file at ``path``, which is to take this one's place: afterwards it is
        whole, without a WAL beside it."""
        connection = self._open_applier(path)
        try:
            yield connection
        finally:
            connection.close()

    def _raw(self, path: str | None = None, journal: str = "WAL") -> apsw.Connection:
        name = path or self.options.uri or self.path
        try:
            raw = apsw.Connection(name, flags=_OPEN_FLAGS, vfs=self.options.vfs)
        except apsw.Error as error:
            raise HaError(Code.IO_ERROR, f"cannot open {self.path}: {error}") from error
        try:
            raw.set_busy_timeout(self.options.busy_timeout_ms)
            mode = raw.execute(f"PRAGMA journal_mode = {journal}").fetchall()
            if mode != [(journal.lower(),)]:
                raise HaError(Code.IO_ERROR, f"{self.path} cannot be kept in {journal} mode")
            if path is None:
                raw.execute(f"PRAGMA synchronous = {self.options.synchronous}").fetchall()
            self._load_extensions(raw)
        except apsw.ExtensionLoadingError as error:
            close(raw)
            raise HaError(Code.NOT_FOUND, f"cannot load the extension: {error}") from error
        except apsw.NotADBError as error:
            close(raw)
            raise HaError(Code.CORRUPT, f"{self.path} is not a SQLite database") from error
        except apsw.Error as error:
            close(raw)
            raise HaError(Code.IO_ERROR, f"cannot open {self.path}: {error}") from error
        return raw

    def _load_extensions(self, raw: apsw.Connection) -> None:
        if self.options.extensions:
            raw.enable_load_extension(True)
            for extension in self.options.extensions:
                raw.load_extension(extension)
            raw.enable_load_extension(False)

    def scratch(self) -> Connection:
        """An empty temporary database, that knows the functions and collations of this one. It
        has no file but what does not fit into its cache."""
        raw = apsw.Connection("")
        raw.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").fetchall()
        self._load_extensions(raw)
        for hook in self.options.hooks:
            hook(raw)
        return Connection(raw)

    def take_reader(self) -> Connection:
        """An idle reading connection, or a new one; give it back with :meth:`give_reader`."""
        connection = self._idle.pop() if self._idle else self.connect(reading=True)
        connection.cancelled = False
        connection.ticks = None
        return connection

    def give_reader(self, connection: Connection) -> None:
        if self.closed or connection.generation != self.generation:
            connection.close()
            return
        connection.rollback()
        self._idle.append(connection)

    # --- whole copies ----------------------------------------------------------------

    def copy(self, stopped: Callable[[], bool] = lambda: False) -> Copy:
        """A consistent copy of the file, in a folder beside it, while writes go on.

        Takes long: run it on a thread. It ends with Stopped soon after ``stopped`` says so.
        """
        try:
            return Copy(self.path, self.options.vfs, self._beside(), stopped)
        except (apsw.Error, OSError) as error:
            raise HaError(Code.IO_ERROR, f"cannot copy {self.path}: {error}") from error

    def _beside(self) -> str | None:
        """The folder of the file; None if that is no folder of the system."""
        return os.path.dirname(os.path.abspath(self.path)) if self.options.vfs is None else None

    def replace_by(self, path: str) -> None:
        """Let the file at ``path`` take this one's place, before any client has seen it.

        Raises HaError or OSError when the disk fails; then it may be called again, and until that
        has worked there is no open connection.
        """
        self._close_all()
        if os.path.exists(path):
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.remove(self.path + suffix)
            os.replace(path, self.path)
        self.generation += 1
        self._open()

    # --- life ------------------------------------------------------------------------

    def _close_all(self) -> None:
        for connection in (*self._idle, self.parser, self.applier, self.executor):
            connection.close()
        self._idle.clear()

    @property
    def temporary(self) -> bool:
        """Is the file in a private folder, that goes with the store?"""
        return self._temporary is not None

    def delete(self) -> None:
        """Close it, and remove its files."""
        self.close()
        self.incoming_path()
        for suffix in ("-wal", "-shm", "-journal", ""):
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.path + suffix)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._close_all()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _copy(source: str, target: str) -> None:
    """A consistent copy by SQLite's backup, whatever state ``source`` is in."""
    if not os.path.exists(source):
        raise HaError(Code.NOT_FOUND, f"no such file: {source}")
    try:
        origin = apsw.Connection(source, flags=apsw.SQLITE_OPEN_READONLY)
        copy = apsw.Connection(target)
        try:
            with copy.backup("main", origin, "main") as backup:
                backup.step(-1)
        finally:
            copy.close(True)
            origin.close(True)
    except apsw.NotADBError as error:
        raise HaError(Code.CORRUPT, f"{source} is not a SQLite database") from error
    except apsw.Error as error:
        raise from_sqlite(error) from error
