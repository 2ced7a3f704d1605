"""COPY FROM STDIN and TO STDOUT. Source: PostgreSQL documentation, "COPY Operations"."""

from __future__ import annotations

from collections.abc import Sequence

from ha.core.errors import HaError
from ha.core.values import Value
from ha.engine.api import Kind
from ha.wire.postgres import backend
from ha.wire.postgres.catalog.definitions import quoted
from ha.wire.postgres.codec import ProtocolError
from ha.wire.postgres.commands import Copy
from ha.wire.postgres.conversation import Conversation, Portal
from ha.wire.postgres.copy_bulk import bulk
from ha.wire.postgres.copy_read import Field, copy_reader
from ha.wire.postgres.copy_write import BINARY_TRAILER, header, line_writer
from ha.wire.postgres.decode import Decoder, decoder
from ha.wire.postgres.encode import Encoder, Misfit, encoder, misfit_error
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.messages import CopyData, CopyDone, CopyFail, Flush, Sync
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.rows import ResultColumn, Row
from ha.wire.postgres.sources import next_batch

BATCH_VALUES = 16_000
"""Parameters of one INSERT: SQLite takes 32,766."""
MAX_BATCH = 1_000


async def run_copy(c: Conversation, command: Copy, *, more_follows: bool) -> None:
    """Raises HaError, PgError; ProtocolError when the client does not speak COPY."""
    if command.from_client:
        await _copy_in(c, command, more_follows)
    else:
        await _copy_out(c, command)


# --- out ---------------------------------------------------------------------------------


async def _copy_out(c: Conversation, command: Copy) -> None:
    sql = command.query
    if not sql:
        names = ", ".join(quoted(n) for n in command.columns) or "*"
        sql = f"SELECT {names} FROM {quoted(command.table)}"
    plan = await c.plan(sql)
    if plan.command is not None or not plan.columns:
        raise PgError("0A000", "COPY needs a query that answers rows")
    if plan.parameters:
        raise PgError("42P02", "there is no parameter $1")
    c.check_allowed(plan)
    portal = Portal(plan, columns=plan.columns)
    try:
        await c.open(portal, more_follows=False)
        await _send(c, command, portal)
    finally:
        await portal.aclose()


async def _send(c: Conversation, command: Copy, portal: Portal) -> None:
    options, columns, channel = command.options, portal.columns, c.channel
    binary = options.format == "binary"
    names = [column.name for column in columns]
    encoders = [encoder(column.type, binary, c.settings.zone) for column in columns]
    line = line_writer(options, names)
    channel.write(backend.copy_out_response(binary, len(columns)))
    first = header(options, names)
    if first:
        channel.write(backend.copy_data(first))
    count = 0
    batch = 64
    source = portal.source
    while source is not None:
        rows = await source.fetch(batch)
        size = 0
        for row in rows:
            data = backend.copy_data(line(_encoded(columns, encoders, row)))
            size += len(data)
            channel.write(data)
        count += len(rows)
        if len(rows) < batch:
            break
        await channel.drain()
        c.check_cancelled()
        batch = next_batch(len(rows), size)
    if binary:
        channel.write(backend.copy_data(BINARY_TRAILER))
    channel.write(backend.COPY_DONE)
    channel.write(backend.command_complete(f"COPY {count}"))


def _encoded(
    columns: Sequence[ResultColumn], encoders: Sequence[Encoder], row: Row
) -> list[bytes | None]:
    out: list[bytes | None] = []
    for column, encode, value in zip(columns, encoders, row, strict=True):
        try:
            out.append(None if value is None else encode(value))
        except (Misfit, ValueError, TypeError, OverflowError):
            raise misfit_error(column.name, column.type, value) from None
    return out


# --- in ----------------------------------------------------------------------------------


async def _copy_in(c: Conversation, command: Copy, more_follows: bool) -> None:
    columns = await _target(c, command)
    binary = command.options.format == "binary"
    c.channel.write(backend.copy_in_response(binary, len(columns)))
    await c.channel.flush()
    loader = _Loader(c, command, columns)
    began = not c.transactions.active
    if began:
        await c.transactions.begin_implicit()
    await _receive(c, loader)
    if began and not more_follows:
        await c.transactions.end_implicit()
    c.channel.write(backend.command_complete(f"COPY {loader.count}"))


async def _target(c: Conversation, command: Copy) -> list[tuple[str, PgType]]:
    """Names and types of the columns that the data fill. Raises HaError for an unknown table."""
    names = ", ".join(quoted(n) for n in command.columns) or "*"
    plan = await c.plan(f"SELECT {names} FROM {quoted(command.table)}")
    columns = [(column.name, column.type) for column in plan.columns]
    if not command.columns:
        stored = await c.stored_columns(command.table)
        columns = [col for col in columns if col[0] in stored]
    probe = await c.plan(_insert(command.table, [n for n, _ in columns], 1))
    c.check_allowed(probe)
    if probe.kind is not Kind.WRITE:
        raise PgError("42809", f'cannot copy to "{command.table}"')
    return columns


def _insert(table: str, names: Sequence[str], rows: int) -> str:
    one = "(" + ",".join("?" * len(names)) + ")"
    columns = ", ".join(quoted(n) for n in names)
    return f"INSERT INTO {quoted(table)} ({columns}) VALUES {','.join([one] * rows)}"


async def _receive(c: Conversation, loader: _Loader) -> None:
    while True:
        message = await c.channel.message()
        if isinstance(message, CopyData):
            await loader.feed(message.data)
        elif isinstance(message, CopyDone):
            await loader.finish()
            return
        elif isinstance(message, CopyFail):
            raise PgError("57014", f"COPY from stdin failed: {message.reason}")
        elif not isinstance(message, Flush | Sync):
            raise ProtocolError(
                f"unexpected message {type(message).__name__} during COPY from stdin"
            )
        c.check_cancelled()


class _Loader:
    """Collects rows, and inserts them many at a time. ``count``: rows inserted."""

    def __init__(
        self, c: Conversation, command: Copy, columns: Sequence[tuple[str, PgType]]
    ) -> None:
        self._c = c
        self._command = command
        options = command.options
        zone = c.settings.zone
        kinds = [kind for _, kind in columns]
        self._decoders = [decoder(kind, options.format == "binary", zone) for kind in kinds]
        self._names = [name for name, _ in columns]
        self._width = len(columns)
        self._size = max(1, min(MAX_BATCH, BATCH_VALUES // self._width))
        self._sql = _insert(command.table, self._names, self._size)
        self._reader = copy_reader(options, c.limits.message)
        self._bulk = bulk(options, self._reader, kinds, self._decoders)
        self._values: list[Value] = []
        self._matched = False
        self._null = options.null.encode()
        self._force_null = _forced(options.force_null, self._names)
        self._force_not_null = _forced(options.force_not_null, self._names)
        self.count = 0

    @property
    def _line(self) -> int:
        """Number of the row that is being decoded."""
        return self.count + len(self._values) // self._width + 1

    async def feed(self, data: bytes) -> None:
        values = self._values
        self._bulk.feed(data, values, self._add)
        step = self._size * self._width
        if len(values) >= step:
            end = len(values) - len(values) % step
            for start in range(0, end, step):
                await self._insert(self._sql, values[start : start + step])
            del values[:end]

    async def finish(self) -> None:
        self._add(self._reader.finish())
        step = self._size * self._width
        for start in range(0, len(self._values), step):
            values = self._values[start : start + step]
            rows = len(values) // self._width
            await self._insert(_insert(self._command.table, self._names, rows), values)
        self._values.clear()

    def _add(self, rows: Sequence[Sequence[Field]]) -> None:
        if self._reader.header is not None and not self._matched:
            self._matched = True
            self._check_header(self._reader.header)
        forced = bool(self._force_null or self._force_not_null)
        decoders, values, width = self._decoders, self._values, self._width
        for row in rows:
            if len(row) != width:
                raise _width(row, self._names, f"COPY {self._command.table}, line {self._line}")
            given = self._forced(row) if forced else row
            try:
                values += [
                    None if field is None else decode(field)
                    for decode, field in zip(decoders, given, strict=True)
                ]
            except PgError:
                raise self._located(given) from None

    async def _insert(self, sql: str, values: list[Value]) -> None:
        last = self.count + len(values) // self._width
        try:
            await self._c.session.execute(sql, values)
        except HaError as error:
            if error.detail is None:
                error.detail = f"COPY {self._command.table}, lines {self.count + 1} to {last}"
            raise
        self.count = last

    def _check_header(self, given: Sequence[bytes]) -> None:
        if self._command.options.header != "match":
            return
        names = [g.decode("utf-8", "replace") for g in given]
        if names != self._names:
            raise PgError(
                "22P04", f"the header names {', '.join(names)}, not {', '.join(self._names)}"
            )

    def _forced(self, row: Sequence[Field]) -> list[Field]:
        """FORCE_NULL and FORCE_NOT_NULL: what a quoted or an unquoted empty text means."""
        out = list(row)
        for i in self._force_null:
            if out[i] == self._null:
                out[i] = None
        for i in self._force_not_null:
            if out[i] is None:
                out[i] = self._null
        return out

    def _located(self, row: Sequence[Field]) -> PgError:
        """The error of the first field that does not fit, with its column."""
        for name, decode, field in zip(self._names, self._decoders, row, strict=True):
            error = _failure(decode, field)
            if error is not None:
                error.detail = f"COPY {self._command.table}, line {self._line}, column {name}"
                error.column = name
                return error
        raise AssertionError("a row that failed has no field that fails")


def _failure(decode: Decoder, field: Field) -> PgError | None:
    if field is None:
        return None
    try:
        decode(field)
    except PgError as error:
        return error
    return None


def _forced(names: tuple[str, ...] | None, columns: Sequence[str]) -> list[int]:
    if names is None:
        return []
    return [i for i, n in enumerate(columns) if not names or n.lower() in names]


def _width(row: Sequence[Field], names: Sequence[str], where: str) -> PgError:
    if len(row) > len(names):
        return PgError("22P04", "extra data after last expected column", detail=where)
    return PgError("22P04", f'missing data for column "{names[len(row)]}"', detail=where)
