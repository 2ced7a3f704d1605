"""Statements that SQLite's parser refuses, or takes for something else than was meant.

Everything else passes untouched: SQL stays SQLite's. Schema changes are edited token by token,
since their text is what the file keeps; queries and DML through sqlglot's tree.
"""

from __future__ import annotations

from ha.wire.postgres.ddl import must_translate_ddl, translate_ddl
from ha.wire.postgres.dialect import read
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.lexer import significant
from ha.wire.postgres.rewrite import rewrite

_DDL = frozenset({"CREATE", "ALTER", "DROP"})


def must_translate(sql: str) -> bool:
    """SQLite would accept ``sql``, but PostgreSQL means something else by it."""
    head = sql.lstrip()[:6].upper()
    if head.startswith(("CREATE", "ALTER")) or sql.lstrip()[:1] in "-/":
        return must_translate_ddl(sql)
    return False


def translate(sql: str) -> str:
    """The text for SQLite, parameters as ``?n``. Raises PgError 42601, 0A000."""
    tokens = significant(sql)
    first = tokens[0].upper if tokens else ""
    if first in _DDL:
        return translate_ddl(sql)
    prefix = ""
    if first == "EXPLAIN":
        prefix, sql = _explained(sql)
    if first == "TABLE" and len(tokens) >= 2:
        sql = "SELECT * FROM" + sql[tokens[0].end :]
    tree = read(sql)
    if tree is None:
        raise PgError("42601", "syntax error")
    return prefix + rewrite(tree)


def _explained(sql: str) -> tuple[str, str]:
    """EXPLAIN (ANALYZE, …) becomes EXPLAIN QUERY PLAN."""
    tokens = significant(sql)
    i = 1
    if i < len(tokens) and tokens[i].text == "(":
        while i < len(tokens) and tokens[i].text != ")":
            i += 1
        i += 1
    while i < len(tokens) and tokens[i].upper in ("ANALYZE", "VERBOSE"):
        i += 1
    start = tokens[i].start if i < len(tokens) else len(sql)
    return "EXPLAIN QUERY PLAN ", sql[start:]
