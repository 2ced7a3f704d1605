"""What a cast is called, and the type of its result."""

from __future__ import annotations

from sqlglot import exp

from ha.wire.postgres import oids as t
from ha.wire.postgres.oids import PgType


def cast_name(node: exp.Cast) -> str:
    """The name of the type as the client wrote it, as far as sqlglot tells."""
    to = node.args["to"]
    if isinstance(to, exp.DataType) and to.this == exp.DataType.Type.USERDEFINED:
        kind = to.args.get("kind")
        text = kind if isinstance(kind, str) else kind.sql() if kind is not None else ""
    else:
        text = to.sql(dialect="postgres")
    return text.replace('"', "").lower().removeprefix("pg_catalog.")


def cast_affinity(name: str) -> PgType:
    """What SQLite's own CAST answers: https://sqlite.org/lang_expr.html#castexpr."""
    upper = name.upper()
    if "INT" in upper:
        return t.INT8
    if "CHAR" in upper or "CLOB" in upper or "TEXT" in upper:
        return t.TEXT
    if "BLOB" in upper or "BYTEA" in upper:  # sqlglot says bytea for BLOB
        return t.BYTEA
    if "REAL" in upper or "FLOA" in upper or "DOUB" in upper:
        return t.FLOAT8
    return t.NUMERIC


def result_of_cast(kind: PgType) -> PgType:
    """The type reported for a value cast to ``kind``: integers are int8, floats float8."""
    if kind in (t.INT2, t.INT4):
        return t.INT8
    if kind is t.FLOAT4:
        return t.FLOAT8
    if kind in (t.VARCHAR, t.BPCHAR, t.REGCLASS, t.REGTYPE, t.REGPROC, t.REGNAMESPACE):
        return t.TEXT  # a name is shown for a reg… type
    return kind
