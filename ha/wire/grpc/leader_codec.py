"""The engine's shapes as messages of ``ha.v1``, there and back, exactly: see leader.proto."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ha.core.errors import Code, HaError
from ha.core.since import Since
from ha.core.undo import Mode
from ha.core.values import RawText, Value
from ha.engine import api
from ha.engine.forwarding import Carried
from ha.wire.grpc import leader_pb as pb

_TYPE = pb.Value.Type
_NULL = pb.Value()


class BadMessage(Exception):
    """What came is no message of this protocol."""


# --- values --------------------------------------------------------------------------


def encode_value(value: Value) -> pb.Value:
    if value is None:
        return _NULL
    if isinstance(value, int):
        return pb.Value(type=_TYPE.INTEGER, integer=value)
    if isinstance(value, float):
        return pb.Value(type=_TYPE.REAL, real=value)
    if isinstance(value, str):
        return pb.Value(type=_TYPE.TEXT, data=value.encode("utf-8", "surrogatepass"))
    if isinstance(value, RawText):
        return pb.Value(type=_TYPE.RAW_TEXT, data=value.data)
    return pb.Value(type=_TYPE.BLOB, data=bytes(value))


def decode_value(value: pb.Value) -> Value:
    """Raises BadMessage."""
    match value.type:
        case _TYPE.NULL:
            return None
        case _TYPE.INTEGER:
            return value.integer
        case _TYPE.REAL:
            return value.real
        case _TYPE.TEXT:
            try:
                return value.data.decode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise BadMessage(f"a text is not Unicode: {error}") from error
        case _TYPE.BLOB:
            return value.data
        case _TYPE.RAW_TEXT:
            return RawText(value.data)
    raise BadMessage(f"a value has the unknown type {value.type}")


def encode_rows(rows: Iterable[Sequence[Value]]) -> list[pb.Row]:
    return [pb.Row(values=[encode_value(value) for value in row]) for row in rows]


def decode_rows(rows: Iterable[pb.Row]) -> list[tuple[Value, ...]]:
    return [tuple([decode_value(value) for value in row.values]) for row in rows]


# --- statements and results ----------------------------------------------------------


def encode_statement(sql: str, params: api.Params) -> pb.Statement:
    if params is None:
        return pb.Statement(sql=_text(sql))
    if isinstance(params, Mapping):
        values = [encode_value(value) for value in params.values()]
        names = [_text(name) for name in params]
        return pb.Statement(sql=_text(sql), params=values, names=names, has_params=True)
    return pb.Statement(
        sql=_text(sql), params=[encode_value(value) for value in params], has_params=True
    )


def decode_statement(statement: pb.Statement) -> api.Statement:
    values = [decode_value(value) for value in statement.params]
    if statement.names:
        if len(statement.names) != len(values):
            raise BadMessage("a statement has other names than parameters")
        return api.Statement(statement.sql, dict(zip(statement.names, values, strict=True)))
    return api.Statement(statement.sql, values if statement.has_params else None)


def encode_columns(columns: Iterable[api.Column]) -> list[pb.Column]:
    out = []
    for column in columns:
        message = pb.Column(name=_text(column.name))
        if column.decltype is not None:
            message.decltype = _text(column.decltype)
        if column.table is not None:
            message.table = _text(column.table)
        if column.origin is not None:
            message.origin = _text(column.origin)
        out.append(message)
    return out


def decode_columns(columns: Iterable[pb.Column]) -> tuple[api.Column, ...]:
    return tuple(
        api.Column(
            c.name,
            c.decltype if c.has_field("decltype") else None,
            c.table if c.has_field("table") else None,
            c.origin if c.has_field("origin") else None,
        )
        for c in columns
    )


def encode_result(result: api.Result) -> pb.Result:
    return pb.Result(
        kind=result.kind.value,
        verb=result.verb,
        columns=encode_columns(result.columns),
        rows=encode_rows(result.rows),
        rows_affected=result.rows_affected,
        last_insert_id=result.last_insert_id,
    )


def decode_result(result: pb.Result) -> api.Result:
    return api.Result(
        _kind(result.kind),
        result.verb,
        decode_columns(result.columns),
        decode_rows(result.rows),
        result.rows_affected,
        result.last_insert_id,
    )


def encode_prepared(prepared: api.Prepared) -> pb.Prepared:
    return pb.Prepared(
        sql=_text(prepared.sql),
        kind=prepared.kind.value,
        verb=prepared.verb,
        columns=encode_columns(prepared.columns),
        parameters=[name or "" for name in prepared.parameters],
        remaining=_text(prepared.remaining),
    )


def decode_prepared(prepared: pb.Prepared | None) -> api.Prepared:
    if prepared is None:
        raise BadMessage("a statement was not described")
    return api.Prepared(
        prepared.sql,
        _kind(prepared.kind),
        prepared.verb,
        decode_columns(prepared.columns),
        tuple(name or None for name in prepared.parameters),
        prepared.remaining,
    )


def _kind(word: str) -> api.Kind:
    try:
        return api.Kind(word)
    except ValueError as error:
        raise BadMessage(f"a statement has the unknown kind {word!r}") from error


# --- undo ----------------------------------------------------------------------------


def encode_undo(mode: Mode, since: Since, rows: Mapping[str, frozenset[int]] | None) -> pb.Undo:
    message = pb.Undo(mode=mode.value, sequence=since.sequence, has_rows=rows is not None)
    if since.seconds is not None:
        message.seconds = since.seconds
    message.rows = [
        pb.TableRows(table=_text(table), rowids=sorted(rowids))
        for table, rowids in (rows or {}).items()
    ]
    return message


def decode_undo(message: pb.Undo | None) -> tuple[Mode, Since, Mapping[str, frozenset[int]] | None]:
    if message is None:
        raise BadMessage("an undo does not say of what")
    try:
        mode = Mode(message.mode)
    except ValueError as error:
        raise BadMessage(f"there is no {message.mode!r}") from error
    since = Since(message.sequence, message.seconds if message.has_field("seconds") else None)
    rows = {one.table: frozenset(one.rowids) for one in message.rows}
    return mode, since, rows if message.has_rows else None


def encode_report(report: api.UndoReport) -> pb.UndoReport:
    return pb.UndoReport(
        sequence=report.sequence,
        rows=report.rows,
        transactions=report.transactions,
        first=report.first,
        last=report.last,
        schema=list(map(_text, report.schema)),
    )


def decode_report(report: pb.UndoReport | None) -> api.UndoReport:
    if report is None:
        raise BadMessage("an undo was not reported")
    return api.UndoReport(
        sequence=report.sequence,
        rows=report.rows,
        transactions=report.transactions,
        first=report.first,
        last=report.last,
        schema=list(report.schema),
    )


# --- sessions and errors -------------------------------------------------------------


def encode_carried(carried: Carried) -> pb.Open:
    return pb.Open(
        database_id=carried.database_id,
        protocol=carried.protocol,
        context=dict(carried.context),
        last_insert_id=carried.last_insert_id,
        changes=carried.changes,
        pragmas=list(carried.pragmas),
        linearizable=carried.linearizable,
    )


def decode_carried(message: pb.Open) -> Carried:
    return Carried(
        database_id=message.database_id,
        protocol=message.protocol,
        context=dict(message.context),
        last_insert_id=message.last_insert_id,
        changes=message.changes,
        pragmas=tuple(message.pragmas),
        linearizable=message.linearizable,
    )


def encode_error(error: HaError) -> pb.Error:
    message = pb.Error(code=error.code.value, message=_text(error.message))
    if error.hint is not None:
        message.hint = _text(error.hint)
    if error.detail is not None:
        message.detail = _text(error.detail)
    if error.offset is not None:
        message.offset = error.offset
    if error.sequence is not None:
        message.sequence = error.sequence
    if error.sqlite_code is not None:
        message.sqlite_code = error.sqlite_code
    return message


def decode_error(message: pb.Error) -> HaError:
    try:
        code = Code(message.code)
    except ValueError:  # a newer node's
        code = Code.INTERNAL
    return HaError(
        code,
        message.message,
        hint=message.hint if message.has_field("hint") else None,
        detail=message.detail if message.has_field("detail") else None,
        offset=message.offset if message.has_field("offset") else None,
        sequence=message.sequence if message.has_field("sequence") else None,
        sqlite_code=message.sqlite_code if message.has_field("sqlite_code") else None,
    )


def decode_status(word: str) -> api.Status:
    try:
        return api.Status(word)
    except ValueError as error:
        raise BadMessage(f"a session has the unknown status {word!r}") from error


def _text(text: str) -> str:
    """Names and messages may quote a lone surrogate, which protobuf's strings cannot hold."""
    return text.encode("utf-8", "replace").decode()
