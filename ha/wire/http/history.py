"""``GET /history/…`` and ``POST /undo/…``, ``/undoe/…``, ``/undot/…``."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import trio
from quart import Blueprint, Response, request

from ha.core.errors import Code, HaError
from ha.core.since import parse_since
from ha.core.undo import Mode
from ha.engine.api import HistoryItem, SessionApi, Sessions, UndoReport
from ha.engine.history_commands import parse_rows
from ha.wire.http.answers import Answer, json_answer
from ha.wire.http.query import TXSEQ_HEADER, routing_of

_CLOSE_SECONDS = 10.0
_PIECE = 64 * 1024
_BOOLEANS = {"true": True, "false": False}


def history_blueprint(sessions: Sessions) -> Blueprint:
    blueprint = Blueprint("history", __name__)

    @blueprint.get("/history", defaults={"since": ""})
    @blueprint.get("/history/<since>")
    @blueprint.get("/databases/<id>/history", defaults={"since": ""})
    @blueprint.get("/databases/<id>/history/<since>")
    async def history(since: str, id: str | None = None) -> Answer:
        place = parse_since(since)
        limit = _limit()
        async with AsyncExitStack() as stack:
            session = sessions.session(id, protocol="http")
            stack.push_async_callback(_close, session)
            items = await stack.enter_async_context(session.history(place))
            # What goes wrong at once is an error with its own status.
            first = await anext(items, None)
            body = _History(first, items, limit, stack.pop_all())
        response = Response(body, content_type="application/json")
        response.timeout = None
        return response

    def add_undo(word: str, mode: Mode) -> None:
        async def undo(since: str, id: str | None = None) -> Answer:
            rows = parse_rows(request.args["where"]) if "where" in request.args else None
            session = sessions.session(id, protocol="http")
            try:
                session.routing = routing_of(request.args.to_dict(flat=False))
                report = await session.undo(mode, parse_since(since), rows, dry_run=_dry_run())
            finally:
                await _close(session)
            response = json_answer(report_of(report))
            if report.sequence:
                response.headers[TXSEQ_HEADER.decode()] = str(report.sequence)
            return response

        undo.__name__ = word
        for rule in (f"/{word}", f"/databases/<id>/{word}"):
            blueprint.add_url_rule(rule, word, undo, methods=["POST"], defaults={"since": ""})
            blueprint.add_url_rule(f"{rule}/<since>", word, undo, methods=["POST"])

    for mode in Mode:
        add_undo(mode.value.lower(), mode)
    return blueprint


class _History:
    """The answer, written while it is read from the log."""

    def __init__(
        self,
        first: HistoryItem | None,
        items: AsyncIterator[HistoryItem],
        limit: int | None,
        stack: AsyncExitStack,
    ) -> None:
        self._stack = stack
        self._pieces = self._write(first, items, limit)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):
            await self._pieces.aclose()  # type: ignore[attr-defined]
            await self._stack.aclose()

    async def _write(
        self, item: HistoryItem | None, items: AsyncIterator[HistoryItem], limit: int | None
    ) -> AsyncIterator[bytes]:
        piece = bytearray(b'{"history":[')
        count = 0
        while item is not None and count != limit:
            if count:
                piece += b","
            piece += json.dumps(item_of(item), ensure_ascii=False, separators=(",", ":")).encode(
                "utf-8", "replace"
            )
            count += 1
            if len(piece) >= _PIECE:
                yield bytes(piece)
                piece.clear()
            item = await anext(items, None)
        piece += b"]}"
        yield bytes(piece)


def item_of(item: HistoryItem) -> dict[str, object]:
    out: dict[str, object] = {
        "seq": item.sequence,
        "sql": item.statements,
        "timestamp_ns": item.time_ns,
        "node": item.node,
    }
    if item.more:
        out["more"] = True
    return out


def report_of(report: UndoReport) -> dict[str, object]:
    """What an undo did; what it would do has more members."""
    out: dict[str, object] = {
        "sequence": report.sequence,
        "rows": report.rows,
        "transactions": report.transactions,
        "first": report.first,
        "last": report.last,
        "schema": report.schema,
    }
    if report.dry_run:
        out["dry_run"] = True
        out["statements"] = report.statements
        out["obstacles"] = [
            {
                "kind": o.kind.value,
                "message": o.message,
                "table": o.table,
                "row": o.row,
                "sequence": o.sequence,
            }
            for o in report.obstacles
        ]
    return out


async def _close(session: SessionApi) -> None:
    with trio.move_on_after(_CLOSE_SECONDS, shield=True):
        await session.aclose()


def _dry_run() -> bool:
    text = request.args.get("dry_run", "false")
    if text not in _BOOLEANS:
        raise HaError(Code.BAD_REQUEST, "dry_run takes true or false")
    return _BOOLEANS[text]


def _limit() -> int | None:
    text = request.args.get("limit")
    if text is None:
        return None
    if not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise HaError(Code.BAD_REQUEST, "limit takes a number of transactions, at least 1")
    return int(text)
