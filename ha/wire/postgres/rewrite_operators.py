"""Operators, arrays, intervals and calls."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from sqlglot import exp

from ha.wire.postgres.arrays import parse_array
from ha.wire.postgres.casts import cast_name
from ha.wire.postgres.catalog.pg_catalog import TABLES
from ha.wire.postgres.dialect import parameter
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.expressions import quantified
from ha.wire.postgres.trees import call, literal_text, text


def ilike(node: exp.ILike) -> exp.Expr:
    return exp.Like(this=node.this, expression=node.expression)


def json_path(node: exp.JSONBExtract | exp.JSONBExtractScalar) -> exp.Expr:
    """``#>`` and ``#>>`` with a literal path, as SQLite's ``->`` and ``->>``."""
    path = literal_text(node.expression)
    if path is None:
        raise unsupported("#> and #>> need a literal path", "SQLite has x ->> '$.a.b'")
    steps = parse_array(path)
    if any(step is None or '"' in step for step in steps):
        raise unsupported("#> and #>> with such a path", "SQLite has x ->> '$.a.b'")
    written = "$" + "".join(
        f"[{s}]" if s and s.isdigit() else f"[#{s}]" if s and _NEGATIVE.fullmatch(s) else f'."{s}"'
        for s in steps
    )
    kind = exp.JSONExtract if isinstance(node, exp.JSONBExtract) else exp.JSONExtractScalar
    return kind(this=node.this, expression=text(written), only_json_types=True)


_NEGATIVE = re.compile(r"-\d+")


def regexp(function: str) -> Callable[[Any], exp.Expr]:
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


def rewrite_operator(node: exp.Operator) -> exp.Expr:
    name = str(node.args.get("operator") or "").replace(" ", "").removeprefix("pg_catalog.")
    make = _OPERATORS.get(name)
    if make is None:
        raise unsupported(f"operator {name} is not supported")
    return make(node.this, node.expression)


def collate(node: exp.Collate) -> exp.Expr:
    operand: exp.Expr = node.this
    name = node.expression.sql().replace('"', "").lower().removeprefix("pg_catalog.")
    if name in ("default", "c", "posix", "ucs_basic", "c.utf8", "c.utf-8", "en_us.utf8"):
        return operand
    if name in ("binary", "nocase", "rtrim"):
        return node
    raise PgError(
        "42704", f'collation "{name}" does not exist', hint="SQLite has BINARY, NOCASE and RTRIM"
    )


def rewrite_compare(node: exp.Binary) -> exp.Expr:
    """``= ANY (…)``, ``<> ALL (…)``"""
    found = quantified(node.expression)
    if found is None:
        _compare_flag(node)
        return node
    every, array = found
    positive = isinstance(node, exp.EQ) and not every
    negative = isinstance(node, exp.NEQ) and every
    if not positive and not negative:
        raise unsupported("of ANY and ALL only = ANY and <> ALL are supported", "use EXISTS")
    member = _member(node.this, array)
    return exp.Not(this=member) if negative else member


def _compare_flag(node: exp.Binary) -> None:
    """``indisprimary = 'f'``: a flag of the catalogue, which is 0 or 1 here."""
    literal = literal_text(node.expression)
    if literal in _FLAGS and isinstance(node.this, exp.Column) and node.this.name in flags():
        node.set("expression", exp.Literal.number(_FLAGS[literal]))


_FLAGS = {"t": 1, "true": 1, "f": 0, "false": 0}


@cache
def flags() -> frozenset[str]:
    """The names of all columns of pg_catalog that are bool."""
    return frozenset(n for spec in TABLES for n, kind in spec.columns if kind == "bool")


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
    literal = literal_text(array)
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


def rewrite_array(node: exp.Array | exp.Anonymous) -> exp.Expr:
    if len(node.expressions) == 1 and isinstance(node.expressions[0], exp.Query):
        body = node.expressions[0]
        if isinstance(body, exp.Select) and len(body.expressions) == 1 and not body.is_star:
            item = body.expressions[0]
            body.set("expressions", [exp.alias_(item.unalias(), "v")])
            outer = exp.Select(expressions=[call("ha_array_of", exp.column("v"))])
            return exp.Subquery(this=outer.from_(exp.Subquery(this=body)))
        raise unsupported("ARRAY of this query is not supported")
    return call("ha_array", *node.expressions)


def bracket(node: exp.Bracket) -> exp.Expr:
    if len(node.expressions) != 1 or isinstance(node.expressions[0], exp.Slice):
        raise unsupported("slices of arrays are not supported")
    index = node.expressions[0]
    if node.args.get("offset"):  # sqlglot has made it count from 0
        index = exp.Add(this=index, expression=exp.Literal.number(1))
    return call("ha_element", node.this, index)


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
        literal = literal_text(node.this)
    elif isinstance(node, exp.Interval):
        literal = literal_text(node.this) if node.this is not None else None
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


def rewrite_plus(node: exp.Binary) -> exp.Expr:
    sign = -1 if isinstance(node, exp.Sub) else 1
    modifiers = _interval_modifiers(node.expression, sign)
    if modifiers is None:
        return node
    return call("datetime", node.this, *[text(m) for m in modifiers])


def rewrite_interval(node: exp.Expr) -> exp.Expr:
    """Kept for the operator around it, which knows what to do."""
    parent = node.parent
    while isinstance(parent, exp.Paren):
        parent = parent.parent
    if isinstance(parent, exp.Add | exp.Sub):
        return node
    raise unsupported(
        "values of type interval are not supported", "SQLite adds '+1 day' in datetime(x, '+1 day')"
    )


def rewrite_extract(node: exp.Extract) -> exp.Expr:
    return call("ha_extract", text(node.this.name.lower()), node.expression)


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


def rewrite_call(node: exp.Anonymous) -> exp.Expr:
    name = node.name.lower()
    new = _RENAMED.get(name)
    if new is not None:
        node.set("this", new)
    if name == "array":
        return rewrite_array(node)
    if name == "nextval" or name == "currval" or name == "setval":
        raise unsupported(
            "sequences are not supported",
            "an INTEGER PRIMARY KEY generates its values; last_insert_rowid() tells the last",
        )
    return node


def rewrite_bare(name: str) -> Callable[[Any], exp.Expr]:
    return lambda _node: call(name)


def substring(node: exp.Substring) -> exp.Expr:
    arguments = [node.this, node.args.get("start"), node.args.get("length")]
    return call("substr", *[a for a in arguments if a is not None])


def rewrite_position(node: exp.StrPosition) -> exp.Expr:
    return call("instr", node.this, node.args["substr"])


def rewrite_trim(node: exp.Trim) -> exp.Expr:
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(
        str(node.args.get("position") or "").upper(), "trim"
    )
    characters = node.args.get("expression")
    return call(name, node.this, *([characters] if characters is not None else []))
