"""A statement made ready: what SQLite will run, and what the client is told before it runs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import tzinfo

from ha.core.errors import Code, HaError
from ha.engine.api import Column, Kind, Prepared, SessionApi
from ha.wire.postgres import oids as t
from ha.wire.postgres.command_parser import parse_command
from ha.wire.postgres.commands import Command
from ha.wire.postgres.decode import Decoder
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.functions import TABLE_FUNCTIONS
from ha.wire.postgres.infer import Inference, infer
from ha.wire.postgres.lexer import number_parameters
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.relations import Schema
from ha.wire.postgres.rows import BatchEncoder, ResultColumn
from ha.wire.postgres.schema import read_schema
from ha.wire.postgres.tags import command_tag
from ha.wire.postgres.translate import must_translate, translate

MAX_CACHED_SQL = 64 * 1024
MAX_CACHED = 2_000


@dataclass(slots=True)
class Plan:
    """``sql`` runs with positional parameters. ``command`` is set for what this wire does itself
    (SET, FETCH, COMMIT…); ``prepared`` is None then, and for empty statements.

    ``tag`` is the command tag without its row count.
    """

    source: str
    sql: str
    kind: Kind
    tag: str
    parameters: tuple[PgType, ...] = ()
    columns: tuple[ResultColumn, ...] = ()
    command: Command | None = None
    prepared: Prepared | None = None
    encoders: dict[tuple[tuple[int, ...], tzinfo], BatchEncoder] = field(default_factory=dict)
    decoders: dict[tuple[tuple[int, ...], tzinfo], list[Decoder]] = field(default_factory=dict)
    descriptions: dict[tuple[int, ...], bytes] = field(default_factory=dict)
    """What was made for this plan, by formats: it is bound again and again."""


@dataclass(slots=True)
class _Entry:
    translated: str
    prepared: Prepared
    plan: Plan


@dataclass(slots=True)
class PlanCache:
    """Plans by database, text, declared parameter types; shared by the sessions of a server.

    What it holds is checked against SQLite's own answer at each use (:func:`make_plan`), so a
    changed schema is seen.
    """

    entries: OrderedDict[tuple[str, str, tuple[int, ...], bool], _Entry] = field(
        default_factory=OrderedDict
    )
    schemas: dict[str, Schema] = field(default_factory=dict)

    def get(self, key: tuple[str, str, tuple[int, ...], bool]) -> _Entry | None:
        entry = self.entries.get(key)
        if entry is not None:
            self.entries.move_to_end(key)
        return entry

    def put(self, key: tuple[str, str, tuple[int, ...], bool], entry: _Entry) -> None:
        if len(key[1]) > MAX_CACHED_SQL:
            return
        self.entries[key] = entry
        while len(self.entries) > MAX_CACHED:
            self.entries.popitem(last=False)


class Planner:
    """Makes plans for one session."""

    def __init__(self, session: SessionApi, cache: PlanCache) -> None:
        self._session = session
        self._cache = cache

    async def plan(self, sql: str, declared: Sequence[int] = (), *, as_text: bool = False) -> Plan:
        """Parse one statement. ``declared`` are parameter type oids, 0 for unspecified.

        ``as_text``: report every column as text. Raises HaError, PgError.
        """
        command = parse_command(sql)
        if command is not None:
            return Plan(sql, sql, Kind.COMMAND, command.tag, command=command)
        session = self._session
        key = (session.database_id, sql, tuple(declared), as_text)
        entry = self._cache.get(key)
        if entry is not None:
            prepared = await self._session.prepare(entry.translated)
            if prepared == entry.prepared:
                return entry.plan
        translated, prepared = await self._prepare(sql)
        if prepared.kind is Kind.EMPTY:
            return Plan(sql, translated, Kind.EMPTY, "")
        count = len(prepared.parameters)
        named = [n for n in prepared.parameters if n is not None and not n.isdigit()]
        if named:
            raise PgError(
                "42601",
                f"parameter {named[0]!r} has a name: this protocol numbers them",
                hint="write $1, $2, …",
            )
        types = [_declared(oid) for oid in declared[:count]]
        types += [None] * (count - len(types))
        found = await self._infer(sql, translated, prepared, types)
        plan = Plan(
            sql,
            translated,
            prepared.kind,
            command_tag(translated, prepared),
            tuple(found.parameters),
            _columns(prepared, found, as_text),
            prepared=prepared,
        )
        if prepared.kind in (Kind.READ, Kind.WRITE):
            self._cache.put(key, _Entry(translated, prepared, plan))
        return plan

    async def _prepare(self, sql: str) -> tuple[str, Prepared]:
        """SQLite's parser has the first word, and the last: translated is only what it refuses,
        or would take for something else than PostgreSQL means (SERIAL, ``now()``)."""
        numbered, _ = number_parameters(sql)
        if must_translate(sql):
            text = translate(sql)
            return text, await self._session.prepare(text)
        try:
            return numbered, await self._session.prepare(numbered)
        except HaError as error:
            if error.code not in _TRANSLATABLE:
                raise
            try:
                text = translate(sql)
            except PgError as refused:
                if refused.sqlstate == "42601":  # no PostgreSQL either: SQLite's word counts
                    raise _explained(error, sql) from None
                raise
            if text == numbered:
                raise
            try:
                return text, await self._session.prepare(text)
            except HaError as second:
                if second.code is error.code is Code.SYNTAX_ERROR or (
                    second.message == error.message
                ):
                    raise error from None  # it knows the position
                second.offset = None
                raise second from None

    async def _infer(
        self, source: str, translated: str, prepared: Prepared, types: list[PgType | None]
    ) -> Inference:
        expressions = any(_is_expression(c) for c in prepared.columns)
        open_parameters = any(kind is None for kind in types)
        if not expressions and not open_parameters:
            return Inference([kind or t.TEXT for kind in types], None)
        schema = await read_schema(self._session, self._cache.schemas)
        return infer(
            source,
            schema,
            types,
            len(prepared.columns) if prepared.columns else None,
            translated=translated != number_parameters(source)[0],
        )


def _explained(error: HaError, sql: str) -> HaError:
    if error.hint is None and "incomplete input" in error.message and "TRIGGER" in sql.upper():
        error.hint = "psql cuts at semicolons: write those inside of CREATE TRIGGER as \\;"
    return error


_TRANSLATABLE = frozenset(
    {
        Code.SYNTAX_ERROR,
        Code.UNKNOWN_TABLE,
        Code.UNKNOWN_COLUMN,
        Code.UNKNOWN_FUNCTION,
        Code.SQL_ERROR,
    }
)


def _declared(oid: int) -> PgType | None:
    if oid in (0, t.UNKNOWN.oid):
        return None
    kind = t.BY_OID.get(oid)
    if kind is None:
        raise PgError(
            "42704",
            f"parameter type with oid {oid} is not known here",
            hint="declare it as text, or leave its type open",
        )
    return kind


def _is_expression(column: Column) -> bool:
    """SQLite knows no type for it: what a table function answers is of the call's types."""
    if column.decltype:
        return False
    return column.origin is None or (column.table or "").lower() in TABLE_FUNCTIONS


def _columns(prepared: Prepared, found: Inference, as_text: bool) -> tuple[ResultColumn, ...]:
    out = []
    for i, column in enumerate(prepared.columns):
        if as_text:
            kind = t.TEXT
        elif not _is_expression(column):
            kind = t.of_declared(column.decltype)
        else:
            kind = (found.columns[i] if found.columns else None) or t.TEXT
        out.append(ResultColumn(column.name, kind))
    return tuple(out)
