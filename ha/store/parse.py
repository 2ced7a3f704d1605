"""What a statement is, said by SQLite's own parser: prepared, its authorizer calls read, not run.

A connection that parses keeps one authorizer for life (:class:`Collector`), since changing it
would expire every prepared statement (https://sqlite.org/c3ref/set_authorizer.html).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import apsw

from ha.core.errors import Code, HaError
from ha.store.sqlite_errors import from_sqlite

Action = tuple[int, str | None, str | None, str | None, str | None]

CONTROL_PREFIX = "ha_"
CONTROL_TABLES = frozenset(
    {
        "ha_stats",
        "ha_log",
        "ha_origins",
        "ha_virtual",
        "ha_parts",
        "ha_dead_letters",
        "ha_outbox",
        "ha_redone",
        "ha_ignored",
        "ha_term",
    }
)

_NULLS: Any = apsw._null_bindings  # type: ignore[attr-defined]  # as apsw.ext does
_WRITES = {apsw.SQLITE_INSERT, apsw.SQLITE_UPDATE, apsw.SQLITE_DELETE}
_SCHEMA = {"sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema"}
_DDL_VERBS = {"CREATE", "DROP", "ALTER", "REINDEX", "ANALYZE"}
_TEMP_DDL = {
    apsw.SQLITE_CREATE_TEMP_INDEX,
    apsw.SQLITE_CREATE_TEMP_TABLE,
    apsw.SQLITE_CREATE_TEMP_TRIGGER,
    apsw.SQLITE_CREATE_TEMP_VIEW,
    apsw.SQLITE_DROP_TEMP_INDEX,
    apsw.SQLITE_DROP_TEMP_TABLE,
    apsw.SQLITE_DROP_TEMP_TRIGGER,
    apsw.SQLITE_DROP_TEMP_VIEW,
}
_REFUSED_FUNCTIONS = {"load_extension", "writefile", "edit", "fts3_tokenizer"}

# Pragmas by what setting them means here. Reading one (no value) is always a read.
SESSION_PRAGMAS = frozenset(
    {
        "analysis_limit", "automatic_index", "busy_timeout", "cache_size", "cache_spill",
        "case_sensitive_like", "cell_size_check", "count_changes", "defer_foreign_keys",
        "empty_result_callbacks", "foreign_keys", "full_column_names", "ignore_check_constraints",
        "legacy_alter_table", "query_only", "recursive_triggers", "reverse_unordered_selects",
        "short_column_names", "temp_store", "trusted_schema",
    }
)  # fmt: skip
FILE_PRAGMAS = frozenset({"user_version", "application_id"})
READING_PRAGMAS = frozenset(
    {
        "collation_list", "compile_options", "data_version", "database_list", "foreign_key_check",
        "foreign_key_list", "freelist_count", "function_list", "index_info", "index_list",
        "index_xinfo", "integrity_check", "module_list", "page_count", "pragma_list",
        "quick_check", "stats", "table_info", "table_list", "table_xinfo",
    }
)  # fmt: skip

_REFRESH = "SELECT 1 FROM sqlite_schema LIMIT 1"
_LEADING = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$)|;)*", re.DOTALL)
_WORD = re.compile(r"[A-Za-z_]+")


def first_word(sql: str) -> str:
    """The first keyword in upper case; empty for white space and comments."""
    start = _LEADING.match(sql)
    word = _WORD.match(sql, start.end() if start else 0)
    return word[0].upper() if word else ""


@dataclass(slots=True)
class Parsed:
    """One statement. ``columns``: (name, decltype, table, origin) each.

    ``writes`` names the tables of ``main`` that it may change, triggers and cascades included
    as far as SQLite announces them; ``temp``: it reads or writes the temp schema;
    ``pragma``: (name, value). ``own``: only the session's own connection understands it.
    ``changes_file``: it must run where the writer runs; ``dml``: and changes rows alone.
    ``brief``: see :mod:`ha.store.brief`, None if nobody has asked.
    ``memo``: room for what a caller derives from it once.
    """

    sql: str
    remaining: str
    verb: str
    readonly: bool
    columns: tuple[tuple[str, str | None, str | None, str | None], ...]
    parameters: tuple[str | None, ...]
    empty: bool = False
    explain: bool = False
    temp: bool = False
    temp_ddl: bool = False
    pragma: tuple[str, str | None] | None = None
    transaction: str | None = None
    savepoint: tuple[str, str] | None = None
    writes: frozenset[str] = field(default_factory=frozenset)
    own: bool = False
    changes_file: bool = False
    dml: bool = False
    brief: bool | None = None
    memo: Any = None

    @property
    def ddl(self) -> bool:
        return self.verb in _DDL_VERBS and not self.explain

    @property
    def session_pragma(self) -> bool:
        """It sets something that belongs to the session, not to the file."""
        return (
            self.pragma is not None
            and self.pragma[1] is not None
            and self.pragma[0] in SESSION_PRAGMAS
        )

    @property
    def file_pragma(self) -> bool:
        return (
            self.pragma is not None
            and self.pragma[1] is not None
            and self.pragma[0] in FILE_PRAGMAS
        )

    def settle(self) -> None:
        """Derive what the other members imply."""
        self.changes_file = self._changes_file()
        self.dml = self.changes_file and not self.ddl and self.pragma is None

    def _changes_file(self) -> bool:
        if self.explain or self.empty or self.transaction or self.savepoint:
            return False
        if self.pragma is not None:
            return self.file_pragma
        if self.verb in ("ANALYZE", "REINDEX"):
            return True
        if self.readonly or self.temp_ddl:
            return False
        return not (self.temp and not self.writes and not self.ddl)


class Collector:
    """The authorizer of a connection: allows everything, remembers what it was asked while
    ``listening``."""

    def __init__(self) -> None:
        self.listening = False
        self.actions: list[Action] = []

    def __call__(
        self,
        operation: int,
        first: str | None,
        second: str | None,
        database: str | None,
        inner: str | None,
    ) -> int:
        if self.listening:
            self.actions.append((operation, first, second, database, inner))
        return apsw.SQLITE_OK


def parse(connection: apsw.Connection, collector: Collector, sql: str) -> Parsed:
    """Parse the first statement of ``sql``. Raises HaError: SQLite's refusal, or ours by name."""
    seen: list[Parsed] = []

    def look(cursor: apsw.Cursor, text: str, bindings: apsw.Bindings | None) -> bool:
        description = cursor.description_full
        seen.append(
            Parsed(
                sql=text,
                remaining=sql[len(text) :],
                verb=first_word(text),
                readonly=cursor.is_readonly,
                columns=tuple((d[0], d[1], d[3], d[4]) for d in description),
                parameters=cursor.bindings_names,
                empty=not cursor.has_vdbe,
                explain=cursor.is_explain > 0,
            )
        )
        return False

    try:
        cursor = connection.cursor()
        # SQLite checks its copy of the schema when a statement runs, not when it is prepared.
        cursor.execute(_REFRESH).fetchall()
    except Exception as error:
        raise from_sqlite(error) from error
    cursor.exec_trace = look
    collector.actions.clear()
    collector.listening = True
    try:
        cursor.execute(sql, _NULLS, can_cache=False)
    except apsw.ExecTraceAbort:
        pass
    except Exception as error:
        raise from_sqlite(error) from error
    finally:
        collector.listening = False
    actions = collector.actions[:]
    collector.actions.clear()
    if not seen:
        return Parsed(sql, "", "", True, (), (), empty=True)
    parsed = seen[0]
    _read_actions(parsed, actions)
    parsed.settle()
    return parsed


def _read_actions(parsed: Parsed, actions: list[Action]) -> None:
    writes: set[str] = set()
    for operation, first, second, database, _inner in actions:
        if operation == apsw.SQLITE_ALTER_TABLE:
            parsed.temp = parsed.temp_ddl = first == "temp"
        elif operation in _TEMP_DDL or (database == "temp" and parsed.verb != "ALTER"):
            # An ALTER of any table looks whether something in the temp schema names it.
            parsed.temp = True
            parsed.temp_ddl = parsed.temp_ddl or operation in _TEMP_DDL
        if operation in _WRITES and first is not None:
            if database != "temp" and first.lower() not in _SCHEMA:
                writes.add(first)
                _check_control(first)
        elif operation == apsw.SQLITE_PRAGMA and first is not None:
            if parsed.verb == "PRAGMA" or not parsed.readonly:
                parsed.pragma = (first.lower(), second)
        elif operation == apsw.SQLITE_TRANSACTION:
            parsed.transaction = first
        elif operation == apsw.SQLITE_SAVEPOINT:
            parsed.savepoint = (first or "", second or "")
        elif operation in (apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
            raise _refused(parsed.verb, "a database here is one file with one log")
        elif operation == apsw.SQLITE_FUNCTION and (second or "").lower() in _REFUSED_FUNCTIONS:
            raise _refused(f"{second}()", "it would reach outside of the database")
        elif operation in (apsw.SQLITE_ALTER_TABLE, apsw.SQLITE_DROP_TABLE):
            _check_control((second if operation == apsw.SQLITE_ALTER_TABLE else first) or "")
        elif operation in (apsw.SQLITE_CREATE_TABLE, apsw.SQLITE_CREATE_VTABLE):
            _check_control(first or "")
        elif operation in (apsw.SQLITE_CREATE_TRIGGER, apsw.SQLITE_CREATE_INDEX):
            _check_control(second or "")
    parsed.writes = frozenset(writes)
    if parsed.verb == "VACUUM" and not parsed.explain:
        raise _refused("VACUUM", "it renumbers rowids, which the log cannot say")
    if parsed.pragma is not None and not parsed.explain:
        _check_pragma(*parsed.pragma)


def _check_control(table: str) -> None:
    if table.lower() in CONTROL_TABLES:
        raise _refused(f"writing to {table}", "it holds the position in the log")


def _check_pragma(name: str, value: str | None) -> None:
    if value is None or name in READING_PRAGMAS | SESSION_PRAGMAS | FILE_PRAGMAS:
        if name in ("wal_checkpoint", "incremental_vacuum", "optimize", "shrink_memory"):
            raise _refused(f"PRAGMA {name}", "the node takes care of the file by itself")
        return
    raise _refused(
        f"PRAGMA {name} = {value}", "it would change how the file is kept, not what it holds"
    )


def _refused(what: str, why: str) -> HaError:
    return HaError(Code.REFUSED, f"{what} is not allowed: {why}")
