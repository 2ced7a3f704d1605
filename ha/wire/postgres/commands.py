"""What this wire does itself instead of SQLite: recognised by its first words, parsed by hand.

Transaction words of PostgreSQL, SET/SHOW/RESET, cursors, PREPARE/EXECUTE, DISCARD, COPY, and
what is refused with a sentence on what there is instead. Source: PostgreSQL documentation,
"SQL Commands".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.lexer import Token, significant, tokenize, unquote


@dataclass(frozen=True, slots=True)
class Command:
    """``tag`` is the command tag; ``in_failed`` ones run in a failed transaction too."""

    tag: str = ""
    in_failed: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Modes:
    """Transaction modes; None where nothing was said."""

    isolation: str | None = None
    read_only: bool | None = None


@dataclass(frozen=True, slots=True)
class Begin(Command):
    """``behaviour`` is SQLite's DEFERRED, IMMEDIATE or EXCLUSIVE, or empty."""

    modes: Modes = Modes()
    behaviour: str = ""


@dataclass(frozen=True, slots=True)
class Commit(Command):
    chain: bool = False
    in_failed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Rollback(Command):
    chain: bool = False
    in_failed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Savepoint(Command):
    name: str = ""


@dataclass(frozen=True, slots=True)
class Release(Command):
    name: str = ""


@dataclass(frozen=True, slots=True)
class RollbackTo(Command):
    name: str = ""
    in_failed: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class SetVariable(Command):
    """``value`` None: DEFAULT."""

    name: str = ""
    value: str | None = None
    local: bool = False


@dataclass(frozen=True, slots=True)
class SetModes(Command):
    """SET TRANSACTION, or with ``session`` SET SESSION CHARACTERISTICS."""

    modes: Modes = Modes()
    session: bool = False


@dataclass(frozen=True, slots=True)
class Nothing(Command):
    """Accepted, without effect here."""


@dataclass(frozen=True, slots=True)
class Reset(Command):
    """``name`` None: all."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Show(Command):
    """``name`` None: all."""

    name: str | None = None


@dataclass(frozen=True, slots=True)
class Discard(Command):
    what: str = "ALL"


@dataclass(frozen=True, slots=True)
class Deallocate(Command):
    name: str | None = None


@dataclass(frozen=True, slots=True)
class PrepareStatement(Command):
    name: str = ""
    types: tuple[str, ...] = ()
    sql: str = ""


@dataclass(frozen=True, slots=True)
class ExecuteStatement(Command):
    """``arguments`` is the SQL text between the parentheses."""

    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Declare(Command):
    name: str = ""
    sql: str = ""
    scroll: bool = False
    hold: bool = False
    binary: bool = False


@dataclass(frozen=True, slots=True)
class Fetch(Command):
    """``direction``: FORWARD, BACKWARD, ABSOLUTE or RELATIVE; ``count`` None: all."""

    cursor: str = ""
    direction: str = "FORWARD"
    count: int | None = 1
    move: bool = False


@dataclass(frozen=True, slots=True)
class CloseCursor(Command):
    name: str | None = None


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """``format`` text, csv or binary. ``force_*`` None: no column, empty: all (``*``)."""

    format: str = "text"
    delimiter: str = "\t"
    null: str = "\\N"
    header: str = "off"
    quote: str = '"'
    escape: str = '"'
    force_quote: tuple[str, ...] | None = None
    force_null: tuple[str, ...] | None = None
    force_not_null: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Copy(Command):
    """Either a ``table`` with ``columns`` (empty: all), or a ``query``."""

    table: str = ""
    columns: tuple[str, ...] = ()
    query: str = ""
    from_client: bool = False
    options: CopyOptions = field(default_factory=CopyOptions)


class _Words:
    """The significant tokens of one statement, read from left to right."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = significant(sql)
        while self.tokens and self.tokens[-1].text == ";":
            self.tokens.pop()
        self.i = 0

    def peek(self, ahead: int = 0) -> str:
        i = self.i + ahead
        return self.tokens[i].upper if i < len(self.tokens) else ""

    def take(self, *words: str) -> bool:
        """Skip ``words`` if they come next, all of them."""
        if all(self.peek(k) == w for k, w in enumerate(words)):
            self.i += len(words)
            return True
        return False

    def one_of(self, *words: str) -> str:
        if self.peek() in words:
            self.i += 1
            return self.tokens[self.i - 1].upper
        return ""

    def next(self, what: str) -> Token:
        if self.i >= len(self.tokens):
            raise self.error(f"expected {what} at end of input")
        self.i += 1
        return self.tokens[self.i - 1]

    def name(self, what: str = "a name") -> str:
        token = self.next(what)
        if token.kind not in ("word", "quoted", "string"):
            self.i -= 1
            raise self.error(f"expected {what}")
        return unquote(token)

    def integer(self) -> int | None:
        sign = -1 if self.peek() == "-" else 1
        skip = 1 if self.peek() in ("-", "+") else 0
        text = self.peek(skip)
        if not text.isdigit():
            return None
        self.i += skip + 1
        return sign * int(text)

    def end(self) -> None:
        if self.i < len(self.tokens):
            raise self.error(f'syntax error at or near "{self.tokens[self.i].text}"')

    def done(self) -> bool:
        return self.i >= len(self.tokens)

    def rest(self) -> str:
        """The text from here to the end."""
        start = self.tokens[self.i].start if self.i < len(self.tokens) else len(self.sql)
        end = self.tokens[-1].end if self.tokens else 0
        return self.sql[start:end]

    def parenthesised(self) -> str:
        """The text inside the parentheses that come next."""
        opening = self.next("'('")
        if opening.text != "(":
            self.i -= 1
            raise self.error("expected '('")
        depth = 1
        while depth:
            token = self.next("')'")
            depth += {"(": 1, ")": -1}.get(token.text, 0)
        return self.sql[opening.end : token.start]

    def error(self, message: str) -> PgError:
        position = self.tokens[self.i].start + 1 if self.i < len(self.tokens) else None
        return PgError("42601", message, position=position)


def parse_command(sql: str) -> Command | None:
    """None: it is for SQLite or for the engine. Raises PgError for a malformed command."""
    first = _first_word(sql)
    parse = _PARSERS.get(first)
    if parse is None:
        return None
    words = _Words(sql)
    words.i = 1
    return parse(words)


def _first_word(sql: str) -> str:
    for token in tokenize(sql):
        if token.kind != "space" and token.text != ";":
            return token.upper if token.kind == "word" else ""
    return ""


# --- transactions --------------------------------------------------------------------


def _modes(words: _Words) -> Modes:
    isolation: str | None = None
    read_only: bool | None = None
    while not words.done():
        if words.take("ISOLATION", "LEVEL"):
            if words.take("SERIALIZABLE"):
                isolation = "serializable"
            elif words.take("REPEATABLE", "READ"):
                isolation = "repeatable read"
            elif words.take("READ", "COMMITTED"):
                isolation = "read committed"
            elif words.take("READ", "UNCOMMITTED"):
                isolation = "read uncommitted"
            else:
                raise words.error("expected an isolation level")
        elif words.take("READ", "ONLY"):
            read_only = True
        elif words.take("READ", "WRITE"):
            read_only = False
        elif not (words.take("NOT", "DEFERRABLE") or words.take("DEFERRABLE") or words.take(",")):
            words.end()
    return Modes(isolation, read_only)


def _begin(words: _Words) -> Command:
    behaviour = words.one_of("DEFERRED", "IMMEDIATE", "EXCLUSIVE", "CONCURRENT")
    words.one_of("TRANSACTION", "WORK")
    return Begin("BEGIN", _modes(words), behaviour)


def _start(words: _Words) -> Command:
    if not words.take("TRANSACTION"):
        raise words.error("expected TRANSACTION")
    return Begin("START TRANSACTION", _modes(words))


def _chain(words: _Words) -> bool:
    chain = words.take("AND", "CHAIN")
    if not chain:
        words.take("AND", "NO", "CHAIN")
    words.end()
    return chain


def _commit(words: _Words) -> Command:
    if words.peek() == "PREPARED":
        raise _two_phase()
    words.one_of("TRANSACTION", "WORK")
    return Commit("COMMIT", _chain(words))


def _rollback(words: _Words) -> Command:
    if words.peek() == "PREPARED":
        raise _two_phase()
    words.one_of("TRANSACTION", "WORK")
    if words.take("TO"):
        words.take("SAVEPOINT")
        name = words.name("a savepoint name")
        words.end()
        return RollbackTo("ROLLBACK", name)
    return Rollback("ROLLBACK", _chain(words))


def _savepoint(words: _Words) -> Command:
    name = words.name("a savepoint name")
    words.end()
    return Savepoint("SAVEPOINT", name)


def _release(words: _Words) -> Command:
    words.take("SAVEPOINT")
    name = words.name("a savepoint name")
    words.end()
    return Release("RELEASE", name)


def _two_phase() -> PgError:
    return unsupported("prepared transactions are not supported", "COMMIT ends a transaction here")


# --- parameters ------------------------------------------------------------------------


def _set(words: _Words) -> Command | None:
    if words.peek() == "DATABASE" and words.peek(1) not in ("", "."):
        return None  # the engine's own command
    local = False
    if words.take("SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"):
        return SetModes("SET", _modes(words), session=True)
    if words.peek() == "SESSION" and words.peek(1) != "AUTHORIZATION":
        words.i += 1
    elif words.take("LOCAL"):
        local = True
    if words.take("TRANSACTION"):
        if words.take("SNAPSHOT"):
            raise unsupported("exported snapshots are not supported")
        return SetModes("SET", _modes(words))
    if words.take("CONSTRAINTS"):
        return Nothing("SET CONSTRAINTS")
    if words.take("TIME", "ZONE"):
        if words.take("INTERVAL"):
            raise unsupported("SET TIME ZONE INTERVAL is not supported", "name the zone")
        return SetVariable("SET", "timezone", _value(words), local)
    if words.take("SESSION", "AUTHORIZATION"):
        return SetVariable("SET", "session_authorization", _value(words), local)
    if words.take("NAMES"):
        return SetVariable("SET", "client_encoding", _value(words), local)
    if words.take("ROLE"):
        return SetVariable("SET", "role", _value(words), local)
    if words.take("SCHEMA"):
        return SetVariable("SET", "search_path", _value(words), local)
    if words.take("XML", "OPTION"):
        return SetVariable("SET", "xmloption", _value(words), local)
    name = _dotted(words)
    if not words.take("=") and not words.take("TO"):
        raise words.error("expected TO or =")
    return SetVariable("SET", name, _value(words), local)


def _dotted(words: _Words) -> str:
    name = words.name("a parameter name")
    while words.take("."):
        name += "." + words.name("a parameter name")
    return name


def _value(words: _Words) -> str | None:
    if words.take("DEFAULT"):
        words.end()
        return None
    parts: list[str] = []
    while True:
        sign = "-" if words.take("-") else ""
        token = words.next("a value")
        parts.append(sign + unquote(token))
        if not words.take(","):
            break
    words.end()
    return ", ".join(parts)


def _reset(words: _Words) -> Command:
    if words.take("ALL"):
        words.end()
        return Reset("RESET", None)
    if words.take("TIME", "ZONE"):
        return Reset("RESET", "timezone")
    if words.take("SESSION", "AUTHORIZATION"):
        return Reset("RESET", "session_authorization")
    name = _dotted(words)
    words.end()
    return Reset("RESET", name)


def _show(words: _Words) -> Command | None:
    if words.peek() in ("DATABASES", "DATABASE"):
        return None
    if words.take("ALL"):
        words.end()
        return Show("SHOW", None)
    if words.take("TIME", "ZONE"):
        name = "timezone"
    elif words.take("TRANSACTION", "ISOLATION", "LEVEL"):
        name = "transaction_isolation"
    elif words.take("SESSION", "AUTHORIZATION"):
        name = "session_authorization"
    else:
        name = _dotted(words)
    words.end()
    return Show("SHOW", name)


def _discard(words: _Words) -> Command:
    what = words.one_of("ALL", "PLANS", "SEQUENCES", "TEMP", "TEMPORARY")
    if not what:
        raise words.error("expected ALL, PLANS, SEQUENCES or TEMP")
    words.end()
    return Discard(f"DISCARD {what}", what)


# --- prepared statements and cursors ------------------------------------------------------


def _prepare(words: _Words) -> Command:
    if words.peek() == "TRANSACTION":
        raise _two_phase()
    name = words.name("a statement name")
    types: tuple[str, ...] = ()
    if words.peek() == "(":
        types = tuple(part.strip() for part in words.parenthesised().split(","))
    if not words.take("AS"):
        raise words.error("expected AS")
    return PrepareStatement("PREPARE", name, types, words.rest())


def _execute(words: _Words) -> Command:
    name = words.name("a statement name")
    arguments = words.parenthesised() if words.peek() == "(" else ""
    words.end()
    return ExecuteStatement("EXECUTE", name, arguments)


def _deallocate(words: _Words) -> Command:
    words.take("PREPARE")
    if words.take("ALL"):
        words.end()
        return Deallocate("DEALLOCATE ALL", None)
    name = words.name("a statement name")
    words.end()
    return Deallocate("DEALLOCATE", name)


def _declare(words: _Words) -> Command:
    name = words.name("a cursor name")
    scroll = hold = binary = False
    while not words.take("CURSOR"):
        if words.take("BINARY"):
            binary = True
        elif words.take("NO", "SCROLL"):
            scroll = False
        elif words.take("SCROLL"):
            scroll = True
        elif not (words.take("INSENSITIVE") or words.take("ASENSITIVE")):
            raise words.error("expected CURSOR")
    if words.take("WITH", "HOLD"):
        hold = True
    else:
        words.take("WITHOUT", "HOLD")
    if not words.take("FOR"):
        raise words.error("expected FOR")
    return Declare("DECLARE CURSOR", name, words.rest(), scroll, hold, binary)


def _fetch(words: _Words) -> Command:
    return _fetch_or_move(words, "FETCH")


def _move(words: _Words) -> Command:
    return _fetch_or_move(words, "MOVE")


def _fetch_or_move(words: _Words, tag: str) -> Command:
    direction, count = _direction(words)
    words.one_of("FROM", "IN")
    cursor = words.name("a cursor name")
    words.end()
    return Fetch(tag, cursor, direction, count, tag == "MOVE")


def _direction(words: _Words) -> tuple[str, int | None]:
    following = words.peek(1)
    if words.peek() in ("NEXT", "PRIOR", "FIRST", "LAST", "ALL") and following:
        word = words.next("a direction").upper
        return {
            "NEXT": ("FORWARD", 1),
            "PRIOR": ("BACKWARD", 1),
            "FIRST": ("ABSOLUTE", 1),
            "LAST": ("ABSOLUTE", -1),
            "ALL": ("FORWARD", None),
        }[word]
    if words.peek() in ("ABSOLUTE", "RELATIVE") and following:
        word = words.next("a direction").upper
        count = words.integer()
        if count is None:
            raise words.error("expected a number")
        return word, count
    if words.peek() in ("FORWARD", "BACKWARD") and following:
        word = words.next("a direction").upper
        if words.take("ALL"):
            return word, None
        count = words.integer()
        return _signed(word, 1 if count is None else count)
    count = words.integer()
    return ("FORWARD", 1) if count is None else _signed("FORWARD", count)


def _signed(direction: str, count: int) -> tuple[str, int]:
    if count >= 0:
        return direction, count
    return ("BACKWARD" if direction == "FORWARD" else "FORWARD"), -count


def _close(words: _Words) -> Command:
    if words.take("ALL"):
        words.end()
        return CloseCursor("CLOSE CURSOR ALL", None)
    name = words.name("a cursor name")
    words.end()
    return CloseCursor("CLOSE CURSOR", name)


# --- COPY --------------------------------------------------------------------------------


def _copy(words: _Words) -> Command:
    binary = words.take("BINARY")
    table, query = "", ""
    columns: tuple[str, ...] = ()
    if words.peek() == "(":
        query = words.parenthesised()
    else:
        table = words.name("a table name")
        while words.take("."):
            table = words.name("a table name")  # public.t, main.t
        if words.peek() == "(":
            columns = _names(words.parenthesised())
    from_client = _copy_direction(words, query)
    values = _copy_options(words)
    if binary:
        values["format"] = "binary"
    return Copy("COPY", table, columns, query, from_client, _make_options(values))


def _copy_direction(words: _Words, query: str) -> bool:
    if words.take("FROM"):
        if query:
            raise words.error("COPY FROM takes a table, not a query")
        if not words.take("STDIN"):
            raise _server_file("STDIN")
        return True
    if words.take("TO"):
        if not words.take("STDOUT"):
            raise _server_file("STDOUT")
        return False
    raise words.error("expected FROM or TO")


def _server_file(which: str) -> PgError:
    return PgError(
        "42501",
        "COPY with files of the server is not allowed",
        hint=f"use COPY … {which}; psql's \\copy does",
    )


def _names(text: str) -> tuple[str, ...]:
    words = _Words(text)
    out = []
    while not words.done():
        out.append(words.name("a column name"))
        if not words.take(","):
            words.end()
    return tuple(out)


_COPY_WORDS = {
    "DELIMITER": "delimiter", "NULL": "null", "QUOTE": "quote", "ESCAPE": "escape",
    "ENCODING": "encoding", "FORMAT": "format", "HEADER": "header", "FREEZE": "freeze",
    "FORCE_QUOTE": "force_quote", "FORCE_NULL": "force_null",
    "FORCE_NOT_NULL": "force_not_null", "ON_ERROR": "on_error", "LOG_VERBOSITY": "log_verbosity",
    "DEFAULT": "default", "REJECT_LIMIT": "reject_limit",
}  # fmt: skip


def _copy_options(words: _Words) -> dict[str, str | tuple[str, ...]]:
    values: dict[str, str | tuple[str, ...]] = {}
    words.take("WITH")
    if words.peek() == "(":
        inner = _Words(words.parenthesised())
        while not inner.done():
            key = _COPY_WORDS.get(inner.next("an option").upper)
            if key is None:
                inner.i -= 1
                raise inner.error(f'option "{inner.tokens[inner.i].text}" not recognized')
            values[key] = _copy_value(inner, key)
            if not inner.take(","):
                inner.end()
        if not words.take("WHERE"):
            words.end()
            return values
        raise unsupported("COPY … WHERE is not supported", "filter with DELETE afterwards")
    while not words.done():  # the grammar of before PostgreSQL 9.0
        if words.take("CSV"):
            values["format"] = "csv"
        elif words.take("BINARY"):
            values["format"] = "binary"
        elif words.take("HEADER"):
            values["header"] = "on"
        elif words.take("FORCE", "QUOTE"):
            values["force_quote"] = _bare_columns(words)
        elif words.take("FORCE", "NOT", "NULL"):
            values["force_not_null"] = _bare_columns(words)
        elif words.take("FORCE", "NULL"):
            values["force_null"] = _bare_columns(words)
        elif word := words.one_of("DELIMITER", "DELIMITERS", "NULL", "QUOTE", "ESCAPE", "ENCODING"):
            words.take("AS")
            values[_COPY_WORDS[word.removesuffix("S")]] = unquote(words.next("a value"))
        else:
            words.end()
    return values


def _bare_columns(words: _Words) -> tuple[str, ...]:
    if words.take("*"):
        return ()
    out = [words.name("a column name")]
    while words.take(","):
        out.append(words.name("a column name"))
    return tuple(out)


def _copy_value(words: _Words, key: str) -> str | tuple[str, ...]:
    if key.startswith("force_"):
        if words.take("*"):
            return ()
        return _names(words.parenthesised())
    if words.done() or words.peek() == ",":
        return "on"
    return unquote(words.next("a value"))


def _make_options(values: dict[str, str | tuple[str, ...]]) -> CopyOptions:
    def text(key: str, default: str) -> str:
        value = values.get(key, default)
        return value if isinstance(value, str) else default

    def names(key: str) -> tuple[str, ...] | None:
        value = values.get(key)
        return value if isinstance(value, tuple) else None

    kind = text("format", "text").lower()
    if kind not in ("text", "csv", "binary"):
        raise PgError("22023", f'COPY format "{kind}" not recognized')
    if text("encoding", "UTF8").upper().replace("-", "") != "UTF8":
        raise unsupported("COPY in another encoding than UTF8 is not supported")
    for key in ("on_error", "default", "reject_limit"):
        if key in values and values[key] != "stop":
            raise unsupported(f"COPY option {key.upper()} is not supported")
    csv = kind == "csv"
    quote = text("quote", '"')
    options = CopyOptions(
        format=kind,
        delimiter=text("delimiter", "," if csv else "\t"),
        null=text("null", "" if csv else "\\N"),
        header=_header(text("header", "off")),
        quote=quote,
        escape=text("escape", quote),
        force_quote=names("force_quote"),
        force_null=names("force_null"),
        force_not_null=names("force_not_null"),
    )
    for what, value in (
        ("delimiter", options.delimiter), ("quote", options.quote), ("escape", options.escape),
    ):  # fmt: skip
        if len(value.encode()) != 1:
            raise unsupported(f"COPY {what} must be a single one-byte character")
    return options


def _header(value: str) -> str:
    word = value.lower()
    if word in ("on", "true", "1"):
        return "on"
    if word in ("off", "false", "0"):
        return "off"
    if word == "match":
        return "match"
    raise PgError("22023", 'header requires a Boolean value or "match"')


# --- refused, with what there is instead ------------------------------------------------


def _refuse(message: str, hint: str) -> Callable[[_Words], Command]:
    def parse(words: _Words) -> Command:
        raise unsupported(message, hint)

    return parse


def _unlisten(words: _Words) -> Command:
    return Nothing("UNLISTEN")


_CREATE_REFUSED = {
    "EXTENSION": ("extensions are not supported", "load SQLite extensions with --extensions"),
    "SCHEMA": ("schemas are not supported", "every database has one schema, public"),
    "SEQUENCE": ("sequences are not supported", "an INTEGER PRIMARY KEY generates its values"),
    "TYPE": ("types cannot be made", "SQLite has none; a CHECK constraint lists allowed values"),
    "DOMAIN": ("domains are not supported", "use a CHECK constraint"),
    "ROLE": ("roles are not supported", "there is one user, of --pg-user"),
    "USER": ("roles are not supported", "there is one user, of --pg-user"),
    "FUNCTION": ("stored functions are not supported", "SQLite has triggers, and its functions"),
    "PROCEDURE": ("stored procedures are not supported", "SQLite has triggers"),
    "RULE": ("rules are not supported", "use INSTEAD OF triggers on a view"),
    "POLICY": ("row security is not supported", "use a view"),
    "MATERIALIZED": ("materialized views are not supported", "use CREATE TABLE … AS SELECT"),
    "AGGREGATE": ("aggregates cannot be made", "see SQLite's aggregate functions"),
    "OPERATOR": ("operators cannot be made", "use a function of SQLite"),
    "PUBLICATION": ("publications are not supported", "the replication log is in NATS"),
    "SUBSCRIPTION": ("subscriptions are not supported", "the replication log is in NATS"),
    "TABLESPACE": ("tablespaces are not supported", "a database is one file"),
    "COLLATION": ("collations cannot be made", "SQLite has BINARY, NOCASE and RTRIM"),
    "SERVER": ("foreign data is not supported", "see ha --pg-proxied"),
    "FOREIGN": ("foreign data is not supported", "see ha --pg-proxied"),
}


def _create(words: _Words) -> Command | None:
    words.take("OR", "REPLACE")
    refused = _CREATE_REFUSED.get(words.peek())
    if refused is None:
        return None
    raise unsupported(*refused)


def _drop(words: _Words) -> Command | None:
    what = words.peek()
    if what not in _CREATE_REFUSED:
        return None
    if words.take(what, "IF", "EXISTS"):
        return Nothing(f"DROP {what}")
    raise unsupported(*_CREATE_REFUSED[what])


_PARSERS: dict[str, Callable[[_Words], Command | None]] = {
    "BEGIN": _begin,
    "START": _start,
    "COMMIT": _commit,
    "END": _commit,
    "ROLLBACK": _rollback,
    "ABORT": _rollback,
    "SAVEPOINT": _savepoint,
    "RELEASE": _release,
    "SET": _set,
    "RESET": _reset,
    "SHOW": _show,
    "DISCARD": _discard,
    "PREPARE": _prepare,
    "EXECUTE": _execute,
    "DEALLOCATE": _deallocate,
    "DECLARE": _declare,
    "FETCH": _fetch,
    "MOVE": _move,
    "CLOSE": _close,
    "COPY": _copy,
    "UNLISTEN": _unlisten,
    "CREATE": _create,
    "DROP": _drop,
    "LISTEN": _refuse("LISTEN is not supported", "subscribe to the replication log in NATS"),
    "NOTIFY": _refuse("NOTIFY is not supported", "publish through NATS"),
    "LOCK": _refuse("LOCK is not supported", "BEGIN IMMEDIATE takes the only writer there is"),
    "GRANT": _refuse("GRANT is not supported", "there is one user, of --pg-user"),
    "REVOKE": _refuse("REVOKE is not supported", "there is one user, of --pg-user"),
    "COMMENT": _refuse("COMMENT is not supported", "SQLite keeps comments in the DDL text"),
    "DO": _refuse("anonymous code blocks are not supported", "write plain SQL"),
    "CALL": _refuse("stored procedures are not supported", "SQLite has triggers"),
    "MERGE": _refuse("MERGE is not supported", "use INSERT … ON CONFLICT DO UPDATE"),
    "LOAD": _refuse("LOAD is not supported", "load SQLite extensions with --extensions"),
    "CLUSTER": _refuse("CLUSTER is not supported", "WITHOUT ROWID tables are kept in key order"),
    "REFRESH": _refuse("materialized views are not supported", "use CREATE TABLE … AS SELECT"),
    "IMPORT": _refuse("foreign data is not supported", "see ha --pg-proxied"),
}
