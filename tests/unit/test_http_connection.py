"""Connections: both protocols on one port, and clients that behave badly."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h2.connection
import h2.errors
import h2.events
import h2.settings
import httpx
import pytest
import trio
import trio.testing
import trustme

from ha.wire.http import app as front
from ha.wire.http.app import create_app
from ha.wire.http.asgi import Application, Receive, Scope, Send
from ha.wire.http.connection import Timeouts
from ha.wire.http.server import Address, Tls, serve
from tests.support.fake_session import FakeSessions
from tests.support.http_server import client_of, serving

QUERY = b'{"sql":"SELECT 1 AS a"}'
POST = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(QUERY), QUERY)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
def app() -> Application:
    return create_app(FakeSessions(), token=None)


async def connect(address: Address) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", address.port)


async def receive_all(stream: trio.SocketStream) -> bytes:
    """Until the server closes, which must be soon."""
    received = b""
    with trio.fail_after(10), suppress(trio.BrokenResourceError):
        async for data in stream:
            received += data
    return received


async def is_alive(address: Address) -> bool:
    async with httpx.AsyncClient() as client:
        return (await client.get(f"http://127.0.0.1:{address.port}/healthz")).status_code == 200


class Http2Client:
    """HTTP/2 by hand, so that it can be wrong."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.h2 = h2.connection.H2Connection()
        self.h2.config.validate_outbound_headers = False
        self.h2.config.normalize_outbound_headers = False

    async def start(self) -> None:
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send_all(self.h2.data_to_send())

    async def request(self, stream_id: int, path: bytes, *, method: bytes, end: bool) -> None:
        headers = [(b":method", method), (b":path", path), (b":scheme", b"http")]
        self.h2.send_headers(stream_id, [*headers, (b":authority", b"x")], end_stream=end)
        await self.flush()

    async def until(self, kind: type, stream_id: int) -> Any:
        """The next event of that kind on that stream; others are passed over."""
        with trio.fail_after(10):
            while data := await self.stream.receive_some():
                for event in self.h2.receive_data(data):
                    if isinstance(event, kind) and event.stream_id == stream_id:
                        return event
                await self.flush()
        raise AssertionError("the server closed the connection")


# HTTP/2


async def test_http2_with_prior_knowledge(app: Application) -> None:
    async with serving(app) as address:
        url = f"http://127.0.0.1:{address.port}"
        async with httpx.AsyncClient(base_url=url, http1=False, http2=True) as client:
            for _ in range(3):
                response = await client.post("/query", content=QUERY)
                assert response.http_version == "HTTP/2"
                assert response.json() == {"columns": ["a"], "rows": [[1]]}
            assert (await client.get("/databases")).json() == {"databases": ["ha.db"]}
            assert (await client.get("/none")).status_code == 404


async def test_http2_by_upgrade(app: Application) -> None:
    async with serving(app) as address, await connect(address) as stream:
        client = Http2Client(stream)
        settings = client.h2.initiate_upgrade_connection()
        assert settings is not None
        await stream.send_all(
            b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\n"
            b"upgrade: h2c\r\nhttp2-settings: %s\r\n\r\n" % settings
        )
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        head, _, rest = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        await client.flush()
        events = client.h2.receive_data(rest)
        if not any(isinstance(e, h2.events.ResponseReceived) for e in events):
            await client.until(h2.events.ResponseReceived, 1)


async def test_many_http2_requests_at_once(app: Application) -> None:
    statuses = []
    async with serving(app) as address:
        url = f"http://127.0.0.1:{address.port}"
        async with (
            httpx.AsyncClient(base_url=url, http1=False, http2=True) as client,
            trio.open_nursery() as nursery,
        ):

            async def one() -> None:
                statuses.append((await client.post("/", content=QUERY)).status_code)

            for _ in range(100):
                nursery.start_soon(one)
    assert statuses == [200] * 100


async def test_a_reset_http2_request_stops_its_statement() -> None:
    sessions = FakeSessions()
    reached, left = trio.Event(), trio.Event()

    async def wait(sql: str) -> None:
        reached.set()
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    sessions.on_statement = wait
    async with serving(create_app(sessions)) as address, await connect(address) as stream:
        client = Http2Client(stream)
        await client.start()
        await client.request(1, b"/", method=b"POST", end=False)
        client.h2.send_data(1, QUERY, end_stream=True)
        await client.flush()
        await reached.wait()
        client.h2.reset_stream(1)
        await client.flush()
        with trio.fail_after(5):
            await left.wait()
        # The connection itself goes on.
        await client.request(3, b"/healthz", method=b"GET", end=True)
        await client.until(h2.events.StreamEnded, 3)
    assert sessions.opened[0].closed


@pytest.mark.parametrize(("method", "path"), [(b"GET", b"/\xff"), (b"G\xffT", b"/")])
async def test_a_malformed_http2_request_costs_only_itself(
    app: Application, method: bytes, path: bytes
) -> None:
    async with serving(app) as address, await connect(address) as stream:
        client = Http2Client(stream)
        await client.start()
        await client.request(1, path, method=method, end=True)
        await client.until(h2.events.StreamReset, 1)
        await client.request(3, b"/healthz", method=b"GET", end=True)
        await client.until(h2.events.StreamEnded, 3)
        assert await is_alive(address)


async def test_what_follows_an_early_http2_answer_is_passed_over() -> None:
    async with serving(create_app(FakeSessions(), token="t")) as address:
        async with await connect(address) as stream:
            client = Http2Client(stream)
            await client.start()
            await client.request(1, b"/", method=b"POST", end=False)
            response = await client.until(h2.events.ResponseReceived, 1)
            assert dict(response.headers)[b":status"] == b"401"
            for _ in range(3):  # three times what the flow control lets pass unacknowledged
                client.h2.send_data(1, b" " * 16384)
                await client.flush()
            await client.request(3, b"/healthz", method=b"GET", end=True)
            await client.until(h2.events.StreamEnded, 3)
        assert await is_alive(address)


async def test_garbage_costs_only_its_connection(app: Application) -> None:
    async with serving(app) as address:
        for garbage in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS on the plain port
            b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: x\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            PREFACE + b"\x00\x00\x04\x08" + b"\x00" * 9,  # a window is opened by nothing
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        ):
            async with await connect(address) as stream:
                await stream.send_all(garbage)
                await receive_all(stream)
            assert await is_alive(address)


# HTTP/1.1


async def test_pipelined_requests_are_answered_in_order(app: Application) -> None:
    async with serving(app) as address, await connect(address) as stream:
        last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        await stream.send_all(POST + POST + last)
        answers = (await receive_all(stream)).split(b"HTTP/1.1 200 ")[1:]
    assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == [
        b'{"columns":["a"],"rows":[[1]]}',
        b'{"columns":["a"],"rows":[[1]]}',
        b'{"status":"up"}',
    ]


async def test_a_client_of_http_1_0(app: Application) -> None:
    async with serving(app) as address, await connect(address) as stream:
        await stream.send_all(POST.replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert (await receive_all(stream)).endswith(b'{"columns":["a"],"rows":[[1]]}')


async def test_a_client_that_waits_for_100_continue(app: Application) -> None:
    async with serving(app) as address, await connect(address) as stream:
        head, _, body = POST.partition(b"\r\n\r\n")
        await stream.send_all(head + b"\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100 ")
        await stream.send_all(body)
        assert b'"rows":[[1]]' in await receive_all(stream)


async def test_the_whole_url_as_target(app: Application) -> None:
    async with serving(app) as address, await connect(address) as stream:
        await stream.send_all(POST.replace(b"POST /", b"POST http://x:1/query?local=1"))
        assert b'"rows":[[1]]' in await stream.receive_some()
        await stream.send_all(b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 405 ")
        await stream.send_all(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 404 ")
        await stream.send_all(POST.replace(b"POST /", b"POST //query"))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 404 ")


async def test_a_websocket_is_refused(app: Application) -> None:
    async with serving(app) as address, await connect(address) as stream:
        await stream.send_all(
            b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await receive_all(stream)).startswith(b"HTTP/1.1 403 ")


async def test_an_application_that_fails_costs_only_its_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            start = {"type": "http.response.start", "status": 200, "headers": []}
            await send(start)
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ZeroDivisionError

    async with client_of(broken) as client:
        assert (await client.get("/")).status_code == 500
        with pytest.raises(httpx.RemoteProtocolError):  # cut off, and seen to be
            await client.get("/late")
    assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR"]


# Time


async def test_idle_connections_are_closed(app: Application) -> None:
    async with serving(app, timeouts=Timeouts(idle=0.05)) as address:
        for said in (b"", POST, b"POST / HTTP/1.1\r\nhost:", PREFACE, PREFACE + b"\xff" * 9):
            async with await connect(address) as stream:
                await stream.send_all(said)
                answer = await receive_all(stream)
                assert (b'"rows":[[1]]' in answer) is (said == POST)


async def test_a_busy_connection_is_not_idle() -> None:
    sessions = FakeSessions()

    async def slow(sql: str) -> None:
        await trio.sleep(0.2)

    sessions.on_statement = slow
    async with client_of(create_app(sessions), timeouts=Timeouts(idle=0.02)) as client:
        assert (await client.post("/", content=QUERY)).status_code == 200


async def test_a_body_that_stops_coming(app: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "_BODY_STALL_SECONDS", 0.05)
    async with serving(app) as address, await connect(address) as stream:
        await stream.send_all(POST[:-1])
        with trio.fail_after(5):
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")


async def flood(scope: Scope, receive: Receive, send: Send) -> None:
    """An endless answer."""
    if scope["path"] == "/healthz":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while (await trio.lowlevel.checkpoint()) is None:
        await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})


async def test_a_client_that_does_not_read_is_dropped() -> None:
    async with serving(flood, timeouts=Timeouts(stall=0.1), grace=30) as address:
        stream = await connect(address)
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await trio.testing.wait_all_tasks_blocked(0.3)
        assert await is_alive(address)
        async with stream:
            await receive_all(stream)  # what the kernel had taken, then the end


@pytest.mark.parametrize("way", ["shutdown", "cancel"])
async def test_a_client_that_does_not_read_holds_up_no_end(way: str) -> None:
    with trio.fail_after(10), trio.CancelScope() as scope:
        async with serving(flood, grace=0.1) as address:
            stream = await connect(address)
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked(0.1)
            if way == "cancel":
                scope.cancel()
    await stream.aclose()


async def stopping(app: Application, stop: trio.Event, task_status: Any, **options: Any) -> None:
    await serve(
        app,
        host="127.0.0.1",
        port=0,
        shutdown_trigger=stop.wait,
        task_status=task_status,
        **options,
    )


@pytest.mark.parametrize("speaks", ["1.1", "2"])
async def test_who_connects_while_the_server_shuts_down_gets_an_answer(
    app: Application, speaks: str
) -> None:
    """Accepted or still in the backlog: its first request is on its way."""
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(lambda task_status: stopping(app, stop, task_status))
            accepted = await connect(address)
            await trio.testing.wait_all_tasks_blocked(0.05)
            stop.set()
            waiting = await connect(address)  # nobody has run since: the kernel said yes
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(OSError):
                await connect(address)
            for stream in (accepted, waiting):
                if speaks == "1.1":
                    await stream.send_all(POST)
                    assert b'"rows":[[1]]' in await receive_all(stream)
                else:
                    client = Http2Client(stream)
                    await client.start()
                    await client.request(1, b"/healthz", method=b"GET", end=True)
                    reset = await client.until(h2.events.StreamReset, 1)
                    assert reset.error_code is h2.errors.ErrorCodes.REFUSED_STREAM
                await stream.aclose()


async def test_a_client_that_says_nothing_holds_up_no_end(app: Application) -> None:
    with trio.fail_after(5):
        async with serving(app, timeouts=Timeouts(farewell=0.05)) as address:
            silent, greets = await connect(address), await connect(address)
            await greets.send_all(PREFACE)
            await trio.testing.wait_all_tasks_blocked(0.05)
    for stream in (silent, greets):
        await stream.aclose()


async def test_a_client_of_http2_is_told_before_the_end_and_keeps_what_was_said() -> None:
    """The server waits for it to close: what it sends meanwhile must not cost it an answer."""
    sessions = FakeSessions()
    goes_on = trio.Event()

    async def slow(sql: str) -> None:
        await goes_on.wait()

    sessions.on_statement = slow
    stop = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(
                lambda task_status: stopping(create_app(sessions), stop, task_status)
            )
            client = Http2Client(await connect(address))
            await client.start()
            await client.request(1, b"/?sql=SELECT+1", method=b"POST", end=False)
            client.h2.send_data(1, QUERY, end_stream=True)
            await client.flush()
            await trio.testing.wait_all_tasks_blocked(0.05)
            stop.set()
            goes_on.set()
            await client.until(h2.events.StreamEnded, 1)
            await client.stream.send_all(b"\0" * 1000)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await client.stream.send_all(b"\0" * 1000)  # nobody has reset the connection
            await client.stream.aclose()


async def test_an_unread_body_leaves_nothing_behind() -> None:
    """Bodies that nobody reads once filled a queue, whose writer then waited for ever."""

    async def late(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await trio.sleep(0.1)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    with trio.fail_after(10):
        async with serving(late, timeouts=Timeouts(linger=0.1), grace=30) as address:
            for path in (b"/", b"/slow"):
                stream = await connect(address)
                await stream.send_all(
                    b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000\r\n\r\n" % path
                )
                with trio.move_on_after(1), suppress(trio.BrokenResourceError):
                    while True:
                        await stream.send_all(b" " * 65536)
                await stream.aclose()


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA(key_type=trustme.KeyType.ECDSA)


@pytest.fixture
def make_tls(authority: trustme.CA, tmp_path: Path) -> Callable[..., Tls]:
    def make(client_ca: bool = False) -> Tls:
        certificate = authority.issue_cert("127.0.0.1")
        files = [tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem")]
        certificate.cert_chain_pems[0].write_to_path(files[0])
        certificate.private_key_pem.write_to_path(files[1])
        authority.cert_pem.write_to_path(files[2])
        return Tls(files[0], files[1], files[2] if client_ca else None)

    return make


@pytest.mark.parametrize("http2", [False, True])
async def test_tls(
    app: Application, authority: trustme.CA, make_tls: Callable[..., Tls], http2: bool
) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    async with serving(app, tls=make_tls()) as address:
        url = f"https://127.0.0.1:{address.port}"
        async with httpx.AsyncClient(base_url=url, verify=trust, http2=http2) as client:
            for _ in range(2):
                response = await client.post("/", content=QUERY)
                assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
                assert response.json()["rows"] == [[1]]
        async with await connect(address) as plain:
            await plain.send_all(POST)
            assert b"HTTP" not in await receive_all(plain)


async def test_client_certificates(
    app: Application, authority: trustme.CA, make_tls: Callable[..., Tls]
) -> None:
    stranger, friend = ssl.create_default_context(), ssl.create_default_context()
    for context in (stranger, friend):
        authority.configure_trust(context)
    authority.issue_cert("client@example.org").configure_cert(friend)
    trustme.CA().issue_cert("client@example.org").configure_cert(stranger)
    async with serving(app, tls=make_tls(client_ca=True)) as address:
        url = f"https://127.0.0.1:{address.port}/healthz"
        async with httpx.AsyncClient(verify=friend) as client:
            assert (await client.get(url)).status_code == 200
        async with httpx.AsyncClient(verify=stranger) as client:
            with pytest.raises(httpx.TransportError):
                await client.get(url)
        async with httpx.AsyncClient(verify=friend) as client:
            assert (await client.get(url)).status_code == 200


async def test_a_silent_client_of_tls_is_dropped(
    app: Application, make_tls: Callable[..., Tls], caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serving(app, tls=make_tls(), timeouts=Timeouts(handshake=0.05)) as address,
        await connect(address) as stream,
    ):
        assert await receive_all(stream) == b""
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_tls_files_that_are_not_there(app: Application, tmp_path: Path) -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with serving(app, tls=Tls(tmp_path / "none", tmp_path / "none")):
            pass
    assert caught.group_contains(FileNotFoundError)
