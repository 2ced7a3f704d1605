"""Queries and DML of PostgreSQL as SQLite takes them, by rewriting sqlglot's tree.

Used only for statements that SQLite's parser refuses. What SQLite cannot do is refused here
with a sentence on what it can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.generators.sqlite import SQLiteGenerator

from ha.wire.postgres.casts import cast_name
from ha.wire.postgres.dialect import parameter
from ha.wire.postgres.errors import unsupported
from ha.wire.postgres.rewrite_casts import rewrite_cast
from ha.wire.postgres.rewrite_operators import (
    bracket,
    collate,
    ilike,
    json_path,
    regexp,
    rewrite_array,
    rewrite_bare,
    rewrite_call,
    rewrite_compare,
    rewrite_extract,
    rewrite_interval,
    rewrite_operator,
    rewrite_plus,
    rewrite_position,
    rewrite_trim,
    substring,
)
from ha.wire.postgres.rewrite_sources import (
    named_source,
    rewrite_column,
    rewrite_dot,
    rewrite_table,
    rewrite_unnest,
    sets_in_list,
)


class _Generator(SQLiteGenerator):
    """SQLite's text, with names as they were written."""

    def identifier_sql(self, expression: exp.Identifier) -> str:
        name = str(expression.this)
        if expression.args.get("quoted") and name[:1] == "$" and name[1:].isdigit():
            return "?" + name[1:]
        return super().identifier_sql(expression)


class _Writer(SQLite):
    NULL_ORDERING = "nulls_are_small"
    Generator = _Generator


def rewrite(tree: exp.Expr, *, named: bool = True) -> str:
    """The text for SQLite. Changes ``tree``. Raises PgError 0A000.

    ``named``: give the result columns the names that PostgreSQL gives them.
    """
    if isinstance(tree, exp.TruncateTable):
        return _truncate(tree)
    if named:
        _name_columns(tree)
    # From the leaves up, so that a rule sees its children already rewritten.
    for node in list(reversed(list(tree.walk(bfs=True)))):
        rule = _rule(node)
        if rule is not None:
            new = rule(node)
            if new is not node:
                if node is tree:
                    tree = new
                else:
                    node.replace(new)
    return str(tree.sql(dialect=_Writer, normalize_functions=False, comments=False, identify=False))


def _name_columns(tree: exp.Expr) -> None:
    """What has no name is named as PostgreSQL does: its text here would be SQLite's."""
    select = tree
    while isinstance(select, exp.SetOperation | exp.Subquery):
        select = select.this
    items = select.args.get("expressions") if isinstance(select, exp.Select) else None
    returning = tree.args.get("returning")
    if returning is not None:
        items = returning.args.get("expressions")
    for i, item in enumerate(items or ()):
        name = _output_name(item)
        if name is not None and items is not None:
            items[i] = exp.Alias(this=item, alias=exp.to_identifier(name, quoted=True))
            items[i].parent = select if returning is None else returning


def _output_name(node: exp.Expr) -> str | None:
    """None: it has a name already."""
    if isinstance(node, exp.Alias | exp.Star) or (
        isinstance(node, exp.Column) and parameter(node) is None
    ):
        return None
    while isinstance(node, exp.Paren | exp.Collate):
        node = node.this
    if isinstance(node, exp.Cast):
        inner = node.this
        if isinstance(inner, exp.Column) and parameter(inner) is None:
            return str(inner.name)
        return _output_name(inner) if isinstance(inner, exp.Func) else cast_name(node)
    if isinstance(node, exp.Dot):
        return _output_name(node.expression)
    if isinstance(node, exp.Anonymous):
        return str(node.name).lower()
    if isinstance(node, exp.Window | exp.Filter):
        return _output_name(node.this)
    if isinstance(node, exp.Case):
        return "case"
    if isinstance(node, exp.Array):
        return "array"
    if isinstance(node, exp.Exists):
        return "exists"
    if isinstance(node, exp.StrPosition):
        return "position"
    if isinstance(node, exp.Binary):
        return "?column?"
    if isinstance(node, exp.Func) and not isinstance(node, exp.Predicate | exp.Connector):
        return str(node.key).removeprefix("current").lower() or "?column?"
    return "?column?"


def _rule(node: exp.Expr) -> Callable[[Any], exp.Expr] | None:
    for kind in type(node).__mro__:
        rule = _RULES.get(kind)
        if rule is not None:
            return rule
    return None


def _truncate(tree: exp.TruncateTable) -> str:
    if len(tree.expressions) != 1:
        raise unsupported("TRUNCATE takes one table here", "write one TRUNCATE for each")
    table = rewrite_table(tree.expressions[0])
    return f"DELETE FROM {table.sql(dialect=_Writer)}"


# --- whole statements -----------------------------------------------------------------------


def _select(node: exp.Select) -> exp.Expr:
    node.set("locks", None)
    if not node.expressions:  # SELECT FROM …, as in EXISTS
        node.set("expressions", [exp.Literal.number(1)])
    sets_in_list(node)
    distinct = node.args.get("distinct")
    if distinct is not None and distinct.args.get("on") is not None:
        raise unsupported("DISTINCT ON is not supported", "use row_number() OVER (…) = 1")
    limit = node.args.get("limit")
    if isinstance(limit, exp.Fetch):
        count = limit.args.get("count") or exp.Literal.number(1)
        node.set("limit", exp.Limit(expression=count))
    elif isinstance(limit, exp.Limit):
        value = limit.expression
        if isinstance(value, exp.Null | exp.All) or value.name.upper() == "ALL":
            offset = node.args.get("offset")
            minus = exp.Limit(expression=exp.Literal.number(-1))
            node.set("limit", minus if offset is not None else None)
    return node


def _lateral(node: exp.Lateral) -> exp.Expr:
    inner = node.this
    if isinstance(inner, exp.Subquery):
        raise unsupported("LATERAL is not supported", "use a correlated subquery")
    table = exp.Table(this=inner)
    if node.args.get("alias"):
        table.set("alias", node.args["alias"])
    return rewrite_table(table)


def _insert(node: exp.Insert) -> exp.Expr:
    target = node.this
    if isinstance(target, exp.Schema) and isinstance(node.expression, exp.Values):
        _drop_defaults(target, node.expression, node)
    conflict = node.args.get("conflict")
    if conflict is not None and conflict.args.get("constraint") is not None:
        raise unsupported(
            "ON CONFLICT ON CONSTRAINT is not supported", "name the columns: ON CONFLICT (a, b)"
        )
    return node


def _drop_defaults(target: exp.Schema, values: exp.Values, node: exp.Insert) -> None:
    """SQLite has no DEFAULT among values; a column left out takes it."""
    rows: Sequence[exp.Expr] = values.expressions
    columns = list(target.expressions)
    defaults = [
        i
        for i in range(len(columns))
        if all(i < len(r.expressions) and _is_default(r.expressions[i]) for r in rows)
    ]
    for row in rows:
        row.set("expressions", [e for i, e in enumerate(row.expressions) if i not in defaults])
        if any(_is_default(e) for e in row.expressions):
            raise unsupported(
                "DEFAULT for a part of the rows is not supported", "leave the column out"
            )
    target.set("expressions", [c for i, c in enumerate(columns) if i not in defaults])
    if not target.expressions:
        if len(rows) > 1:
            raise unsupported("several rows of nothing but defaults", "INSERT them one by one")
        node.set("this", target.this)
        node.set("expression", None)
        node.set("default", True)


def _is_default(node: exp.Expr) -> bool:
    return (
        isinstance(node, exp.Column)
        and node.name.upper() == "DEFAULT"
        and not node.this.args.get("quoted")
    ) or (isinstance(node, exp.Var) and node.name.upper() == "DEFAULT")


_RULES: dict[type, Callable[[Any], exp.Expr]] = {
    exp.Table: rewrite_table,
    exp.Unnest: rewrite_unnest,
    exp.Lateral: _lateral,
    exp.Values: named_source,
    exp.Subquery: named_source,
    exp.Column: rewrite_column,
    exp.Dot: rewrite_dot,
    exp.Cast: rewrite_cast,
    exp.ILike: ilike,
    exp.RegexpLike: regexp("ha_regexp"),
    exp.RegexpILike: regexp("ha_regexpi"),
    exp.Operator: rewrite_operator,
    exp.JSONBExtract: json_path,
    exp.JSONBExtractScalar: json_path,
    exp.Collate: collate,
    exp.EQ: rewrite_compare,
    exp.NEQ: rewrite_compare,
    exp.GT: rewrite_compare,
    exp.GTE: rewrite_compare,
    exp.LT: rewrite_compare,
    exp.LTE: rewrite_compare,
    exp.Array: rewrite_array,
    exp.Bracket: bracket,
    exp.Add: rewrite_plus,
    exp.Sub: rewrite_plus,
    exp.Interval: rewrite_interval,
    exp.Extract: rewrite_extract,
    exp.Anonymous: rewrite_call,
    exp.CurrentUser: rewrite_bare("current_user"),
    exp.SessionUser: rewrite_bare("session_user"),
    exp.CurrentSchema: rewrite_bare("current_schema"),
    exp.CurrentCatalog: rewrite_bare("current_catalog"),
    exp.Localtimestamp: lambda _node: exp.CurrentTimestamp(),
    exp.CurrentTimestamp: lambda node: exp.CurrentTimestamp(),
    exp.Substring: substring,
    exp.StrPosition: rewrite_position,
    exp.Trim: rewrite_trim,
    exp.Select: _select,
    exp.Insert: _insert,
}
