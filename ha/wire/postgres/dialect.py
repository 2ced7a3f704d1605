"""sqlglot, set up so that it reads what PostgreSQL clients send and keeps names as written.

It is asked only where SQLite itself does not answer: types of expressions and parameters, and
statements that SQLite's parser refuses.
"""

from __future__ import annotations

import logging
import re
from typing import Any, ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.postgres import Postgres
from sqlglot.errors import SqlglotError
from sqlglot.parsers.postgres import PostgresParser

from ha.wire.postgres.lexer import Token, tokenize, unquote
from ha.wire.postgres.oids import BY_NAME

# It warns when it cannot read a statement, which is no news to the operator of a node.
logging.getLogger("sqlglot").setLevel(logging.ERROR)


class Dialect(Postgres):
    """PostgreSQL's grammar; NULLs sort as SQLite sorts them; no function is known by name, so
    that each stays what it was."""

    NULL_ORDERING = "nulls_are_small"

    class Parser(PostgresParser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = {
            name: parse
            for name, parse in PostgresParser.FUNCTION_PARSERS.items()
            if name in ("CAST", "EXTRACT", "OVERLAY", "POSITION", "SUBSTRING", "TRIM")
        }


def read(sql: str) -> exp.Expr | None:
    """The tree of one statement; None if sqlglot cannot read it.

    A parameter is a quoted column named ``$n``; see :func:`parameter`.
    """
    try:
        tree = sqlglot.parse_one(_plain(sql), dialect=Dialect)
    except (SqlglotError, RecursionError, AttributeError, TypeError, KeyError, IndexError):
        return None
    return None if isinstance(tree, exp.Command) else tree


def parameter(node: exp.Expr | None) -> int | None:
    """The number of the parameter that ``node`` is, None if it is something else."""
    if isinstance(node, exp.Paren):
        return parameter(node.this)
    if isinstance(node, exp.Column) and not node.args.get("table"):
        name = node.this
        if isinstance(name, exp.Identifier) and name.args.get("quoted"):
            text = str(name.this)
            if text[:1] == "$" and text[1:].isdigit():
                return int(text[1:])
    return None


_REPLACE = re.compile(r"replace\Z", re.IGNORECASE)


def _array_types_renamed(tokens: list[Token]) -> list[Token]:
    """``::oid[]`` becomes ``::_oid``, the name that PostgreSQL itself has for the type:
    sqlglot knows arrays of its own types alone."""
    significant = [i for i, token in enumerate(tokens) if token.kind != "space"]
    for k in range(len(significant)):
        texts = [tokens[j].text for j in significant[k : k + 6]]
        at = 3 if texts[:1] == ["::"] and texts[2:3] == ["."] else 1
        if texts[:1] != ["::"] or texts[at + 1 : at + 3] != ["[", "]"]:
            continue
        name = texts[at].lower()
        if f"_{name}" in BY_NAME:
            j = significant[k + at]
            tokens[j] = Token("word", f"_{name}", tokens[j].start)
            for position in significant[k + at + 1 : k + at + 3]:
                tokens[position] = Token("space", " ", tokens[position].start)
    return tokens


def _plain(sql: str) -> str:
    """The same statement without what sqlglot's tokenizer stumbles over."""
    parts: list[str] = []
    unnamed = 0
    first = True
    for token in _array_types_renamed(list(tokenize(sql))):
        text = token.text
        if token.kind == "param":
            if text[0] == "$" and text[1:].isdigit():
                text = f'"{text}"'
            elif text[0] == "?":
                unnamed = int(text[1:]) if len(text) > 1 else unnamed + 1
                text = f'"${unnamed}"'
        elif token.kind in ("estring", "dollar"):
            text = "'" + unquote(token).replace("'", "''") + "'"
        elif token.kind == "quoted" and text[0] in "[`":
            text = '"' + unquote(token).replace('"', '""') + '"'
        elif text == "==":
            text = "="
        elif first and token.kind == "word" and _REPLACE.match(text):
            text = "INSERT OR REPLACE"
        if token.kind != "space":
            first = False
        parts.append(text)
    return "".join(parts)
