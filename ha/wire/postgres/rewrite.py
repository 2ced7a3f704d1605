"""Queries and DML of PostgreSQL as SQLite takes them, by rewriting sqlglot's tree.

Used only for statements that SQLite's parser refuses. What SQLite cannot do is refused here
with a sentence on what it can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from sqlglot import exp
from sqlglot.dialects.sqlite import SQLite
from sqlglot.generators.sqlite import SQLiteGenerator

from ha.wire.postgres import datetimes
from ha.wire.postgres import oids as t
from ha.wire.postgres.arrays import parse_array
from ha.wire.postgres.dialect import parameter
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.infer import cast_name, quantified
from ha.wire.postgres.oids import PgType


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
    if isinstance(node, exp.Func) and not isinstance(node, exp.Predicate | exp.Connector):
        return str(node.key).removeprefix("current").lower() or "?column?"
    return "?column?"


def _rule(node: exp.Expr) -> Callable[[Any], exp.Expr] | None:
    for kind in type(node).__mro__:
        rule = _RULES.get(kind)
        if rule is not None:
            return rule
    return None


def call(name: str, *arguments: exp.Expr) -> exp.Anonymous:
    return exp.Anonymous(this=name, expressions=list(arguments))


def text(value: str) -> exp.Literal:
    return exp.Literal.string(value)


def _literal_text(node: exp.Expr) -> str | None:
    return str(node.this) if isinstance(node, exp.Literal) and node.is_string else None


def _truncate(tree: exp.TruncateTable) -> str:
    if len(tree.expressions) != 1:
        raise unsupported("TRUNCATE takes one table here", "write one TRUNCATE for each")
    table = _table(tree.expressions[0])
    return f"DELETE FROM {table.sql(dialect=_Writer)}"


# --- names --------------------------------------------------------------------------------

_SYSTEM = ("pg_catalog", "information_schema", "temp", "main")


def _table(node: exp.Table) -> exp.Expr:
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
        return _table_function(node, function)
    return _named_source(node)


_PRODUCED = {
    "generate_series": "value",
    "generate_subscripts": "value",
    "unnest": "unnest",
    "pg_partition_ancestors": "relid",
    "_pg_expandarray": "pair",
}
"""The column that SQLite names in a table function's result."""


def _table_function(node: exp.Table, function: exp.Expr) -> exp.Expr:
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


def _unnest(node: exp.Unnest) -> exp.Expr:
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
    return _table_function(table, table.this)


def _in_from(node: exp.Expr) -> bool:
    return isinstance(node.parent, exp.From | exp.Join | exp.Lateral)


def _named_source(node: exp.Expr) -> exp.Expr:
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
        return _named_source(node.this)
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


def _column(node: exp.Column) -> exp.Expr:
    if node.db:
        node.set("db", None)
        node.set("catalog", None)
    if not node.table and not node.this.args.get("quoted"):
        name = node.name.lower()
        if name in _BARE_CALLS and not isinstance(node.parent, exp.Dot):
            return call(name)
    return node


_BARE_CALLS = frozenset({"session_user", "current_user", "current_catalog", "current_schema"})


def _dot(node: exp.Dot) -> exp.Expr:
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


# --- casts --------------------------------------------------------------------------------

_STORAGE = {
    **dict.fromkeys(t.INTEGERS, "INTEGER"),
    **dict.fromkeys(t.FLOATS, "REAL"),
    **dict.fromkeys(t.TEXTS, "TEXT"),
    t.NUMERIC: "NUMERIC",
    t.BYTEA: "BLOB",
}
_NAMES = {"regclass": "ha_regclass", "regtype": "ha_regtype", "regnamespace": "ha_regnamespace"}
_TIME_CASTS: dict[PgType, tuple[str, Callable[[str], str]]] = {
    t.DATE: ("date", lambda s: datetimes.read_date(s).isoformat()),
    t.TIME: ("time", lambda s: datetimes.write_time(datetimes.read_time(s))),
    t.TIMESTAMP: (
        "ha_timestamp",
        lambda s: datetimes.write_timestamp(datetimes.read_timestamp(s)),
    ),
    t.TIMESTAMPTZ: (
        "ha_timestamptz",
        lambda s: datetimes.write_timestamp(datetimes.read_timestamptz(s)),
    ),
}
_SPECIAL_DATES = {"now", "today", "tomorrow", "yesterday", "epoch"}


def _cast(node: exp.Cast) -> exp.Expr:
    name = cast_name(node)
    inner: exp.Expr = node.this
    kind = t.by_sql_name(name)
    literal = _literal_text(inner)
    if kind is None:
        if name in ("information_schema.sql_identifier", "information_schema.character_data"):
            return inner
        raise PgError(
            "42704", f'type "{name}" does not exist', hint="SQLite has INTEGER, REAL, TEXT, BLOB"
        )
    if kind.name in _NAMES:
        return _name_cast(node, _NAMES[kind.name])
    if parameter(inner) is not None and kind not in t.TEXTS:
        return inner  # converted by its type before it is bound
    if kind.element is not None:
        return inner
    if kind in _TIME_CASTS:
        return _time_cast(inner, kind, literal)
    if kind in (t.JSON, t.JSONB):
        return call("json", inner)
    if kind is t.UUID:
        return call("lower", inner)
    if kind is t.BOOL:
        if isinstance(inner, exp.Boolean | exp.Predicate):
            return inner
        return call("ha_bool", inner) if literal is None else _bool_literal(literal)
    if kind is t.INTERVAL:
        return _interval(node)
    if kind is t.BYTEA and literal is not None and literal.startswith("\\x"):
        return exp.HexString(this=literal[2:])
    return _storage_cast(node, inner, kind)


def _storage_cast(node: exp.Cast, inner: exp.Expr, kind: PgType) -> exp.Expr:
    storage = _STORAGE.get(kind)
    if storage is None:
        raise unsupported(f"casts to {t.sql_name(kind)} are not supported")
    if kind in t.TEXTS and isinstance(inner, exp.Literal) and inner.is_string:
        return inner
    target = inner.args["to"] if isinstance(inner, exp.Cast) else None
    if target is not None and kind in t.TEXTS and target.args.get("kind") == storage:
        return inner
    if kind in t.TEXTS and isinstance(inner, exp.Anonymous) and inner.name.startswith("ha_reg"):
        if inner.name in _NAMES.values():  # x::regclass::text is the name
            return call(f"{inner.name}_name", *inner.expressions)
        return inner
    cast = exp.Cast(this=inner, to=exp.DataType(this=exp.DataType.Type.USERDEFINED, kind=storage))
    lengths = node.args["to"].expressions if isinstance(node.args["to"], exp.DataType) else []
    if kind in (t.VARCHAR, t.BPCHAR) and lengths:
        return call("substr", cast, exp.Literal.number(1), lengths[0].this)
    return cast


def _name_cast(node: exp.Cast, function: str) -> exp.Expr:
    """An oid by its name, or where the value is shown, the name of an oid."""
    inner = node.this
    if isinstance(inner, exp.Anonymous) and inner.name == f"{function}_name":
        inner = inner.expressions[0]
    shown = isinstance(node.parent, exp.Select | exp.Alias | exp.Returning | exp.Case | exp.If)
    if shown and parameter(inner) is None:
        return call(f"{function}_name", inner)
    return call(function, inner)


def _bool_literal(literal: str) -> exp.Expr:
    word = literal.strip().lower()
    if word in ("t", "true", "y", "yes", "on", "1"):
        return exp.Boolean(this=True)
    if word in ("f", "false", "n", "no", "off", "0"):
        return exp.Boolean(this=False)
    raise PgError("22P02", f'invalid input syntax for type boolean: "{literal}"')


def _time_cast(inner: exp.Expr, kind: PgType, literal: str | None) -> exp.Expr:
    function, fold = _TIME_CASTS[kind]
    if literal is None or literal.strip().lower() in _SPECIAL_DATES:
        return call(function, inner)
    try:
        return text(fold(literal))
    except ValueError:
        raise PgError(
            "22007",
            f'invalid input syntax for type {t.sql_name(kind)}: "{literal}"',
            hint="write dates as YYYY-MM-DD, times as HH:MM:SS",
        ) from None


# --- operators -----------------------------------------------------------------------------


def _ilike(node: exp.ILike) -> exp.Expr:
    return exp.Like(this=node.this, expression=node.expression)


def _regexp(function: str) -> Callable[[Any], exp.Expr]:
    def rule(node: Any) -> exp.Expr:
        return call(function, node.expression, node.this)

    return rule


_OPERATORS: dict[str, Callable[[exp.Expr, exp.Expr], exp.Expr]] = {
    "~": lambda a, b: call("ha_regexp", b, a),
    "~*": lambda a, b: call("ha_regexpi", b, a),
    "!~": lambda a, b: exp.Not(this=call("ha_regexp", b, a)),
    "!~*": lambda a, b: exp.Not(this=call("ha_regexpi", b, a)),
    "~~": lambda a, b: exp.Like(this=a, expression=b),
    "!~~": lambda a, b: exp.Not(this=exp.Like(this=a, expression=b)),
    "~~*": lambda a, b: exp.Like(this=a, expression=b),
    "!~~*": lambda a, b: exp.Not(this=exp.Like(this=a, expression=b)),
    "=": lambda a, b: exp.EQ(this=a, expression=b),
    "<>": lambda a, b: exp.NEQ(this=a, expression=b),
    "<": lambda a, b: exp.LT(this=a, expression=b),
    ">": lambda a, b: exp.GT(this=a, expression=b),
    "<=": lambda a, b: exp.LTE(this=a, expression=b),
    ">=": lambda a, b: exp.GTE(this=a, expression=b),
    "+": lambda a, b: exp.Add(this=a, expression=b),
    "||": lambda a, b: exp.DPipe(this=a, expression=b),
}


def _operator(node: exp.Operator) -> exp.Expr:
    name = str(node.args.get("operator") or "").replace(" ", "").removeprefix("pg_catalog.")
    make = _OPERATORS.get(name)
    if make is None:
        raise unsupported(f"operator {name} is not supported")
    return make(node.this, node.expression)


def _collate(node: exp.Collate) -> exp.Expr:
    operand: exp.Expr = node.this
    name = node.expression.sql().replace('"', "").lower().removeprefix("pg_catalog.")
    if name in ("default", "c", "posix", "ucs_basic", "c.utf8", "c.utf-8", "en_us.utf8"):
        return operand
    if name in ("binary", "nocase", "rtrim"):
        return node
    raise PgError(
        "42704", f'collation "{name}" does not exist', hint="SQLite has BINARY, NOCASE and RTRIM"
    )


def _compare(node: exp.Binary) -> exp.Expr:
    """``= ANY (…)``, ``<> ALL (…)``"""
    found = quantified(node.expression)
    if found is None:
        return node
    every, array = found
    positive = isinstance(node, exp.EQ) and not every
    negative = isinstance(node, exp.NEQ) and every
    if not positive and not negative:
        raise unsupported("of ANY and ALL only = ANY and <> ALL are supported", "use EXISTS")
    member = _member(node.this, array)
    return exp.Not(this=member) if negative else member


def _member(left: exp.Expr, array: exp.Expr) -> exp.Expr:
    while isinstance(array, exp.Paren):
        array = array.this
    if isinstance(array, exp.Subquery):
        array = array.this
    if isinstance(array, exp.Query):
        first = array.expressions[0] if isinstance(array, exp.Select) else None
        if isinstance(first, exp.Anonymous) and first.name == "ha_array_of":
            first.replace(first.expressions[0])  # the rows themselves, not their array
        return exp.In(this=left, query=exp.Subquery(this=array))
    if parameter(array) is not None:
        values = exp.select("value").from_(exp.Table(this=call("json_each", array)))
        return exp.In(this=left, query=exp.Subquery(this=values))
    if isinstance(array, exp.Anonymous) and array.name == "ha_array":
        return exp.In(this=left, expressions=array.expressions)
    literal = _literal_text(array)
    if literal is not None:
        try:
            elements = parse_array(literal)
        except (ValueError, IndexError) as error:
            raise PgError("22P02", f'malformed array literal: "{literal}": {error}') from None
        return exp.In(this=left, expressions=[_element(e) for e in elements])
    return call("ha_any", left, array)


def _element(element: str | None) -> exp.Expr:
    if element is None:
        return exp.Null()
    if re.fullmatch(r"-?\d{1,18}", element):
        return exp.Literal.number(element)
    return text(element)


def _array(node: exp.Array | exp.Anonymous) -> exp.Expr:
    if len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Query):
        body = node.expressions[0]
        if isinstance(body, exp.Select) and len(body.expressions) == 1 and not body.is_star:
            item = body.expressions[0]
            body.set("expressions", [exp.alias_(item.unalias(), "v")])
            outer = exp.Select(expressions=[call("ha_array_of", exp.column("v"))])
            return exp.Subquery(this=outer.from_(exp.Subquery(this=body)))
        raise unsupported("ARRAY of this query is not supported")
    return call("ha_array", *node.expressions)


def _bracket(node: exp.Bracket) -> exp.Expr:
    if len(node.expressions) != 1 or isinstance(node.expressions[0], exp.Slice):
        raise unsupported("slices of arrays are not supported")
    index = node.expressions[0]
    if node.args.get("offset"):  # sqlglot has made it count from 0
        index = exp.Add(this=index, expression=exp.Literal.number(1))
    return call("ha_element", node.this, index)


# --- dates and intervals --------------------------------------------------------------------

_PART = re.compile(r"([+-]?\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_UNITS = {"y": "years", "year": "years", "mon": "months", "month": "months", "week": "weeks",
          "w": "weeks", "d": "days", "day": "days", "h": "hours", "hr": "hours",
          "hour": "hours", "min": "minutes", "m": "minutes", "minute": "minutes",
          "s": "seconds", "sec": "seconds", "second": "seconds"}  # fmt: skip


def _interval_modifiers(node: exp.Expr, sign: int) -> list[str] | None:
    """SQLite's date modifiers for an interval literal, None if ``node`` is none."""
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.Cast) and cast_name(node) == "interval":
        literal = _literal_text(node.this)
    elif isinstance(node, exp.Interval):
        literal = _literal_text(node.this) if node.this is not None else None
        unit = node.args.get("unit")
        if literal is not None and unit is not None:
            literal = f"{literal} {unit.name}"
    else:
        return None
    if literal is None:
        raise unsupported("intervals that are computed are not supported")
    parts = _PART.findall(literal)
    out = []
    for amount, unit in parts:
        name = _UNITS.get(unit.lower()) or _UNITS.get(unit.lower().removesuffix("s"))
        if name is None:
            raise PgError("22007", f'invalid input syntax for type interval: "{literal}"')
        value = float(amount) * sign * (7 if name == "weeks" else 1)
        out.append(f"{value:+g} {'days' if name == 'weeks' else name}")
    if not out:
        raise PgError("22007", f'invalid input syntax for type interval: "{literal}"')
    return out


def _plus(node: exp.Binary) -> exp.Expr:
    sign = -1 if isinstance(node, exp.Sub) else 1
    modifiers = _interval_modifiers(node.expression, sign)
    if modifiers is None:
        return node
    return call("datetime", node.this, *[text(m) for m in modifiers])


def _interval(node: exp.Expr) -> exp.Expr:
    """Kept for the operator around it, which knows what to do."""
    parent = node.parent
    while isinstance(parent, exp.Paren):
        parent = parent.parent
    if isinstance(parent, exp.Add | exp.Sub):
        return node
    raise unsupported(
        "values of type interval are not supported", "SQLite adds '+1 day' in datetime(x, '+1 day')"
    )


def _extract(node: exp.Extract) -> exp.Expr:
    return call("ha_extract", text(node.this.name.lower()), node.expression)


# --- calls ----------------------------------------------------------------------------------

_RENAMED = {
    "greatest": "max", "least": "min", "json_agg": "json_group_array",
    "jsonb_agg": "json_group_array", "json_object_agg": "json_group_object",
    "jsonb_object_agg": "json_group_object", "json_build_object": "json_object",
    "jsonb_build_object": "json_object", "json_build_array": "json_array",
    "jsonb_build_array": "json_array", "bool_and": "min", "every": "min", "bool_or": "max",
    "strpos": "instr", "date_part": "ha_extract", "array_agg": "ha_array_of",
    "char_length": "length", "character_length": "length", "pow": "power",
    "transaction_timestamp": "now", "statement_timestamp": "now", "clock_timestamp": "now",
}  # fmt: skip


def _call(node: exp.Anonymous) -> exp.Expr:
    name = node.name.lower()
    new = _RENAMED.get(name)
    if new is not None:
        node.set("this", new)
    if name == "array":
        return _array(node)
    if name == "nextval" or name == "currval" or name == "setval":
        raise unsupported(
            "sequences are not supported",
            "an INTEGER PRIMARY KEY generates its values; last_insert_rowid() tells the last",
        )
    return node


def _sets_in_list(select: exp.Select) -> None:
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


def _bare(name: str) -> Callable[[Any], exp.Expr]:
    return lambda _node: call(name)


def _substring(node: exp.Substring) -> exp.Expr:
    arguments = [node.this, node.args.get("start"), node.args.get("length")]
    return call("substr", *[a for a in arguments if a is not None])


def _position(node: exp.StrPosition) -> exp.Expr:
    return call("instr", node.this, node.args["substr"])


def _trim(node: exp.Trim) -> exp.Expr:
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(
        str(node.args.get("position") or "").upper(), "trim"
    )
    characters = node.args.get("expression")
    return call(name, node.this, *([characters] if characters is not None else []))


# --- whole statements -----------------------------------------------------------------------


def _select(node: exp.Select) -> exp.Expr:
    node.set("locks", None)
    _sets_in_list(node)
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
    return _table(table)


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
    exp.Table: _table,
    exp.Unnest: _unnest,
    exp.Lateral: _lateral,
    exp.Values: _named_source,
    exp.Subquery: _named_source,
    exp.Column: _column,
    exp.Dot: _dot,
    exp.Cast: _cast,
    exp.ILike: _ilike,
    exp.RegexpLike: _regexp("ha_regexp"),
    exp.RegexpILike: _regexp("ha_regexpi"),
    exp.Operator: _operator,
    exp.Collate: _collate,
    exp.EQ: _compare,
    exp.NEQ: _compare,
    exp.GT: _compare,
    exp.GTE: _compare,
    exp.LT: _compare,
    exp.LTE: _compare,
    exp.Array: _array,
    exp.Bracket: _bracket,
    exp.Add: _plus,
    exp.Sub: _plus,
    exp.Interval: _interval,
    exp.Extract: _extract,
    exp.Anonymous: _call,
    exp.CurrentUser: _bare("current_user"),
    exp.SessionUser: _bare("session_user"),
    exp.CurrentSchema: _bare("current_schema"),
    exp.CurrentCatalog: _bare("current_catalog"),
    exp.Localtimestamp: lambda _node: exp.CurrentTimestamp(),
    exp.CurrentTimestamp: lambda node: exp.CurrentTimestamp(),
    exp.Substring: _substring,
    exp.StrPosition: _position,
    exp.Trim: _trim,
    exp.Select: _select,
    exp.Insert: _insert,
}
