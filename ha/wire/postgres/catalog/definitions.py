"""The texts that pg_get_indexdef, pg_get_constraintdef and their like answer."""

from __future__ import annotations

import re

from ha.wire.postgres.catalog.snapshot import Column, Constraint, Index, Relation


def quoted(name: str) -> str:
    """As PostgreSQL's quote_ident."""
    if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) and name not in _RESERVED:
        return name
    return '"' + name.replace('"', '""') + '"'


_RESERVED = frozenset(
    [
        "all",
        "and",
        "any",
        "as",
        "asc",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "constraint",
        "create",
        "default",
        "desc",
        "distinct",
        "else",
        "end",
        "except",
        "false",
        "for",
        "foreign",
        "from",
        "grant",
        "group",
        "having",
        "in",
        "into",
        "is",
        "join",
        "left",
        "like",
        "limit",
        "natural",
        "not",
        "null",
        "on",
        "or",
        "order",
        "outer",
        "primary",
        "references",
        "right",
        "select",
        "table",
        "then",
        "to",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "when",
        "where",
        "window",
        "with",
    ]
)


def index_definition(relation: Relation, index: Index) -> str:
    unique = "UNIQUE " if index.unique else ""
    columns = ", ".join(index_column(relation, index, i) for i in range(len(index.columns)))
    where = f" WHERE ({index.partial})" if index.partial else ""
    table = f"public.{quoted(relation.name)}"
    return f"CREATE {unique}INDEX {quoted(index.name)} ON {table} USING btree ({columns}){where}"


def index_column(relation: Relation, index: Index, position: int, *, plain: bool = False) -> str:
    """``plain``: the name or the expression alone."""
    number, descending, _ = index.columns[position]
    if number:
        column = next((c for c in relation.columns if c.number == number), None)
        text = quoted(column.name) if column else "rowid"
    else:
        text = index.expressions[position] if position < len(index.expressions) else "expr"
        text = re.sub(r"\s+(ASC|DESC)\s*$", "", text, flags=re.IGNORECASE)
        if not re.fullmatch(r"\w+\s*\(.*\)", text, re.DOTALL):
            text = f"({text})"
    return text if plain or not descending else f"{text} DESC"


def target_columns(target: Relation | None, constraint: Constraint) -> list[int]:
    """The referenced columns; without names it is the primary key."""
    if target is None:
        return []
    if not constraint.target_columns:
        return [c.number for c in sorted(target.columns, key=lambda c: c.key) if c.key]
    found = (target.column(n) for n in constraint.target_columns)
    return [c.number for c in found if c is not None]


def key_index(target: Relation | None, columns: list[int]) -> int:
    """The oid of the unique index that a foreign key refers to, 0 if there is none."""
    for constraint in target.constraints if target is not None else ():
        if constraint.kind in "pu" and constraint.columns == columns:
            return constraint.index
    return 0


_ACTION_WORDS = {"r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def constraint_definition(
    relation: Relation, constraint: Constraint, target: Relation | None
) -> str:
    names = ", ".join(
        quoted(c.name) for n in constraint.columns for c in relation.columns if c.number == n
    )
    if constraint.kind == "p":
        return f"PRIMARY KEY ({names})"
    if constraint.kind == "u":
        return f"UNIQUE ({names})"
    if constraint.kind == "c":
        return f"CHECK ({constraint.text})"
    numbers = target_columns(target, constraint)
    columns = target.columns if target else []
    others = ", ".join(quoted(c.name) for n in numbers for c in columns if c.number == n)
    text = f"FOREIGN KEY ({names}) REFERENCES {quoted(constraint.target)}({others})"
    if constraint.on_update in _ACTION_WORDS:
        text += f" ON UPDATE {_ACTION_WORDS[constraint.on_update]}"
    if constraint.on_delete in _ACTION_WORDS:
        text += f" ON DELETE {_ACTION_WORDS[constraint.on_delete]}"
    return text


def view_definition(relation: Relation) -> str:
    """The query of a view, with a semicolon as PostgreSQL shows it."""
    match = re.search(r"\bAS\b\s*(.*)\Z", relation.sql, re.DOTALL | re.IGNORECASE)
    return (match[1] if match else relation.sql).rstrip().rstrip(";") + ";"


def generation(relation: Relation, column: Column) -> str:
    """The expression of a generated column, from the text of the table."""
    name = re.escape(column.name)
    match = re.search(
        rf"[\"`\[]?{name}[\"`\]]?\s+[^,]*?\bAS\s*\(", relation.sql, re.DOTALL | re.IGNORECASE
    )
    if match is None:
        return ""
    depth, start = 1, match.end()
    for i in range(start, len(relation.sql)):
        depth += {"(": 1, ")": -1}.get(relation.sql[i], 0)
        if depth == 0:
            return relation.sql[start:i].strip()
    return ""


def trigger_type(sql: str) -> int:
    """pg_trigger.tgtype: 1 row, 2 before, 4 insert, 8 delete, 16 update, 64 instead."""
    head = sql.upper().partition("BEGIN")[0]
    bits = 1
    if " BEFORE " in head:
        bits |= 2
    if " INSTEAD OF " in head:
        bits |= 64
    for word, bit in ((" INSERT ", 4), (" DELETE ", 8), (" UPDATE ", 16)):
        if word in head:
            bits |= bit
    return bits
