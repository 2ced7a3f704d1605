"""What a DDL statement is about, read from its head; and when its work is done already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import apsw

from ha.store.schema import load_table
from ha.store.tokens import Token, fold_case, shape, tokenize

_TEMP = ("TEMP", "TEMPORARY")
_OBJECTS = ("TABLE", "INDEX", "TRIGGER", "VIEW")


@dataclass(frozen=True, slots=True)
class Ddl:
    """``verb`` CREATE, DROP, ALTER, ANALYZE, REINDEX, PRAGMA.

    ``object`` is ``table``, ``index``, ``trigger`` or ``view``; ``name`` what it is called,
    without schema. ``conditional``: IF [NOT] EXISTS. ``body``: the tokens from the name on (of
    ALTER: those after the table's name).
    """

    verb: str
    object: str = ""
    name: str = ""
    schema: str = ""
    conditional: bool = False
    temp: bool = False
    unique: bool = False
    virtual: bool = False
    as_select: bool = False
    body: tuple[Token, ...] = ()

    @property
    def new_name(self) -> str:
        """What ALTER TABLE … RENAME TO calls the table; empty for all else."""
        head = _Head(list(self.body))
        return head.name() or "" if self.verb == "ALTER" and head.eat_all("RENAME", "TO") else ""


class _Head:
    """The tokens of a statement, eaten from the front."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.at = 0

    def eat(self, *words: str) -> str | None:
        """The next keyword if it is one of these."""
        if self.at < len(self.tokens) and self.tokens[self.at].is_word(*words):
            self.at += 1
            return self.tokens[self.at - 1].text.upper()
        return None

    def eat_all(self, *words: str) -> bool:
        """All these keywords, or none."""
        following = self.tokens[self.at : self.at + len(words)]
        if len(following) == len(words) and all(
            t.is_word(w) for t, w in zip(following, words, strict=True)
        ):
            self.at += len(words)
            return True
        return False

    def name(self) -> str | None:
        if self.at < len(self.tokens):
            name = self.tokens[self.at].name
            if name is not None:
                self.at += 1
            return name
        return None

    def qualified(self) -> tuple[str, str] | None:
        """(schema or "", name)."""
        first = self.name()
        if first is None:
            return None
        if self.at < len(self.tokens) and self.tokens[self.at].text == ".":
            self.at += 1
            second = self.name()
            return None if second is None else (first, second)
        return "", first


def read_ddl(sql: str) -> Ddl | None:
    """None if it is no DDL, or none that SQLite would take."""
    tokens = tokenize(sql)
    while tokens and tokens[-1].text == ";":
        tokens.pop()
    while tokens and tokens[0].text == ";":
        tokens.pop(0)
    if any(t.text == ";" for t in tokens) and not _is_trigger(tokens):
        return None  # more than one statement
    head = _Head(tokens)
    verb = head.eat("CREATE", "DROP", "ALTER", "ANALYZE", "REINDEX", "PRAGMA")
    if verb == "CREATE":
        return _read_create(head)
    if verb == "DROP":
        return _read_drop(head)
    if verb == "ALTER":
        named = head.qualified() if head.eat("TABLE") else None
        if named is None:
            return None
        return Ddl(verb, "table", named[1], named[0], body=tuple(tokens[head.at :]))
    if verb is None:
        return None
    named = head.qualified() or ("", "")
    return Ddl(verb, name=named[1], schema=named[0], body=tuple(tokens[head.at :]))


def _is_trigger(tokens: list[Token]) -> bool:
    head = _Head(tokens)
    return bool(head.eat("CREATE")) and (head.eat(*_TEMP), head.eat("TRIGGER"))[1] is not None


def _read_create(head: _Head) -> Ddl | None:
    temp = head.eat(*_TEMP) is not None
    unique = head.eat("UNIQUE") is not None
    virtual = head.eat("VIRTUAL") is not None
    kind = head.eat(*_OBJECTS)
    if kind is None:
        return None
    conditional = head.eat_all("IF", "NOT", "EXISTS")
    named = head.qualified()
    if named is None:
        return None
    as_select = kind == "TABLE" and not virtual and head.eat("AS") is not None
    start = head.at - 1 - as_select
    return Ddl(
        "CREATE", kind.lower(), named[1], named[0], conditional, temp, unique, virtual, as_select,
        tuple(head.tokens[start:]),
    )  # fmt: skip


def _read_drop(head: _Head) -> Ddl | None:
    kind = head.eat(*_OBJECTS)
    if kind is None:
        return None
    conditional = head.eat_all("IF", "EXISTS")
    named = head.qualified()
    if named is None:
        return None
    return Ddl("DROP", kind.lower(), named[1], named[0], conditional)


# --- is it done already? -------------------------------------------------------------


def is_done(connection: apsw.Connection, ddl: Ddl) -> bool:
    """Does the schema show what ``ddl`` would bring about? Then running it is left out.

    CREATE of what exists with the same text but for space, comments, case and quotes (or at
    all, if it says IF NOT EXISTS); DROP of what is missing; ADD of a column or constraint that
    is there in the same words; RENAME of a name that is gone to one that is there; DROP COLUMN
    or CONSTRAINT of what is not in the table.
    """
    if ddl.verb == "CREATE":
        found = _find(connection, ddl.name, ddl.object)
        if found is None:
            return False
        kind, sql = found
        if kind != ddl.object:
            return False
        return ddl.conditional or _same_text(ddl, sql)
    if ddl.verb == "DROP":
        return _find(connection, ddl.name, ddl.object) is None
    if ddl.verb == "ALTER":
        return _is_alter_done(connection, ddl)
    return False


def _find(
    connection: apsw.Connection, name: str, like: str = "table"
) -> tuple[str, str | None] | None:
    """Type and text of what has this name. Triggers have names of their own."""
    found: list[Any] = connection.execute(
        "SELECT type, sql FROM main.sqlite_schema"
        " WHERE name = ? COLLATE NOCASE AND (type = 'trigger') = (? = 'trigger')",
        (name, like),
    ).fetchall()
    return (found[0][0], found[0][1]) if found else None


def _same_text(ddl: Ddl, sql: str | None) -> bool:
    there = read_ddl(sql or "")
    return (
        there is not None
        and (there.unique, there.virtual) == (ddl.unique, ddl.virtual)
        and shape(list(there.body)) == shape(list(ddl.body))
    )


def _is_alter_done(connection: apsw.Connection, ddl: Ddl) -> bool:
    head = _Head(list(ddl.body))
    if ddl.new_name:
        return _find(connection, ddl.name) is None and _is_table(connection, ddl.new_name)
    info = load_table(connection, ddl.name)
    if info is None or info.kind == "view":
        return False
    columns = set(info.folded) | info.generated
    verb = head.eat("RENAME", "ADD", "DROP")
    if verb == "RENAME":
        head.eat("COLUMN")
        old = head.name()
        new = head.name() if head.eat("TO") else None
        if old is None or new is None:
            return False
        return fold_case(old) not in columns and fold_case(new) in columns
    if verb is None:
        return False
    if head.eat("CONSTRAINT"):
        name = head.name() or ""
        there = _find_definition(connection, ddl.name, ("constraint", fold_case(name)))
        if verb == "DROP":
            return there is None
        return there is not None and there[2:] == shape(head.tokens[head.at :])
    if verb == "ADD" and head.at < len(head.tokens) and head.tokens[head.at].is_word("CHECK"):
        return False
    head.eat("COLUMN")
    start = head.at
    name = head.name() or ""
    if verb == "DROP":
        return bool(name) and fold_case(name) not in columns
    if fold_case(name) not in columns:
        return False
    return _find_definition(connection, ddl.name, (fold_case(name),)) == shape(head.tokens[start:])


def _is_table(connection: apsw.Connection, name: str) -> bool:
    found = _find(connection, name)
    return found is not None and found[0] == "table"


def _find_definition(
    connection: apsw.Connection, table: str, start: tuple[str, ...]
) -> tuple[str, ...] | None:
    """The column or table constraint of a CREATE TABLE that begins so, as a shape."""
    found = _find(connection, table)
    there = read_ddl((found[1] if found else None) or "")
    if there is None:
        return None
    depth = 0
    item: list[Token] = []
    for token in there.body[1:]:
        if token.text == "(":
            depth += 1
            if depth == 1:
                continue
        elif token.text == ")":
            depth -= 1
        if depth == 0 or (depth == 1 and token.text == ","):
            if shape(item)[: len(start)] == start:
                return shape(item)
            item = []
            if depth == 0:
                return None
            continue
        item.append(token)
    return None
