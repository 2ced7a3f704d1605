"""The name of a database with its parameters: ``ha.db``, ``file:/data/x.db?_sync=FULL``.

Sources: SQLite's "Uniform Resource Identifiers" (the ``file:`` form and ``mode``, ``cache``,
``vfs``…), and the parameters with an underscore that the drivers of the existing system
understand. What would break a promise of docs/spec.md, and what nobody knows, is refused by
name: a parameter that has no effect is worse than none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, unquote

from ha.core.errors import Code, HaError
from ha.core.naming import normalise, replication_id, same_id

DEFAULT_NAME = "ha.db"
DEFAULT_PARAMETERS = "_journal=WAL&_timeout=5000"

_HAS_PARAMETERS = re.compile(r"\?[A-Za-z_]\w*=")
_DATED = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)_?(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Dsn:
    """Where a database lives, and how its connections are set up.

    ``path`` is the file. With ``memory`` there is no file to keep: ``path`` gives the name
    alone, and ``source``, unless None, the file whose content is loaded first if it exists.
    Without ``create`` (``mode=rw``) the file must be there already. ``uri`` holds the parameters
    that SQLite itself is to see, whatever a connection is for; ``pragmas`` what each connection
    sets when it opens, names in lower case, each name once.
    """

    path: str
    memory: bool = False
    source: str | None = None
    create: bool = True
    uri: tuple[tuple[str, str], ...] = ()
    pragmas: tuple[tuple[str, str], ...] = ()

    @property
    def database_id(self) -> str:
        """The replication id: the base name, without the date of a dated copy in memory."""
        dated = self._dated
        return replication_id(self.path) if dated is None else dated[1]

    @property
    def since(self) -> str | None:
        """``YYYY-MM-DD HH:MM:SS`` (UTC) of a dated copy that is loaded into memory.

        The log is replayed from that time on.
        """
        dated = self._dated
        return None if dated is None else dated[0]

    @property
    def _dated(self) -> tuple[str, str] | None:
        if not self.memory or self.source is None:
            return None
        match = _DATED.fullmatch(replication_id(self.source))
        if match is None:
            return None
        rest = match[2]
        return match[1], rest if normalise(rest.removesuffix(".db")) else DEFAULT_NAME

    def pragma(self, name: str) -> str | None:
        return dict(self.pragmas).get(name)

    def uri_text(self) -> str:
        """The ``file:`` URL for ``sqlite3_open_v2`` with SQLITE_OPEN_URI."""
        path = quote(self.path, safe="/", errors="surrogateescape")
        text = f"file://{path}" if path.startswith("/") else f"file:{path}"
        if self.uri:
            text += "?" + "&".join(f"{quote(k)}={quote(v, safe='/')}" for k, v in self.uri)
        return text


def parse_dsn(text: str, db_params: str = "", *, memory: bool = False) -> Dsn:
    """Understand one database name or ``file:`` URL.

    ``db_params`` are the parameters of ``--db-params``, each used unless the name has its own;
    ``memory`` (``-m``) keeps the database in memory and makes the name the file to load.

    Raises HaError (BAD_REQUEST) with a sentence that names the parameter that is wrong.
    """
    path, own_text = _split(text)
    own = _parse_parameters(own_text)
    common = _parse_parameters(db_params.removeprefix("?"))
    uri = common.uri | own.uri
    nameless = path in ("", ":memory:")
    # SQLite's own ways to say "in memory": there is no file, and so none to load.
    private = path == ":memory:" or uri.get("mode") == "memory" or uri.get("vfs") == "memdb"
    if nameless:
        if not private:
            _refuse(f"the database {text!r} has no file name")
        path = DEFAULT_NAME
    if "\0" in path:
        _refuse(f"the database {text!r} has a NUL in its name")
    if path.endswith("/") or not normalise(replication_id(path)):
        _refuse(f"the database {text!r} has no file name that could be its id")
    in_memory = memory or private
    _check_uri(uri, in_memory)
    kept = {} if in_memory else {k: v for k, v in uri.items() if k not in ("mode", "cache")}
    return Dsn(
        path=path,
        memory=in_memory,
        source=path if memory and not private else None,
        create=in_memory or uri.get("mode") != "rw",
        uri=tuple(kept.items()),
        pragmas=tuple((common.pragmas | own.pragmas).items()),
    )


def check_parameters(db_params: str) -> None:
    """Raise HaError (BAD_REQUEST) if ``--db-params`` holds anything that no database may have."""
    parse_dsn(DEFAULT_NAME, db_params)


def find_clash(ids: Iterable[str]) -> tuple[str, str] | None:
    """The first two ids that one node cannot serve together, or None.

    They clash when they share a NATS subject, or when one is the other with ``.db``.
    """
    seen: list[str] = []
    for new in ids:
        for old in seen:
            if same_id(old, new) or normalise(old) == normalise(new):
                return old, new
        seen.append(new)
    return None


def _refuse(message: str) -> NoReturn:
    raise HaError(Code.BAD_REQUEST, message)


def _split(text: str) -> tuple[str, str]:
    """The decoded path and the undecoded parameters."""
    if not text.startswith("file:"):
        # A plain name may carry parameters too; any other question mark belongs to the name.
        match = _HAS_PARAMETERS.search(text)
        if match is None:
            return text, ""
        return text[: match.start()], text[match.start() + 1 :]
    rest = text.removeprefix("file:").partition("#")[0]
    path, _, parameters = rest.partition("?")
    if path.startswith("//"):
        authority, slash, tail = path[2:].partition("/")
        if authority not in ("", "localhost"):
            _refuse(
                f"the database {text!r} names the host {authority!r}: "
                "write file:NAME or file:///absolute/path"
            )
        path = slash + tail
    return unquote(path, errors="surrogateescape"), parameters


# --- parameters ----------------------------------------------------------------------

_TRUE = ("1", "true", "on", "yes")
_FALSE = ("0", "false", "off", "no")


def _boolean(value: str) -> str:
    lower = value.lower()
    if lower in _TRUE:
        return "ON"
    if lower in _FALSE:
        return "OFF"
    raise ValueError("on or off")


def _integer(low: int, high: int) -> Callable[[str], str]:
    def check(value: str) -> str:
        if re.fullmatch(r"[+-]?[0-9]{1,19}", value) and low <= int(value) <= high:
            return str(int(value))
        raise ValueError(
            f"a number of at least {low}" if high == _MAX else f"a number from {low} to {high}"
        )

    return check


def _word(*words: str, numbered: bool = True) -> Callable[[str], str]:
    """One of ``words``; ``numbered``: its index is accepted too, as SQLite does."""

    def check(value: str) -> str:
        upper = value.upper()
        if upper in words:
            return upper
        if numbered and re.fullmatch("[0-9]", value) and int(value) < len(words):
            return words[int(value)]
        raise ValueError(words[0] if len(words) == 1 else f"one of {', '.join(words)}")

    return check


def _page_size(value: str) -> str:
    sizes = [str(512 << n) for n in range(8)]
    if value in sizes:
        return value
    raise ValueError("a power of two from 512 to 65536")


def _secure_delete(value: str) -> str:
    return "FAST" if value.upper() == "FAST" else _boolean(value)


_MAX = 2**63 - 1

_PRAGMAS: dict[str, Callable[[str], str]] = {
    "analysis_limit": _integer(0, _MAX),
    "automatic_index": _boolean,
    "busy_timeout": _integer(0, 2**31 - 1),
    "cache_size": _integer(-(2**31), 2**31 - 1),
    "cell_size_check": _boolean,
    "checkpoint_fullfsync": _boolean,
    "foreign_keys": _boolean,
    "fullfsync": _boolean,
    "journal_mode": _word("WAL", numbered=False),
    "journal_size_limit": _integer(-1, _MAX),
    "mmap_size": _integer(0, _MAX),
    "page_size": _page_size,
    "recursive_triggers": _boolean,
    "secure_delete": _secure_delete,
    "synchronous": _word("OFF", "NORMAL", "FULL", "EXTRA"),
    "temp_store": _word("DEFAULT", "FILE", "MEMORY"),
    "threads": _integer(0, 64),
    "trusted_schema": _boolean,
    "wal_autocheckpoint": _integer(0, 2**31 - 1),
}
"""What a connection may set. All else lives in the file's content, and so in the log
(``user_version``), or would let a write escape it (``writable_schema``)."""

_PRAGMA_ALIASES = {"sync": "synchronous"}  # one build of the existing system defaults to it

_UNDERSCORE = {
    "_journal": "journal_mode",
    "_journal_mode": "journal_mode",
    "_timeout": "busy_timeout",
    "_busy_timeout": "busy_timeout",
    "_sync": "synchronous",
    "_synchronous": "synchronous",
    "_fk": "foreign_keys",
    "_foreign_keys": "foreign_keys",
}


@dataclass(frozen=True, slots=True)
class _Parsed:
    uri: dict[str, str]
    pragmas: dict[str, str]


def _parse_parameters(text: str) -> _Parsed:
    parsed = _Parsed({}, {})
    for part in text.split("&"):
        if not part:
            continue
        raw_name, equals, raw_value = part.partition("=")
        name = unquote(raw_name)
        value = unquote(raw_value)
        if not equals:
            _refuse(f"parameter {name!r} has no value: write {name}=…")
        if name == "_pragma":
            pragma, setting = _split_pragma(value)
            _put_pragma(parsed, pragma, setting, shown=f"_pragma={value}")
        elif name in _UNDERSCORE:
            _put_pragma(parsed, _UNDERSCORE[name], value, shown=f"{name}={value}")
        elif name.startswith("_"):
            _refuse(
                f"unknown parameter {name!r}: known are _journal, _timeout, _sync, _fk "
                "and _pragma=name(value)"
            )
        else:
            _put(parsed.uri, name, value, shown=f"{name}={value}")
    return parsed


def _split_pragma(value: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*(\w+)\s*(?:\((.*)\)|=(.*))\s*", value, re.DOTALL)
    if match is None:
        _refuse(f"parameter _pragma={value} is not of the form _pragma=name(value)")
    setting = match[2] if match[2] is not None else match[3]
    return match[1].lower(), setting.strip().strip("'\"")


def _put_pragma(parsed: _Parsed, name: str, value: str, *, shown: str) -> None:
    name = _PRAGMA_ALIASES.get(name, name)
    check = _PRAGMAS.get(name)
    if check is None:
        _refuse(
            f"parameter {shown}: the pragma {name!r} cannot be set for a database; "
            f"those that can are {', '.join(_PRAGMAS)}"
        )
    try:
        setting = check(value)
    except ValueError as error:
        why = ", so that readers never wait for the writer" if name == "journal_mode" else ""
        _refuse(f"parameter {shown}: {name} must be {error}{why}")
    _put(parsed.pragmas, name, setting, shown=shown)


def _put(into: dict[str, str], name: str, value: str, *, shown: str) -> None:
    if into.setdefault(name, value) != value:
        _refuse(f"parameter {shown}: {name} was already set to {into[name]}")


_ALLOWED = {
    "mode": ("rw", "rwc", "memory"),
    "cache": ("private", "shared"),
    "immutable": _FALSE,
    "nolock": _FALSE,
    "psow": _TRUE + _FALSE,
}
_WHY = {
    "mode": "a node writes what other nodes wrote, so its file cannot be read-only",
    "cache": "",
    "immutable": "a node's file changes whenever the log does",
    "nolock": "a node's readers and its writer need SQLite's locks",
    "psow": "",
}


def _check_uri(uri: dict[str, str], in_memory: bool) -> None:
    for name, value in uri.items():
        if name == "vfs":
            continue
        allowed = _ALLOWED.get(name)
        if allowed is None:
            if "vfs" not in uri:  # another VFS may have parameters of its own
                _refuse(
                    f"unknown parameter {name!r}: SQLite's are mode, cache, vfs, psow, "
                    "immutable and nolock"
                )
        elif value not in allowed:
            why = f": {_WHY[name]}" if _WHY[name] else ""
            _refuse(f"parameter {name}={value} is not one of {', '.join(allowed)}{why}")
    if not in_memory and uri.get("cache") == "shared":
        _refuse(
            "parameter cache=shared would let readers and the writer block each other: leave it out"
        )
