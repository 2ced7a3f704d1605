"""What stands in FROM, and names: schemas, table functions, aliases with columns."""

from __future__ import annotations

from sqlglot import exp

from ha.wire.postgres.dialect import parameter
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.trees import call, text

_SYSTEM = ("pg_catalog", "information_schema", "temp", "main")


def rewrite_table(node: exp.Table) -> exp.Expr:
    schema = node.db.lower()
    if schema and schema not in _SYSTEM:
        if schema == "pg_temp":
            node.set("db", exp.to_identifier("temp"))
        elif schema == "public":
            node.set("db", None)
        else:
            raise PgError(
                "3F000",
                f'schema "{node.db}" does not exist',
                hint="every database has one schema, public",
            )
    if schema == "information_schema" and isinstance(node.this, exp.Identifier):
        node.set("this", exp.to_identifier(f"ha_{node.name.lower()}"))
        if not node.alias:
            node.set("alias", exp.TableAlias(this=exp.to_identifier(node.name[3:])))
    if schema in ("pg_catalog", "information_schema"):
        node.set("db", None)
    node.set("catalog", None)
    if node.args.get("only"):
        node.set("only", None)
    function = node.this
    if isinstance(function, exp.Anonymous | exp.Dot):
        return table_function(node, function)
    return named_source(node)


_PRODUCED = {
    "generate_series": "value",
    "generate_subscripts": "value",
    "unnest": "unnest",
    "pg_partition_ancestors": "relid",
    "_pg_expandarray": "pair",
}
"""The column that SQLite names in a table function's result."""


def table_function(node: exp.Table, function: exp.Expr) -> exp.Expr:
    """``f(…) AS g(a)``: SQLite names the columns of its table functions itself."""
    if isinstance(function, exp.Dot):
        function = function.expression
        node.set("this", function)
    produced = _PRODUCED.get(function.name.lower())
    ordinality = bool(node.args.get("ordinality"))
    node.set("ordinality", None)
    alias = node.args.get("alias")
    if produced is None or alias is None:
        return node
    names = [c.name for c in alias.columns] or [node.alias]
    columns = {names[0]: produced}
    if ordinality:
        columns[names[1] if len(names) > 1 else "ordinality"] = "ordinality"
    if any(parameter(c) is None for c in function.find_all(exp.Column)):
        # A subquery could not see the tables beside it, so the columns are renamed in place.
        return _renamed_in_place(node, alias, columns)
    inner = exp.Table(this=function.copy())
    items: list[exp.Expr] = [
        exp.Alias(this=exp.column(column), alias=exp.to_identifier(name, quoted=True))
        for name, column in columns.items()
    ]
    return exp.Subquery(
        this=exp.Select(expressions=items).from_(inner),
        alias=exp.TableAlias(this=alias.this.copy() if alias.this else None),
    )


def _renamed_in_place(node: exp.Table, alias: exp.TableAlias, columns: dict[str, str]) -> exp.Expr:
    select = node.find_ancestor(exp.Select)
    name = node.alias
    for column in list(select.find_all(exp.Column)) if select is not None else ():
        new = columns.get(column.name)
        if new is not None and column.table in ("", name):
            column.replace(exp.column(new, table=name))
    alias.set("columns", None)
    return node


def rewrite_unnest(node: exp.Unnest) -> exp.Expr:
    """sqlglot has a node of its own for ``FROM unnest(…)``."""
    if not _in_from(node):
        return call("unnest", *node.expressions)
    table = exp.Table(this=call("unnest", *[e.copy() for e in node.expressions]))
    alias = node.args.get("alias")
    if node.args.get("offset"):
        table.set("ordinality", True)
        if alias is not None and isinstance(node.args["offset"], exp.Identifier):
            alias.append("columns", node.args["offset"])
    if alias is not None:
        table.set("alias", alias.copy())
    table.parent = node.parent
    return table_function(table, table.this)


def _in_from(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.From | exp.Join | exp.Lateral)


def named_source(node: exp.Expr) -> exp.Expr:
    """``(…) AS s(a, b)``: SQLite has no column names in an alias."""
    alias = node.args.get("alias")
    names = [c.name for c in alias.columns] if alias is not None else []
    if alias is None or not names:
        return node
    if isinstance(node, exp.Values):
        inner: exp.Expr = exp.Subquery(this=exp.Values(expressions=node.expressions))
        inner.this.set("alias", None)
        produced = [f"column{i + 1}" for i in range(len(names))]
        body = exp.Select(
            expressions=[
                exp.alias_(exp.column(p), n, quoted=True)
                for p, n in zip(produced, names, strict=True)
            ]
        ).from_(inner)
        return exp.Subquery(this=body, alias=exp.TableAlias(this=alias.this))
    if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Values):
        node.this.set("alias", alias)
        return named_source(node.this)
    if isinstance(node, exp.Subquery):
        select = node.this
        while isinstance(select, exp.SetOperation):
            select = select.this
        if isinstance(select, exp.Select) and not select.is_star:
            for i, name in enumerate(names[: len(select.expressions)]):
                item = select.expressions[i]
                item = item.this if isinstance(item, exp.Alias) else item
                select.expressions[i] = exp.alias_(item, name, quoted=True)
            select.set("expressions", select.expressions)
            alias.set("columns", None)
            return node
    raise unsupported(
        "column names in an alias are not supported here", "name them inside: SELECT x AS a"
    )


def rewrite_column(node: exp.Column) -> exp.Expr:
    if node.db:
        node.set("db", None)
        node.set("catalog", None)
    if not node.table and not node.this.args.get("quoted"):
        name = node.name.lower()
        if name in _BARE_CALLS and not isinstance(node.parent, exp.Dot):
            return call(name)
    return node


_BARE_CALLS = frozenset({"session_user", "current_user", "current_catalog", "current_schema"})


def rewrite_dot(node: exp.Dot) -> exp.Expr:
    """``pg_catalog.f(…)``"""
    if isinstance(node.this, exp.Paren):
        return call("ha_field", node.this.this, text(str(node.expression.name).lower()))
    schema = str(node.this.name).lower()
    if schema in ("pg_catalog", "public", "information_schema") and not isinstance(
        node.expression, exp.Identifier
    ):
        function: exp.Expr = node.expression
        return function
    return node


def sets_in_list(select: exp.Select) -> None:
    """``SELECT f(…)`` of functions that answer rows: SQLite has those in FROM alone. Several
    go on side by side."""
    calls = [
        node
        for item in select.expressions
        for node in item.find_all(exp.Anonymous)
        if node.name.lower() in _PRODUCED
        and node.find_ancestor(exp.Select) is select
        and not isinstance(node.parent, exp.Table)
    ]
    for number, node in enumerate(calls):
        alias = f"ha_set_{number}"
        produced = _PRODUCED[node.name.lower()]
        table = exp.Table(this=node.copy(), alias=exp.TableAlias(this=exp.to_identifier(alias)))
        node.replace(exp.column(produced, table=alias))
        if select.args.get("from_") is None:
            select.set("from_", exp.From(this=table))
            continue
        join = exp.Join(this=table)
        if number:
            here, first = exp.column("ordinality", alias), exp.column("ordinality", "ha_set_0")
            join.set("on", exp.EQ(this=here, expression=first))
        select.append("joins", join)
