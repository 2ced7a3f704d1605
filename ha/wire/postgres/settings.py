"""The run-time parameters of a session: SET, SHOW, RESET, and what is reported to the client.

Source: PostgreSQL documentation, "Asynchronous Operations" (the reported parameters) and
"Server Configuration".
"""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, timedelta, timezone, tzinfo

from ha.wire.postgres.errors import PgError, unsupported

SERVER_VERSION = "17.2"
SERVER_VERSION_NUM = "170002"

REPORTED = {
    "application_name": "application_name",
    "client_encoding": "client_encoding",
    "datestyle": "DateStyle",
    "default_transaction_read_only": "default_transaction_read_only",
    "in_hot_standby": "in_hot_standby",
    "integer_datetimes": "integer_datetimes",
    "intervalstyle": "IntervalStyle",
    "is_superuser": "is_superuser",
    "scram_iterations": "scram_iterations",
    "search_path": "search_path",
    "server_encoding": "server_encoding",
    "server_version": "server_version",
    "session_authorization": "session_authorization",
    "standard_conforming_strings": "standard_conforming_strings",
    "timezone": "TimeZone",
}
"""Sent at start-up and after every change; names as clients know them."""

_DEFAULTS = {
    "application_name": "",
    "backslash_quote": "safe_encoding",
    "bytea_output": "hex",
    "check_function_bodies": "on",
    "client_encoding": "UTF8",
    "client_min_messages": "notice",
    "constraint_exclusion": "partition",
    "datestyle": "ISO, MDY",
    "default_table_access_method": "heap",
    "default_tablespace": "",
    "default_toast_compression": "pglz",
    "default_transaction_deferrable": "off",
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "off",
    "escape_string_warning": "on",
    "extra_float_digits": "1",
    "ha.consistency": "local",
    "ha.result_types": "declared",
    "ha.txseq": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "in_hot_standby": "off",
    "integer_datetimes": "on",
    "intervalstyle": "postgres",
    "is_superuser": "off",
    "jit": "off",
    "lc_collate": "C",
    "lc_ctype": "C.UTF-8",
    "lc_messages": "C",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "lock_timeout": "0",
    "max_identifier_length": "63",
    "max_index_keys": "32",
    "plan_cache_mode": "auto",
    "quote_all_identifiers": "off",
    "role": "none",
    "row_security": "on",
    "scram_iterations": "4096",
    "search_path": '"$user", public',
    "server_encoding": "UTF8",
    "server_version": SERVER_VERSION,
    "server_version_num": SERVER_VERSION_NUM,
    "session_authorization": "",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "synchronize_seqscans": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "transaction_isolation": "serializable",
    "transaction_read_only": "off",
    "transaction_timeout": "0",
    "wal_level": "logical",
    "work_mem": "4MB",
    "xmloption": "content",
}

_FIXED = frozenset(
    {
        "in_hot_standby", "integer_datetimes", "is_superuser", "lc_collate", "lc_ctype",
        "max_identifier_length", "max_index_keys", "scram_iterations", "server_encoding",
        "server_version", "server_version_num", "wal_level",
    }
)  # fmt: skip

_UNITS = {"us": 0.001, "ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(us|ms|s|min|h|d)?\s*\Z")
_TIMEOUTS = frozenset(
    {
        "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
        "idle_session_timeout", "transaction_timeout",
    }
)  # fmt: skip
_BOOLEANS = frozenset(
    {
        "default_transaction_deferrable", "default_transaction_read_only", "escape_string_warning",
        "jit", "row_security", "standard_conforming_strings", "transaction_read_only",
        "check_function_bodies", "quote_all_identifiers", "synchronize_seqscans",
    }
)  # fmt: skip


def canonical(name: str) -> str:
    flat = name.strip().lower()
    return {"time zone": "timezone", "session characteristics": ""}.get(flat, flat)


def _boolean(name: str, value: str) -> str:
    word = value.strip().lower()
    if word in ("on", "true", "yes", "1", "t", "y"):
        return "on"
    if word in ("off", "false", "no", "0", "f", "n"):
        return "off"
    raise PgError("22023", f'parameter "{name}" requires a Boolean value')


def _duration(name: str, value: str) -> str:
    match = _DURATION.match(value)
    if match is None:
        raise PgError(
            "22023",
            f'invalid value for parameter "{name}": "{value}"',
            hint='Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".',
        )
    return f"{round(float(match[1]) * _UNITS[match[2] or 'ms'])}"


def _encoding(_name: str, value: str) -> str:
    if value.strip(" '").upper().replace("-", "").replace("_", "") in ("UTF8", "UNICODE"):
        return "UTF8"
    raise PgError(
        "22023",
        f'invalid value for parameter "client_encoding": "{value}"',
        hint="this server speaks UTF8 alone",
    )


def _date_style(_name: str, value: str) -> str:
    order = "MDY"
    for word in re.split(r"[\s,]+", value.strip().upper()):
        if word in ("MDY", "DMY", "YMD"):
            order = word
        elif word not in ("ISO", "DEFAULT", ""):
            raise unsupported(
                f'DateStyle "{value}" is not supported', "dates are written as ISO 8601 alone"
            )
    return f"ISO, {order}"


def _consistency(name: str, value: str) -> str:
    word = value.strip().lower()
    if word in ("local", "linearizable"):
        return word
    raise PgError("22023", f'parameter "{name}" is local or linearizable, not "{value}"')


def _result_types(name: str, value: str) -> str:
    word = value.strip().lower()
    if word in ("declared", "text"):
        return word
    raise PgError("22023", f'parameter "{name}" is declared or text, not "{value}"')


def _standard_strings(name: str, value: str) -> str:
    if _boolean(name, value) == "on":
        return "on"
    raise unsupported(
        "standard_conforming_strings cannot be off", "write E'…' for strings with backslashes"
    )


def _isolation(_name: str, value: str) -> str:
    word = " ".join(value.strip().lower().split())
    if word in ("serializable", "repeatable read", "read committed", "read uncommitted"):
        return word
    raise PgError("22023", f'invalid value for parameter "transaction_isolation": "{value}"')


_CHECKS: dict[str, Callable[[str, str], str]] = {
    "client_encoding": _encoding,
    "datestyle": _date_style,
    "default_transaction_isolation": _isolation,
    "ha.consistency": _consistency,
    "ha.result_types": _result_types,
    "standard_conforming_strings": _standard_strings,
    "transaction_isolation": _isolation,
    **dict.fromkeys(_TIMEOUTS, _duration),
    **{name: _boolean for name in _BOOLEANS if name != "standard_conforming_strings"},
}


def read_zone(value: str) -> tzinfo:
    """Raises PgError 22023 for a name that is no time zone."""
    name = value.strip().strip("'\"")
    if name.upper() in ("UTC", "GMT", "Z", "ETC/UTC", "UCT", "DEFAULT", "LOCAL", "ZULU"):
        return UTC
    if match := re.fullmatch(r"(?:GMT|UTC|<[^>]*>)?([+-]?\d{1,2})(?::(\d\d))?", name, re.I):
        hours = int(match[1])
        minutes = int(match[2] or 0) * (-1 if match[1].startswith("-") else 1)
        posix = bool(re.match(r"GMT|UTC|<", name, re.I))  # there, east is negative
        offset = timedelta(hours=hours, minutes=minutes)
        if abs(offset) < timedelta(hours=24):
            return timezone(-offset if posix else offset)
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise PgError("22023", f'invalid value for parameter "TimeZone": "{value}"') from None


@dataclass(slots=True)
class Settings:
    """``changed`` collects the reported parameters that the client has not been told yet."""

    values: dict[str, str] = field(default_factory=lambda: dict(_DEFAULTS))
    defaults: dict[str, str] = field(default_factory=lambda: dict(_DEFAULTS))
    changed: set[str] = field(default_factory=set)
    zone: tzinfo = UTC
    saved: dict[str, str] = field(default_factory=dict)
    """Values before SET LOCAL or a SET inside a transaction, to be restored."""
    local: set[str] = field(default_factory=set)
    on_consistency: Callable[[bool], None] | None = None
    """Told of ``ha.consistency``, True for linearizable; may raise HaError."""

    def get(self, name: str) -> str:
        key = canonical(name)
        value = self.values.get(key)
        if value is None:
            raise PgError("42704", f'unrecognized configuration parameter "{name}"')
        return value

    def show(self, name: str) -> str:
        """As SHOW prints it: time-outs with their unit."""
        key = canonical(name)
        value = self.get(key)
        if key in _TIMEOUTS and value != "0":
            ms = int(value)
            for unit in ("h", "min", "s"):
                if ms % int(_UNITS[unit]) == 0:
                    return f"{ms // int(_UNITS[unit])}{unit}"
            return f"{ms}ms"
        return value

    def set(
        self, name: str, value: str | None, *, local: bool = False, start: bool = False
    ) -> None:
        """None sets the default. ``start``: from the start-up message, becomes the default."""
        key = canonical(name)
        if key not in self.values and "." not in key:
            raise PgError("42704", f'unrecognized configuration parameter "{name}"')
        if key in _FIXED:
            raise PgError("55P02", f'parameter "{name}" cannot be changed')
        old = self.values.get(key)
        new = self.defaults.get(key, "") if value is None else self._checked(key, value)
        if key == "timezone":
            self.zone = read_zone(new)
        if old is not None and not start:
            self.saved.setdefault(key, old)
        (self.local.add if local else self.local.discard)(key)
        self._store(key, new)
        if start:
            self.defaults[key] = new

    def _store(self, key: str, value: str) -> None:
        if key == "ha.consistency" and self.on_consistency is not None:
            self.on_consistency(value == "linearizable")
        if self.values.get(key) != value and key in REPORTED:
            self.changed.add(key)
        self.values[key] = value

    @staticmethod
    def _checked(key: str, value: str) -> str:
        check = _CHECKS.get(key)
        return check(key, value) if check else value

    def reset_all(self) -> None:
        for key, value in self.defaults.items():
            if key not in _FIXED and key not in ("session_authorization", "ha.txseq"):
                self._store(key, value)
        for key in self.values.keys() - self.defaults.keys():
            del self.values[key]
        self.zone = read_zone(self.values["timezone"])

    def end_transaction(self, committed: bool) -> None:
        """Undo SET LOCAL, and after a rollback every SET."""
        if not self.saved:
            return
        for key, old in self.saved.items():
            if not committed or key in self.local:
                self._store(key, old)
        self.zone = read_zone(self.values["timezone"])
        self.saved.clear()
        self.local.clear()

    def milliseconds(self, name: str) -> int:
        return int(self.values[name])

    def take_changes(self) -> list[tuple[str, str]]:
        """Reported parameters changed since the last call, as (name, value)."""
        out = [(REPORTED[key], self.values[key]) for key in sorted(self.changed)]
        self.changed.clear()
        return out
