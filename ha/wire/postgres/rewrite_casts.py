"""Casts of PostgreSQL as SQLite's own, or as what they mean for the stored forms."""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from ha.wire.postgres import datetimes
from ha.wire.postgres import oids as t
from ha.wire.postgres.casts import cast_name
from ha.wire.postgres.dialect import parameter
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.rewrite_operators import rewrite_interval
from ha.wire.postgres.trees import call, literal_text, text

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


def rewrite_cast(node: exp.Cast) -> exp.Expr:
    name = cast_name(node)
    inner: exp.Expr = node.this
    kind = t.by_sql_name(name)
    literal = literal_text(inner)
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
        return rewrite_interval(node)
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
