"""Where databases made at run time live: a folder, or memory. Names are checked here."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote

from ha.core.dsn import Dsn, parse_dsn
from ha.core.errors import Code, HaError
from ha.core.naming import normalise
from ha.store.file import Store

_MAGIC = b"SQLite format 3\0"
_NOT_DATABASES = ("-wal", "-shm", "-journal", ".incoming", ".nats", ".history")
_PARAMETERS = ".ha-databases.json"
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Place:
    """``folder`` is None for memory alone. ``open_store`` opens what a DSN names.

    Raises HaError (REFUSED, BAD_REQUEST) for names that lead elsewhere.
    """

    folder: str | None
    memory: bool
    db_params: str
    open_store: Callable[[Dsn], Store]

    @property
    def usable(self) -> bool:
        """Can a database be created here?"""
        return self.memory or self.folder is not None

    def dsn(self, text: str) -> Dsn:
        """The database that ``text`` names, in this place and nowhere else."""
        if not self.usable:
            raise HaError(
                Code.REFUSED,
                "databases cannot be created here",
                hint="start the node with --create-db-dir or --memory",
            )
        dsn = parse_dsn(text, self.db_params, memory=self.memory and self.folder is None)
        _check_name(dsn.database_id)
        if dsn.memory:
            if os.path.dirname(dsn.path):
                raise HaError(
                    Code.REFUSED,
                    f"{text!r} names a folder: databases here are in memory",
                    hint="give a name alone",
                )
            # Nothing is loaded: a client must not read files of the node.
            return Dsn(dsn.path, memory=True, pragmas=dsn.pragmas)
        assert self.folder is not None
        path = self._inside(dsn.path, text)
        return Dsn(path, uri=dsn.uri, pragmas=dsn.pragmas)

    def _inside(self, path: str, text: str) -> str:
        assert self.folder is not None
        folder = os.path.realpath(self.folder)
        inside = os.path.realpath(os.path.join(folder, path))
        if os.path.commonpath([folder, inside]) != folder or inside == folder:
            raise HaError(
                Code.REFUSED,
                f"{text!r} lies outside of the folder for databases",
                hint="give a name alone, or a path below --create-db-dir",
            )
        if not os.path.isdir(os.path.dirname(inside)):
            raise HaError(
                Code.NOT_FOUND, f"{text!r}: there is no such folder below --create-db-dir"
            )
        return inside

    def holds(self, path: str) -> bool:
        """Does a file lie in the folder?"""
        if self.folder is None:
            return False
        folder = os.path.realpath(self.folder)
        return os.path.commonpath([folder, os.path.realpath(path)]) == folder

    def exists(self, dsn: Dsn) -> bool:
        """Is there a file of this name?"""
        return not dsn.memory and os.path.lexists(dsn.path)

    # --- what is there at start ------------------------------------------------------

    def files(self) -> Iterator[Dsn]:
        """The SQLite files below the folder, by path, with the parameters they were made with."""
        if self.folder is None:
            return
        parameters = self._read_parameters()
        for path in sorted(_walk(self.folder)):
            name = os.path.relpath(path, self.folder)
            text = f"file:{quote(path, errors='surrogateescape')}"
            own = parameters.get(name)
            dsn = parse_dsn(f"{text}?{own}" if own else text, self.db_params)
            yield dsn

    def remember(self, dsn: Dsn, text: str) -> None:
        """Keep the parameters of a database that was just created."""
        if self.folder is None or dsn.memory:
            return
        parameters = self._read_parameters()
        name = os.path.relpath(dsn.path, os.path.realpath(self.folder))
        own = parameters_of(text)
        if own:
            parameters[name] = own
        elif parameters.pop(name, None) is None:
            return
        self._write_parameters(parameters)

    def forget(self, path: str) -> None:
        """A database is gone."""
        if self.folder is None:
            return
        parameters = self._read_parameters()
        name = os.path.relpath(os.path.realpath(path), os.path.realpath(self.folder))
        if parameters.pop(name, None) is not None:
            self._write_parameters(parameters)

    def _read_parameters(self) -> dict[str, str]:
        assert self.folder is not None
        try:
            with open(os.path.join(self.folder, _PARAMETERS), encoding="utf-8") as file:
                known = json.load(file)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise HaError(
                Code.IO_ERROR, f"cannot read {os.path.join(self.folder, _PARAMETERS)}: {error}"
            ) from error
        return {str(k): str(v) for k, v in known.items()}

    def _write_parameters(self, parameters: dict[str, str]) -> None:
        assert self.folder is not None
        path = os.path.join(self.folder, _PARAMETERS)
        if not parameters:
            os.remove(path)
            return
        with open(path + ".incoming", "w", encoding="utf-8") as file:
            json.dump(parameters, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".incoming", path)


def parameters_of(text: str) -> str:
    """What follows the question mark of a DSN: ``_fk=on``."""
    rest = text.removeprefix("file:").partition("#")[0] if text.startswith("file:") else text
    _, mark, parameters = rest.partition("?")
    return parameters if mark and "=" in parameters else ""


def _check_name(name: str) -> None:
    """Beyond what makes a DSN: the name becomes a file on this and on other nodes."""
    wrong = None
    if any(ord(c) < 32 or ord(c) == 127 for c in name):
        wrong = "has a control character"
    elif name.startswith("."):
        wrong = "begins with a dot"
    elif name.endswith(_NOT_DATABASES):
        wrong = f"ends like a file of another kind ({', '.join(_NOT_DATABASES)})"
    elif len(name.encode("utf-8", "surrogateescape")) > _LONGEST:
        wrong = f"is longer than {_LONGEST} bytes"
    elif not normalise(name):
        wrong = "has no character that a NATS name may have"
    else:
        try:
            name.encode()
        except UnicodeEncodeError:
            wrong = "is not Unicode"
    if wrong is not None:
        raise HaError(Code.BAD_REQUEST, f"the name {name!r} {wrong}")


def _walk(folder: str) -> Iterator[str]:
    for base, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f[-5:] != ".nats")
        for name in names:
            if name.startswith(".") or name.endswith(_NOT_DATABASES):
                continue
            path = os.path.join(base, name)
            if os.path.isfile(path) and not os.path.islink(path) and _is_database(path):
                yield path


def _is_database(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False
