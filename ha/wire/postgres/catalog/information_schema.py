"""The views of information_schema. Source: PostgreSQL documentation, "The Information Schema".

Their names here have the prefix ``ha_``, which a translated statement gives them: a plain
``tables`` must not be found where the user has none.
"""

from __future__ import annotations

from collections.abc import Iterable

from ha.core.values import Value
from ha.wire.postgres import oids as t
from ha.wire.postgres.catalog import definitions as d
from ha.wire.postgres.catalog.pg_catalog import spec
from ha.wire.postgres.catalog.snapshot import Column, Constraint, Relation
from ha.wire.postgres.catalog.state import Catalogue
from ha.wire.postgres.catalog.vtab import TableSpec

PREFIX = "ha_"


def _yes(value: object) -> str:
    return "YES" if value else "NO"


def _place(state: Catalogue, r: Relation, kind: str = "table") -> dict[str, Value]:
    return {
        f"{kind}_catalog": state.identity.database(),
        f"{kind}_schema": state.namespace_name(r.namespace),
        f"{kind}_name": r.name,
    }


def _tables(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        yield _place(state, r) | {
            "table_type": "BASE TABLE" if r.kind == "r" else "VIEW",
            "is_insertable_into": _yes(r.kind == "r"),
            "is_typed": "NO",
        }
    for name, _ in state.system_tables():
        schema, _, table = name.partition(".")
        yield {
            "table_catalog": state.identity.database(),
            "table_schema": schema,
            "table_name": table,
            "table_type": "BASE TABLE" if schema == "pg_catalog" else "VIEW",
            "is_insertable_into": "NO",
            "is_typed": "NO",
        }


def _columns(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for c in r.columns:
            yield (
                _place(state, r)
                | _column(state, c)
                | {
                    "generation_expression": d.generation(r, c) if c.generated else None,
                    "is_updatable": _yes(r.kind == "r" and not c.generated),
                }
            )


def _column(state: Catalogue, c: Column) -> dict[str, Value]:
    length = c.modifier - 4 if c.type in (t.VARCHAR, t.BPCHAR) and c.modifier > 4 else None
    precision: int | None = None
    scale: int | None = None
    if c.type is t.NUMERIC and c.modifier > 0:
        precision, scale = (c.modifier - 4) >> 16, (c.modifier - 4) & 0xFFFF
    elif c.type in t.INTEGERS:
        precision, scale = c.type.size * 8, 0
    elif c.type in t.FLOATS:
        precision = 53 if c.type is t.FLOAT8 else 24
    return {
        "column_name": c.name,
        "ordinal_position": c.number,
        "column_default": c.default,
        "is_nullable": _yes(not c.not_null),
        "data_type": t.sql_name(c.type),
        "character_maximum_length": length,
        "character_octet_length": 1073741824 if c.type in t.TEXTS else None,
        "numeric_precision": precision,
        "numeric_precision_radix": None if precision is None else 10 if c.type is t.NUMERIC else 2,
        "numeric_scale": scale,
        "datetime_precision": 6 if c.type in t.TIMES and c.type is not t.DATE else None,
        "udt_catalog": state.identity.database(),
        "udt_schema": "pg_catalog",
        "udt_name": c.type.name,
        "dtd_identifier": str(c.number),
        "is_self_referencing": "NO",
        "is_identity": _yes(c.identity),
        "identity_generation": "BY DEFAULT" if c.identity else None,
        "identity_cycle": "NO",
        "is_generated": "ALWAYS" if c.generated else "NEVER",
    }


def _views(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        if r.kind == "v":
            yield _place(state, r) | {
                "view_definition": d.view_definition(r),
                "check_option": "NONE",
                "is_updatable": "NO",
                "is_insertable_into": "NO",
            }


def _schemata(state: Catalogue) -> Iterable[dict[str, Value]]:
    for _, name in state.namespaces():
        yield {
            "catalog_name": state.identity.database(),
            "schema_name": name,
            "schema_owner": state.identity.user,
        }


_KINDS = {"p": "PRIMARY KEY", "u": "UNIQUE", "f": "FOREIGN KEY", "c": "CHECK"}


def _named(state: Catalogue, r: Relation, name: str, prefix: str = "") -> dict[str, Value]:
    return {
        f"{prefix}constraint_catalog": state.identity.database(),
        f"{prefix}constraint_schema": state.namespace_name(r.namespace),
        f"{prefix}constraint_name": name,
    }


def _all(state: Catalogue) -> Iterable[tuple[Relation, Constraint]]:
    for r in state.snapshot.relations:
        for c in r.constraints:
            yield r, c


def _table_constraints(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r, c in _all(state):
        yield (
            _named(state, r, c.name)
            | _place(state, r)
            | {
                "constraint_type": _KINDS[c.kind],
                "is_deferrable": _yes(c.deferred),
                "initially_deferred": _yes(c.deferred),
                "enforced": "YES",
            }
        )


def _key_columns(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r, c in _all(state):
        if c.kind == "c":
            continue
        for position, number in enumerate(c.columns, 1):
            column = next((x for x in r.columns if x.number == number), None)
            yield (
                _named(state, r, c.name)
                | _place(state, r)
                | {
                    "column_name": column.name if column else None,
                    "ordinal_position": position,
                    "position_in_unique_constraint": position if c.kind == "f" else None,
                }
            )


def _column_usage(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r, c in _all(state):
        owner, numbers = r, c.columns
        if c.kind == "f":
            target = state.snapshot.by_name.get(c.target.lower())
            if target is None:
                continue
            owner, numbers = target, d.target_columns(target, c)
        for number in numbers:
            column = next((x for x in owner.columns if x.number == number), None)
            if column is not None:
                yield _place(state, owner) | {"column_name": column.name} | _named(state, r, c.name)


_RULES = {"a": "NO ACTION", "r": "RESTRICT", "c": "CASCADE", "n": "SET NULL", "d": "SET DEFAULT"}


def _references(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r, c in _all(state):
        if c.kind != "f":
            continue
        target = state.snapshot.by_name.get(c.target.lower())
        key = None
        if target is not None:
            numbers = d.target_columns(target, c)
            key = next(
                (x.name for x in target.constraints if x.kind in "pu" and x.columns == numbers),
                None,
            )
        yield (
            _named(state, r, c.name)
            | _named(state, r, key or "", "unique_")
            | {
                "match_option": "NONE",
                "update_rule": _RULES[c.on_update],
                "delete_rule": _RULES[c.on_delete],
            }
        )


def _checks(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r, c in _all(state):
        if c.kind == "c":
            yield _named(state, r, c.name) | {"check_clause": f"({c.text})"}


def _triggers(state: Catalogue) -> Iterable[dict[str, Value]]:
    for r in state.snapshot.relations:
        for trigger in r.triggers:
            bits = d.trigger_type(trigger.sql)
            event = "INSERT" if bits & 4 else "DELETE" if bits & 8 else "UPDATE"
            timing = "BEFORE" if bits & 2 else "INSTEAD OF" if bits & 64 else "AFTER"
            yield {
                "trigger_catalog": state.identity.database(),
                "trigger_schema": state.namespace_name(r.namespace),
                "trigger_name": trigger.name,
                "event_manipulation": event,
                "event_object_catalog": state.identity.database(),
                "event_object_schema": state.namespace_name(r.namespace),
                "event_object_table": r.name,
                "action_statement": trigger.sql,
                "action_orientation": "ROW",
                "action_timing": timing,
            }


def _catalog_name(state: Catalogue) -> Iterable[dict[str, Value]]:
    yield {"catalog_name": state.identity.database()}


_TABLE = "table_catalog name, table_schema name, table_name name"
_CONSTRAINT = "constraint_catalog name, constraint_schema name, constraint_name name"

VIEWS: tuple[TableSpec, ...] = (
    spec(
        "ha_tables",
        f"{_TABLE}, table_type text, self_referencing_column_name name,"
        " reference_generation text, user_defined_type_catalog name,"
        " user_defined_type_schema name, user_defined_type_name name, is_insertable_into text,"
        " is_typed text, commit_action text",
        _tables,
    ),
    spec(
        "ha_columns",
        f"{_TABLE}, column_name name, ordinal_position int4, column_default text,"
        " is_nullable text, data_type text, character_maximum_length int4,"
        " character_octet_length int4, numeric_precision int4, numeric_precision_radix int4,"
        " numeric_scale int4, datetime_precision int4, interval_type text,"
        " interval_precision int8, character_set_catalog text, character_set_schema text,"
        " character_set_name text, collation_catalog text, collation_schema text,"
        " collation_name text, domain_catalog text, domain_schema text, domain_name text,"
        " udt_catalog name, udt_schema name, udt_name name, scope_catalog text,"
        " scope_schema text, scope_name text, maximum_cardinality int8, dtd_identifier text,"
        " is_self_referencing text, is_identity text, identity_generation text,"
        " identity_start text, identity_increment text, identity_maximum text,"
        " identity_minimum text, identity_cycle text, is_generated text,"
        " generation_expression text, is_updatable text",
        _columns,
    ),
    spec(
        "ha_views",
        f"{_TABLE}, view_definition text, check_option text, is_updatable text,"
        " is_insertable_into text, is_trigger_updatable text, is_trigger_deletable text,"
        " is_trigger_insertable_into text",
        _views,
    ),
    spec(
        "ha_schemata",
        "catalog_name name, schema_name name, schema_owner name,"
        " default_character_set_catalog text, default_character_set_schema text,"
        " default_character_set_name text, sql_path text",
        _schemata,
    ),
    spec(
        "ha_table_constraints",
        f"{_CONSTRAINT}, {_TABLE}, constraint_type text, is_deferrable text,"
        " initially_deferred text, enforced text, nulls_distinct text",
        _table_constraints,
    ),
    spec(
        "ha_key_column_usage",
        f"{_CONSTRAINT}, {_TABLE}, column_name name, ordinal_position int4,"
        " position_in_unique_constraint int4",
        _key_columns,
    ),
    spec("ha_constraint_column_usage", f"{_TABLE}, column_name name, {_CONSTRAINT}", _column_usage),
    spec(
        "ha_referential_constraints",
        f"{_CONSTRAINT}, unique_constraint_catalog name, unique_constraint_schema name,"
        " unique_constraint_name name, match_option text, update_rule text, delete_rule text",
        _references,
    ),
    spec("ha_check_constraints", f"{_CONSTRAINT}, check_clause text", _checks),
    spec(
        "ha_triggers",
        "trigger_catalog name, trigger_schema name, trigger_name name, event_manipulation text,"
        " event_object_catalog name, event_object_schema name, event_object_table name,"
        " action_order int4, action_condition text, action_statement text,"
        " action_orientation text, action_timing text",
        _triggers,
    ),
    spec("ha_information_schema_catalog_name", "catalog_name name", _catalog_name),
    spec(
        "ha_sequences",
        "sequence_catalog name, sequence_schema name, sequence_name name, data_type text,"
        " start_value text, minimum_value text, maximum_value text, increment text,"
        " cycle_option text",
    ),
    spec(
        "ha_routines",
        "specific_catalog name, specific_schema name, specific_name name, routine_catalog name,"
        " routine_schema name, routine_name name, routine_type text, data_type text,"
        " routine_definition text, external_language text",
    ),
    spec(
        "ha_parameters",
        "specific_catalog name, specific_schema name, specific_name name, ordinal_position int4,"
        " parameter_mode text, parameter_name name, data_type text",
    ),
    spec("ha_enabled_roles", "role_name name"),
    spec(
        "ha_table_privileges",
        f"grantor name, grantee name, {_TABLE}, privilege_type text, is_grantable text,"
        " with_hierarchy text",
    ),
    spec(
        "ha_column_privileges",
        f"grantor name, grantee name, {_TABLE}, column_name name, privilege_type text,"
        " is_grantable text",
    ),
    spec(
        "ha_domains",
        "domain_catalog name, domain_schema name, domain_name name, data_type text",
    ),
    spec(
        "ha_element_types",
        "object_catalog name, object_schema name, object_name name, object_type text,"
        " collection_type_identifier text, data_type text",
    ),
)
