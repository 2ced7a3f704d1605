"""The functions of PostgreSQL that drivers and tools call, registered on one connection.

All are for queries of a session alone (SQLITE_DIRECTONLY): a schema that used one could not be
opened by plain SQLite. Source: PostgreSQL documentation, "System Information Functions".
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import apsw

from ha.core.errors import Code, HaError
from ha.core.values import Value
from ha.wire.postgres import datetimes
from ha.wire.postgres import oids as t
from ha.wire.postgres.arrays import parse_array, write_array
from ha.wire.postgres.catalog import definitions as d
from ha.wire.postgres.catalog import snapshot as s
from ha.wire.postgres.catalog.state import DATABASE_BASE, Catalogue
from ha.wire.postgres.encode import float_text, uuid_text
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.settings import SERVER_VERSION, canonical

VERSION = f"PostgreSQL {SERVER_VERSION} (ha, SQLite {apsw.sqlite_lib_version()}) on Python, 64-bit"


def register(connection: apsw.Connection, state: Catalogue, clock: Callable[[], float]) -> None:
    """``clock`` tells Unix time in seconds."""
    flags = apsw.SQLITE_DIRECTONLY

    def scalar(name: str, function: Callable[..., Value], *, pure: bool = False) -> None:
        connection.create_scalar_function(
            name, _guarded(name, function), -1, deterministic=pure, flags=flags
        )

    for name, function in _identity(state, clock).items():
        scalar(name, function)
    for name, function in _schema(state).items():
        scalar(name, function)
    for name, function in _PURE.items():
        scalar(name, function, pure=True)
    connection.create_aggregate_function("ha_array_of", _array_of, -1, flags=flags)


def _guarded(name: str, function: Callable[..., Value]) -> Callable[..., Value]:
    """A wrong call is the client's error, not a bug of ours."""

    def call(*arguments: Any) -> Value:
        try:
            return function(*arguments)
        except HaError:
            raise
        except PgError as error:
            raise HaError(Code.SQL_ERROR, error.message, hint=error.hint) from error
        except TypeError as error:
            raise HaError(
                Code.UNKNOWN_FUNCTION, f"{name} does not take {len(arguments)} such arguments"
            ) from error
        except (ValueError, OverflowError, IndexError) as error:
            raise HaError(Code.TYPE_MISMATCH, f"{name}: invalid argument: {error}") from error

    return call


# --- whose session it is ----------------------------------------------------------------


def _identity(state: Catalogue, clock: Callable[[], float]) -> dict[str, Callable[..., Value]]:
    identity = state.identity
    settings = identity.settings
    started = clock()

    def stamp(seconds: float) -> str:
        moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
        return datetimes.write_timestamp(moment)

    def setting(name: str, missing_ok: Value = 0) -> Value:
        value = settings.values.get(canonical(name))
        if value is None and not missing_ok:
            raise HaError(Code.SQL_ERROR, f'unrecognized configuration parameter "{name}"')
        return value

    def set_config(name: str, value: Value, local: Value = 0) -> Value:
        settings.set(name, "" if value is None else str(value), local=bool(local))
        return settings.values[canonical(name)]

    def databases(*_: Value) -> Value:
        return identity.database()

    def user(*_: Value) -> Value:
        return identity.user

    return {
        "version": lambda: VERSION,
        "current_database": databases,
        "current_catalog": databases,
        "current_schema": lambda: "public",
        "current_schemas": lambda implicit=0: "{pg_catalog,public}" if implicit else "{public}",
        "current_user": user,
        "session_user": user,
        "current_role": user,
        "pg_get_userbyid": user,
        "current_setting": setting,
        "set_config": set_config,
        "pg_backend_pid": lambda: identity.process_id,
        "now": lambda: stamp(clock()),
        "pg_postmaster_start_time": lambda: stamp(started),
        "pg_conf_load_time": lambda: stamp(started),
        "timeofday": lambda: stamp(clock()),
        "pg_my_temp_schema": lambda: 0,
        "txid_current": lambda: 0,
        "inet_server_addr": lambda: None,
        "inet_server_port": lambda: None,
        "inet_client_addr": lambda: None,
        "inet_client_port": lambda: None,
    }


# --- what stands in the schema -------------------------------------------------------------


def _schema(state: Catalogue) -> dict[str, Callable[..., Value]]:
    return {
        "ha_regclass": lambda name: regclass(state, name),
        "to_regclass": lambda name: None if name is None else state.relation_oid(_bare(name)),
        "ha_regclass_name": lambda oid: regclass_name(state, oid),
        "ha_regnamespace": lambda name: _namespace(state, name),
        "ha_regnamespace_name": lambda oid: state.namespace_name(oid),
        "pg_table_is_visible": lambda oid: (
            None if oid is None else int(state.visible(int(str(oid))))
        ),
        "pg_get_indexdef": lambda *a: index_definition(state, *a),
        "pg_get_constraintdef": lambda oid, pretty=0: constraint_definition(state, oid),
        "pg_get_viewdef": lambda view, *_: view_definition(state, view),
        "pg_get_triggerdef": lambda oid, pretty=0: trigger_definition(state, oid),
        "pg_relation_size": lambda *_: 0,
        "pg_total_relation_size": lambda *_: 0,
        "pg_table_size": lambda *_: 0,
        "pg_indexes_size": lambda *_: 0,
        "pg_database_size": lambda which: state.file_size(which),
    }


def _bare(name: str) -> str:
    """The name inside quotes and without a database: ``"My t"``, ``public.t``."""
    parts = [p[0] or p[1] for p in re.findall(r'"((?:[^"]|"")*)"|([^".]+)', str(name))]
    return ".".join(p.replace('""', '"') for p in parts[-2:])


def regclass(state: Catalogue, name: Value) -> Value:
    """An oid stays one; a name that is unknown is an error, as in PostgreSQL."""
    if name is None or isinstance(name, int):
        return name
    text = str(name)
    if text.isdigit():
        return int(text)
    oid = state.relation_oid(_bare(text))
    if oid is None:
        raise HaError(Code.UNKNOWN_TABLE, f'relation "{text}" does not exist')
    return oid


def regclass_name(state: Catalogue, oid: Value) -> Value:
    if oid is None:
        return None
    if isinstance(oid, str) and not oid.isdigit():
        regclass(state, oid)
        return oid
    number = int(str(oid))
    if number == 0:
        return "-"
    name = state.relation_name(number)
    return str(number) if name is None else ".".join(d.quoted(p) for p in name.split("."))


def _namespace(state: Catalogue, name: Value) -> Value:
    if name is None or not isinstance(name, str):
        return name
    oid = state.namespace_oid(str(name).strip('"'))
    if oid is None:
        raise HaError(Code.SQL_ERROR, f'schema "{name}" does not exist')
    return oid


def index_definition(state: Catalogue, oid: Value, column: Value = 0, pretty: Value = 0) -> Value:
    found = state.snapshot.index_by_oid.get(int(str(oid))) if oid is not None else None
    if found is None:
        return None
    relation, index = found
    number = int(str(column or 0))
    if number:
        if number > len(index.columns):
            return ""
        return d.index_column(relation, index, number - 1, plain=True)
    return d.index_definition(relation, index)


def constraint_definition(state: Catalogue, oid: Value) -> Value:
    found = state.snapshot.constraint_by_oid.get(int(str(oid))) if oid is not None else None
    if found is None:
        return None
    relation, constraint = found
    target = state.snapshot.by_name.get(constraint.target.lower())
    return d.constraint_definition(relation, constraint, target)


def view_definition(state: Catalogue, view: Value) -> Value:
    oid = regclass(state, view)
    relation = state.snapshot.by_oid.get(int(str(oid))) if oid is not None else None
    if relation is None or relation.kind != "v":
        return None
    return " " + d.view_definition(relation)


def trigger_definition(state: Catalogue, oid: Value) -> Value:
    found = state.snapshot.trigger_by_oid.get(int(str(oid))) if oid is not None else None
    return found[1].sql if found else None


# --- functions of their arguments alone ------------------------------------------------------


def format_type(oid: Value, modifier: Value = None) -> Value:
    if oid is None:
        return None
    kind = t.BY_OID.get(int(str(oid)))
    if kind is None:
        return "???"
    if kind.element is not None and kind.name.startswith("_"):
        return str(format_type(kind.element.oid, modifier)) + "[]"
    name = t.sql_name(kind)
    number = -1 if modifier is None else int(str(modifier))
    if number < 0:
        return name
    if kind in (t.VARCHAR, t.BPCHAR) and number > 4:
        return f"{name}({number - 4})"
    if kind is t.NUMERIC and number > 4:
        return f"{name}({(number - 4) >> 16},{(number - 4) & 0xFFFF})"
    if kind in (t.TIME, t.TIMESTAMP, t.TIMESTAMPTZ):
        first, _, rest = name.partition(" ")
        return f"{first}({number}) {rest}"
    return name


@lru_cache(maxsize=256)
def _pattern(pattern: str, ignore_case: bool) -> re.Pattern[str]:
    """POSIX classes and ``***`` prefixes are what tools send beyond Python's syntax."""
    text = pattern.removeprefix("***:")
    for name, body in _CLASSES.items():
        text = text.replace(f"[:{name}:]", body)
    text = text.replace("\\m", "\\b").replace("\\M", "\\b").replace("\\y", "\\b")
    try:
        return re.compile(text, re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise HaError(Code.SQL_ERROR, f"invalid regular expression: {error}") from error


_CLASSES = {"alpha": "a-zA-Z", "digit": "0-9", "alnum": "a-zA-Z0-9", "space": "\\s",
            "upper": "A-Z", "lower": "a-z", "punct": "!-/:-@\\[-`{-~", "word": "\\w",
            "xdigit": "0-9a-fA-F"}  # fmt: skip


def _regexp(pattern: Value, value: Value, ignore_case: bool = False) -> Value:
    if pattern is None or value is None:
        return None
    return int(_pattern(str(pattern), ignore_case).search(str(value)) is not None)


def _elements(array: Value) -> list[str | None]:
    """Of an array literal, a JSON array's text, or an int2vector."""
    text = str(array).strip()
    if text[:1] == "{":
        return parse_array(text)
    if text[:1] == "[":
        return [None if e == "null" else e.strip('"') for e in text[1:-1].split(",") if e]
    return list(text.split())


def _element_at(array: Value, index: Value) -> Value:
    """Arrays count from 1, int2vector and oidvector from 0."""
    if array is None or index is None:
        return None
    elements = _elements(array)
    position = int(str(index)) - (1 if str(array).lstrip()[:1] in ("{", "[") else 0)
    if not 0 <= position < len(elements):
        return None
    element = elements[position]
    return int(element) if element is not None and element.isdigit() else element


def _field(pair: Value, name: Value) -> Value:
    """A field of what _pg_expandarray answers: x the element, n its position."""
    if pair is None:
        return None
    parts = str(pair).strip("()").split(",")
    part = parts[0 if name == "x" else 1]
    return int(part) if part.isdigit() else part


def _any(value: Value, array: Value) -> Value:
    if value is None or array is None:
        return None
    return int(_element_text(value) in _elements(array))


def _element_text(value: Value) -> str | None:
    if value is None:
        return None
    if isinstance(value, float):
        return float_text(value)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)


def _array(*values: Value) -> Value:
    return write_array([_element_text(v) for v in values])


def _array_of() -> tuple[list[Value], Callable[..., None], Callable[[list[Value]], Value]]:
    def step(found: list[Value], value: Value, *_: Value) -> None:
        found.append(value)

    def final(found: list[Value]) -> Value:
        return write_array([_element_text(v) for v in found]) if found else None

    return [], step, final


def _bool(value: Value) -> Value:
    if value is None or isinstance(value, int):
        return None if value is None else int(value != 0)
    word = str(value).strip().lower()
    if word in ("t", "true", "y", "yes", "on", "1"):
        return 1
    if word in ("f", "false", "n", "no", "off", "0"):
        return 0
    raise HaError(Code.TYPE_MISMATCH, f'invalid input syntax for type boolean: "{value!r}"')


def _timestamp(value: Value) -> Value:
    if value is None:
        return None
    if str(value).lower() == "now":
        return datetimes.write_timestamp(datetime.now(UTC).replace(tzinfo=None))
    return datetimes.write_timestamp(datetimes.read_timestamp(str(value)))


def _timestamptz(value: Value) -> Value:
    if value is None:
        return None
    if str(value).lower() == "now":
        return _timestamp("now")
    return datetimes.write_timestamp(datetimes.read_timestamptz(str(value)))


_UNIX = datetime(1970, 1, 1)


def _extract(part: str, value: Value) -> Value:
    if value is None:
        return None
    moment = datetimes.read_timestamp(str(value))
    iso = moment.isocalendar()
    parts: dict[str, float] = {
        "year": moment.year, "month": moment.month, "day": moment.day, "hour": moment.hour,
        "minute": moment.minute, "second": moment.second + moment.microsecond / 1e6,
        "quarter": (moment.month + 2) // 3, "dow": moment.isoweekday() % 7,
        "isodow": moment.isoweekday(), "doy": moment.timetuple().tm_yday, "week": iso.week,
        "isoyear": iso.year, "epoch": (moment - _UNIX).total_seconds(),
        "milliseconds": moment.second * 1e3 + moment.microsecond / 1e3,
        "microseconds": moment.second * 1e6 + moment.microsecond,
        "century": (moment.year + 99) // 100, "decade": moment.year // 10,
    }  # fmt: skip
    found = parts.get(part.lower())
    if found is None:
        raise HaError(Code.UNSUPPORTED, f"extract({part} from …) is not supported")
    return float(found)


_TRUNCATED = ("year", "month", "day", "hour", "minute", "second")


def _date_trunc(unit: str, value: Value, *_: Value) -> Value:
    if value is None:
        return None
    moment = datetimes.read_timestamp(str(value)).replace(microsecond=0)
    word = unit.lower()
    if word == "week":
        day = moment.date().toordinal() - moment.weekday()
        return datetimes.write_timestamp(datetime.fromordinal(day))
    if word == "quarter":
        moment = moment.replace(month=(moment.month - 1) // 3 * 3 + 1)
        word = "month"
    if word not in _TRUNCATED:
        raise HaError(Code.UNSUPPORTED, f"date_trunc('{unit}', …) is not supported")
    first = {"month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0}
    keep = _TRUNCATED.index(word)
    changes = {u: first[u] for u in _TRUNCATED[keep + 1 :]}
    return datetimes.write_timestamp(moment.replace(**changes))  # type: ignore[arg-type]


def _to_timestamp(seconds: Value, *rest: Value) -> Value:
    if rest or isinstance(seconds, str):
        raise HaError(Code.UNSUPPORTED, "to_timestamp with a format is not supported")
    if seconds is None:
        return None
    moment = datetime.fromtimestamp(float(str(seconds)), UTC)
    return datetimes.write_timestamp(moment.replace(tzinfo=None))


def _uuid() -> Value:
    import secrets

    data = bytearray(secrets.token_bytes(16))
    data[6] = data[6] & 0x0F | 0x40
    data[8] = data[8] & 0x3F | 0x80
    return uuid_text(bytes(data))


def _size_pretty(size: Value) -> Value:
    if size is None:
        return None
    number = float(str(size))
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(number) < 10240 or unit == "TB":
            return f"{round(number)} {unit}"
        number /= 1024
    return None


def _text(function: Callable[..., Value]) -> Callable[..., Value]:
    """NULL in, NULL out; the first argument as text."""

    def call(first: Value, *rest: Value) -> Value:
        if first is None or None in rest:
            return None
        return function(str(first), *rest)

    return call


def _pad(text: str, length: int, fill: str, left: bool) -> str:
    if length <= len(text):
        return text[:length]
    missing = length - len(text)
    padding = (fill * (missing // len(fill) + 1))[:missing] if fill else ""
    return padding + text if left else text + padding


def _split_part(text: str, separator: str, number: int) -> str:
    parts = text.split(separator)
    index = number - 1 if number > 0 else len(parts) + number
    return parts[index] if 0 <= index < len(parts) else ""


def _regtype(name: Value) -> Value:
    if name is None or not isinstance(name, str):
        return name
    kind = t.by_sql_name(str(name))
    if kind is None:
        raise HaError(Code.SQL_ERROR, f'type "{name}" does not exist')
    return kind.oid


def _yes(*_: Value) -> Value:
    return 1


def _null(*_: Value) -> Value:
    return None


def _void(*_: Value) -> Value:
    return ""


def _array_length(array: Value, dimension: Value = 1) -> Value:
    if array is None or dimension != 1:
        return None
    return len(_elements(array)) or None


def _to_json(value: Value) -> Value:
    """A JSON column holds text as any other: what is an object or a list stays one."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            json.loads(value)
        except ValueError:
            pass
        else:
            return value
    return None if value is None else json.dumps(value, ensure_ascii=False)


_PURE: dict[str, Callable[..., Value]] = {
    "format_type": format_type,
    "ha_regexp": _regexp,
    "ha_regexpi": lambda p, v: _regexp(p, v, True),
    "ha_any": _any,
    "ha_element": _element_at,
    "ha_field": _field,
    "ha_array": _array,
    "ha_bool": _bool,
    "ha_timestamp": _timestamp,
    "ha_timestamptz": _timestamptz,
    "ha_extract": _extract,
    "ha_regtype": _regtype,
    "to_regtype": lambda name: k.oid if (k := t.by_sql_name(str(name))) else None,
    "ha_regtype_name": lambda oid: format_type(_regtype(oid)),
    "ha_regproc_name": lambda v: v,
    "date_trunc": _date_trunc,
    "to_timestamp": _to_timestamp,
    "pg_get_expr": lambda text, *_: text,
    "pg_encoding_to_char": lambda _n: "UTF8",
    "getdatabaseencoding": lambda: "UTF8",
    "pg_size_pretty": _size_pretty,
    "pg_typeof": lambda v: {int: "bigint", float: "double precision", str: "text",
                            bytes: "bytea"}.get(type(v), "unknown"),
    "array_to_string": lambda a, sep, null=None: None if a is None else str(sep).join(
        e if e is not None else str(null) for e in _elements(a) if e is not None or null),
    "string_to_array": lambda text, sep: None if text is None else write_array(
        str(text).split(str(sep))),
    "array_length": _array_length,
    "array_upper": _array_length,
    "array_lower": lambda a, _d=1: 1 if a is not None and _elements(a) else None,
    "cardinality": lambda a: None if a is None else len(_elements(a)),
    "array_remove": lambda a, v: (
        None if a is None else write_array([e for e in _elements(a) if e != _element_text(v)])
    ),
    "array_position": lambda a, v: next(
        (i for i, e in enumerate(_elements(a), 1) if e == _element_text(v)), None),
    "quote_ident": _text(d.quoted),
    "quote_literal": _text(lambda v: "'" + v.replace("'", "''") + "'"),
    "left": _text(lambda v, n: v[:n] if n >= 0 else v[:n] if n else ""),
    "right": _text(lambda v, n: v[-n:] if n > 0 else v[-n:] if n else ""),
    "lpad": _text(lambda v, n, fill=" ": _pad(v, n, str(fill), True)),
    "rpad": _text(lambda v, n, fill=" ": _pad(v, n, str(fill), False)),
    "repeat": _text(lambda v, n: v * min(n, 10_000_000 // max(len(v), 1))),
    "reverse": _text(lambda v: v[::-1]),
    "initcap": _text(lambda v: re.sub(r"\w+", lambda m: m[0].capitalize(), v)),
    "split_part": _text(_split_part),
    "md5": lambda v: None if v is None else hashlib.md5(
        v if isinstance(v, bytes) else str(v).encode(), usedforsecurity=False).hexdigest(),
    "to_hex": lambda v: None if v is None else f"{v & (2**64 - 1):x}",
    "starts_with": _text(lambda v, prefix: int(v.startswith(str(prefix)))),
    "chr": lambda v: None if v is None else chr(v),
    "ascii": _text(lambda v: ord(v[0]) if v else 0),
    "pg_tablespace_location": lambda _o: "",
    "pg_is_in_recovery": lambda: 0,
    "pg_is_other_temp_schema": lambda _o: 0,
    "pg_relation_is_publishable": lambda _o: 0,
    "pg_stat_get_numscans": lambda *_: 0,
    "row_security_active": lambda *_: 0,
    "pg_indexam_has_property": lambda *_: 0,
    "pg_char_to_encoding": lambda _n: 6,
    "pg_relation_filenode": lambda o: o,
    "to_json": _to_json,
    **dict.fromkeys(
        ("pg_conversion_is_visible", "pg_opfamily_is_visible", "pg_statistics_obj_is_visible",
         "pg_ts_dict_is_visible", "pg_ts_parser_is_visible", "pg_ts_template_is_visible",
         "pg_type_is_visible", "pg_function_is_visible",
         "pg_collation_is_visible", "pg_opclass_is_visible", "pg_operator_is_visible",
         "pg_ts_config_is_visible", "has_table_privilege", "has_schema_privilege",
         "has_database_privilege", "has_column_privilege", "has_any_column_privilege",
         "has_sequence_privilege", "has_function_privilege", "pg_has_role",
         "pg_try_advisory_lock", "pg_advisory_unlock", "pg_try_advisory_xact_lock"), _yes),
    **dict.fromkeys(
        ("obj_description", "col_description", "shobj_description", "pg_get_serial_sequence",
         "pg_get_partkeydef", "pg_get_ruledef", "pg_get_function_result",
         "pg_get_function_arguments", "pg_get_functiondef", "pg_get_function_sqlbody",
         "pg_get_statisticsobjdef_columns",
         "pg_partition_root", "pg_get_function_identity_arguments"), _null),
    **dict.fromkeys(
        ("pg_advisory_unlock_all", "pg_advisory_lock", "pg_advisory_xact_lock",
         "pg_stat_clear_snapshot", "pg_sleep_zero"), _void),
}  # fmt: skip

# Not pure, but of no state of the session either.
_PURE_NOT_REALLY = {"gen_random_uuid": _uuid, "uuid_generate_v4": _uuid}


def register_random(connection: apsw.Connection) -> None:
    for name, function in _PURE_NOT_REALLY.items():
        connection.create_scalar_function(
            name, lambda *_, f=function: f(), 0, deterministic=False, flags=apsw.SQLITE_DIRECTONLY
        )


__all__ = ["DATABASE_BASE", "register", "register_random", "s"]
