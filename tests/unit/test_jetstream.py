"""The log in JetStream: what is not the same for every log (see test_log_conformance)."""

from __future__ import annotations

import json
import random
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest
import trio
import trio_asyncio

from ha.core.errors import Code, HaError
from ha.log import jetstream, objects, ordered
from ha.log.api import (
    Ack,
    Entry,
    LogError,
    LogReset,
    NodeNameTaken,
    NotSent,
    Outgoing,
    Refused,
    ResetReason,
    Subscription,
)
from ha.log.claims import Claim
from ha.log.client import Client
from ha.log.durable import Durable
from ha.log.endpoint import Endpoint, parse_urls
from ha.log.jetstream import EPOCH, JetStreamBroker, JetStreamLog, JetStreamOptions
from ha.log.js_api import format_time, parse_time
from ha.log.server import NatsServer, ServerOptions
from tests.conftest import NatsProcess
from tests.support.leader_cluster import free_port
from tests.support.log_harness import JetStreamHarness

pytestmark = pytest.mark.processes

DB = "ha.db"
RNG = random.SystemRandom()


@pytest.fixture
def harness(shared_nats_server: NatsProcess) -> JetStreamHarness:
    return JetStreamHarness(shared_nats_server)


def options(server: NatsProcess, **values: Any) -> JetStreamOptions:
    return JetStreamOptions(**{"urls": server.url, "node": "a", "timeout": 10.0, **values})


async def read(subscription: Subscription, count: int) -> list[Entry]:
    entries: list[Entry] = []
    with trio.fail_after(30):
        while len(entries) < count:
            entries += await subscription.receive()
    return entries


async def publish(log: JetStreamLog, names: Sequence[object], size: int = 10) -> None:
    done = trio.Event()
    missing = len(names)

    def on_ack(index: int, outcome: Ack | LogError) -> None:
        nonlocal missing
        assert isinstance(outcome, Ack), outcome
        missing -= 1
        if not missing:
            done.set()

    log.publish([Outgoing(f"id-{name}", bytes(size)) for name in names], on_ack)
    with trio.fail_after(30):
        await done.wait()


# --- addresses and credentials ---------------------------------------------------------------


def test_urls() -> None:
    assert parse_urls("nats://localhost") == [Endpoint("localhost", 4222)]
    assert parse_urls("localhost:4333") == [Endpoint("localhost", 4333)]
    assert parse_urls("tls://[::1]:1 , nats://u:p%20w@b") == [
        Endpoint("::1", 1, tls=True),
        Endpoint("b", 4222, user="u", password="p w"),
    ]
    assert parse_urls("nats://tok@b")[0].login() == {"token": "tok"}
    assert parse_urls("nats://u:p@b")[0].login() == {"user": "u", "password": "p"}
    assert str(parse_urls("nats://u:secret@b")[0]) == "nats://b:4222"


@pytest.mark.parametrize("text", ["", "http://u:secret@b", "nats://u:secret@b:x", "nats://"])
def test_bad_urls_are_told_without_their_secrets(text: str) -> None:
    with pytest.raises(HaError) as refused:
        parse_urls(text)
    assert refused.value.code is Code.BAD_REQUEST
    assert "secret" not in str(refused.value)
    assert "nats://host:4222" in str(refused.value)


AUTHORIZATION = 'authorization { users: [ {user: "ann", password: "s3cret"} ] }'


async def test_a_user_and_password(make_nats_server: Callable[..., NatsProcess]) -> None:
    server = make_nats_server(AUTHORIZATION)
    url = f"nats://ann:s3cret@127.0.0.1:{server.port}"
    async with JetStreamBroker(options(server, urls=url), rng=RNG) as broker:
        assert (await (await broker.log(DB)).state()).last == 0


async def test_a_token(make_nats_server: Callable[..., NatsProcess]) -> None:
    server = make_nats_server('authorization { token: "tok" }')
    url = f"nats://tok@127.0.0.1:{server.port}"
    async with JetStreamBroker(options(server, urls=url), rng=RNG) as broker:
        assert (await (await broker.log(DB)).state()).last == 0


async def test_wrong_credentials_are_told_at_once(
    make_nats_server: Callable[..., NatsProcess],
) -> None:
    server = make_nats_server(AUTHORIZATION)
    url = f"nats://ann:wr0ng@127.0.0.1:{server.port}"
    broker = JetStreamBroker(options(server, urls=url, timeout=60.0), rng=RNG)
    with trio.fail_after(5), pytest.raises(HaError, match="Authorization") as refused:
        await broker.__aenter__()
    assert refused.value.code is Code.UNAVAILABLE
    assert "wr0ng" not in str(refused.value)


async def test_a_server_that_is_not_there_is_named(nats_server: NatsProcess) -> None:
    nats_server.kill()
    broker = JetStreamBroker(options(nats_server, timeout=0.5), rng=RNG)
    with pytest.raises(HaError, match=f"127.0.0.1:{nats_server.port}"):
        await broker.__aenter__()


INFO = b'INFO {"server_id":"x","version":"2.15.0","headers":true,"max_payload":1000}\r\n'


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        INFO,
        INFO + b"PONG\r\n",
        INFO + b"PONG\r\nMSG a x\r\n",
    ],
    ids=["nothing", "http", "info", "connected", "garbage"],
)
async def test_a_connection_that_is_reset_is_only_lost(words: bytes) -> None:
    """Whatever was said before: we try again, and no error of a socket ends the node."""
    met = 0

    async def reset(stream: trio.SocketStream) -> None:
        nonlocal met
        met += 1
        with suppress(trio.BrokenResourceError):
            if words:
                await stream.send_all(words)
            await trio.sleep(0.02)
        # With unread data or no time to linger, closing is a reset.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, reset, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        mine = JetStreamOptions(urls=f"nats://127.0.0.1:{port}", node="a", timeout=1.5)
        with pytest.raises(HaError) as refused:
            await JetStreamBroker(mine, rng=RNG).__aenter__()
        nursery.cancel_scope.cancel()
    assert refused.value.code is Code.UNAVAILABLE
    assert met >= 2


async def test_a_server_without_jetstream_is_told(
    make_nats_server: Callable[..., NatsProcess],
) -> None:
    server = make_nats_server("jetstream: disabled")
    broker = JetStreamBroker(options(server, timeout=0.5), rng=RNG)
    with pytest.raises(HaError, match="JetStream is not available"):
        await broker.__aenter__()


@pytest.mark.parametrize(("ignored", "delay"), [(2, 0.0), (0, 0.8)])
async def test_a_question_is_asked_again_and_the_first_answer_counts(
    shared_nats_server: NatsProcess, ignored: int, delay: float
) -> None:
    """A cluster without a leader keeps no question, and a slow one answers the first late."""
    asked: list[bytes] = []
    async with JetStreamBroker(options(shared_nats_server), rng=RNG) as broker:
        connection = broker.client.require()
        async with trio.open_nursery() as nursery:

            async def answer(number: int, reply: bytes) -> None:
                await trio.sleep(delay)
                connection.publish(reply.decode(), b'{"number": %d}' % number)

            def on_message(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
                asked.append(reply)
                if len(asked) > ignored:
                    nursery.start_soon(answer, len(asked), reply)

            connection.subscribe("$JS.API.ASK.AGAIN", on_message)
            with trio.fail_after(10):
                told = await broker.api.retry("ASK.AGAIN", timeout=10)
            nursery.cancel_scope.cancel()
    assert told == {"number": ignored + 1}
    assert len(asked) == (3 if ignored else 2)


def self_signed(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


async def test_tls(tmp_path: Path, make_nats_server: Callable[..., NatsProcess]) -> None:
    certificate, key = self_signed(tmp_path)
    server = make_nats_server(f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}')
    context = ssl.create_default_context(cafile=str(certificate))
    for scheme in ("tls", "nats"):  # the server demands it either way
        url = f"{scheme}://127.0.0.1:{server.port}"
        mine = options(server, urls=url, tls=context, stream=scheme)
        async with JetStreamBroker(mine, rng=RNG) as broker:
            log = await broker.log(DB)
            async with log.subscribe(0) as subscription:
                await publish(log, range(200), size=20_000)
                assert len(await read(subscription, 200)) == 200
    untrusted = options(server, urls=f"tls://127.0.0.1:{server.port}", timeout=0.5)
    with pytest.raises(HaError, match=r"(?i)certificate"):
        await JetStreamBroker(untrusted, rng=RNG).__aenter__()


async def test_the_embedded_server_may_demand_tls(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    config = tmp_path / "tls.conf"
    config.write_text(f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n')
    async with NatsServer(ServerOptions(host="127.0.0.1", port=0, config=config)) as server:
        mine = JetStreamOptions(urls=server.url, node="a", tls=server.tls)
        async with JetStreamBroker(mine, rng=RNG) as broker:
            assert (await (await broker.log(DB)).state()).last == 0
    async with NatsServer(ServerOptions(host="127.0.0.1", port=0)) as server:
        assert server.tls is None


async def test_the_next_url_is_tried(
    nats_server: NatsProcess, make_nats_server: Callable[..., NatsProcess]
) -> None:
    gone = make_nats_server()
    gone.kill()
    both = options(nats_server, urls=f"{gone.url},{nats_server.url}")
    async with JetStreamBroker(both, rng=RNG) as broker:
        assert broker.client.require().endpoint.port == nats_server.port


# --- the stream ----------------------------------------------------------------------------------


async def test_the_stream_is_that_of_the_existing_system(harness: JetStreamHarness) -> None:
    async with harness.broker() as broker:
        await broker.log(DB)
        config = (await harness.api(f"STREAM.INFO.{harness.stream}"))["config"]
    assert config["subjects"] == [harness.stream, f"{harness.stream}.>"]
    assert config["storage"] == "file"
    assert config["retention"] == "limits"
    assert config["discard"] == "old"
    assert config["max_age"] == 24 * 3600 * 10**9
    assert config["num_replicas"] == 1
    assert config["duplicate_window"] == 120 * 10**9
    assert config["metadata"][EPOCH]


async def test_an_existing_stream_gets_an_epoch_and_keeps_its_settings(
    harness: JetStreamHarness,
) -> None:
    name = harness.stream
    theirs = {
        "name": name,
        "subjects": [name, f"{name}.>"],
        "storage": "file",
        "max_age": 3600 * 10**9,
        "max_bytes": 10**9,
        "description": "by an existing node",
    }
    await harness.api(f"STREAM.CREATE.{name}", theirs)
    epochs: set[str] = set()

    async def join(node: str) -> None:
        async with harness.broker(node) as broker:
            log = await broker.log(DB)
            epochs.add((await log.state()).epoch)

    async with trio.open_nursery() as nursery:
        for node in "abcd":
            nursery.start_soon(join, node)
    config = (await harness.api(f"STREAM.INFO.{name}"))["config"]
    assert epochs == {config["metadata"][EPOCH]}, "all at once agree on one epoch"
    assert config["max_age"] == 3600 * 10**9
    assert config["max_bytes"] == 10**9
    assert config["description"] == "by an existing node"


async def test_max_age_of_an_existing_stream_is_changed_when_asked_for(
    shared_nats_server: NatsProcess,
) -> None:
    harness = JetStreamHarness(shared_nats_server)
    async with harness.broker():
        pass
    for change, expected in ((False, 24 * 3600), (True, 60)):
        mine = options(
            shared_nats_server, stream=harness.stream, max_age=60.0, change_max_age=change
        )
        async with JetStreamBroker(mine, rng=RNG):
            config = (await harness.api(f"STREAM.INFO.{harness.stream}"))["config"]
            assert config["max_age"] == expected * 10**9
    assert config["duplicate_window"] == 60 * 10**9


async def test_replicas_that_the_server_cannot_keep_are_told(
    shared_nats_server: NatsProcess,
) -> None:
    harness = JetStreamHarness(shared_nats_server)
    mine = options(shared_nats_server, stream=harness.stream, replicas=3)
    with pytest.raises(HaError, match="replicas > 1 not supported"):
        await JetStreamBroker(mine, rng=RNG).__aenter__()


async def test_a_stream_of_other_subjects_is_refused(harness: JetStreamHarness) -> None:
    await harness.api(
        f"STREAM.CREATE.{harness.stream}", {"name": harness.stream, "subjects": ["else.>"]}
    )
    with pytest.raises(HaError, match=r"else\.>.*--replication-stream"):
        await harness.broker().__aenter__()


async def test_max_payload_leaves_room_for_headers(harness: JetStreamHarness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        assert log.max_payload == 8 * 1024 * 1024 - 4096
        headers = {f"header-{n}": "x" * 100 for n in range(30)}
        outgoing = Outgoing("i" * 200, bytes(log.max_payload), headers=headers)
        assert await log.publish_one(outgoing, 10) == Ack(1)


async def test_the_smaller_limit_of_a_stream_holds(harness: JetStreamHarness) -> None:
    name = harness.stream
    config = {"name": name, "subjects": [name, f"{name}.>"], "max_msg_size": 100_000}
    await harness.api(f"STREAM.CREATE.{name}", config)
    async with harness.broker() as broker:
        assert (await broker.log(DB)).max_payload == 100_000 - 4096


async def test_without_a_stream_a_publish_is_certainly_not_sent(harness: JetStreamHarness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        config = (await harness.api(f"STREAM.INFO.{harness.stream}"))["config"]
        await harness.api(f"STREAM.DELETE.{harness.stream}")
        with pytest.raises(NotSent) as not_sent:
            await log.publish_one(Outgoing("a", b""), 5)
        assert not isinstance(not_sent.value, Refused), "it may be sent again"
        assert not log.connected
        with trio.fail_after(1):
            await log.wait_disconnected()
        with pytest.raises(NotSent):
            log.publish([Outgoing("b", b"")], lambda index, outcome: None)
        await harness.api(f"STREAM.CREATE.{harness.stream}", config)
        with trio.fail_after(10):
            await log.wait_connected()
        assert log.connected
        assert await log.publish_one(Outgoing("a", b""), 5) == Ack(1)


@pytest.mark.parametrize(
    ("answer", "certain"),
    [
        ({"code": 400, "err_code": 10054, "description": "message size exceeds maximum"}, True),
        ({"code": 503, "err_code": 10023, "description": "insufficient resources"}, True),
        ({"code": 503, "err_code": 10077, "description": "maximum bytes exceeded"}, True),
        ({"code": 503, "err_code": 10077, "description": "no space left on device"}, False),
        ({"code": 409, "err_code": 10158, "description": "message id is in process"}, False),
        ({"code": 500, "err_code": 1, "description": "something new"}, False),
    ],
)
async def test_a_refusal_is_certain_only_when_nothing_can_be_stored(
    harness: JetStreamHarness, answer: dict[str, object], certain: bool
) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        payload = json.dumps({"error": answer, "stream": harness.stream, "seq": 0}).encode()
        outcome = log._outcome(b"", payload)
        assert isinstance(outcome, LogError)
        assert isinstance(outcome, NotSent) is certain


async def test_a_full_stream_refuses_for_certain(harness: JetStreamHarness) -> None:
    name = harness.stream
    config = {"name": name, "subjects": [name, f"{name}.>"], "max_msgs": 1, "discard": "new"}
    await harness.api(f"STREAM.CREATE.{name}", config)
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await log.publish_one(Outgoing("a", b""), 5)
        with pytest.raises(NotSent, match="exceeded"):
            await log.publish_one(Outgoing("b", b""), 5)


# --- reading through trouble -------------------------------------------------------------------


async def test_a_lost_delivery_is_noticed_and_made_good(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network drops nothing, but a slow consumer's server does: here our own end does."""
    original = ordered._Feed._on_message
    dropped: list[bytes] = []

    def lossy(
        feed: ordered._Feed, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        if reply.split(b".")[5:6] == [b"4"] and len(dropped) < 3:
            dropped.append(reply)
            return
        original(feed, subject, reply, headers, payload)

    monkeypatch.setattr(ordered._Feed, "_on_message", lossy)
    async with harness.broker() as broker:
        log = await broker.log(DB)
        async with log.subscribe(0) as subscription:
            await publish(log, range(10))
            entries = await read(subscription, 10)
    assert len(dropped) == 3
    assert [e.sequence for e in entries] == list(range(1, 11))


async def test_the_last_message_lost_is_noticed_by_the_heartbeat(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "_HEARTBEAT", 0.2)
    original = ordered._Feed._on_message
    dropped: list[bytes] = []

    def lossy(
        feed: ordered._Feed, subject: bytes, reply: bytes, headers: bytes, payload: bytes
    ) -> None:
        if payload and not dropped:
            dropped.append(reply)
            return
        original(feed, subject, reply, headers, payload)

    monkeypatch.setattr(ordered._Feed, "_on_message", lossy)
    async with harness.broker() as broker:
        log = await broker.log(DB)
        async with log.subscribe(0) as subscription:
            await publish(log, ["only"])
            assert [e.sequence for e in await read(subscription, 1)] == [1]
    assert dropped


@pytest.mark.parametrize("by_leader", [1, 64])
async def test_history_goes_on_where_the_copy_of_one_server_ends(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch, by_leader: int
) -> None:
    """A consumer on a replica that is behind tells that nothing is pending. Who looks there for a
    write whose answer was lost would take it for not written."""
    async with harness.broker("a") as broker:
        log = await broker.log(DB)
        sent = [await log.publish_one(Outgoing(f"m{n}", b"%d" % n), 10) for n in range(6)]
        take = ordered.OrderedConsumer.take

        def behind(consumer: ordered.OrderedConsumer, entry: Entry, pending: int) -> None:
            if entry.sequence <= sent[2].sequence:
                take(consumer, entry, max(0, sent[2].sequence - entry.sequence))
            else:  # it would not be there: and nothing is left
                consumer.pending = 0
                consumer._wake()

        monkeypatch.setattr(ordered.OrderedConsumer, "take", behind)
        monkeypatch.setattr(jetstream, "_BY_LEADER", by_leader)
        payloads = [entry.payload async for entry in log.history(sent[1].sequence)]
        assert payloads == [b"1", b"2", b"3", b"4", b"5"]
        payloads = [e.payload async for e in log.history(sent[0].sequence, sent[4].sequence)]
        assert payloads == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_consumer_that_was_deleted_is_made_again(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "_HEARTBEAT", 0.2)
    monkeypatch.setattr(ordered, "_SILENCE", 0.6)
    async with harness.broker() as broker:
        log = await broker.log(DB)
        async with log.subscribe(0) as subscription:
            await publish(log, ["a"])
            assert len(await read(subscription, 1)) == 1
            answer = await harness.api(f"CONSUMER.NAMES.{harness.stream}")
            for name in answer["consumers"]:
                await harness.api(f"CONSUMER.DELETE.{harness.stream}.{name}")
            await publish(log, ["b", "c"])
            assert [e.sequence for e in await read(subscription, 2)] == [2, 3]


async def test_readers_leave_nothing_on_the_server(harness: JetStreamHarness) -> None:
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await publish(log, range(5))
        async with log.subscribe(0) as subscription:
            await read(subscription, 5)
        async for _ in log.history(1):
            pass
        await log.sequence_at(0)
        await broker.client.require().flush()
        answer = await harness.api(f"CONSUMER.NAMES.{harness.stream}")
        assert answer["consumers"] == ["ha_db_a"]


async def test_a_reader_that_does_not_read_holds_the_server_back(
    harness: JetStreamHarness,
) -> None:
    """Flow control: what waits in memory is bounded, and nothing is lost by it."""
    total, size = 1500, 100_000
    async with harness.broker("w") as writer, harness.broker("r") as reader:
        log = await writer.log(DB)
        for start in range(0, total, 100):
            await publish(log, range(start, start + 100), size=size)
        async with (await reader.log(DB)).subscribe(0) as subscription:
            assert isinstance(subscription, ordered.OrderedConsumer)
            await subscription.started.wait()
            waiting = -1
            while waiting != len(subscription._entries):
                waiting = len(subscription._entries)
                await trio.sleep(0.5)
            assert 0 < waiting * size < 64 * 1024 * 1024
            entries = await read(subscription, total)
    assert [e.sequence for e in entries] == list(range(1, total + 1))


async def test_a_quiet_log_keeps_a_good_position_while_another_moves_the_stream(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "_HEARTBEAT", 0.1)
    monkeypatch.setattr(ordered, "_SILENCE", 0.3)
    monkeypatch.setattr(ordered, "_FLOOR_INTERVAL", 0.2)
    async with harness.broker() as broker:
        quiet, busy = await broker.log("quiet.db"), await broker.log("busy.db")
        await publish(quiet, ["q"])
        async with quiet.subscribe(0) as subscription:
            assert isinstance(subscription, ordered.OrderedConsumer)
            assert len(await read(subscription, 1)) == 1
            await publish(busy, range(20))
            with trio.fail_after(10):
                while subscription.floor < 21:  # noqa: ASYNC110
                    await trio.sleep(0.05)
            await harness.drop_before(15)
            broker.client.require().close("for the test")
            await broker.client.wait_up()
            await publish(quiet, ["r"])
            assert [e.sequence for e in await read(subscription, 1)] == [22]


async def test_a_quiet_log_keeps_a_good_position_over_a_restart_of_its_node(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered, "_HEARTBEAT", 0.1)
    monkeypatch.setattr(ordered, "_SILENCE", 0.3)
    monkeypatch.setattr(ordered, "_FLOOR_INTERVAL", 0.2)
    async with harness.broker() as broker:
        quiet, busy = await broker.log("quiet.db"), await broker.log("busy.db")
        await publish(quiet, ["q", "r"])
        async with quiet.subscribe(0) as subscription:
            await read(subscription, 2)
            await quiet.mark(2)
            await publish(busy, range(20))
            floor = "0"
            with trio.fail_after(10):
                while floor != "22":
                    await trio.sleep(0.05)
                    (info,) = await broker.consumers("quiet.db")
                    floor = info["config"]["metadata"].get("ha.floor")  # type: ignore[index]
            assert info["ack_floor"]["stream_seq"] == 2  # type: ignore[index]
    await harness.drop_before(15)
    async with harness.broker() as broker:
        quiet = await broker.log("quiet.db")
        async with quiet.subscribe(2) as subscription:
            await publish(quiet, ["s"])
            assert [e.sequence for e in await read(subscription, 1)] == [23]
        async with quiet.subscribe(1) as subscription:  # an older copy of the file
            with pytest.raises(LogReset) as reset, trio.fail_after(10):
                await subscription.receive()
            assert reset.value.reason is ResetReason.TRUNCATED
    await harness.drop_before(24)
    async with harness.broker() as broker:
        quiet = await broker.log("quiet.db")
        async with quiet.subscribe(2) as subscription:  # and one that missed 23
            with pytest.raises(LogReset) as reset, trio.fail_after(10):
                await subscription.receive()
            assert reset.value.reason is ResetReason.TRUNCATED


# --- the durable consumer ------------------------------------------------------------------------


async def test_an_old_server_moves_it_by_acknowledgements(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Durable, "_can_reset", lambda self: False)
    async with harness.broker() as broker:
        log = await broker.log(DB)
        await publish(log, range(50))
        await log.mark(30)
        with trio.fail_after(10):
            while True:
                (info,) = await broker.consumers(DB)
                floor = info["ack_floor"]
                assert isinstance(floor, dict)
                assert floor["stream_seq"] <= 30
                if floor["stream_seq"] == 30:
                    break
                await trio.sleep(0.02)
        await log.mark(50)
        with trio.fail_after(10):
            while floor["stream_seq"] != 50:
                (info,) = await broker.consumers(DB)
                floor = info["ack_floor"]
                assert isinstance(floor, dict)
                await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ({"deliver_policy": "all"}, ("all", None)),
        ({"deliver_policy": "new"}, ("by_start_sequence", 6)),
        ({"deliver_policy": "last"}, ("by_start_sequence", 5)),
        ({"deliver_policy": "by_start_sequence", "opt_start_seq": 3}, ("by_start_sequence", 3)),
    ],
)
async def test_deliver_policies(
    shared_nats_server: NatsProcess, policy: dict[str, object], expected: tuple[str, int | None]
) -> None:
    harness = JetStreamHarness(shared_nats_server)
    async with harness.broker("first") as broker:
        await publish(await broker.log(DB), range(5))
    mine = options(shared_nats_server, stream=harness.stream, deliver=policy)
    async with JetStreamBroker(mine, rng=RNG) as broker:
        log = await broker.log(DB)
        info = await harness.api(f"CONSUMER.INFO.{harness.stream}.ha_db_a")
        config = info["config"]
        assert (config["deliver_policy"], config.get("opt_start_seq")) == expected
        await log.mark(5)
        with trio.fail_after(10):
            while info["ack_floor"]["stream_seq"] != 5:
                info = await harness.api(f"CONSUMER.INFO.{harness.stream}.ha_db_a")


async def test_a_durable_of_another_subject_is_refused_by_name(harness: JetStreamHarness) -> None:
    """Names are cut to 32 bytes, so two databases of a node may get one."""
    node = "n" * 40
    async with harness.broker(node) as broker:
        await broker.log("one.db")
        with pytest.raises(LogError, match="another --name"):
            await broker.log("two.db")


# --- names ---------------------------------------------------------------------------------------


@asynccontextmanager
async def client_of(server: NatsProcess) -> AsyncIterator[Client]:
    client = Client(parse_urls(server.url), name="test", rng=RNG)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await client.wait_up()
        yield client
        nursery.cancel_scope.cancel()


async def test_of_two_nodes_that_claim_a_name_at_once_one_stays(
    shared_nats_server: NatsProcess,
) -> None:
    stream = f"S{RNG.getrandbits(48):x}"
    refused: list[str] = []
    async with client_of(shared_nats_server) as one, client_of(shared_nats_server) as two:
        claims = {
            instance: Claim(client, stream=stream, name="x", node="x", instance=instance)
            for client, instance in ((one, "1"), (two, "2"))
        }

        async def hold(instance: str) -> None:
            try:
                await claims[instance].run()
            except NodeNameTaken:
                refused.append(instance)

        with trio.move_on_after(0.5):
            async with trio.open_nursery() as nursery:
                # Both have asked, and nobody answered, before either began to listen.
                for claim in claims.values():
                    claim._listen(claim._client.require())
                for instance in claims:
                    nursery.start_soon(hold, instance)
    assert refused == ["2"]


async def test_a_holder_that_does_not_answer_is_taken_for_dead(
    shared_nats_server: NatsProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ha.log.claims._ANSWER_TIMEOUT", 0.1)
    stream = f"S{RNG.getrandbits(48):x}"
    async with client_of(shared_nats_server) as silent, client_of(shared_nats_server) as client:
        silent.require().subscribe(f"_HA.node.{stream}.x", lambda *message: None)
        await silent.require().flush()
        await Claim(client, stream=stream, name="x", node="x", instance="1").acquire()


async def test_the_name_is_held_over_a_reconnect(nats_server: NatsProcess) -> None:
    async with JetStreamBroker(options(nats_server), rng=RNG) as first:
        log = await first.log(DB)
        nats_server.restart()
        with trio.fail_after(10):
            await log.wait_disconnected()
            await log.wait_connected()
        await first.client.require().flush()
        async with JetStreamBroker(options(nats_server), rng=RNG) as second:
            with pytest.raises(NodeNameTaken):
                await second.log(DB)


# --- others on the same stream ---------------------------------------------------------------


async def test_nats_py_reads_what_we_write_and_we_what_it_writes(
    harness: JetStreamHarness,
) -> None:
    """An independent client of the same protocol: messages, acks and snapshots."""

    async def chunks() -> AsyncIterator[bytes]:
        for n in range(7):
            yield bytes([n]) * 50_000

    async with harness.broker() as broker, trio_asyncio.open_loop():
        log = await broker.log(DB)
        await log.publish_one(Outgoing("ours", b"from us", headers={"k": "v"}), 5)
        await broker.put_snapshot(DB, chunks(), {"seq": "1"})

        async def other() -> tuple[Any, Any]:
            client = await nats.connect(harness.server.url)
            stream = client.jetstream()
            message = await stream.get_msg(harness.stream, 1)
            ack = await stream.publish(log.subject, b"theirs", headers={"Nats-Msg-Id": "x"})
            assert ack.seq == 2
            store = await stream.object_store(f"{harness.stream}_SNAPSHOTS")
            snapshot = await store.get(DB)
            await store.put("theirs.db", b"a snapshot of theirs" * 20_000)
            await client.close()
            return message, snapshot

        message, snapshot = await trio_asyncio.aio_as_trio(other)()
        assert message.data == b"from us"
        assert message.headers["k"] == "v"
        assert snapshot.data == b"".join([chunk async for chunk in chunks()])
        assert snapshot.info.headers == {"seq": ["1"]}
        entry = await log.entry(2)
        assert entry is not None
        assert (entry.message_id, entry.payload) == ("x", b"theirs")
        read_back = b"".join([piece async for piece in broker.get_snapshot("theirs.db")])
        assert read_back == b"a snapshot of theirs" * 20_000


async def test_what_an_unfinished_snapshot_left_is_removed_later(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash: chunks that no description names."""

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(300_000)

    async def count() -> int:
        info = await harness.api(f"STREAM.INFO.OBJ_{harness.stream}_SNAPSHOTS")
        return int(info["state"]["messages"])

    async with harness.broker() as broker:
        await broker.put_snapshot(DB, chunks(), {"seq": "1"})
        await broker._bucket._put_chunks("left", chunks())
        assert await count() == 3 + 1 + 3
        await broker.put_snapshot(DB, chunks(), {"seq": "2"})
        assert await count() == 3 + 1 + 3, "young ones may belong to a snapshot under way"
        monkeypatch.setattr(objects, "_ORPHAN_AGE", -1)
        await broker.put_snapshot(DB, chunks(), {"seq": "3"})
        assert await count() == 3 + 1
        assert b"".join([piece async for piece in broker.get_snapshot(DB)]) == bytes(300_000)


async def test_a_snapshot_with_a_missing_chunk_is_not_taken_for_whole(
    harness: JetStreamHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_LOOK_AFTER", 0.1)
    monkeypatch.setattr(objects, "_READ_TIMEOUT", 0.5)

    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(300_000)

    async with harness.broker() as broker:
        await broker.put_snapshot(DB, chunks(), {"seq": "1"})
        await harness.api(f"STREAM.MSG.DELETE.OBJ_{harness.stream}_SNAPSHOTS", {"seq": 2})
        with pytest.raises(LogError, match="not whole"):
            async for _ in broker.get_snapshot(DB):
                pass


async def test_the_chunks_of_a_former_snapshot_are_removed(harness: JetStreamHarness) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield bytes(1_000_000)

    async with harness.broker() as broker:
        for sequence in range(3):
            await broker.put_snapshot(DB, chunks(), {"seq": str(sequence)})
    info = await harness.api(f"STREAM.INFO.OBJ_{harness.stream}_SNAPSHOTS")
    assert info["config"]["compression"] == "s2"
    assert info["state"]["messages"] == 8 + 1


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-24T14:00:28.971648077Z", 1795528828971648077),
        ("2026-11-24T14:00:28.9Z", 1795528828900000000),
        ("2026-11-24T15:00:28.9+01:00", 1795528828900000000),
    ],
)
def test_times(text: str, ns: int) -> None:
    assert parse_time(text) == ns
    assert parse_time(format_time(ns)) == ns


# --- clusters ----------------------------------------------------------------------------------


@pytest.fixture
def cluster(make_nats_server: Callable[..., NatsProcess]) -> list[NatsProcess]:
    routes = [free_port() for _ in range(3)]
    urls = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
    return [
        make_nats_server(
            f"server_name: n{number}\n"
            f'cluster {{ name: c, listen: "127.0.0.1:{port}", routes: [{urls}] }}'
        )
        for number, port in enumerate(routes)
    ]


async def test_a_cluster_loses_its_leader_and_the_log_goes_on(
    cluster: list[NatsProcess],
) -> None:
    mine = options(
        cluster[0], urls=",".join(s.url for s in cluster), replicas=3, timeout=30.0, stream="C"
    )
    seen: list[Entry] = []
    async with JetStreamBroker(mine, rng=RNG) as broker:
        log = await broker.log(DB)
        async with log.subscribe(0) as subscription:
            await publish_surely(log, [f"before-{n}" for n in range(100)])
            seen += await read(subscription, 100)
            info = await broker.api.call("STREAM.INFO.C")
            leader = int(info["cluster"]["leader"].removeprefix("n"))
            cluster[leader].kill()
            await publish_surely(log, [f"down-{n}" for n in range(100)])
            seen += await read(subscription, 100)
            cluster[leader].start()
            await publish_surely(log, [f"after-{n}" for n in range(100)])
            seen += await read(subscription, 100)
    assert [e.sequence for e in seen] == list(range(1, 301))
    assert len({e.message_id for e in seen}) == 300


async def publish_surely(log: JetStreamLog, names: list[str]) -> None:
    """Again and again with the same ids until each is acknowledged, as an outbox does."""
    with trio.fail_after(60):
        for name in names:
            while True:
                try:
                    await log.publish_one(Outgoing(name, name.encode()), 2)
                    break
                except LogError:
                    await trio.sleep(0.05)


async def test_nodes_that_start_with_their_cluster_agree_on_one_stream(
    cluster: list[NatsProcess],
) -> None:
    """Each on its own server, before the servers have found each other.

    That takes longer than a write may: the time-out of writes is none for the start.
    """
    epochs: list[str] = []

    async def join(server: NatsProcess) -> None:
        mine = options(server, node=f"n{server.port}", replicas=3, timeout=0.5, stream="C")
        async with JetStreamBroker(mine, rng=RNG) as broker:
            epochs.append((await (await broker.log(DB)).state()).epoch)

    async with trio.open_nursery() as nursery:
        for server in cluster:
            nursery.start_soon(join, server)
    assert len(epochs) == 3
    assert len(set(epochs)) == 1


async def test_a_snapshot_fits_a_server_that_takes_small_messages(
    make_nats_server: Callable[..., NatsProcess],
) -> None:
    server = make_nats_server(config="max_payload: 64KB")
    content = RNG.randbytes(500_000)

    async def chunks() -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        yield content

    async with JetStreamBroker(options(server), rng=RNG) as broker:
        with trio.fail_after(20):
            await broker.put_snapshot(DB, chunks(), {"seq": "1"})
            assert b"".join([piece async for piece in broker.get_snapshot(DB)]) == content
