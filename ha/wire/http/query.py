"""The query endpoint: one request is one session and one transaction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

import trio

from ha.core.errors import Code, HaError
from ha.engine.api import Result, Routing, SessionApi, Sessions, Status
from ha.engine.commands import LOCAL, is_linearizable
from ha.wire.http.asgi import Headers, Reply, error_reply, incident, redirect
from ha.wire.http.codec import Format, Query, decode_query, encode_results

_log = logging.getLogger("ha.http")

TXSEQ_HEADER = b"x-txseq"
TXSEQ_COOKIE = b"_txseq"

# A body beyond this is parsed in a thread: it would keep the loop for more than a millisecond
# or two, and with it everybody else.
_THREAD_FROM_BYTES = 64 * 1024
_CLOSE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the query string asks for."""

    answer: Format
    routing: Routing = Routing()  # noqa: RUF009 (it is frozen)


class Call:
    """One request in the making. ``abandon`` may be called from another task."""

    def __init__(self, database_id: str | None, query_string: bytes, headers: Headers) -> None:
        self.database_id = database_id
        self.query_string = query_string
        self.headers = headers
        self.session: SessionApi | None = None

    @property
    def target(self) -> str:
        """The path and the query string, as another node takes them."""
        path = "/"
        if self.database_id is not None:
            path = f"/databases/{quote(self.database_id, safe='')}/query"
        query = self.query_string.decode("latin-1")
        return f"{path}?{query}" if query else path

    def abandon(self) -> None:
        """The client went away: interrupt the statement, if one runs."""
        if self.session is not None:
            self.session.cancel()


class QueryEndpoint:
    """Runs requests on sessions of their own.

    ``max_rows`` bounds the rows of one statement's result: a result is held in memory.
    """

    def __init__(self, sessions: Sessions, *, max_rows: int | None) -> None:
        self._sessions = sessions
        self._max_rows = max_rows

    async def answer(self, call: Call, body: bytes | bytearray) -> Reply:
        """The reply, also to what goes wrong. Raises nothing but trio.Cancelled."""
        try:
            options = parse_options(call.query_string)
            txseq = wanted_txseq(call.headers)
            if len(body) < _THREAD_FROM_BYTES:
                query = decode_query(body)
            else:
                query = await trio.to_thread.run_sync(decode_query, body)
            results, written = await self._run(call, query, txseq, options.routing)
            return await _reply(results, query.many, options.answer, written)
        except HaError as error:
            if error.leader is not None:
                return redirect(error, call.target)
            return error_reply(error)
        except Exception:
            mark, told = incident("running the statements")
            _log.exception("a query failed in an unforeseen way", extra={"incident": mark})
            return error_reply(told)

    async def _run(
        self, call: Call, query: Query, txseq: int, routing: Routing
    ) -> tuple[list[Result], int]:
        session = self._sessions.session(call.database_id, protocol="http")
        call.session = session
        try:
            if routing is not _HERE_OR_FORWARDED:
                session.routing = routing
            if txseq:
                await session.wait_for(txseq)
            if query.many:
                results = []
                if query.statements:
                    results = await session.transaction(query.statements, max_rows=self._max_rows)
                return results, session.txseq
            (statement,) = query.statements
            result = await session.execute(statement.sql, statement.params, max_rows=self._max_rows)
            if session.status is not Status.IDLE:
                raise HaError(
                    Code.BAD_REQUEST,
                    "a transaction cannot stay open between requests: it was rolled back",
                    hint="send its statements as one list, without BEGIN and COMMIT",
                )
            return [result], session.txseq
        finally:
            call.session = None
            with trio.move_on_after(_CLOSE_SECONDS, shield=True):
                await session.aclose()


async def _reply(results: list[Result], many: bool, answer: Format, written: int) -> Reply:
    pieces: list[bytes] = []
    for piece in encode_results(results, many=many, answer=answer):
        if pieces:
            await trio.lowlevel.checkpoint()
        pieces.append(piece)
    headers: Headers = []
    if written:
        number = b"%d" % written
        headers.append((TXSEQ_HEADER, number))
        headers.append(
            (b"set-cookie", b"%s=%s; Path=/; HttpOnly; SameSite=Lax" % (TXSEQ_COOKIE, number))
        )
    return Reply(200, pieces, headers)


_HERE_OR_FORWARDED = Routing()
_DEFAULT_OPTIONS = Options(Format(), _HERE_OR_FORWARDED)
_BOOLEANS = {"true": True, "1": True, "": True, "false": False, "0": False}


def parse_options(query_string: bytes) -> Options:
    """``local``, ``forward``, ``consistency``, ``blob`` and ``bigint``; other names are ignored.

    Raises HaError(BAD_REQUEST) for a value that none of them has.
    """
    if not query_string:
        return _DEFAULT_OPTIONS
    given = parse_qs(query_string.decode("latin-1"), keep_blank_values=True)
    blob = given.get("blob", ["object"])[-1]
    bigint = given.get("bigint", ["number"])[-1]
    if blob not in ("object", "base64"):
        raise HaError(Code.BAD_REQUEST, "blob takes object or base64")
    if bigint not in ("number", "string"):
        raise HaError(Code.BAD_REQUEST, "bigint takes number or string")
    return Options(Format(blob == "base64", bigint == "string"), routing_of(given))


def routing_of(given: Mapping[str, Sequence[str]]) -> Routing:
    """``local``, ``forward`` and ``consistency`` of a query string. Raises HaError."""
    if given.keys().isdisjoint(("local", "forward", "consistency")):
        return _HERE_OR_FORWARDED
    return Routing(
        local=_boolean(given, "local", "false"),
        forward=_boolean(given, "forward", "true"),
        linearizable=is_linearizable(given.get("consistency", [LOCAL])[-1]),
    )


def _boolean(given: Mapping[str, Sequence[str]], name: str, default: str) -> bool:
    word = given.get(name, [default])[-1].lower()
    if word not in _BOOLEANS:
        raise HaError(Code.BAD_REQUEST, f"{name} takes true or false")
    return _BOOLEANS[word]


def wanted_txseq(headers: Headers) -> int:
    """The newest sequence that the client presents, in the header or the cookie; 0: none."""
    wanted = 0
    for name, value in headers:
        if name == TXSEQ_HEADER:
            wanted = max(wanted, _sequence(value, "the header X-Txseq"))
        elif name == b"cookie":
            for pair in value.split(b";"):
                key, _, content = pair.strip().partition(b"=")
                if key == TXSEQ_COOKIE:
                    wanted = max(wanted, _sequence(content.strip(b'"'), "the cookie _txseq"))
    return wanted


def _sequence(text: bytes, what: str) -> int:
    text = text.strip()
    if not text.isdigit() or len(text) > 19 or int(text) >= 2**63:
        raise HaError(
            Code.BAD_REQUEST, f"{what} must be a sequence as the node answered it: a whole number"
        )
    return int(text)
