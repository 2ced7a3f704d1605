"""COPY as a command: the grammar of today, and that of before PostgreSQL 9.0."""

from __future__ import annotations

from ha.wire.postgres.commands import Command, Copy, CopyOptions
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.lexer import unquote
from ha.wire.postgres.words import Words


def parse_copy(words: Words) -> Command:
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


def _copy_direction(words: Words, query: str) -> bool:
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
    words = Words(text)
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


def _copy_options(words: Words) -> dict[str, str | tuple[str, ...]]:
    values: dict[str, str | tuple[str, ...]] = {}
    words.take("WITH")
    if words.peek() == "(":
        inner = Words(words.parenthesised())
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


def _bare_columns(words: Words) -> tuple[str, ...]:
    if words.take("*"):
        return ()
    out = [words.name("a column name")]
    while words.take(","):
        out.append(words.name("a column name"))
    return tuple(out)


def _copy_value(words: Words, key: str) -> str | tuple[str, ...]:
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
