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
from ha.wire.postgres.copy_read import CopyReader, Field, copy_reader
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
    try:
        if began:
            await c.transactions.begin_implicit()
        reader = copy_reader(command.options, c.limits.message)
        await _receive(c, reader, loader)
        await loader.flush()
    except (HaError, PgError) as error:
        _add_context(error, command, loader)
        raise
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


async def _receive(c: Conversation, reader: CopyReader, loader: _Loader) -> None:
    while True:
        message = await c.channel.message()
        if isinstance(message, CopyData):
            await loader.add(reader.feed(message.data), reader)
        elif isinstance(message, CopyDone):
            await loader.add(reader.finish(), reader)
            return
        elif isinstance(message, CopyFail):
            raise PgError("57014", f"COPY from stdin failed: {message.reason}")
        elif not isinstance(message, Flush | Sync):
            raise ProtocolError(
                f"unexpected message {type(message).__name__} during COPY from stdin"
            )
        c.check_cancelled()


def _add_context(error: HaError | PgError, command: Copy, loader: _Loader) -> None:
    if error.detail is None:
        error.detail = f"COPY {command.table}, line {loader.line}"


class _Loader:
    """Collects rows, and inserts them many at a time. ``line`` counts the data's rows from 1."""

    def __init__(
        self, c: Conversation, command: Copy, columns: Sequence[tuple[str, PgType]]
    ) -> None:
        self._c = c
        self._command = command
        self._columns = columns
        options = command.options
        self._binary = options.format == "binary"
        zone = c.settings.zone
        self._decoders = [decoder(kind, self._binary, zone) for _, kind in columns]
        self._names = [name for name, _ in columns]
        self._size = max(1, min(MAX_BATCH, BATCH_VALUES // max(1, len(columns))))
        self._sql = _insert(command.table, self._names, self._size)
        self._values: list[Value] = []
        self._pending = 0
        self._lines = 0
        self._matched = False
        self._null = options.null.encode()
        self._force_null = _forced(options.force_null, self._names)
        self._force_not_null = _forced(options.force_not_null, self._names)
        self.count = 0
        self.line = 0

    async def add(self, rows: Sequence[Sequence[Field]], reader: CopyReader) -> None:
        if reader.header is not None and not self._matched:
            self._matched = True
            self._check_header(reader.header)
        forced = bool(self._force_null or self._force_not_null)
        decoders, values, width = self._decoders, self._values, len(self._columns)
        for row in rows:
            self.line += 1
            if len(row) != width:
                raise _width(row, self._names)
            given = self._forced(row) if forced else row
            try:
                values += [
                    None if field is None else decode(field)
                    for decode, field in zip(decoders, given, strict=True)
                ]
            except PgError:
                raise self._located(given) from None
            self._pending += 1
            if self._pending == self._size:
                await self._insert(self._sql)

    async def flush(self) -> None:
        if self._pending:
            await self._insert(_insert(self._command.table, self._names, self._pending))

    async def _insert(self, sql: str) -> None:
        values = list(self._values)
        self._values.clear()
        result = await self._c.session.execute(sql, values)
        self.count += self._pending
        self._pending = 0
        del result

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
                error.detail = f"COPY {self._command.table}, line {self.line}, column {name}"
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


def _width(row: Sequence[Field], names: Sequence[str]) -> PgError:
    if len(row) > len(names):
        return PgError("22P04", "extra data after last expected column")
    return PgError("22P04", f'missing data for column "{names[len(row)]}"')
