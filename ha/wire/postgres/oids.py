"""The PostgreSQL types that this wire speaks, and how SQLite's declared types map to them.

Source: PostgreSQL, ``src/include/catalog/pg_type.dat`` (numbers), documentation "Data Types".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class PgType:
    """``size`` in bytes, -1 for variable; ``category`` as in pg_type.typcategory."""

    oid: int
    name: str
    size: int
    array_oid: int
    category: str
    element: PgType | None = None

    def __repr__(self) -> str:
        return self.name


BOOL = PgType(16, "bool", 1, 1000, "B")
BYTEA = PgType(17, "bytea", -1, 1001, "U")
CHAR = PgType(18, "char", 1, 1002, "Z")
NAME = PgType(19, "name", 64, 1003, "S")
INT8 = PgType(20, "int8", 8, 1016, "N")
INT2 = PgType(21, "int2", 2, 1005, "N")
INT4 = PgType(23, "int4", 4, 1007, "N")
REGPROC = PgType(24, "regproc", 4, 1008, "N")
TEXT = PgType(25, "text", -1, 1009, "S")
OID = PgType(26, "oid", 4, 1028, "N")
XID = PgType(28, "xid", 4, 1011, "U")
JSON = PgType(114, "json", -1, 199, "U")
XML = PgType(142, "xml", -1, 143, "U")
PG_NODE_TREE = PgType(194, "pg_node_tree", -1, 0, "Z")
FLOAT4 = PgType(700, "float4", 4, 1021, "N")
FLOAT8 = PgType(701, "float8", 8, 1022, "N")
UNKNOWN = PgType(705, "unknown", -2, 0, "X")
ACLITEM = PgType(1033, "aclitem", 16, 1034, "U")
BPCHAR = PgType(1042, "bpchar", -1, 1014, "S")
VARCHAR = PgType(1043, "varchar", -1, 1015, "S")
DATE = PgType(1082, "date", 4, 1182, "D")
TIME = PgType(1083, "time", 8, 1183, "D")
TIMESTAMP = PgType(1114, "timestamp", 8, 1115, "D")
TIMESTAMPTZ = PgType(1184, "timestamptz", 8, 1185, "D")
INTERVAL = PgType(1186, "interval", 16, 1187, "T")
TIMETZ = PgType(1266, "timetz", 12, 1270, "D")
NUMERIC = PgType(1700, "numeric", -1, 1231, "N")
REGCLASS = PgType(2205, "regclass", 4, 2210, "N")
REGTYPE = PgType(2206, "regtype", 4, 2211, "N")
RECORD = PgType(2249, "record", -1, 2287, "P")
VOID = PgType(2278, "void", 4, 0, "P")
UUID = PgType(2950, "uuid", 16, 2951, "U")
JSONB = PgType(3802, "jsonb", -1, 3807, "U")
REGNAMESPACE = PgType(4089, "regnamespace", 4, 4090, "N")
INT2VECTOR = PgType(22, "int2vector", -1, 1006, "A", INT2)
OIDVECTOR = PgType(30, "oidvector", -1, 1013, "A", OID)

SCALARS = (
    BOOL, BYTEA, CHAR, NAME, INT8, INT2, INT4, REGPROC, TEXT, OID, XID, JSON, XML, PG_NODE_TREE,
    FLOAT4, FLOAT8, UNKNOWN, ACLITEM, BPCHAR, VARCHAR, DATE, TIME, TIMESTAMP, TIMESTAMPTZ,
    INTERVAL, TIMETZ, NUMERIC, REGCLASS, REGTYPE, RECORD, VOID, UUID, JSONB, REGNAMESPACE,
)  # fmt: skip

ARRAYS = tuple(PgType(t.array_oid, f"_{t.name}", -1, 0, "A", t) for t in SCALARS if t.array_oid)
ALL = (*SCALARS, INT2VECTOR, OIDVECTOR, *ARRAYS)

BY_OID = {t.oid: t for t in ALL}
BY_NAME = {t.name: t for t in ALL}
_ARRAY_OF = {t.element: t for t in ARRAYS if t.element is not None}

INTEGERS = frozenset({INT2, INT4, INT8, OID, XID, REGCLASS, REGTYPE, REGPROC, REGNAMESPACE})
FLOATS = frozenset({FLOAT4, FLOAT8})
NUMBERS = INTEGERS | FLOATS | {NUMERIC}
TEXTS = frozenset({TEXT, VARCHAR, BPCHAR, NAME, UNKNOWN, CHAR, XML, PG_NODE_TREE, ACLITEM})
TIMES = frozenset({DATE, TIME, TIMESTAMP, TIMESTAMPTZ})

_SQL_NAMES = {
    "bool": "boolean", "int2": "smallint", "int4": "integer", "int8": "bigint",
    "float4": "real", "float8": "double precision", "varchar": "character varying",
    "bpchar": "character", "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone", "time": "time without time zone",
    "timetz": "time with time zone", "char": '"char"',
}  # fmt: skip


def array_of(element: PgType) -> PgType:
    return _ARRAY_OF[element]


def sql_name(t: PgType) -> str:
    """The name as ``format_type`` writes it."""
    if t.element is not None and t.category == "A" and t.name.startswith("_"):
        return sql_name(t.element) + "[]"
    return _SQL_NAMES.get(t.name, t.name)


_ALIASES = {
    "boolean": BOOL, "smallint": INT2, "integer": INT4, "int": INT4, "bigint": INT8,
    "real": FLOAT4, "double precision": FLOAT8, "float": FLOAT8, "decimal": NUMERIC,
    "dec": NUMERIC, "character varying": VARCHAR, "character": BPCHAR, "char": BPCHAR,
    "timestamp without time zone": TIMESTAMP, "timestamp with time zone": TIMESTAMPTZ,
    "time without time zone": TIME, "time with time zone": TIMETZ, "string": TEXT,
}  # fmt: skip


def by_sql_name(name: str) -> PgType | None:
    """The type that PostgreSQL means by ``name`` (``bigint``, ``int8``, ``text[]``)."""
    if name.strip() == '"char"':
        return CHAR
    flat = " ".join(re.sub(r"\([^)]*\)", "", name).lower().replace('"', "").split())
    flat = flat.removeprefix("pg_catalog.")
    if flat.endswith("[]"):
        element = by_sql_name(flat[:-2])
        return None if element is None else _ARRAY_OF.get(element)
    return _ALIASES.get(flat) or BY_NAME.get(flat)


@lru_cache(maxsize=4096)
def of_declared(decltype: str | None) -> PgType:
    """The type reported for a column declared as ``decltype`` in CREATE TABLE.

    All integers are int8 and all floats float8, since that is what SQLite stores; what has no
    meaning here is text, which holds everything but BLOBs.
    """
    flat = " ".join(re.sub(r"\([^)]*\)", " ", decltype or "").upper().replace('"', "").split())
    flat = flat.removeprefix("PG_CATALOG.")
    if flat.endswith("[]"):
        return by_sql_name(flat) or TEXT
    exact = _DECLARED.get(flat)
    if exact is not None:
        return exact
    # SQLite's own rules of affinity, in its order: https://sqlite.org/datatype3.html §3.1
    if "INT" in flat and "INTERVAL" not in flat and "POINT" not in flat:
        return INT8
    if "CHAR" in flat or "CLOB" in flat or "TEXT" in flat:
        return TEXT
    if "BLOB" in flat or "BINARY" in flat:
        return BYTEA
    if "REAL" in flat or "FLOA" in flat or "DOUB" in flat:
        return FLOAT8
    if flat.startswith(("TIMESTAMP", "DATETIME")):
        return TIMESTAMPTZ if "WITH TIME ZONE" in flat and "WITHOUT" not in flat else TIMESTAMP
    if flat.startswith(("DECIMAL", "NUMERIC", "NUMBER")):
        return NUMERIC
    return TEXT


_DECLARED = {
    "BOOL": BOOL, "BOOLEAN": BOOL, "BYTEA": BYTEA, "DATE": DATE, "DATETIME": TIMESTAMP,
    "TIMESTAMP": TIMESTAMP, "TIMESTAMP WITHOUT TIME ZONE": TIMESTAMP,
    "TIMESTAMPTZ": TIMESTAMPTZ, "TIMESTAMP WITH TIME ZONE": TIMESTAMPTZ, "TIME": TIME,
    "TIME WITHOUT TIME ZONE": TIME, "JSON": JSON, "JSONB": JSONB, "UUID": UUID,
    "NUMERIC": NUMERIC, "DECIMAL": NUMERIC, "DEC": NUMERIC, "NUM": NUMERIC, "OID": OID,
    "NAME": NAME, "REGCLASS": REGCLASS, "REGTYPE": REGTYPE, "REGPROC": REGPROC,
    "REGNAMESPACE": REGNAMESPACE, "INT2VECTOR": INT2VECTOR, "OIDVECTOR": OIDVECTOR,
    "SERIAL": INT8, "BIGSERIAL": INT8, "SMALLSERIAL": INT8,
}  # fmt: skip
