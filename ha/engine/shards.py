"""Cross-shard queries: one SELECT on all databases of the node whose ids a pattern matches.

``ha.core.shard_plan`` says what each is asked and how the answers are merged; this asks SQLite what
the text alone does not tell, runs the parts, and lets a temporary database do the merging.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import apsw
import trio

from ha.core.errors import Code, HaError
from ha.core.pattern import Pattern, PatternError
from ha.core.shard_plan import Plan, Way, make_plan
from ha.core.shard_query import SHARD_COLUMN, Functions, ShardQuery, hint_of
from ha.core.tokens import fold_case, quote, tokenize
from ha.core.values import Value
from ha.engine.api import Column, Kind, Params, Prepared, Result, Rows
from ha.engine.database import Database
from ha.store.connection import Connection, bind
from ha.store.sqlite_errors import from_sqlite

if TYPE_CHECKING:
    from ha.engine.databases import Databases

_PAGE = 1_000
_AHEAD = 2
"""Pages that a database may be ahead of the merge."""
_PROBE = "ha_probe"


def has_hint(sql: str) -> bool:
    """Is it a cross-shard query (or would be one, were it a SELECT)?"""
    return hint_of(sql) is not None


def find_cross_shard(databases: Databases, sql: str) -> CrossShard | None:
    """The query that ``sql`` is, if it has the hint. Raises HaError."""
    text = hint_of(sql)
    if text is None:
        return None
    try:
        pattern = Pattern(text)
    except PatternError as error:
        raise HaError(Code.BAD_REQUEST, f"the pattern db={text} cannot be used: {error}") from error
    chosen = [d for d in databases.all() if pattern.search(d.id)]
    if not chosen:
        known = ", ".join(databases.database_ids())
        raise HaError(
            Code.NOT_FOUND,
            f"no database has an id that db={text} matches",
            hint=f"databases of this node: {known}",
        )
    return CrossShard(chosen, sql)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What one database says of the columns that it answers: names, affinities, collations.
    ``stars``: how many columns each star stands for."""

    columns: tuple[tuple[str, str, str], ...]
    stars: tuple[int, ...]


class CrossShard:
    """A query over several databases, ready to run. Raises HaError when it is made."""

    def __init__(self, databases: Sequence[Database], sql: str) -> None:
        self._databases = databases
        self._running: list[Connection] = []
        first = databases[0]
        reader = first.store.take_reader()
        try:
            self._query = ShardQuery(sql, _functions(reader))
            written = reader.parse(self._query.as_written(first.id))
            self._plan = make_plan(self._query, partial(self._is_column, reader, first.id))
            self.columns = self._name(written.columns)
        finally:
            first.store.give_reader(reader)

    def _name(
        self, described: Sequence[tuple[str, str | None, str | None, str | None]]
    ) -> tuple[Column, ...]:
        columns = [Column(*d) for d in described]
        if not any(item.star for item in self._query.items):
            for at, item in enumerate(self._query.items):
                if item.alias is None and self._query.is_shard_item(item):
                    columns[at] = Column(SHARD_COLUMN, "TEXT")
        return tuple(columns)

    @property
    def prepared(self) -> Prepared:
        return Prepared(
            self._query.original,
            Kind.READ,
            "SELECT",
            self.columns,
            self._query.parameters,
            self._query.remaining,
        )

    def interrupt(self) -> None:
        for connection in self._running:
            connection.interrupt()

    async def run(self, params: Params, max_rows: int | None) -> Result:
        rows: list[tuple[Value, ...]] = []
        async with self.open(params) as open_rows:
            while page := await open_rows.fetch(_PAGE):
                rows += page
                if max_rows is not None and len(rows) > max_rows:
                    raise HaError(
                        Code.TOO_LARGE,
                        f"the result has more than {max_rows} rows",
                        hint="add LIMIT, or fetch it in pieces",
                    )
        return Result(Kind.READ, "SELECT", self.columns, rows)

    @asynccontextmanager
    async def open(self, params: Params) -> AsyncIterator[Rows]:
        rest = self._query.remaining
        if tokenize(rest):
            raise HaError(Code.BAD_REQUEST, "one statement at a time after a cross-shard query")
        values = list(bind(params, self._query.parameters) or ())
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            parts = [_Part(self, database, values) for database in self._databases]
            try:
                shapes = [part.look(self._plan) for part in parts]
                _compare(self._databases, shapes)
                for part in parts:
                    nursery.start_soon(part.run)
                if self._plan.way is Way.PLAIN:
                    yield _PlainRows(self.columns, parts, *self._limits(values))
                else:
                    async with self._merge(parts, shapes[0], values) as rows:
                        yield rows
            except Exception as error:  # outside of the nursery, so that it comes as it is
                failure = error
            finally:
                for part in parts:
                    part.abandon()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # --- what the databases say ------------------------------------------------------

    def _is_column(self, reader: Connection, shard: str, ref: str) -> bool:
        """Does SQLite find a column of this name in FROM?"""
        raw = reader.raw
        raw.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        try:
            reader.parse(self._query.probe([ref], shard))
        except HaError as error:
            if error.code is Code.UNKNOWN_COLUMN:
                return False
            raise
        finally:
            raw.config(apsw.SQLITE_DBCONFIG_DQS_DML, 1)
        return True

    # --- the merge -------------------------------------------------------------------

    def _limits(self, values: list[Value]) -> tuple[int, int]:
        """LIMIT (-1 for none) and OFFSET."""
        sql = self._plan.limits_sql()
        if sql is None:
            return -1, 0
        raw = apsw.Connection(":memory:")
        try:
            row: Any = raw.execute(sql, values[: _parameters_in(sql)]).fetchall()[0]
        except Exception as error:
            raise from_sqlite(error) from error
        finally:
            raw.close()
        if not all(type(v) is int for v in row):
            raise HaError(Code.TYPE_MISMATCH, "datatype mismatch: LIMIT and OFFSET are integers")
        return (row[0] if row[0] >= 0 else -1), max(row[1], 0)

    @asynccontextmanager
    async def _merge(
        self, parts: Sequence[_Part], shape: _Shape, values: list[Value]
    ) -> AsyncIterator[Rows]:
        """The rest of the query, over the rows of all parts."""
        database = self._databases[0]
        scratch = database.store.scratch()
        self._running.append(scratch)
        try:
            names = [*self._plan.part_columns]
            stars: list[list[str]] = []
            for count in shape.stars:
                stars.append([f"ha_s{len(names) + n}" for n in range(count)])
                names += stars[-1]
            columns = ", ".join(
                f"{quote(name)} {affinity} COLLATE {quote(collation)}"
                for name, (_, affinity, collation) in zip(
                    names or ["ha_none"], shape.columns, strict=True
                )
            )
            scratch.execute(f"CREATE TABLE part({columns})")
            marks = ", ".join("?" * len(shape.columns))
            scratch.execute("BEGIN")
            for part in parts:
                async for page in part.pages():
                    await self._load(scratch, f"INSERT INTO part VALUES ({marks})", page)
            sql = self._plan.merge_sql(stars)
            yield _Cursor(self, scratch, sql, values[: _parameters_in(sql)])
        finally:
            self._running.remove(scratch)
            scratch.close()

    async def _load(self, scratch: Connection, sql: str, page: list[tuple[Value, ...]]) -> None:
        def work() -> None:
            try:
                scratch.raw.executemany(sql, page)
            except Exception as error:
                raise scratch.translated(error) from error

        await self._databases[0].runtime.run(scratch, work, long=len(page) > 100)


class _Part:
    """The query on one database: run in a task, ``_AHEAD`` pages ahead of who reads it."""

    def __init__(self, query: CrossShard, database: Database, values: list[Value]) -> None:
        self._query = query
        self._database = database
        self._values = values
        self._send, self._receive = trio.open_memory_channel["list[tuple[Value, ...]] | HaError"](
            _AHEAD
        )
        self._connection: Connection | None = None

    def look(self, plan: Plan) -> _Shape:
        """Ask what the columns are, before anything runs. Raises HaError."""
        database = self._database
        connection = self._connection = database.store.take_reader()
        query = self._query._query
        try:
            _check_views(connection, query)
            if plan.way is Way.PLAIN:
                described = connection.parse(plan.shard_sql(database.id)).columns
                star = any(item.star for item in query.items)
                return _Shape(tuple((d[0] if star else "", "", "") for d in described), ())
            return _shape_of(connection, plan, query, database.id)
        except HaError as error:
            raise _of(database, error) from error

    async def run(self) -> None:
        """Send all pages, or the error that ended it."""
        database = self._database
        connection = self._connection
        assert connection is not None
        sql = self._query._plan.shard_sql(database.id)
        values = self._values[: _parameters_in(sql)]
        cursor: apsw.Cursor | None = None

        def step() -> list[tuple[Value, ...]]:
            nonlocal cursor
            try:
                if cursor is None:
                    cursor = connection.raw.cursor()
                    cursor.execute(sql, values)
                return _take(cursor, _PAGE)
            except Exception as error:
                raise connection.translated(error) from error

        async with self._send:
            try:
                async with database.limiter:
                    self._query._running.append(connection)
                    try:
                        while page := await database.runtime.run(connection, step, long=True):
                            await self._send.send(page)
                    finally:
                        self._query._running.remove(connection)
                        if cursor is not None:
                            cursor.close(True)
                        self.give_back()
            except HaError as error:
                await self._send.send(_of(database, error))

    async def pages(self) -> AsyncIterator[list[tuple[Value, ...]]]:
        """Raises HaError."""
        async with self._receive:
            async for page in self._receive:
                if isinstance(page, HaError):
                    raise page
                yield page

    async def page(self) -> list[tuple[Value, ...]] | None:
        """The next page, None at the end. Raises HaError."""
        try:
            page = await self._receive.receive()
        except trio.EndOfChannel:
            return None
        if isinstance(page, HaError):
            raise page
        return page

    def give_back(self) -> None:
        if self._connection is not None:
            self._database.store.give_reader(self._connection)
            self._connection = None

    def abandon(self) -> None:
        """Nobody reads it any more. A part that runs gives its connection back by itself."""
        self._receive.close()
        if self._connection is not None and self._connection not in self._query._running:
            self.give_back()


class _PlainRows:
    """The rows of one database after the other."""

    def __init__(
        self, columns: tuple[Column, ...], parts: Sequence[_Part], limit: int, offset: int
    ) -> None:
        self.columns = columns
        self._parts = list(parts)
        self._left = limit
        self._skip = offset
        self._buffer: list[tuple[Value, ...]] = []

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        while len(self._buffer) < count and self._parts and self._left != 0:
            page = await self._parts[0].page()
            if page is None:
                del self._parts[0]
                continue
            if self._skip:
                skipped = min(self._skip, len(page))
                self._skip -= skipped
                page = page[skipped:]
            if self._left > 0:
                page = page[: self._left]
                self._left -= len(page)
            self._buffer += page
        out, self._buffer = self._buffer[:count], self._buffer[count:]
        return out


class _Cursor:
    """The merged rows."""

    def __init__(
        self, query: CrossShard, scratch: Connection, sql: str, values: list[Value]
    ) -> None:
        self.columns = query.columns
        self._query = query
        self._scratch = scratch
        self._sql = sql
        self._values = values
        self._cursor: apsw.Cursor | None = None
        self._ended = False

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        if self._ended:
            return []
        runtime = self._query._databases[0].runtime
        rows = await runtime.run(self._scratch, lambda: self._step(count), long=True)
        self._ended = len(rows) < count
        return rows

    def _step(self, count: int) -> list[tuple[Value, ...]]:
        try:
            if self._cursor is None:
                self._cursor = self._scratch.raw.cursor()
                self._cursor.execute(self._sql, self._values)
            return _take(self._cursor, count)
        except Exception as error:
            raise self._scratch.translated(error) from error


def _take(cursor: apsw.Cursor, count: int) -> list[tuple[Value, ...]]:
    out: list[tuple[Value, ...]] = []
    for row in cursor:
        out.append(row)
        if len(out) == count:
            break
    return out


# --- asking SQLite -------------------------------------------------------------------


def _functions(connection: Connection) -> Functions:
    """What PRAGMA function_list says."""
    out: dict[str, set[tuple[str, int]]] = {}
    for name, kind, number in connection.raw.execute(
        "SELECT name, type, narg FROM pragma_function_list"
    ):
        out.setdefault(fold_case(name), set()).add((kind, number))
    return {name: frozenset(kinds) for name, kinds in out.items()}


def _check_views(connection: Connection, query: ShardQuery) -> None:
    """Raises HaError when a view, or a full-text index, cannot be read so."""
    found: dict[str, tuple[str, str]] = {
        fold_case(name): (kind, sql or "")
        for name, kind, sql in connection.raw.execute(
            "SELECT name, type, sql FROM main.sqlite_schema WHERE type = 'view'"
            " OR (type = 'table' AND rootpage = 0)"
        )
    }
    pending = set(query.names_read) & found.keys()
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        seen.add(name)
        kind, sql = found[name]
        if kind == "view":
            query.check_view(name, sql)
            named = {fold_case(t.name) for t in tokenize(sql) if t.name is not None}
            pending |= (named & found.keys()) - seen
        elif query.uses_rank and "fts" in sql.lower():
            raise HaError(
                Code.UNSUPPORTED,
                f"rank, which is relative to the full-text index {name}, cannot be merged over"
                " several databases",
            )


def _shape_of(connection: Connection, plan: Plan, query: ShardQuery, shard: str) -> _Shape:
    """The affinities that SQLite gives the columns, and the collations of those they come from."""
    columns = list(plan.columns)
    stars = [i for i in query.items if i.star]
    _require_table(connection, query, shard)
    leaves = [c if fold_case(c) != SHARD_COLUMN else "''" for c in columns]
    out = _look_at(connection, query.probe(leaves, shard)) if leaves else []
    for sql, ref in plan.partials:
        collation = "BINARY"
        if ref is not None:
            collation = _look_at(connection, query.probe([ref], shard))[0][2]
        out.append((sql, "", collation))
    counts: list[int] = []
    for star in stars:
        described = _look_at(connection, query.probe([query.text.source(star.expression)], shard))
        counts.append(len(described))
        out += described
    if not out:
        out.append(("", "", "BINARY"))
    return _Shape(tuple(out), tuple(counts))


def _look_at(connection: Connection, sql: str) -> list[tuple[str, str, str]]:
    raw = connection.raw
    described = connection.parse(sql).columns
    raw.execute("PRAGMA query_only = OFF")
    try:
        raw.execute(f"CREATE TEMP TABLE {_PROBE} AS {sql}")
        affinities: list[str] = [
            row[0] for row in raw.execute(f"SELECT type FROM pragma_table_info('{_PROBE}', 'temp')")
        ]
        raw.execute(f"DROP TABLE temp.{_PROBE}")
    except apsw.Error as error:
        raise from_sqlite(error) from error
    finally:
        raw.execute("PRAGMA query_only = ON")
    return [
        (name, affinity, _collation(raw, table, origin))
        for (name, _, table, origin), affinity in zip(described, affinities, strict=True)
    ]


def _collation(raw: apsw.Connection, table: str | None, origin: str | None) -> str:
    if table is None or origin is None:
        return "BINARY"
    try:
        return raw.column_metadata("main", table, origin)[1]
    except apsw.SQLError:
        return "BINARY"


def _require_table(connection: Connection, query: ShardQuery, shard: str) -> None:
    """Something must be read that differs between databases: else the union has it once."""
    read: set[str] = set()
    raw = connection.raw
    before = raw.authorizer

    def note(
        operation: int, first: str | None, second: str | None, schema: str | None, _: str | None
    ) -> int:
        if operation == apsw.SQLITE_READ and first is not None:
            read.add(fold_case(first))
        return apsw.SQLITE_OK

    raw.authorizer = note
    try:
        raw.execute(f"EXPLAIN {query.probe([], shard)}", can_cache=False).fetchall()
    finally:
        raw.authorizer = before
    known = {
        fold_case(name)
        for (name,) in raw.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")
    }
    if not read & (known | {"sqlite_schema", "sqlite_master"}):
        raise HaError(
            Code.UNSUPPORTED,
            "a SELECT that reads no table cannot be merged over several databases",
        )


def _compare(databases: Sequence[Database], shapes: Sequence[_Shape]) -> None:
    """Raises HaError unless all databases have the same columns."""
    first = shapes[0]
    for database, shape in zip(databases[1:], shapes[1:], strict=True):
        names = [fold_case(c[0]) for c in shape.columns]
        if names != [fold_case(c[0]) for c in first.columns]:
            raise HaError(
                Code.UNSUPPORTED,
                f"{database.id} answers other columns than {databases[0].id}:"
                f" {', '.join(c[0] for c in shape.columns)}",
                hint="name the columns in place of *",
            )
        for (name, *a), (_, *b) in zip(first.columns, shape.columns, strict=True):
            if a != b:
                raise HaError(
                    Code.UNSUPPORTED,
                    f"column {name} is {' '.join(a)} in {databases[0].id} and {' '.join(b)} in"
                    f" {database.id}: they cannot be compared with each other",
                )


def _parameters_in(sql: str) -> int:
    """The highest number of a parameter."""
    tokens = tokenize(sql)
    return max(
        (
            int(after.text)
            for token, after in pairwise(tokens)
            if token.text == "?" and after.text.isdigit()
        ),
        default=0,
    )


def _of(database: Database, error: HaError) -> HaError:
    """The error, with the database that it comes from."""
    return HaError(
        error.code,
        f"{database.id}: {error.message}",
        hint=error.hint,
        detail=error.detail,
        sequence=error.sequence,
        sqlite_code=error.sqlite_code,
    )
