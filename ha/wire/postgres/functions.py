"""What functions answer, as reported to clients.

The result of a function is one type here (or follows its arguments), since a row description
is fixed before the statement runs. Functions that are not named answer text, which holds every
value but a BLOB. Sources: https://sqlite.org/lang_corefunc.html, lang_aggfunc, lang_datefunc,
lang_mathfunc, json1, windowfunctions; PostgreSQL documentation, "Functions and Operators".
"""

from __future__ import annotations

from ha.wire.postgres import oids as t
from ha.wire.postgres.oids import PgType

FIRST_ARGUMENT = frozenset(
    {"abs", "first_value", "last_value", "lag", "lead", "nth_value", "any_value", "likely",
     "unlikely", "likelihood", "mode"}
)  # fmt: skip
"""The result is of the type of the first argument."""

UNIFIED = frozenset({"coalesce", "ifnull", "max", "min", "greatest", "least"})
"""The result is of the common type of all arguments."""

_INT8 = """
count length char_length character_length octet_length bit_length instr strpos unicode ascii
changes total_changes last_insert_rowid random row_number rank dense_rank ntile
json_array_length unixepoch regexp_count sqlite_offset cardinality array_length array_upper
pg_total_relation_size pg_relation_size pg_table_size pg_indexes_size pg_database_size
pg_stat_get_numscans txid_current position sign
"""
_INT4 = "pg_backend_pid inet_server_port inet_client_port array_ndims"
_FLOAT8 = """
avg total round ceil ceiling floor trunc sqrt power pow exp ln log log10 log2 sin cos tan asin acos
atan atan2 sinh cosh tanh asinh acosh atanh degrees radians pi mod julianday percent_rank cume_dist
median percentile percentile_cont extract date_part
"""
_TEXT = """
lower upper trim ltrim rtrim btrim substr substring replace printf format hex quote typeof char chr
strftime group_concat string_agg soundex json_type json_extract concat concat_ws initcap left right
lpad rpad reverse repeat translate md5 version current_database current_catalog current_schema
current_user session_user user current_setting set_config format_type pg_get_userbyid
pg_get_indexdef pg_get_constraintdef pg_get_expr pg_get_viewdef pg_get_triggerdef obj_description
col_description shobj_description pg_encoding_to_char pg_get_serial_sequence quote_ident
quote_literal quote_nullable to_char to_hex array_to_string pg_tablespace_location
pg_size_pretty pg_get_function_result pg_get_function_arguments split_part regexp_replace
sqlite_version sqlite_source_id timediff timeofday pg_get_partkeydef pg_get_ruledef
pg_get_functiondef ha_regclass_name ha_regtype_name
"""
_BOOL = """
like glob regexp exists json_valid pg_table_is_visible pg_type_is_visible pg_function_is_visible
pg_is_in_recovery has_table_privilege has_schema_privilege has_database_privilege
has_column_privilege has_any_column_privilege has_sequence_privilege has_function_privilege
pg_is_other_temp_schema pg_try_advisory_lock pg_advisory_unlock pg_cancel_backend
pg_terminate_backend bool_and bool_or every starts_with ha_regexp ha_regexpi row_security_active
pg_has_role pg_relation_is_publishable pg_opclass_is_visible pg_operator_is_visible
pg_collation_is_visible pg_ts_config_is_visible ha_any
"""
_JSON = """
json json_object json_array json_set json_insert json_replace json_remove json_patch json_quote
json_group_array json_group_object json_pretty to_json json_agg json_build_object json_build_array
json_object_agg row_to_json
"""
_JSONB = "to_jsonb jsonb_agg jsonb_build_object jsonb_build_array jsonb_object_agg"
_BYTEA = """
randomblob zeroblob unhex decode jsonb jsonb_array jsonb_object jsonb_set jsonb_insert
jsonb_replace jsonb_remove jsonb_patch jsonb_group_array jsonb_group_object
"""
_OID = "ha_regclass ha_regtype ha_regnamespace ha_regproc to_regclass to_regtype pg_my_temp_schema"


def _table(kind: PgType, names: str) -> dict[str, PgType]:
    return dict.fromkeys(names.split(), kind)


RESULTS: dict[str, PgType] = {
    **_table(t.INT8, _INT8),
    **_table(t.INT4, _INT4),
    **_table(t.FLOAT8, _FLOAT8),
    **_table(t.TEXT, _TEXT),
    **_table(t.BOOL, _BOOL),
    **_table(t.JSON, _JSON),
    **_table(t.JSONB, _JSONB),
    **_table(t.BYTEA, _BYTEA),
    **_table(t.OID, _OID),
    "date": t.DATE,
    "time": t.TIME,
    "datetime": t.TIMESTAMP,
    "now": t.TIMESTAMPTZ,
    "transaction_timestamp": t.TIMESTAMPTZ,
    "statement_timestamp": t.TIMESTAMPTZ,
    "clock_timestamp": t.TIMESTAMPTZ,
    "pg_postmaster_start_time": t.TIMESTAMPTZ,
    "pg_conf_load_time": t.TIMESTAMPTZ,
    "date_trunc": t.TIMESTAMP,
    "to_timestamp": t.TIMESTAMPTZ,
    "gen_random_uuid": t.UUID,
    "uuid_generate_v4": t.UUID,
    "pg_advisory_unlock_all": t.VOID,
    "pg_advisory_lock": t.VOID,
    "current_schemas": t.array_of(t.NAME),
    "string_to_array": t.array_of(t.TEXT),
    "array_agg": t.array_of(t.TEXT),
    "ha_array": t.array_of(t.TEXT),
}

ARGUMENTS: dict[str, tuple[PgType, ...]] = {
    "length": (t.TEXT,),
    "lower": (t.TEXT,),
    "upper": (t.TEXT,),
    "substr": (t.TEXT, t.INT8, t.INT8),
    "substring": (t.TEXT, t.INT8, t.INT8),
    "generate_series": (t.INT8, t.INT8, t.INT8),
    "round": (t.FLOAT8, t.INT8),
    "ntile": (t.INT8,),
    "zeroblob": (t.INT8,),
    "randomblob": (t.INT8,),
    "hex": (t.BYTEA,),
    "char": (t.INT8,) * 8,
    "has_table_privilege": (t.TEXT, t.TEXT, t.TEXT),
    "pg_cancel_backend": (t.INT4,),
    "pg_terminate_backend": (t.INT4,),
    "format_type": (t.OID, t.INT4),
    "sqrt": (t.FLOAT8,),
    "power": (t.FLOAT8, t.FLOAT8),
    "pow": (t.FLOAT8, t.FLOAT8),
    "exp": (t.FLOAT8,),
    "ln": (t.FLOAT8,),
    "repeat": (t.TEXT, t.INT8),
    "left": (t.TEXT, t.INT8),
    "right": (t.TEXT, t.INT8),
}
"""Types of arguments, for parameters that stand there; text where nothing is said."""

TABLE_FUNCTIONS: dict[str, tuple[tuple[str, PgType | None], ...]] = {
    "json_each": (
        ("key", t.TEXT), ("value", t.TEXT), ("type", t.TEXT), ("atom", t.TEXT), ("id", t.INT8),
        ("parent", t.INT8), ("fullkey", t.TEXT), ("path", t.TEXT),
    ),
    "generate_series": (("value", t.INT8),),
    "generate_subscripts": (("value", t.INT8),),
    "unnest": (("unnest", None),),
}  # fmt: skip
TABLE_FUNCTIONS["json_tree"] = TABLE_FUNCTIONS["json_each"]

OURS = frozenset(
    name
    for name, kind in RESULTS.items()
    if name.startswith(("pg_", "ha_", "has_", "current_", "to_reg", "inet_", "obj_", "col_"))
) | {
    "version", "now", "gen_random_uuid", "format_type", "array_agg", "session_user",
    "set_config", "quote_ident", "quote_literal", "string_to_array", "array_to_string",
}  # fmt: skip
"""Registered by :mod:`ha.wire.postgres.catalog`, unknown to SQLite: never part of a schema."""
