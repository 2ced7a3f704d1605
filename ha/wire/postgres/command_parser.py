"""Commands recognised by their first words, parsed by hand, or refused with what there is instead.

Source: PostgreSQL documentation, "SQL Commands".
"""

from __future__ import annotations

from collections.abc import Callable

from ha.wire.postgres.commands import (
    Begin,
    CloseCursor,
    Command,
    Commit,
    Deallocate,
    Declare,
    Discard,
    ExecuteStatement,
    Fetch,
    Modes,
    Nothing,
    PrepareStatement,
    Release,
    Reset,
    Rollback,
    RollbackTo,
    Savepoint,
    SetModes,
    SetVariable,
    Show,
)
from ha.wire.postgres.copy_parser import parse_copy
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.lexer import tokenize, unquote
from ha.wire.postgres.words import Words


def parse_command(sql: str) -> Command | None:
    """None: it is for SQLite or for the engine. Raises PgError for a malformed command."""
    first = _first_word(sql)
    parse = _PARSERS.get(first)
    if parse is None:
        return None
    words = Words(sql)
    words.i = 1
    return parse(words)


def _first_word(sql: str) -> str:
    for token in tokenize(sql):
        if token.kind != "space" and token.text != ";":
            return token.upper if token.kind == "word" else ""
    return ""


# --- transactions --------------------------------------------------------------------


def _modes(words: Words) -> Modes:
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


def _begin(words: Words) -> Command:
    behaviour = words.one_of("DEFERRED", "IMMEDIATE", "EXCLUSIVE", "CONCURRENT")
    words.one_of("TRANSACTION", "WORK")
    return Begin("BEGIN", _modes(words), behaviour)


def _start(words: Words) -> Command:
    if not words.take("TRANSACTION"):
        raise words.error("expected TRANSACTION")
    return Begin("START TRANSACTION", _modes(words))


def _chain(words: Words) -> bool:
    chain = words.take("AND", "CHAIN")
    if not chain:
        words.take("AND", "NO", "CHAIN")
    words.end()
    return chain


def _commit(words: Words) -> Command:
    if words.peek() == "PREPARED":
        raise _two_phase()
    words.one_of("TRANSACTION", "WORK")
    return Commit("COMMIT", _chain(words))


def _rollback(words: Words) -> Command:
    if words.peek() == "PREPARED":
        raise _two_phase()
    words.one_of("TRANSACTION", "WORK")
    if words.take("TO"):
        words.take("SAVEPOINT")
        name = words.name("a savepoint name")
        words.end()
        return RollbackTo("ROLLBACK", name)
    return Rollback("ROLLBACK", _chain(words))


def _savepoint(words: Words) -> Command:
    name = words.name("a savepoint name")
    words.end()
    return Savepoint("SAVEPOINT", name)


def _release(words: Words) -> Command:
    words.take("SAVEPOINT")
    name = words.name("a savepoint name")
    words.end()
    return Release("RELEASE", name)


def _two_phase() -> PgError:
    return unsupported("prepared transactions are not supported", "COMMIT ends a transaction here")


# --- parameters ------------------------------------------------------------------------


def _set(words: Words) -> Command | None:
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


def _dotted(words: Words) -> str:
    name = words.name("a parameter name")
    while words.take("."):
        name += "." + words.name("a parameter name")
    return name


def _value(words: Words) -> str | None:
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


def _reset(words: Words) -> Command:
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


def _show(words: Words) -> Command | None:
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


def _discard(words: Words) -> Command:
    what = words.one_of("ALL", "PLANS", "SEQUENCES", "TEMP", "TEMPORARY")
    if not what:
        raise words.error("expected ALL, PLANS, SEQUENCES or TEMP")
    words.end()
    return Discard(f"DISCARD {what}", what)


# --- prepared statements and cursors ------------------------------------------------------


def _prepare(words: Words) -> Command:
    if words.peek() == "TRANSACTION":
        raise _two_phase()
    name = words.name("a statement name")
    types: tuple[str, ...] = ()
    if words.peek() == "(":
        types = tuple(part.strip() for part in words.parenthesised().split(","))
    if not words.take("AS"):
        raise words.error("expected AS")
    return PrepareStatement("PREPARE", name, types, words.rest())


def _execute(words: Words) -> Command:
    name = words.name("a statement name")
    arguments = words.parenthesised() if words.peek() == "(" else ""
    words.end()
    return ExecuteStatement("EXECUTE", name, arguments)


def _deallocate(words: Words) -> Command:
    words.take("PREPARE")
    if words.take("ALL"):
        words.end()
        return Deallocate("DEALLOCATE ALL", None)
    name = words.name("a statement name")
    words.end()
    return Deallocate("DEALLOCATE", name)


def _declare(words: Words) -> Command:
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


def _fetch(words: Words) -> Command:
    return _fetch_or_move(words, "FETCH")


def _move(words: Words) -> Command:
    return _fetch_or_move(words, "MOVE")


def _fetch_or_move(words: Words, tag: str) -> Command:
    direction, count = _direction(words)
    words.one_of("FROM", "IN")
    cursor = words.name("a cursor name")
    words.end()
    return Fetch(tag, cursor, direction, count, tag == "MOVE")


def _direction(words: Words) -> tuple[str, int | None]:
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


def _close(words: Words) -> Command:
    if words.take("ALL"):
        words.end()
        return CloseCursor("CLOSE CURSOR ALL", None)
    name = words.name("a cursor name")
    words.end()
    return CloseCursor("CLOSE CURSOR", name)


# --- refused, with what there is instead ------------------------------------------------


def _refuse(message: str, hint: str) -> Callable[[Words], Command]:
    def parse(words: Words) -> Command:
        raise unsupported(message, hint)

    return parse


def _unlisten(words: Words) -> Command:
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


def _create(words: Words) -> Command | None:
    words.take("OR", "REPLACE")
    refused = _CREATE_REFUSED.get(words.peek())
    if refused is None:
        return None
    raise unsupported(*refused)


def _drop(words: Words) -> Command | None:
    what = words.peek()
    if what not in _CREATE_REFUSED:
        return None
    if words.take(what, "IF", "EXISTS"):
        return Nothing(f"DROP {what}")
    raise unsupported(*_CREATE_REFUSED[what])


_PARSERS: dict[str, Callable[[Words], Command | None]] = {
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
    "COPY": parse_copy,
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
