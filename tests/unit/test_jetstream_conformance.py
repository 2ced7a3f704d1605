"""One suite for every NATS server with JetStream: the real one says what is right.

Each test makes its own streams, on a server that may be shared.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio

from ha.log.connection import Connection, NoResponders
from tests.support.nats_harness import (
    PATIENCE,
    Delivery,
    Inbox,
    Message,
    NatsHarness,
    RealNats,
    Stream,
    acknowledge,
    api,
    ask,
    ns,
    publish,
    publish_with_reply,
    token,
)
from tests.support.simulated_nats import SimulatedNats

KINDS = [pytest.param("real", marks=pytest.mark.processes), "simulated"]


@pytest.fixture(params=KINDS)
def nats(request: pytest.FixtureRequest) -> NatsHarness:
    """A server that may be shared: use names of your own."""
    if request.param == "simulated":
        return SimulatedNats()
    return RealNats(request.getfixturevalue("shared_nats_server"))


@pytest.fixture(params=KINDS)
def own_nats(request: pytest.FixtureRequest) -> NatsHarness:
    """A server of this test alone, which may be restarted."""
    if request.param == "simulated":
        return SimulatedNats()
    return RealNats(request.getfixturevalue("nats_server"))


@pytest.fixture
async def a(nats: NatsHarness) -> AsyncIterator[Connection]:
    async with nats.client("a") as connection:
        yield connection


@pytest.fixture
async def b(nats: NatsHarness) -> AsyncIterator[Connection]:
    """Another connection to the same server."""
    async with nats.client("b") as connection:
        yield connection


def error(answer: dict[str, Any]) -> tuple[int, int, str]:
    """The code, the number of the error, and its words."""
    assert "error" in answer, answer
    failed = dict(answer["error"])
    code, number, words = failed.pop("code"), failed.pop("err_code"), failed.pop("description")
    assert not failed
    return code, number, words


def sequences(messages: list[Message]) -> list[int]:
    return [Delivery.of(message).stream_seq for message in messages]


def headers_of(stored: dict[str, Any]) -> bytes:
    return base64.b64decode(stored["hdrs"])


async def eventually(check: Callable[[], Awaitable[bool]], timeout: float = PATIENCE) -> None:
    with trio.fail_after(timeout):
        while True:
            if await check():
                return
            await trio.sleep(0.02)


async def waiting(stream: Stream, consumer: str, count: int) -> None:
    """Return when so many pulls wait: the server takes them in its own time."""

    async def all_there() -> bool:
        return bool((await stream.info(consumer))["num_waiting"] == count)

    await eventually(all_there)


# --- core NATS -----------------------------------------------------------------------------


async def test_a_message_reaches_who_subscribes_to_its_subject(
    a: Connection, b: Connection
) -> None:
    inbox = Inbox(a, f"{token()}.x")
    await a.flush()
    publish_with_reply(b, inbox.subject, "answer.here", b"hello")
    assert await inbox.next() == Message(inbox.subject, "answer.here", {}, 0, "", b"hello")


async def test_a_message_without_a_reply_subject_and_without_a_payload(a: Connection) -> None:
    inbox = Inbox(a)
    a.publish(inbox.subject)
    assert await inbox.next() == Message(inbox.subject, "", {}, 0, "", b"")


async def test_a_connection_hears_its_own_messages_in_their_order(a: Connection) -> None:
    inbox = Inbox(a)
    for number in range(100):
        a.publish(inbox.subject, b"%d" % number)
    assert await inbox.payloads(100) == [b"%d" % number for number in range(100)]


async def test_each_subscription_has_a_copy_of_its_own(a: Connection) -> None:
    one = Inbox(a)
    two = Inbox(a, one.subject)
    a.publish(one.subject, b"x")
    assert await one.payloads(1) == await two.payloads(1) == [b"x"]
    await one.nothing(0.05)


async def test_a_star_stands_for_one_word(a: Connection) -> None:
    word = token()
    inbox = Inbox(a, f"{word}.*.z")
    for subject in ("z", "a.z", "a.b.z", "a.y", "b.z"):
        a.publish(f"{word}.{subject}", subject.encode())
    assert await inbox.payloads(2) == [b"a.z", b"b.z"]
    await a.flush()
    assert inbox.arrived() == []


async def test_a_greater_than_stands_for_one_word_or_more(a: Connection) -> None:
    word = token()
    inbox = Inbox(a, f"{word}.>")
    for subject in (word, f"{word}.a", f"{word}.a.b", f"{word}x.a"):
        a.publish(subject, subject.encode())
    await a.flush()
    assert [message.subject for message in inbox.arrived()] == [f"{word}.a", f"{word}.a.b"]


async def test_one_member_of_a_queue_group_gets_a_message(a: Connection, b: Connection) -> None:
    subject = token()
    members = [Inbox(a, subject, queue="q"), Inbox(b, subject, queue="q")]
    alone, other = Inbox(b, subject), Inbox(b, subject, queue="other")
    await a.flush()
    await b.flush()
    for number in range(50):
        a.publish(subject, b"%d" % number)
    everything = [b"%d" % number for number in range(50)]
    assert await alone.payloads(50) == everything
    assert await other.payloads(50) == everything
    await a.flush()
    await b.flush()
    got = [message.payload for member in members for message in member.arrived()]
    assert sorted(got) == sorted(everything)


async def test_a_request_is_answered_by_who_subscribes(a: Connection, b: Connection) -> None:
    subject = token()
    b.subscribe(subject, lambda _, reply, headers, payload: b.publish(reply.decode(), payload * 2))
    await b.flush()
    assert (await a.request(subject, b"ab")).payload == b"abab"


async def test_a_request_nobody_takes_is_answered_with_503(a: Connection) -> None:
    subject = token()
    inbox = Inbox(a)
    publish_with_reply(a, subject, inbox.subject, b"x")
    answer = Message(inbox.subject, "", {"Nats-Subject": subject}, 503, "", b"")
    assert await inbox.next() == answer
    with pytest.raises(NoResponders):
        await a.request(subject, b"x")


async def test_headers_are_handed_on_as_they_are(a: Connection) -> None:
    inbox = Inbox(a)
    headers = {"X-One": "a: b", "x-one": "2", "Empty": "", "Umlaut": "ä"}
    a.publish(inbox.subject, b"payload", headers)
    message = await inbox.next()
    assert message == Message(inbox.subject, "", headers, 0, "", b"payload")
    assert list(message.headers) == list(headers)


async def test_the_end_of_a_subscription_is_the_end_of_no_other(a: Connection) -> None:
    word = token()
    wide, widest, narrow = Inbox(a, f"{word}.*"), Inbox(a, f"{word}.>"), Inbox(a, f"{word}.x")
    for ended in (narrow, widest):
        a.unsubscribe(ended.sid)
        a.publish(f"{word}.x", b"1")
        assert (await wide.next()).payload == b"1"


async def test_a_subscription_with_a_maximum_ends_after_so_many_messages(a: Connection) -> None:
    inbox = Inbox(a)
    a.publish(inbox.subject, b"1")
    a.publish(inbox.subject, b"2")
    inbox.limit(3)
    for number in (3, 4, 5):
        a.publish(inbox.subject, b"%d" % number)
    await a.flush()
    assert [message.payload for message in inbox.arrived()] == [b"1", b"2", b"3"]
    assert (await ask(a, inbox.subject)).status == 503


async def test_a_maximum_that_is_reached_already_ends_a_subscription_at_once(
    a: Connection,
) -> None:
    inbox = Inbox(a)
    a.publish(inbox.subject, b"1")
    a.publish(inbox.subject, b"2")
    inbox.limit(1)
    a.publish(inbox.subject, b"3")
    await a.flush()
    assert [message.payload for message in inbox.arrived()] == [b"1", b"2"]


async def test_nothing_comes_after_the_end_of_a_subscription(a: Connection) -> None:
    inbox = Inbox(a)
    inbox.close()
    assert (await ask(a, inbox.subject)).status == 503


async def test_a_message_larger_than_max_payload_ends_the_connection(nats: NatsHarness) -> None:
    async with nats.client() as connection:
        most = connection.max_payload
        inbox = Inbox(connection)
        connection.publish(inbox.subject, bytes(most))
        assert len((await inbox.next()).payload) == most
        connection.write(b"PUB x %d\r\n" % (most + 1))
        await connection.wait(connection.closed, PATIENCE)
        assert "maximum payload violation" in connection.reason.lower()


async def test_the_server_says_what_it_is(a: Connection) -> None:
    assert a.info["headers"] is True
    assert a.info["jetstream"] is True
    assert a.info["proto"] == 1
    assert a.info["server_id"] == a.info["server_name"]
    assert {"version", "max_payload", "client_id", "host", "port"} <= a.info.keys()


# --- publishing to a stream ----------------------------------------------------------------


async def test_an_ack_has_the_stream_and_the_sequence(a: Connection) -> None:
    stream = await Stream.create(a)
    assert await stream.publish("a") == {"stream": stream.name, "seq": 1}
    assert await stream.publish("b") == {"stream": stream.name, "seq": 2}


async def test_what_is_published_without_a_reply_subject_is_stored_too(a: Connection) -> None:
    stream = await Stream.create(a)
    a.publish(stream.subject("a"), b"quiet")
    assert (await stream.publish("a"))["seq"] == 2
    assert base64.b64decode((await stream.get(seq=1))["data"]) == b"quiet"


async def test_subscribers_of_a_streams_subject_hear_it_as_well(a: Connection) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a, stream.subject("a"))
    await stream.publish("a", b"both", {"X": "y"})
    message = await inbox.next()
    assert (message.payload, message.headers) == (b"both", {"X": "y"})


async def test_a_stream_with_no_ack_stores_and_says_nothing(a: Connection) -> None:
    stream = await Stream.create(a, no_ack=True)
    inbox = Inbox(a)
    publish_with_reply(a, stream.subject("a"), inbox.subject)
    await a.flush()
    assert (await stream.state())["messages"] == 1
    assert inbox.arrived() == []


async def test_an_id_that_is_known_is_a_duplicate_of_the_first(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a")
    first = {"Nats-Msg-Id": "one"}
    assert await stream.publish("a", b"1", first) == {"stream": stream.name, "seq": 2}
    known = {"stream": stream.name, "seq": 2, "duplicate": True}
    assert await stream.publish("a", b"1", first) == known
    assert await stream.publish("another.subject", b"2", first) == known
    assert await stream.numbers() == (2, 1, 2, 0)


async def test_an_id_is_known_although_its_message_is_gone(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
    await stream.api("MSG.DELETE", {"seq": 1})
    await stream.publish("a", b"2")
    assert (await stream.publish("a", b"1", {"Nats-Msg-Id": "one"}))["duplicate"] is True


async def test_an_id_is_forgotten_after_the_window(a: Connection) -> None:
    stream = await Stream.create(a, duplicate_window=ns(0.5))
    headers = {"Nats-Msg-Id": "one"}
    await stream.publish("a", b"1", headers)

    async def forgotten() -> bool:
        return "duplicate" not in await stream.publish("a", b"2", headers)

    await eventually(forgotten)
    assert await stream.numbers() == (2, 1, 2, 0)
    assert (await stream.publish("a", b"3", headers)).get("duplicate") is True


async def test_without_a_window_no_id_is_known_for_long(a: Connection) -> None:
    """Zero stands for two minutes, or the age of the messages if that is less."""
    stream = await Stream.create(a)
    assert (await stream.api("INFO"))["config"]["duplicate_window"] == ns(120)
    stream = await Stream.create(a, max_age=ns(5))
    assert (await stream.api("INFO"))["config"]["duplicate_window"] == ns(5)


async def test_the_expected_last_sequence_is_that_of_the_stream(a: Connection) -> None:
    stream = await Stream.create(a)
    assert (await stream.publish("a", b"1", {"Nats-Expected-Last-Sequence": "0"}))["seq"] == 1
    assert (await stream.publish("b", b"2", {"Nats-Expected-Last-Sequence": "1"}))["seq"] == 2
    refused = await stream.publish("c", b"3", {"Nats-Expected-Last-Sequence": "1"})
    assert refused == {
        "error": {"code": 400, "err_code": 10071, "description": "wrong last sequence: 2"},
        "stream": stream.name,
        "seq": 0,
    }
    assert await stream.numbers() == (2, 1, 2, 0)


async def test_the_expected_last_sequence_stays_when_the_message_is_deleted(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "a")
    await stream.api("MSG.DELETE", {"seq": 2})
    refused = await stream.publish("a", b"3", {"Nats-Expected-Last-Sequence": "1"})
    assert error(refused) == (400, 10071, "wrong last sequence: 2")
    assert (await stream.publish("a", b"3", {"Nats-Expected-Last-Sequence": "2"}))["seq"] == 3


async def test_the_expected_last_sequence_of_the_subject(a: Connection) -> None:
    stream = await Stream.create(a)
    last = "Nats-Expected-Last-Subject-Sequence"
    assert (await stream.publish("a", b"1", {last: "0"}))["seq"] == 1
    assert (await stream.publish("b", b"2", {last: "0"}))["seq"] == 2
    assert error(await stream.publish("a", b"3", {last: "0"})) == (
        400,
        10071,
        "wrong last sequence: 1",
    )
    assert error(await stream.publish("c", b"3", {last: "7"})) == (
        400,
        10071,
        "wrong last sequence: 0",
    )
    assert (await stream.publish("a", b"3", {last: "1"}))["seq"] == 3


async def test_a_subject_whose_message_is_deleted_has_its_one_before(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "a")
    await stream.api("MSG.DELETE", {"seq": 2})
    last = "Nats-Expected-Last-Subject-Sequence"
    assert error(await stream.publish("a", b"3", {last: "2"}))[2] == "wrong last sequence: 1"
    assert (await stream.publish("a", b"3", {last: "1"}))["seq"] == 3


async def test_the_expected_last_sequence_may_be_of_other_subjects(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("x.a", "x.b", "y")
    last = "Nats-Expected-Last-Subject-Sequence"
    of = "Nats-Expected-Last-Subject-Sequence-Subject"
    x = stream.subject("x.>")
    refused = await stream.publish("z", b"4", {last: "1", of: x})
    assert error(refused) == (400, 10071, "wrong last sequence: 2")
    assert (await stream.publish("z", b"4", {last: "2", of: x}))["seq"] == 4


async def test_the_expected_last_id(a: Connection) -> None:
    stream = await Stream.create(a)
    last = "Nats-Expected-Last-Msg-Id"
    await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
    assert (await stream.publish("a", b"2", {"Nats-Msg-Id": "two", last: "one"}))["seq"] == 2
    refused = await stream.publish("a", b"3", {last: "one"})
    assert error(refused) == (400, 10070, "wrong last msg ID: two")
    assert (await stream.publish("a", b"3", {last: "two"}))["seq"] == 3


async def test_after_a_message_without_an_id_the_last_id_is_empty(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
    await stream.publish("a", b"2")
    refused = await stream.publish("a", b"3", {"Nats-Expected-Last-Msg-Id": "one"})
    assert error(refused) == (400, 10070, "wrong last msg ID: ")


async def test_the_expected_stream(a: Connection) -> None:
    stream = await Stream.create(a)
    assert "error" not in await stream.publish("a", b"1", {"Nats-Expected-Stream": stream.name})
    refused = await stream.publish("a", b"2", {"Nats-Expected-Stream": "Other"})
    assert error(refused) == (400, 10060, "expected stream does not match")


@pytest.mark.parametrize(
    ("header", "value", "words"),
    [
        ("Nats-Expected-Last-Sequence", "7", "wrong last sequence: 2"),
        ("Nats-Expected-Last-Subject-Sequence", "7", "wrong last sequence: 2"),
        ("Nats-Expected-Stream", "Other", "expected stream does not match"),
        ("Nats-Expected-Last-Msg-Id", "other", ""),
    ],
)
async def test_expectations_are_looked_at_before_duplicates_but_for_the_last_id(
    a: Connection, header: str, value: str, words: str
) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
    await stream.publish("a", b"2", {"Nats-Msg-Id": "two"})
    answer = await stream.publish("a", b"1", {"Nats-Msg-Id": "one", header: value})
    if words:
        assert error(answer)[2] == words
    else:
        assert answer == {"stream": stream.name, "seq": 1, "duplicate": True}


async def test_an_expectation_that_holds_does_not_make_a_duplicate_a_new_one(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
    again = {"Nats-Msg-Id": "one", "Nats-Expected-Last-Sequence": "1"}
    assert (await stream.publish("a", b"1", again)).get("duplicate") is True


async def test_a_sequence_is_looked_at_before_the_last_id(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
    for header in ("Nats-Expected-Last-Sequence", "Nats-Expected-Last-Subject-Sequence"):
        wrong = {header: "7", "Nats-Expected-Last-Msg-Id": "other"}
        assert error(await stream.publish("a", b"2", wrong))[1] == 10071


async def test_a_refused_message_leaves_its_id_free(a: Connection) -> None:
    stream = await Stream.create(a)
    headers = {"Nats-Msg-Id": "one"}
    await stream.publish("a", b"1", {**headers, "Nats-Expected-Last-Sequence": "7"})
    assert await stream.publish("a", b"1", headers) == {"stream": stream.name, "seq": 1}


async def test_what_is_no_sequence_is_never_the_last_one(a: Connection) -> None:
    stream = await Stream.create(a)
    for header in ("Nats-Expected-Last-Sequence", "Nats-Expected-Last-Subject-Sequence"):
        refused = await stream.publish("a", b"1", {header: "x"})
        assert error(refused) == (400, 10071, "wrong last sequence: 0")


async def test_a_rollup_of_a_subject_drops_its_messages_before(a: Connection) -> None:
    stream = await Stream.create(a, allow_rollup_hdrs=True)
    await stream.fill("a", "b", "a")
    assert (await stream.publish("a", b"all", {"Nats-Rollup": "sub"}))["seq"] == 4
    state = await stream.state({"subjects_filter": ">"})
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (2, 2, 4)
    assert state["num_deleted"] == 1
    assert state["subjects"] == {stream.subject("a"): 1, stream.subject("b"): 1}
    stored = await stream.get(seq=4)
    assert headers_of(stored) == b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n"


async def test_a_rollup_of_all_drops_every_message_before(a: Connection) -> None:
    stream = await Stream.create(a, allow_rollup_hdrs=True)
    await stream.fill("a", "b", "a")
    assert (await stream.publish("a", b"all", {"Nats-Rollup": "all"}))["seq"] == 4
    assert await stream.numbers() == (1, 4, 4, 0)


async def test_a_rollup_must_be_allowed_and_known(a: Connection) -> None:
    stream = await Stream.create(a)
    refused = await stream.publish("a", b"1", {"Nats-Rollup": "sub"})
    assert error(refused) == (500, 10111, "rollup not permitted")
    stream = await Stream.create(a, allow_rollup_hdrs=True)
    refused = await stream.publish("a", b"1", {"Nats-Rollup": "what"})
    assert error(refused) == (500, 10111, 'rollup value invalid: "what"')
    assert await stream.numbers() == (0, 0, 0, 0)


async def test_a_rollup_with_a_wrong_expectation_drops_nothing(a: Connection) -> None:
    stream = await Stream.create(a, allow_rollup_hdrs=True)
    await stream.fill("a")
    wrong = {"Nats-Rollup": "sub", "Nats-Expected-Last-Subject-Sequence": "7"}
    assert error(await stream.publish("a", b"2", wrong))[1] == 10071
    assert await stream.numbers() == (1, 1, 1, 0)


async def test_headers_count_for_the_largest_message(a: Connection) -> None:
    stream = await Stream.create(a, max_msg_size=30)
    assert (await stream.publish("a", bytes(30)))["seq"] == 1
    refused = await stream.publish("a", bytes(31))
    assert error(refused) == (400, 10054, "message size exceeds maximum allowed")
    block = b"NATS/1.0\r\nX: yz\r\n\r\n"
    assert (await stream.publish("a", bytes(30 - len(block)), {"X": "yz"}))["seq"] == 2
    assert error(await stream.publish("a", bytes(31 - len(block)), {"X": "yz"}))[1] == 10054


async def test_the_size_of_a_message_is_looked_at_before_duplicates(a: Connection) -> None:
    stream = await Stream.create(a, max_msg_size=60)
    headers = {"Nats-Msg-Id": "one"}
    await stream.publish("a", b"1", headers)
    assert error(await stream.publish("a", bytes(61), headers))[1] == 10054


async def test_a_header_that_asks_for_what_the_stream_does_not_have(a: Connection) -> None:
    stream = await Stream.create(a)
    refused = await stream.publish("a", b"1", {"Nats-TTL": "1s"})
    assert error(refused) == (400, 10166, "per-message TTL is disabled")


# --- limits --------------------------------------------------------------------------------


async def test_the_oldest_message_makes_room(a: Connection) -> None:
    stream = await Stream.create(a, max_msgs=2)
    await stream.fill("a", "b", "c")
    assert await stream.numbers() == (2, 2, 3, 0)
    assert error(await stream.get(seq=1)) == (404, 10037, "no message found")


async def test_a_full_stream_that_discards_new_refuses(a: Connection) -> None:
    stream = await Stream.create(a, max_msgs=2, discard="new")
    await stream.fill("a", "b")
    refused = await stream.publish("c")
    assert refused == {
        "error": {"code": 503, "err_code": 10077, "description": "maximum messages exceeded"},
        "stream": stream.name,
        "seq": 0,
    }
    await stream.api("MSG.DELETE", {"seq": 1})
    assert (await stream.publish("c"))["seq"] == 3


async def test_a_full_stream_refuses_an_id_and_does_not_remember_it(a: Connection) -> None:
    stream = await Stream.create(a, max_msgs=1, discard="new")
    await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
    assert error(await stream.publish("a", b"2", {"Nats-Msg-Id": "two"}))[1] == 10077
    assert (await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})).get("duplicate") is True
    await stream.api("PURGE")
    assert (await stream.publish("a", b"2", {"Nats-Msg-Id": "two"})) == {
        "stream": stream.name,
        "seq": 2,
    }


@pytest.mark.parametrize(
    ("storage", "overhead", "of_headers"), [("file", 30, 4), ("memory", 16, 0)]
)
async def test_bytes_count_the_subject_and_the_headers(
    a: Connection, storage: str, overhead: int, of_headers: int
) -> None:
    stream = await Stream.create(a, storage=storage)
    await stream.publish("a", bytes(100))
    plain = overhead + len(stream.subject("a")) + 100
    assert (await stream.state())["bytes"] == plain
    await stream.publish("a", b"", {"X": "y"})
    block = len(b"NATS/1.0\r\nX: y\r\n\r\n")
    rest = overhead + len(stream.subject("a")) + block + of_headers
    assert (await stream.state())["bytes"] == plain + rest


async def test_the_oldest_message_makes_room_for_bytes(a: Connection) -> None:
    stream = await Stream.create(a, max_bytes=300)
    for _ in range(3):
        await stream.publish("a", bytes(100))
    assert await stream.numbers() == (2, 2, 3, 0)


async def test_a_stream_of_so_many_bytes_that_discards_new_refuses(a: Connection) -> None:
    stream = await Stream.create(a, max_bytes=300, discard="new")
    for _ in range(2):
        await stream.publish("a", bytes(100))
    refused = await stream.publish("a", bytes(100))
    assert error(refused) == (503, 10077, "maximum bytes exceeded")
    assert await stream.numbers() == (2, 1, 2, 0)


async def test_a_message_larger_than_all_the_bytes_is_taken_and_dropped_with_the_rest(
    a: Connection,
) -> None:
    stream = await Stream.create(a, max_bytes=300)
    await stream.fill("a")
    assert await stream.publish("a", bytes(400)) == {"stream": stream.name, "seq": 2}
    assert await stream.numbers() == (0, 3, 2, 0)


async def test_messages_expire(a: Connection) -> None:
    stream = await Stream.create(a, max_age=ns(0.3))
    await stream.fill("a", "b")

    async def expired() -> bool:
        return (await stream.numbers())[0] == 0

    await eventually(expired)
    assert await stream.numbers() == (0, 3, 2, 0)
    state = await stream.state()
    assert state["bytes"] == 0
    assert state["first_ts"] == "0001-01-01T00:00:00Z"
    assert state["last_ts"] > "2000"
    assert (await stream.publish("a"))["seq"] == 3
    assert (await stream.numbers())[1:3] == (3, 3)


async def test_a_subject_keeps_its_latest_messages(a: Connection) -> None:
    stream = await Stream.create(a, max_msgs_per_subject=2)
    await stream.fill("a", "b", "a", "a", "a")
    assert await stream.numbers() == (3, 2, 5, 1)
    state = await stream.state({"subjects_filter": ">"})
    assert state["subjects"] == {stream.subject("a"): 2, stream.subject("b"): 1}


async def test_a_full_subject_refuses_where_new_ones_are_discarded_by_subject(
    a: Connection,
) -> None:
    stream = await Stream.create(
        a, max_msgs_per_subject=1, discard="new", discard_new_per_subject=True
    )
    await stream.fill("a", "b")
    refused = await stream.publish("a")
    assert error(refused) == (503, 10077, "maximum messages per subject exceeded")
    await stream.api("MSG.DELETE", {"seq": 1})
    assert (await stream.publish("a"))["seq"] == 3


async def test_a_subject_that_is_full_makes_room_though_the_stream_discards_new(
    a: Connection,
) -> None:
    stream = await Stream.create(a, max_msgs_per_subject=1, discard="new")
    await stream.fill("a", "a")
    assert await stream.numbers() == (1, 2, 2, 0)


async def test_a_message_with_a_time_to_live_expires(a: Connection) -> None:
    stream = await Stream.create(a, allow_msg_ttl=True)
    await stream.publish("a", b"1", {"Nats-TTL": "1s"})
    await stream.publish("b", b"2", {"Nats-TTL": "never"})
    await stream.publish("c", b"3")
    await stream.publish("d", b"4", {"Nats-TTL": "1"})
    assert (await stream.numbers())[0] == 4

    async def expired() -> bool:
        return (await stream.numbers())[0] == 2

    await eventually(expired)
    assert await stream.numbers() == (2, 2, 4, 1)
    assert (await stream.get(last_by_subj=stream.subject("b")))["seq"] == 2


@pytest.mark.parametrize("value", ["500ms", "x", "0", "-1"])
async def test_a_time_to_live_is_a_second_at_least(a: Connection, value: str) -> None:
    stream = await Stream.create(a, allow_msg_ttl=True)
    refused = await stream.publish("a", b"1", {"Nats-TTL": value})
    assert error(refused) == (400, 10165, "invalid per-message TTL")


async def test_a_marker_stands_where_the_last_message_of_a_subject_expired(
    a: Connection,
) -> None:
    stream = await Stream.create(
        a, max_age=ns(0.2), allow_msg_ttl=True, subject_delete_marker_ttl=ns(1)
    )
    await stream.fill("a")

    async def marked() -> bool:
        return (await stream.numbers())[2] == 2

    await eventually(marked)
    marker = await stream.get(last_by_subj=stream.subject("a"))
    assert (marker["seq"], "data" in marker) == (2, False)
    assert headers_of(marker) == (
        b"NATS/1.0\r\nNats-Marker-Reason: MaxAge\r\nNats-TTL: 1s\r\nNats-Rollup: sub\r\n\r\n"
    )


# --- removing messages ---------------------------------------------------------------------


async def test_a_purge_drops_all_and_keeps_the_last_sequence(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    assert await stream.api("PURGE") == {
        "type": "io.nats.jetstream.api.v1.stream_purge_response",
        "success": True,
        "purged": 3,
    }
    assert await stream.numbers() == (0, 4, 3, 0)
    assert (await stream.publish("a"))["seq"] == 4


async def test_a_purge_of_some_subjects(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("x.a", "y", "x.b", "x.a")
    purged = await stream.api("PURGE", {"filter": stream.subject("x.*")})
    assert purged["purged"] == 3
    assert await stream.numbers() == (1, 2, 4, 2)


async def test_a_purge_up_to_a_sequence_leaves_that_one(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    assert (await stream.api("PURGE", {"seq": 3}))["purged"] == 2
    assert await stream.numbers() == (1, 3, 3, 0)


async def test_a_purge_up_to_a_sequence_beyond_the_last_moves_the_stream(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    assert (await stream.api("PURGE", {"seq": 10}))["purged"] == 2
    assert await stream.numbers() == (0, 10, 9, 0)
    assert (await stream.publish("a"))["seq"] == 10


async def test_a_purge_keeps_the_latest(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    assert (await stream.api("PURGE", {"keep": 1}))["purged"] == 2
    assert await stream.numbers() == (1, 3, 3, 0)


async def test_a_purge_of_a_subject_keeps_the_latest_or_goes_up_to_a_sequence(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a", "a", "b")
    subject = stream.subject("a")
    assert (await stream.api("PURGE", {"filter": subject, "seq": 3}))["purged"] == 1
    assert (await stream.api("PURGE", {"filter": subject, "keep": 1}))["purged"] == 1
    assert await stream.numbers() == (3, 2, 5, 1)


async def test_a_purge_does_not_take_both_a_sequence_and_how_many_to_keep(a: Connection) -> None:
    stream = await Stream.create(a)
    refused = await stream.api("PURGE", {"seq": 1, "keep": 1})
    assert error(refused) == (400, 10003, "bad request")


async def test_a_message_is_deleted_once(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    assert await stream.api("MSG.DELETE", {"seq": 2}) == {
        "type": "io.nats.jetstream.api.v1.stream_msg_delete_response",
        "success": True,
    }
    assert await stream.numbers() == (2, 1, 3, 1)
    assert (await stream.state({"deleted_details": True}))["deleted"] == [2]
    again = await stream.api("MSG.DELETE", {"seq": 2})
    assert error(again) == (400, 10043, "sequence 2 not found")
    beyond = await stream.api("MSG.DELETE", {"seq": 9})
    assert error(beyond) == (500, 10057, "stream store EOF")
    nothing = await stream.api("MSG.DELETE")
    assert error(nothing) == (400, 10003, "bad request")


async def test_deleting_the_first_message_moves_the_first_sequence(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.api("MSG.DELETE", {"seq": 2})
    await stream.api("MSG.DELETE", {"seq": 1})
    assert await stream.numbers() == (1, 3, 3, 0)
    await stream.api("MSG.DELETE", {"seq": 3})
    assert await stream.numbers() == (0, 4, 3, 0)


async def test_what_is_denied_is_not_done(a: Connection) -> None:
    stream = await Stream.create(a, deny_delete=True, deny_purge=True)
    await stream.fill("a")
    refused = await stream.api("MSG.DELETE", {"seq": 1})
    assert error(refused) == (500, 10057, "message delete not permitted")
    refused = await stream.api("PURGE")
    assert error(refused) == (500, 10110, "stream purge not permitted")
    refused = await stream.update(deny_delete=False)
    assert error(refused)[:2] == (500, 10052)
    assert await stream.numbers() == (1, 1, 1, 0)


# --- streams -------------------------------------------------------------------------------

DEFAULTS = {
    "retention": "limits",
    "max_consumers": -1,
    "max_msgs": -1,
    "max_bytes": -1,
    "max_age": 0,
    "max_msgs_per_subject": -1,
    "max_msg_size": -1,
    "discard": "old",
    "storage": "file",
    "num_replicas": 1,
    "duplicate_window": ns(120),
    "compression": "none",
    "allow_direct": False,
    "mirror_direct": False,
    "sealed": False,
    "deny_delete": False,
    "deny_purge": False,
    "allow_rollup_hdrs": False,
    "consumer_limits": {},
    "allow_msg_ttl": False,
}
NEVER = "0001-01-01T00:00:00Z"


async def test_a_new_stream_is_answered_with_its_whole_configuration(a: Connection) -> None:
    stream = Stream(a, token())
    answer = await stream.api("CREATE", stream.config())
    metadata = answer["config"].pop("metadata")
    assert metadata.keys() == {"_nats.level", "_nats.req.level", "_nats.ver"}
    assert metadata["_nats.ver"] == a.info["version"]
    assert answer.pop("created") <= answer.pop("ts")
    assert answer == {
        "type": "io.nats.jetstream.api.v1.stream_create_response",
        "config": {"name": stream.name, "subjects": [stream.subject(">")], **DEFAULTS},
        "state": {
            "messages": 0,
            "bytes": 0,
            "first_seq": 0,
            "first_ts": NEVER,
            "last_seq": 0,
            "last_ts": NEVER,
            "consumer_count": 0,
        },
        "did_create": True,
    }


async def test_the_info_of_a_stream(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a")
    await stream.consumer("C")
    answer = await stream.api("INFO")
    state = answer.pop("state")
    assert NEVER < state.pop("first_ts") < state.pop("last_ts") < answer.pop("ts")
    assert state.pop("bytes") > 0
    assert state == {
        "messages": 3,
        "first_seq": 1,
        "last_seq": 3,
        "num_subjects": 2,
        "consumer_count": 1,
    }
    assert answer.pop("config")["name"] == stream.name
    assert answer.pop("created")
    assert answer == {
        "type": "io.nats.jetstream.api.v1.stream_info_response",
        "total": 0,
        "offset": 0,
        "limit": 0,
        "cluster": {"leader": a.info["server_name"]},
    }


async def test_the_info_counts_the_messages_of_subjects(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("x.a", "x.b", "x.a", "y")
    answer = await stream.api("INFO", {"subjects_filter": stream.subject("x.>")})
    assert (answer["total"], answer["offset"], answer["limit"]) == (2, 0, 100000)
    assert answer["state"]["num_subjects"] == 3
    assert answer["state"]["subjects"] == {stream.subject("x.a"): 2, stream.subject("x.b"): 1}
    answer = await stream.api("INFO", {"subjects_filter": ">", "offset": 2})
    assert (answer["total"], answer["offset"]) == (3, 2)
    assert answer["state"]["subjects"] == {stream.subject("y"): 1}
    answer = await stream.api("INFO", {"subjects_filter": stream.subject("z")})
    assert "subjects" not in answer["state"]


async def test_a_stream_that_is_not_there(a: Connection) -> None:
    stream = Stream(a, token())
    for verb, request in (
        ("INFO", None),
        ("UPDATE", stream.config()),
        ("DELETE", None),
        ("PURGE", None),
        ("MSG.GET", {"seq": 1}),
        ("MSG.DELETE", {"seq": 1}),
    ):
        assert error(await stream.api(verb, request)) == (404, 10059, "stream not found"), verb
    for answer in (await stream.info("C"), await stream.consumer("C")):
        assert error(answer) == (404, 10059, "stream not found")
    for verb in ("NAMES", "LIST"):
        answer = await api(a, f"CONSUMER.{verb}.{stream.name}")
        assert error(answer) == (404, 10059, "stream not found")
        assert answer["consumers"] == []


async def test_a_stream_is_deleted_with_its_messages(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    assert await stream.api("DELETE") == {
        "type": "io.nats.jetstream.api.v1.stream_delete_response",
        "success": True,
    }
    with pytest.raises(NoResponders):
        await stream.publish("a")
    await stream.api("CREATE", stream.config())
    assert await stream.publish("a") == {"stream": stream.name, "seq": 1}


async def test_the_same_stream_may_be_created_again(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    answer = await stream.api("CREATE", stream.config())
    assert answer["state"]["messages"] == 1
    assert answer["did_create"] is True


async def test_another_stream_of_the_same_name_is_refused(a: Connection) -> None:
    stream = await Stream.create(a)
    refused = await stream.api("CREATE", stream.config(max_msgs=5))
    words = "stream name already in use with a different configuration"
    assert error(refused) == (400, 10058, words)


async def test_streams_do_not_share_subjects(a: Connection) -> None:
    stream = await Stream.create(a)
    other = Stream(a, token())
    for subject in (stream.subject("a"), stream.subject("*.b"), stream.subject(">")):
        refused = await other.api("CREATE", other.config(subjects=[subject]))
        assert error(refused) == (400, 10065, "subjects overlap with an existing stream")
    assert "error" not in await other.api("CREATE", other.config(subjects=[stream.name]))
    refused = await other.update(subjects=[stream.name, stream.subject("a")])
    assert error(refused)[1] == 10065


async def test_a_stream_needs_a_sound_configuration(a: Connection) -> None:
    stream = Stream(a, token())
    for config, number, words in (
        ({"name": "Other"}, 10056, "stream name in subject does not match request"),
        ({"discard_new_per_subject": True}, 10052, None),
        ({"max_age": ns(1), "duplicate_window": ns(2)}, 10052, None),
        ({"allow_rollup_hdrs": True, "deny_purge": True}, 10052, None),
        ({"subjects": [f"{token()}..x"]}, 10052, "invalid subject"),
        ({"subjects": ["$JS.API.>"]}, 10052, None),
        ({"num_replicas": 3}, 10074, "replicas > 1 not supported in non-clustered mode"),
        ({"nonsense": 1}, 10025, 'invalid JSON: json: unknown field "nonsense"'),
    ):
        failed = error(await stream.api("CREATE", {**stream.config(), **config}))
        assert failed[1] == number, config
        assert words is None or failed[2] == words, config


async def test_a_stream_without_subjects_takes_that_of_its_name(a: Connection) -> None:
    name = token()
    answer = await api(a, f"STREAM.CREATE.{name}", {"name": name})
    assert answer["config"]["subjects"] == [name]
    assert await publish(a, name) == {"stream": name, "seq": 1}


async def test_an_update_is_in_force_at_once(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    answer = await stream.update(max_msgs=2, description="less", subjects=[stream.subject("*")])
    assert answer["type"] == "io.nats.jetstream.api.v1.stream_update_response"
    assert answer["config"]["max_msgs"] == 2
    assert answer["config"]["description"] == "less"
    assert answer["state"]["messages"] == 2
    assert answer["state"]["first_seq"] == 2
    assert "did_create" not in answer
    with pytest.raises(NoResponders):
        await stream.publish("x.y")


async def test_an_update_does_not_change_what_must_stay(a: Connection) -> None:
    stream = await Stream.create(a)
    begin = "stream configuration update can not change "
    for change, words in (
        ({"storage": "memory"}, "storage type"),
        ({"retention": "workqueue"}, "retention policy to/from workqueue"),
    ):
        assert error(await stream.update(**change)) == (500, 10052, begin + words)
    refused = await stream.update(name="Other")
    assert error(refused) == (400, 10056, "stream name in subject does not match request")


async def test_streams_are_listed_by_pages_in_the_order_of_their_names(a: Connection) -> None:
    word = token()
    names = sorted(token() for _ in range(3))
    for name in reversed(names):
        await api(a, f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{word}.{name}"]})
    mine = f"{word}.>"
    kind = "io.nats.jetstream.api.v1.stream_names_response"
    assert await api(a, "STREAM.NAMES", {"subject": mine}) == {
        "type": kind,
        "total": 3,
        "offset": 0,
        "limit": 1024,
        "streams": names,
    }
    rest = await api(a, "STREAM.NAMES", {"subject": mine, "offset": 2})
    assert (rest["total"], rest["offset"], rest["streams"]) == (3, 2, names[2:])
    one = await api(a, "STREAM.NAMES", {"subject": f"{word}.{names[1]}"})
    assert one["streams"] == [names[1]]
    listed = await api(a, "STREAM.LIST", {"subject": mine, "offset": 1})
    assert (listed["total"], listed["offset"], listed["limit"]) == (3, 1, 256)
    assert [stream["config"]["name"] for stream in listed["streams"]] == names[1:]
    assert listed["streams"][0].keys() == {"config", "created", "state", "ts"}


async def test_nothing_in_a_list_of_streams(a: Connection) -> None:
    nothing = {"subject": f"{token()}.x"}
    names = await api(a, "STREAM.NAMES", nothing)
    assert (names["total"], names["streams"]) == (0, None)
    listed = await api(a, "STREAM.LIST", nothing)
    assert (listed["total"], listed["streams"]) == (0, [])


# --- reading single messages ---------------------------------------------------------------


async def test_a_message_is_read_by_its_sequence(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"\x00payload", {"X": "y", "X2": "z"})
    answer = await stream.api("MSG.GET", {"seq": 1})
    assert answer["type"] == "io.nats.jetstream.api.v1.stream_msg_get_response"
    message = answer["message"]
    assert message.pop("time").endswith("Z")
    assert message == {
        "subject": stream.subject("a"),
        "seq": 1,
        "hdrs": base64.b64encode(b"NATS/1.0\r\nX: y\r\nX2: z\r\n\r\n").decode(),
        "data": base64.b64encode(b"\x00payload").decode(),
    }


async def test_a_message_without_headers_or_payload_is_read_without_them(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"")
    assert (await stream.get(seq=1)).keys() == {"subject", "seq", "time"}


async def test_the_last_message_of_a_subject_is_read(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a", "x.c")
    assert (await stream.get(last_by_subj=stream.subject("a")))["seq"] == 3
    assert (await stream.get(last_by_subj=stream.subject("*")))["seq"] == 3
    assert (await stream.get(last_by_subj=stream.subject(">")))["seq"] == 4
    missing = await stream.get(last_by_subj=stream.subject("none"))
    assert error(missing) == (404, 10037, "no message found")


async def test_the_next_message_of_a_subject_is_read(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a")
    subject = stream.subject("a")
    assert (await stream.get(seq=1, next_by_subj=subject))["seq"] == 1
    assert (await stream.get(seq=2, next_by_subj=subject))["seq"] == 3
    assert (await stream.get(next_by_subj=subject))["seq"] == 1
    assert (await stream.get(seq=2, next_by_subj=stream.subject("*")))["seq"] == 2
    missing = await stream.get(seq=4, next_by_subj=subject)
    assert error(missing) == (404, 10037, "no message found")


async def test_a_request_for_no_message_is_a_bad_one(a: Connection) -> None:
    stream = await Stream.create(a)
    for request in (None, {}, {"seq": 0}, {"seq": 1, "last_by_subj": stream.subject("a")}):
        assert error(await stream.api("MSG.GET", request)) == (400, 10003, "bad request")


async def test_a_message_is_read_directly_by_its_sequence(a: Connection) -> None:
    stream = await Stream.create(a, allow_direct=True)
    await stream.publish("a", b"payload", {"X": "y"})
    stored = await stream.get(seq=1)
    answer = await ask(a, f"$JS.API.DIRECT.GET.{stream.name}", b'{"seq":1}')
    assert (answer.status, answer.payload) == (0, b"payload")
    assert answer.headers == {
        "X": "y",
        "Nats-Stream": stream.name,
        "Nats-Subject": stream.subject("a"),
        "Nats-Sequence": "1",
        "Nats-Time-Stamp": stored["time"],
    }


async def test_a_message_is_read_directly_by_its_subject(a: Connection) -> None:
    stream = await Stream.create(a, allow_direct=True)
    await stream.fill("a", "b.c", "a")
    direct = f"$JS.API.DIRECT.GET.{stream.name}"
    answer = await ask(a, f"{direct}.{stream.subject('a')}")
    assert (answer.headers["Nats-Sequence"], answer.payload) == ("3", b"3")
    answer = await ask(a, f"{direct}.{stream.subject('b.c')}")
    assert answer.headers["Nats-Sequence"] == "2"
    for request, sequence in (
        ({"last_by_subj": stream.subject("a")}, "3"),
        ({"next_by_subj": stream.subject("a")}, "1"),
        ({"next_by_subj": stream.subject("a"), "seq": 2}, "3"),
    ):
        answer = await ask(a, direct, json.dumps(request).encode())
        assert answer.headers["Nats-Sequence"] == sequence


async def test_what_is_not_there_is_answered_directly_with_404(a: Connection) -> None:
    stream = await Stream.create(a, allow_direct=True)
    await stream.fill("a")
    direct = f"$JS.API.DIRECT.GET.{stream.name}"
    for answer in (
        await ask(a, f"{direct}.{stream.subject('none')}"),
        await ask(a, direct, b'{"seq":9}'),
        await ask(a, direct, json.dumps({"last_by_subj": stream.subject("none")}).encode()),
    ):
        assert (answer.status, answer.description) == (404, "Message Not Found")
        assert (answer.headers, answer.payload) == ({}, b"")
    for body in (b"", b"{}"):
        answer = await ask(a, direct, body)
        assert (answer.status, answer.description) == (408, "Empty Request")


async def test_nobody_answers_directly_where_that_is_not_allowed(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    direct = f"$JS.API.DIRECT.GET.{stream.name}"
    answer = await ask(a, direct, b'{"seq":1}')
    assert (answer.status, answer.headers) == (503, {"Nats-Subject": direct})
    await stream.update(allow_direct=True)
    assert (await ask(a, direct, b'{"seq":1}')).payload == b"1"


# --- pull consumers ------------------------------------------------------------------------


async def test_a_new_pull_consumer_is_answered_with_its_whole_configuration(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    answer = await stream.consumer("C", ack_policy="explicit")
    metadata = answer["config"].pop("metadata")
    assert metadata.keys() == {"_nats.level", "_nats.req.level", "_nats.ver"}
    assert answer.pop("created") <= answer.pop("ts")
    expected = {
        "type": "io.nats.jetstream.api.v1.consumer_create_response",
        "stream_name": stream.name,
        "name": "C",
        "config": {
            "durable_name": "C",
            "name": "C",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": ns(30),
            "max_deliver": -1,
            "replay_policy": "instant",
            "max_waiting": 512,
            "max_ack_pending": 1000,
            "num_replicas": 0,
        },
        "delivered": {"consumer_seq": 0, "stream_seq": 0},
        "ack_floor": {"consumer_seq": 0, "stream_seq": 0},
        "num_ack_pending": 0,
        "num_redelivered": 0,
        "num_waiting": 0,
        "num_pending": 2,
    }
    assert answer == expected
    info = await stream.info("C")
    del info["config"]["metadata"], info["created"], info["ts"]
    expected["type"] = "io.nats.jetstream.api.v1.consumer_info_response"
    assert info == expected


async def test_a_consumer_without_acks_has_neither_a_wait_nor_a_limit_for_them(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    config = (await stream.consumer())["config"]
    assert config["ack_policy"] == "none"
    assert config["inactive_threshold"] == ns(5)
    assert config.keys().isdisjoint({"ack_wait", "max_ack_pending", "durable_name", "name"})


async def test_a_pull_brings_what_is_asked_for(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"1", {"X": "y"})
    await stream.publish("b", b"2")
    await stream.publish("c", b"3")
    await stream.consumer("C", ack_policy="explicit")
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=2)
    one, two = await inbox.some(2)
    assert (one.subject, one.headers, one.payload) == (stream.subject("a"), {"X": "y"}, b"1")
    assert (two.subject, two.headers, two.payload) == (stream.subject("b"), {}, b"2")
    await inbox.nothing(0.1)


async def test_the_ack_subject_says_all_of_a_delivery(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("x", "a", "a")
    await stream.consumer("C", ack_policy="explicit", filter_subject=stream.subject("a"))
    one, two = await stream.fetch("C", 2)
    assert one.reply.startswith(f"$JS.ACK.{stream.name}.C.1.2.1.")
    first, second = Delivery.of(one), Delivery.of(two)
    assert first == Delivery(stream.name, "C", 1, 2, 1, first.time_ns, 1)
    assert second == Delivery(stream.name, "C", 1, 3, 2, second.time_ns, 0)
    assert second.time_ns > first.time_ns > ns(1e9)


async def test_the_pull_of_one_message_may_be_empty_or_a_number(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C")
    inbox = Inbox(a)
    stream.pull("C", inbox)
    assert (await inbox.next()).payload == b"1"
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.C"
    publish_with_reply(a, subject, inbox.subject, b"2")
    assert await inbox.payloads(2) == [b"2", b"3"]


async def test_a_pull_that_does_not_wait_gets_what_there_is_and_404(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    await stream.consumer("C")
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=5, no_wait=True)
    one, two, end = await inbox.some(3)
    assert (one.payload, two.payload) == (b"1", b"2")
    assert end == Message(inbox.subject, "", {}, 404, "No Messages", b"")
    stream.pull("C", inbox, batch=5, no_wait=True)
    assert (await inbox.next()).status == 404


async def test_a_pull_that_expires_says_what_it_did_not_get(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C")
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=3, expires=ns(0.1))
    message, end = await inbox.some(2)
    assert message.payload == b"1"
    headers = {"Nats-Pending-Messages": "2", "Nats-Pending-Bytes": "0"}
    assert end == Message(inbox.subject, "", headers, 408, "Request Timeout", b"")


async def test_a_pull_waits_for_what_is_published(a: Connection, b: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C")
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=2, expires=ns(PATIENCE))
    await waiting(stream, "C", 1)
    for payload in (b"1", b"2", b"3"):
        await publish(b, stream.subject("a"), payload)
    assert await inbox.payloads(2) == [b"1", b"2"]
    assert (await stream.info("C"))["num_waiting"] == 0
    assert (await stream.info("C"))["num_pending"] == 1


async def test_pulls_that_wait_are_served_in_turn(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C")
    one, two = Inbox(a), Inbox(a)
    stream.pull("C", one, batch=2, expires=ns(PATIENCE))
    stream.pull("C", two, batch=2, expires=ns(PATIENCE))
    await waiting(stream, "C", 2)
    await stream.fill("a", "a", "a", "a")
    assert await one.payloads(2) == [b"1", b"3"]
    assert await two.payloads(2) == [b"2", b"4"]


async def test_a_pull_whose_reader_is_gone_is_dropped(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C", ack_policy="explicit")
    gone, here = Inbox(a), Inbox(a)
    stream.pull("C", gone, batch=1, expires=ns(PATIENCE))
    stream.pull("C", here, batch=1, expires=ns(PATIENCE))
    await waiting(stream, "C", 2)
    gone.close()
    await a.flush()
    await stream.fill("a")
    assert Delivery.of(await here.next()).delivered == 1


async def test_a_pull_beats_while_nothing_comes(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C")
    await stream.fetch("C", 1)
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=1, expires=ns(0.5), idle_heartbeat=ns(0.1))
    beat = await inbox.next()
    headers = {"Nats-Last-Consumer": "1", "Nats-Last-Stream": "1"}
    assert beat == Message(inbox.subject, "", headers, 100, "Idle Heartbeat", b"")
    while (message := await inbox.next()).status == 100:
        pass
    assert message.status == 408


async def test_a_pull_with_too_slow_a_heartbeat_is_a_bad_one(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C")
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=1, expires=ns(0.3), idle_heartbeat=ns(0.2))
    end = await inbox.next()
    assert end.status == 400
    assert end.description == "Bad Request - heartbeat value too large"


async def test_a_pull_of_so_many_bytes_ends_before_the_message_that_is_too_large(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    for _ in range(3):
        await stream.publish("a", bytes(200))
    await stream.consumer("C")
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=5, max_bytes=400, expires=ns(PATIENCE))
    message, end = await inbox.some(2)
    assert (end.status, end.description) == (409, "Message Size Exceeds MaxBytes")
    size = len(message.subject) + len(message.reply) + 200
    assert end.headers == {
        "Nats-Pending-Messages": "4",
        "Nats-Pending-Bytes": str(400 - size),
    }
    assert (await stream.info("C"))["delivered"]["stream_seq"] == 1


async def test_a_pull_beyond_the_consumers_limits_is_refused(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C", max_batch=5, max_expires=ns(2), max_bytes=1000)
    inbox = Inbox(a)
    for request, words in (
        ({"batch": 6}, "Exceeded MaxRequestBatch of 5"),
        ({"batch": 1, "expires": ns(3)}, "Exceeded MaxRequestExpires of 2s"),
        ({"batch": 1, "expires": ns(1), "max_bytes": 2000}, "Exceeded MaxRequestMaxBytes of 1000"),
    ):
        stream.pull("C", inbox, **request)
        answer = await inbox.next()
        assert (answer.status, answer.description) == (409, words)


async def test_more_pulls_than_may_wait_are_refused(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C", max_waiting=1)
    one, two = Inbox(a), Inbox(a)
    stream.pull("C", one, batch=1, expires=ns(PATIENCE))
    stream.pull("C", two, batch=1, expires=ns(PATIENCE))
    answer = await two.next()
    assert (answer.status, answer.description) == (409, "Exceeded MaxWaiting")
    await stream.fill("a")
    assert (await one.next()).payload == b"1"


async def test_a_pull_of_no_consumer_is_answered_with_503(a: Connection) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a)
    stream.pull("None", inbox, batch=1)
    answer = await inbox.next()
    subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.None"
    assert (answer.status, answer.headers) == (503, {"Nats-Subject": subject})


async def test_a_pull_of_a_push_consumer_is_refused(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C", deliver_subject=token())
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=1)
    answer = await inbox.next()
    assert (answer.status, answer.description) == (409, "Consumer is push based")


@pytest.mark.parametrize("what", ["consumer", "stream"])
async def test_the_end_of_the_consumer_ends_a_pull_that_waits(a: Connection, what: str) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C")
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=1, expires=ns(PATIENCE))
    await waiting(stream, "C", 1)
    if what == "consumer":
        await stream.consumer_api("DELETE", "C")
    else:
        await stream.api("DELETE")
    assert await inbox.next() == Message(inbox.subject, "", {}, 409, "Consumer Deleted", b"")


# --- acks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", [b"+ACK", b""])
async def test_an_ack_moves_the_floor(a: Connection, word: bytes) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C", ack_policy="explicit")
    one, two, _ = await stream.fetch("C", 3)
    info = await stream.info("C")
    assert (info["num_ack_pending"], info["num_pending"]) == (3, 0)
    assert info["delivered"].pop("last_active")
    assert info["delivered"] == {"consumer_seq": 3, "stream_seq": 3}
    assert info["ack_floor"] == {"consumer_seq": 0, "stream_seq": 0}
    await acknowledge(a, two, word)
    info = await stream.info("C")
    assert info["num_ack_pending"] == 2
    assert info["ack_floor"].pop("last_active")
    assert info["ack_floor"] == {"consumer_seq": 0, "stream_seq": 0}
    await acknowledge(a, one, word)
    info = await stream.info("C")
    assert info["num_ack_pending"] == 1
    del info["ack_floor"]["last_active"]
    assert info["ack_floor"] == {"consumer_seq": 2, "stream_seq": 2}


async def test_any_ack_with_a_reply_subject_is_answered_with_an_empty_message(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit")
    (message,) = await stream.fetch("C", 1)
    for word in (b"+WPI", b"-NAK", b"+TERM", b"+ACK", b"+ACK", b"nonsense"):
        answer = await ask(a, message.reply, word)
        assert (answer.status, answer.headers, answer.payload) == (0, {}, b"")


async def test_a_message_that_is_not_wanted_now_comes_again(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    await stream.consumer("C", ack_policy="explicit")
    (message,) = await stream.fetch("C", 1)
    await acknowledge(a, message, b"-NAK")
    again, other = await stream.fetch("C", 2)
    first, second = Delivery.of(again), Delivery.of(other)
    assert (first.stream_seq, first.consumer_seq, first.delivered, first.pending) == (1, 2, 2, 1)
    assert (second.stream_seq, second.consumer_seq, second.delivered) == (2, 3, 1)
    info = await stream.info("C")
    assert (info["num_ack_pending"], info["num_redelivered"]) == (2, 1)


async def test_a_message_comes_again_after_the_delay_that_is_asked_for(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit")
    (message,) = await stream.fetch("C", 1)
    start = trio.current_time()
    await acknowledge(a, message, b'-NAK {"delay": 300000000}')
    (again,) = await stream.fetch("C", 1)
    assert trio.current_time() - start > 0.25
    assert Delivery.of(again).delivered == 2


async def test_a_message_nobody_acknowledges_comes_again(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit", ack_wait=ns(0.2))
    (message,) = await stream.fetch("C", 1)
    start = trio.current_time()
    (again,) = await stream.fetch("C", 1)
    assert trio.current_time() - start > 0.15
    assert (message.payload, Delivery.of(message).delivered) == (b"1", 1)
    assert (again.payload, Delivery.of(again).delivered) == (b"1", 2)
    await acknowledge(a, again)
    info = await stream.info("C")
    assert (info["num_ack_pending"], info["num_redelivered"]) == (0, 0)
    del info["ack_floor"]["last_active"]
    assert info["ack_floor"] == {"consumer_seq": 2, "stream_seq": 1}


async def test_an_ack_of_an_earlier_delivery_counts(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit")
    (message,) = await stream.fetch("C", 1)
    await acknowledge(a, message, b"-NAK")
    await stream.fetch("C", 1)
    await acknowledge(a, message)
    assert (await stream.info("C"))["num_ack_pending"] == 0


async def test_work_in_progress_puts_off_the_next_delivery(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit", ack_wait=ns(0.5))
    (message,) = await stream.fetch("C", 1)
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=1, expires=ns(PATIENCE))
    start = trio.current_time()
    await trio.sleep(0.3)
    await acknowledge(a, message, b"+WPI")
    if trio.current_time() - start < 0.45:  # else the machine was too slow to tell
        await inbox.next()
        assert trio.current_time() - start > 0.7


async def test_a_message_that_is_given_up_does_not_come_again(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit", ack_wait=ns(0.1))
    (message,) = await stream.fetch("C", 1)
    await acknowledge(a, message, b"+TERM no use")
    info = await stream.info("C")
    assert (info["num_ack_pending"], info["ack_floor"]["stream_seq"]) == (0, 1)
    await trio.sleep(0.25)
    assert await stream.fetch_now("C") == []


async def test_a_message_is_delivered_no_more_often_than_is_allowed(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit", max_deliver=2)
    for delivered in (1, 2):
        (message,) = await stream.fetch("C", 1)
        assert Delivery.of(message).delivered == delivered
        await acknowledge(a, message, b"-NAK")
    assert await stream.fetch_now("C") == []


async def test_no_more_messages_are_delivered_than_may_wait_for_their_ack(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C", ack_policy="explicit", max_ack_pending=2)
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=3, expires=ns(PATIENCE))
    one, _ = await inbox.some(2)
    await inbox.nothing(0.1)
    await acknowledge(a, one)
    assert (await inbox.next()).payload == b"3"


async def test_an_ack_counts_for_all_before_where_the_policy_says_so(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C", ack_policy="all")
    _, two, _ = await stream.fetch("C", 3)
    await acknowledge(a, two)
    info = await stream.info("C")
    assert info["num_ack_pending"] == 1
    del info["ack_floor"]["last_active"]
    assert info["ack_floor"] == {"consumer_seq": 2, "stream_seq": 2}


async def test_without_acks_what_is_delivered_is_done(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    await stream.consumer("C", ack_policy="none")
    await stream.fetch("C", 2)
    info = await stream.info("C")
    assert (info["num_ack_pending"], info["num_pending"]) == (0, 0)
    assert info["delivered"].pop("last_active")
    assert info["delivered"] == info["ack_floor"] == {"consumer_seq": 2, "stream_seq": 2}


async def test_an_ack_may_ask_for_the_next_message(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C", ack_policy="explicit")
    (message,) = await stream.fetch("C", 1)
    inbox = Inbox(a)
    publish_with_reply(a, message.reply, inbox.subject, b"+NXT")
    assert (await inbox.next()).payload == b"2"
    assert (await stream.info("C"))["ack_floor"]["stream_seq"] == 1


async def test_a_message_that_is_deleted_is_not_pending_any_more(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a")
    await stream.consumer("C", ack_policy="explicit", filter_subject=stream.subject("a"))
    assert (await stream.info("C"))["num_pending"] == 2
    await stream.api("MSG.DELETE", {"seq": 1})
    assert (await stream.info("C"))["num_pending"] == 1
    assert sequences(await stream.fetch_now("C")) == [3]


async def test_the_numbers_of_a_consumer_are_those_of_the_messages_it_delivered(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a")
    await stream.consumer("C", ack_policy="explicit", filter_subject=stream.subject("b"))
    (message,) = await stream.fetch("C", 1)
    assert await stream.fetch_now("C") == []
    await acknowledge(a, message)
    info = await stream.info("C")
    for name in ("delivered", "ack_floor"):
        assert (info[name]["consumer_seq"], info[name]["stream_seq"]) == (1, 2)
    await stream.fill("b", "b")
    assert (await stream.info("C"))["num_pending"] == 2
    await stream.api("PURGE")
    info = await stream.info("C")
    assert info["num_pending"] == 0
    for name in ("delivered", "ack_floor"):
        assert (info[name]["consumer_seq"], info[name]["stream_seq"]) == (1, 5)


async def test_a_purge_is_the_end_of_what_waits_for_its_ack(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C", ack_policy="explicit")
    await stream.fetch("C", 2)
    await stream.api("PURGE")
    info = await stream.info("C")
    assert (info["num_ack_pending"], info["num_pending"]) == (0, 0)
    assert info["delivered"]["stream_seq"] == 3
    assert info["ack_floor"]["stream_seq"] == 3
    await stream.fill("d")
    assert sequences(await stream.fetch("C", 1)) == [4]


async def test_a_stream_that_is_a_work_queue_drops_what_is_acknowledged(a: Connection) -> None:
    stream = await Stream.create(a, retention="workqueue")
    await stream.fill("a", "b")
    await stream.consumer("C", ack_policy="explicit")
    one, _ = await stream.fetch("C", 2)
    await acknowledge(a, one)
    assert await stream.numbers() == (1, 2, 2, 0)
    refused = await stream.consumer("D", ack_policy="explicit")
    words = "multiple non-filtered consumers not allowed on workqueue stream"
    assert error(refused) == (400, 10099, words)


# --- push consumers ------------------------------------------------------------------------


async def test_a_push_consumer_delivers_by_itself(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    inbox = Inbox(a)
    answer = await stream.consumer("C", deliver_subject=inbox.subject, ack_policy="explicit")
    assert answer["config"]["deliver_subject"] == inbox.subject
    assert answer["push_bound"] is True
    assert "max_waiting" not in answer["config"]
    await stream.publish("b", b"2", {"X": "y"})
    one, two = await inbox.some(2)
    assert (one.subject, one.payload) == (stream.subject("a"), b"1")
    assert (two.headers, two.payload) == ({"X": "y"}, b"2")
    assert one.reply.startswith(f"$JS.ACK.{stream.name}.C.1.1.1.")
    await acknowledge(a, one)
    assert (await stream.info("C"))["ack_floor"]["stream_seq"] == 1


async def test_a_push_consumer_delivers_again_what_is_not_acknowledged(a: Connection) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a)
    await stream.consumer(
        "C", deliver_subject=inbox.subject, ack_policy="explicit", ack_wait=ns(0.2)
    )
    await stream.fill("a")
    first = await inbox.next()
    again = await inbox.next()
    assert (Delivery.of(first).delivered, Delivery.of(again).delivered) == (1, 2)
    await acknowledge(a, again)
    inbox.arrived()
    await inbox.nothing(0.3)


async def test_a_push_consumer_delivers_again_at_once_what_is_not_wanted_now(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a)
    await stream.consumer("C", deliver_subject=inbox.subject, ack_policy="explicit")
    await stream.fill("a")
    await acknowledge(a, await inbox.next(), b"-NAK")
    again = Delivery.of(await inbox.next())
    assert (again.stream_seq, again.consumer_seq, again.delivered) == (1, 2, 2)


async def test_a_push_consumer_holds_back_what_may_not_wait_for_its_ack(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    inbox = Inbox(a)
    await stream.consumer(
        "C", deliver_subject=inbox.subject, ack_policy="explicit", max_ack_pending=1
    )
    one = await inbox.next()
    await inbox.nothing(0.1)
    await acknowledge(a, one)
    assert (await inbox.next()).payload == b"2"


async def test_a_push_consumer_waits_until_somebody_is_interested(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    subject = token()
    answer = await stream.consumer("C", deliver_subject=subject)
    assert "push_bound" not in answer
    assert answer["num_pending"] == 2
    inbox = Inbox(a, subject)
    assert await inbox.payloads(2) == [b"1", b"2"]
    assert (await stream.info("C"))["push_bound"] is True
    inbox.close()

    async def left() -> bool:
        return "push_bound" not in await stream.info("C")

    await eventually(left)
    await stream.fill("c")
    assert (await stream.info("C"))["num_pending"] == 1
    later = Inbox(a, subject)
    assert sequences([await later.next()]) == [3]


async def test_only_a_subscription_to_the_very_subject_is_interest_in_a_push_consumer(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    word = token()
    wide = Inbox(a, f"{word}.>")
    await a.flush()
    assert "push_bound" not in await stream.consumer("C", deliver_subject=f"{word}.x")
    await wide.nothing()
    Inbox(a, f"{word}.x")
    assert (await wide.next()).payload == b"1"


async def test_a_push_consumer_beats_while_nothing_comes(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b")
    inbox = Inbox(a)
    await stream.consumer("C", deliver_subject=inbox.subject, idle_heartbeat=ns(0.1))
    assert await inbox.payloads(2) == [b"1", b"2"]
    headers = {"Nats-Last-Consumer": "2", "Nats-Last-Stream": "2"}
    beat = Message(inbox.subject, "", headers, 100, "Idle Heartbeat", b"")
    assert await inbox.some(2) == [beat, beat]


async def test_a_heartbeat_says_up_to_where_there_was_nothing_more_of_the_subject(
    a: Connection,
) -> None:
    """The last message that was looked at, not the last one that was delivered."""
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a")
    inbox = Inbox(a)
    of_b = stream.subject("b")
    await stream.consumer(
        "C", deliver_subject=inbox.subject, idle_heartbeat=ns(0.1), filter_subject=of_b
    )
    assert (await inbox.next()).payload == b"2"
    await beats_until(inbox, consumer=1, stream=3)
    await stream.fill("a", "a")
    await beats_until(inbox, consumer=1, stream=5)
    assert (await stream.info("C"))["delivered"]["stream_seq"] == 2
    await stream.fill("b", "a")
    while (message := await inbox.next()).status:
        pass
    assert Delivery.of(message).stream_seq == 6
    await beats_until(inbox, consumer=2, stream=7)


async def beats_until(inbox: Inbox, *, consumer: int, stream: int) -> None:
    """Heartbeats only, until one with these numbers."""
    wanted = {"Nats-Last-Consumer": str(consumer), "Nats-Last-Stream": str(stream)}
    with trio.fail_after(PATIENCE):
        while (beat := await inbox.next()).headers != wanted:
            assert beat.description == "Idle Heartbeat"
            assert beat.headers["Nats-Last-Consumer"] == str(consumer)


async def test_a_heartbeat_before_the_first_message_has_zeros_or_where_it_begins(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "a")
    inbox = Inbox(a)
    await stream.consumer(
        deliver_subject=inbox.subject, idle_heartbeat=ns(0.1), deliver_policy="new"
    )
    beat = await inbox.next()
    assert beat.headers == {"Nats-Last-Consumer": "0", "Nats-Last-Stream": "2"}


async def test_a_push_consumer_with_flow_control_waits_for_its_reader(a: Connection) -> None:
    stream = await Stream.create(a)
    for _ in range(30):
        a.publish(stream.subject("a"), bytes(100_000))
    await a.flush()
    inbox = Inbox(a)
    await stream.consumer(
        "C", deliver_subject=inbox.subject, flow_control=True, idle_heartbeat=ns(0.1)
    )
    count, request, beat = 0, None, None
    while beat is None:
        message = await inbox.next()
        if message.description == "FlowControl Request":
            assert request is None
            assert (message.status, message.headers, message.payload) == (100, {}, b"")
            assert message.reply.startswith(f"$JS.FC.{stream.name}.C.")
            request = message
        elif not message.status:
            count += 1
        elif "Nats-Consumer-Stalled" in message.headers:
            beat = message
    assert request is not None
    assert 0 < count < 30
    assert beat.headers == {
        "Nats-Last-Consumer": str(count),
        "Nats-Last-Stream": str(count),
        "Nats-Consumer-Stalled": request.reply,
    }
    a.publish(request.reply)
    while count < 30:
        message = await inbox.next()
        if message.description == "FlowControl Request":
            a.publish(message.reply)
        elif not message.status:
            count += 1
    while "Nats-Consumer-Stalled" in (beat := await inbox.next()).headers:
        pass
    assert beat.headers == {"Nats-Last-Consumer": "30", "Nats-Last-Stream": "30"}


async def test_one_member_of_the_deliver_group_gets_a_message(a: Connection, b: Connection) -> None:
    stream = await Stream.create(a)
    subject = token()
    members = [Inbox(a, subject, queue="g"), Inbox(b, subject, queue="g")]
    await a.flush()
    await b.flush()
    await stream.consumer("C", deliver_subject=subject, deliver_group="g")
    await stream.fill(*["a"] * 30)

    got: list[int] = []
    with trio.fail_after(PATIENCE):
        while len(got) < 30:
            for member in members:
                got += sequences(member.arrived())
            await trio.sleep(0.01)
    assert sorted(got) == list(range(1, 31))


async def test_headers_alone_come_with_the_size_of_the_message(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.publish("a", b"12345", {"X": "y"})
    await stream.publish("a", b"123")
    inbox = Inbox(a)
    await stream.consumer("C", deliver_subject=inbox.subject, headers_only=True)
    one, two = await inbox.some(2)
    assert (one.headers, one.payload) == ({"X": "y", "Nats-Msg-Size": "5"}, b"")
    assert (two.headers, two.payload) == ({"Nats-Msg-Size": "3"}, b"")


async def test_a_push_consumer_ends_without_a_word(a: Connection) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a)
    await stream.consumer("C", deliver_subject=inbox.subject, idle_heartbeat=ns(0.1))
    await inbox.next()
    await stream.consumer_api("DELETE", "C")
    await a.flush()
    inbox.arrived()
    await inbox.nothing(0.25)


async def test_a_consumer_nobody_uses_ends_after_its_threshold(a: Connection) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a)
    push = await stream.consumer(deliver_subject=inbox.subject, inactive_threshold=ns(0.2))
    pull = await stream.consumer(inactive_threshold=ns(0.2))

    async def gone(name: str) -> bool:
        return error_number(await stream.info(name)) == 10014

    await eventually(lambda: gone(pull["name"]))
    assert "error" not in await stream.info(push["name"])
    inbox.close()
    await eventually(lambda: gone(push["name"]))


def error_number(answer: dict[str, Any]) -> int:
    return int(answer.get("error", {}).get("err_code", 0))


async def test_a_durable_consumer_nobody_uses_stays_unless_it_has_a_threshold(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.consumer("Stays")
    await stream.consumer("Goes", inactive_threshold=ns(0.1))

    async def one_left() -> bool:
        answer = await api(a, f"CONSUMER.NAMES.{stream.name}")
        return bool(answer["consumers"] == ["Stays"])

    await eventually(one_left)


# --- where a consumer begins ---------------------------------------------------------------


async def delivered(stream: Stream, **config: object) -> list[int]:
    """The sequences that a new consumer delivers at first."""
    answer = await stream.consumer(**config)
    assert "error" not in answer, answer
    got = sequences(await stream.fetch_now(answer["name"]))
    assert answer["num_pending"] == len(got)
    return got


async def test_a_consumer_begins_where_its_policy_says(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a", "c", "b")
    time = (await stream.get(seq=3))["time"]
    everything = stream.subject(">")
    assert await delivered(stream) == [1, 2, 3, 4, 5]
    assert await delivered(stream, deliver_policy="all") == [1, 2, 3, 4, 5]
    assert await delivered(stream, deliver_policy="new") == []
    assert await delivered(stream, deliver_policy="last") == [5]
    assert await delivered(
        stream, deliver_policy="last_per_subject", filter_subject=everything
    ) == [3, 4, 5]
    assert await delivered(stream, deliver_policy="by_start_sequence", opt_start_seq=4) == [4, 5]
    assert await delivered(stream, deliver_policy="by_start_sequence", opt_start_seq=9) == []
    assert await delivered(stream, deliver_policy="by_start_time", opt_start_time=time) == [3, 4, 5]


async def test_a_consumer_of_some_subjects_begins_where_its_policy_says(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a", "c", "b")
    of_a = stream.subject("a")
    two = [stream.subject("a"), stream.subject("c")]
    assert await delivered(stream, filter_subject=of_a) == [1, 3]
    assert await delivered(stream, filter_subjects=two) == [1, 3, 4]
    assert await delivered(stream, filter_subject=of_a, deliver_policy="last") == [3]
    assert await delivered(stream, filter_subjects=two, deliver_policy="last_per_subject") == [3, 4]
    assert await delivered(
        stream, filter_subject=of_a, deliver_policy="by_start_sequence", opt_start_seq=2
    ) == [3]
    assert await delivered(stream, filter_subject="other.subject") == []


async def test_a_consumer_goes_on_with_what_is_published_later(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a")
    for name, policy in (("New", "new"), ("Last", "last_per_subject"), ("Far", "")):
        start: dict[str, object] = {"deliver_policy": policy}
        if name == "Far":
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": 6}
        await stream.consumer(name, filter_subject=stream.subject("*"), **start)
    await stream.fill("b", "c", "a")
    assert sequences(await stream.fetch_now("New")) == [4, 5, 6]
    assert sequences(await stream.fetch_now("Last")) == [2, 3, 4, 5, 6]
    assert sequences(await stream.fetch_now("Far")) == [6]


async def test_a_new_consumer_shows_where_it_begins(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    for config, floor in (
        ({"deliver_policy": "all"}, 0),
        ({"deliver_policy": "new"}, 3),
        ({"deliver_policy": "last"}, 2),
        ({"deliver_policy": "by_start_sequence", "opt_start_seq": 2}, 1),
    ):
        answer = await stream.consumer(**config)
        assert answer["delivered"] == {"consumer_seq": 0, "stream_seq": floor}
        assert answer["ack_floor"] == {"consumer_seq": 0, "stream_seq": floor}


async def test_a_start_must_fit_the_policy(a: Connection) -> None:
    stream = await Stream.create(a)
    begin = "consumer delivery policy is deliver "
    for config, words in (
        (
            {"deliver_policy": "by_start_sequence"},
            "by start sequence, but optional start sequence is not set",
        ),
        (
            {"deliver_policy": "by_start_time"},
            "by start time, but optional start time is not set",
        ),
        ({"opt_start_seq": 4}, "all, but optional start sequence is also set"),
        (
            {"deliver_policy": "last_per_subject"},
            "last per subject, but optional filter subject is not set",
        ),
    ):
        assert error(await stream.consumer(**config)) == (400, 10094, begin + words)


async def test_filters_must_not_overlap(a: Connection) -> None:
    stream = await Stream.create(a)
    x, every = stream.subject("x"), stream.subject(">")
    refused = await stream.consumer(filter_subjects=[x, every])
    assert error(refused) == (400, 10138, "consumer subject filters cannot overlap")
    refused = await stream.consumer(filter_subjects=[x], filter_subject=every)
    words = "consumer cannot have both FilterSubject and FilterSubjects specified"
    assert error(refused) == (400, 10136, words)


# --- making consumers ----------------------------------------------------------------------


async def test_a_consumer_may_be_created_again_as_it_is(a: Connection) -> None:
    stream = await Stream.create(a)
    created = (await stream.consumer("C", action="create"))["created"]
    for action in ("create", "", "update", None):
        assert (await stream.consumer("C", action=action))["created"] == created


async def test_create_refuses_another_configuration(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C")
    refused = await stream.consumer("C", action="create", max_deliver=4)
    assert error(refused) == (400, 10148, "consumer already exists")


async def test_update_wants_a_consumer_that_is_there(a: Connection) -> None:
    stream = await Stream.create(a)
    refused = await stream.consumer("C", action="update")
    assert error(refused) == (400, 10149, "consumer does not exist")


@pytest.mark.parametrize("action", ["", "update", None])
async def test_a_consumer_is_changed(a: Connection, action: str | None) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "a")
    await stream.consumer("C", ack_policy="explicit")
    (message,) = await stream.fetch("C", 1)
    await acknowledge(a, message)
    changed = await stream.consumer(
        "C",
        action=action,
        ack_policy="explicit",
        max_deliver=4,
        filter_subject=stream.subject("b"),
        metadata={"x": "y"},
    )
    assert changed["type"] == "io.nats.jetstream.api.v1.consumer_create_response"
    assert changed["config"]["max_deliver"] == 4
    assert changed["config"]["metadata"]["x"] == "y"
    assert changed["ack_floor"]["stream_seq"] == 1
    assert changed["num_pending"] == 1
    assert sequences(await stream.fetch_now("C")) == [2]


async def test_a_consumer_keeps_what_may_not_change(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C", ack_policy="explicit")
    for config, words in (
        ({"ack_policy": "none"}, "ack policy can not be updated"),
        ({"deliver_policy": "new"}, "deliver policy can not be updated"),
        ({"deliver_subject": token()}, "can not update pull consumer to push based"),
    ):
        refused = await stream.consumer("C", **{"ack_policy": "explicit", **config})
        assert error(refused) == (500, 10012, words)


async def test_a_push_consumer_in_use_takes_no_other_deliver_subject(a: Connection) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a)
    await stream.consumer("C", deliver_subject=inbox.subject)
    refused = await stream.consumer("C", deliver_subject=token())
    assert error(refused) == (400, 10013, "consumer name already in use")


async def test_the_subject_of_a_create_request_must_fit_its_configuration(a: Connection) -> None:
    stream = await Stream.create(a)
    x, y = stream.subject("x"), stream.subject("y")
    answer = await stream.create_consumer(f"E.{x}", {"name": "E", "filter_subject": x})
    assert answer["config"]["filter_subject"] == x
    refused = await stream.create_consumer(f"F.{x}", {"name": "F", "filter_subject": y})
    words = "Consumer create request did not match filtered subject from create subject"
    assert error(refused) == (400, 10131, words)
    refused = await stream.create_consumer("G", {"name": "G", "durable_name": "H"})
    words = "consumer name in subject does not match durable name in request"
    assert error(refused) == (400, 10017, words)


async def test_a_durable_consumer_is_created_in_the_old_way(a: Connection) -> None:
    stream = await Stream.create(a)
    request = {"stream_name": stream.name, "config": {"durable_name": "C"}}
    answer = await api(a, f"CONSUMER.DURABLE.CREATE.{stream.name}.C", request)
    assert answer["name"] == "C"
    assert answer["config"]["durable_name"] == "C"


async def test_a_consumer_without_a_name_is_given_one(a: Connection) -> None:
    stream = await Stream.create(a)
    answer = await stream.consumer()
    assert len(answer["name"]) == 8
    assert "error" not in await stream.info(answer["name"])


async def test_a_push_consumer_needs_a_sound_configuration(a: Connection) -> None:
    stream = await Stream.create(a)
    for config, number, words in (
        ({"idle_heartbeat": ns(0.01)}, 10083, "consumer idle heartbeat needs to be >= 100ms"),
        ({"flow_control": True}, 10108, "consumer with flow control also needs heartbeats"),
        (
            {"deliver_subject": stream.subject("x")},
            10081,
            "consumer deliver subject forms a cycle",
        ),
    ):
        refused = await stream.consumer(**{"deliver_subject": token(), **config})
        assert error(refused) == (400, number, words)


async def test_consumers_are_listed_by_pages_in_the_order_of_their_names(a: Connection) -> None:
    stream = await Stream.create(a)
    for name in ("C", "A", "B"):
        await stream.consumer(name)
    assert await api(a, f"CONSUMER.NAMES.{stream.name}") == {
        "type": "io.nats.jetstream.api.v1.consumer_names_response",
        "total": 3,
        "offset": 0,
        "limit": 1024,
        "consumers": ["A", "B", "C"],
    }
    rest = await api(a, f"CONSUMER.NAMES.{stream.name}", {"offset": 2})
    assert (rest["total"], rest["offset"], rest["consumers"]) == (3, 2, ["C"])
    listed = await api(a, f"CONSUMER.LIST.{stream.name}", {"offset": 1})
    assert (listed["total"], listed["offset"], listed["limit"]) == (3, 1, 256)
    assert listed["type"] == "io.nats.jetstream.api.v1.consumer_list_response"
    assert [consumer["name"] for consumer in listed["consumers"]] == ["B", "C"]
    info = await stream.info("B")
    assert listed["consumers"][0].keys() == info.keys() - {"type"}


async def test_a_consumer_is_deleted_once(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.consumer("C")
    assert (await stream.state())["consumer_count"] == 1
    assert await stream.consumer_api("DELETE", "C") == {
        "type": "io.nats.jetstream.api.v1.consumer_delete_response",
        "success": True,
    }
    assert (await stream.state())["consumer_count"] == 0
    again = await stream.consumer_api("DELETE", "C")
    assert error(again) == (404, 10014, "consumer not found")
    assert error(await stream.info("C")) == (404, 10014, "consumer not found")


async def test_a_reset_moves_a_consumer_to_a_sequence(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c", "d")
    await stream.consumer("C", ack_policy="explicit")
    await stream.fetch("C", 1)
    answer = await stream.consumer_api("RESET", "C", {"seq": 3})
    assert answer["type"] == "io.nats.jetstream.api.v1.consumer_reset_response"
    assert answer["reset_seq"] == 3
    info = await stream.info("C")
    assert answer.keys() - info.keys() == {"reset_seq"}
    for shown in (answer, info):
        assert (shown["num_ack_pending"], shown["num_pending"]) == (0, 2)
        for name in ("delivered", "ack_floor"):
            shown[name].pop("last_active", None)
            assert shown[name] == {"consumer_seq": 0, "stream_seq": 2}
    (message,) = await stream.fetch("C", 1)
    again = Delivery.of(message)
    assert (again.stream_seq, again.consumer_seq, again.delivered) == (3, 1, 1)


async def test_a_reset_goes_back_and_beyond_the_end(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C", ack_policy="explicit")
    await stream.fetch("C", 3)
    await stream.consumer_api("RESET", "C", {"seq": 1})
    assert sequences(await stream.fetch_now("C")) == [1, 2, 3]
    answer = await stream.consumer_api("RESET", "C", {"seq": 10})
    assert (answer["num_pending"], answer["ack_floor"]["stream_seq"]) == (0, 9)


async def test_a_reset_without_a_sequence_gives_back_what_was_not_acknowledged(
    a: Connection,
) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c")
    await stream.consumer("C", ack_policy="explicit")
    one, _ = await stream.fetch("C", 2)
    await acknowledge(a, one)
    answer = await stream.consumer_api("RESET", "C")
    assert answer["reset_seq"] == 2
    assert sequences(await stream.fetch_now("C")) == [2, 3]


async def test_a_reset_does_not_go_before_the_start_of_a_consumer(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a", "b", "c", "d")
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": 3}
    await stream.consumer("C", ack_policy="explicit", **start)
    refused = await stream.consumer_api("RESET", "C", {"seq": 2})
    assert error(refused) == (400, 10204, "invalid reset: below start seq")
    assert refused["reset_seq"] == 0
    answer = await stream.consumer_api("RESET", "C", {"seq": 4})
    assert (answer["reset_seq"], answer["num_pending"]) == (4, 1)
    await stream.consumer("New", ack_policy="explicit", deliver_policy="new")
    refused = await stream.consumer_api("RESET", "New", {"seq": 2})
    assert error(refused) == (400, 10204, "invalid reset: not allowed")


async def test_nobody_answers_to_a_reset_of_no_consumer(a: Connection) -> None:
    stream = await Stream.create(a)
    inbox = Inbox(a)
    publish_with_reply(a, f"$JS.API.CONSUMER.RESET.{stream.name}.C", inbox.subject, b'{"seq":1}')
    await inbox.nothing()


async def test_a_pull_that_waits_is_still_there_after_a_reset(a: Connection) -> None:
    stream = await Stream.create(a)
    await stream.fill("a")
    await stream.consumer("C", ack_policy="explicit")
    await stream.fetch("C", 1)
    inbox = Inbox(a)
    stream.pull("C", inbox, batch=1, expires=ns(PATIENCE))
    await waiting(stream, "C", 1)
    await stream.consumer_api("RESET", "C", {"seq": 1})
    assert sequences([await inbox.next()]) == [1]


# --- key-value buckets (ADR-8) -------------------------------------------------------------


async def bucket(connection: Connection, **config: object) -> Stream:
    """As clients make it. Its keys are words after ``$KV.<bucket>.``."""
    word = token()
    stream = Stream(connection, f"KV_{word}")
    subjects = [f"$KV.{word}.>"]
    usual = {
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
        "num_replicas": 1,
        "storage": "file",
        "duplicate_window": ns(120),
        "max_age": 0,
    }
    answer = await stream.api("CREATE", stream.config(**{"subjects": subjects, **usual, **config}))
    assert "error" not in answer, answer
    return stream


def key_subject(kv: Stream, key: str) -> str:
    return f"$KV.{kv.name.removeprefix('KV_')}.{key}"


async def put(
    kv: Stream, key: str, value: bytes, headers: dict[str, str] | None = None
) -> dict[str, Any]:
    return await publish(kv.connection, key_subject(kv, key), value, headers)


async def entry(kv: Stream, key: str) -> Message:
    """The latest of a key, as a direct get answers it."""
    return await ask(kv.connection, f"$JS.API.DIRECT.GET.{kv.name}.{key_subject(kv, key)}")


async def test_the_latest_value_of_a_key_is_read(a: Connection) -> None:
    kv = await bucket(a)
    assert (await put(kv, "k.1", b"one"))["seq"] == 1
    assert (await put(kv, "k.1", b"two"))["seq"] == 2
    found = await entry(kv, "k.1")
    assert (found.payload, found.headers["Nats-Sequence"]) == (b"two", "2")
    assert found.headers["Nats-Subject"] == key_subject(kv, "k.1")
    assert (await entry(kv, "k.2")).status == 404
    assert (await kv.state())["messages"] == 1


async def test_a_key_is_created_once_and_updated_by_its_revision(a: Connection) -> None:
    kv = await bucket(a)
    revision = "Nats-Expected-Last-Subject-Sequence"
    assert (await put(kv, "k", b"one", {revision: "0"}))["seq"] == 1
    assert error(await put(kv, "k", b"two", {revision: "0"}))[2] == "wrong last sequence: 1"
    await put(kv, "other", b"x")
    assert (await put(kv, "k", b"two", {revision: "1"}))["seq"] == 3
    assert error(await put(kv, "k", b"three", {revision: "1"}))[2] == "wrong last sequence: 3"


async def test_a_key_that_is_deleted_has_a_marker(a: Connection) -> None:
    kv = await bucket(a, max_msgs_per_subject=5)
    await put(kv, "k", b"one")
    await put(kv, "k", b"", {"KV-Operation": "DEL"})
    found = await entry(kv, "k")
    assert (found.headers["KV-Operation"], found.payload) == ("DEL", b"")
    assert (await kv.state())["messages"] == 2
    created = await put(kv, "k", b"two", {"Nats-Expected-Last-Subject-Sequence": "2"})
    assert created["seq"] == 3


async def test_a_key_that_is_purged_has_a_marker_and_no_history(a: Connection) -> None:
    kv = await bucket(a, max_msgs_per_subject=5)
    for value in (b"one", b"two"):
        await put(kv, "k", value)
    await put(kv, "other", b"x")
    await put(kv, "k", b"", {"KV-Operation": "PURGE", "Nats-Rollup": "sub"})
    assert await kv.numbers() == (2, 3, 4, 0)
    assert (await entry(kv, "k")).headers["KV-Operation"] == "PURGE"


async def test_a_key_has_as_much_history_as_the_bucket_keeps(a: Connection) -> None:
    kv = await bucket(a, max_msgs_per_subject=3)
    for number in range(5):
        await put(kv, "k", b"%d" % number)
    answer = await kv.consumer(filter_subject=key_subject(kv, "k"))
    history = await kv.fetch_now(answer["name"])
    assert [message.payload for message in history] == [b"2", b"3", b"4"]
    at_once = await ask(a, f"$JS.API.DIRECT.GET.{kv.name}", b'{"seq":4}')
    assert at_once.payload == b"3"


async def test_who_watches_gets_the_latest_values_and_then_each_change(a: Connection) -> None:
    kv = await bucket(a, max_msgs_per_subject=3)
    for key, value in (("a", b"1"), ("b", b"2"), ("a", b"3")):
        await put(kv, key, value)
    inbox = Inbox(a)
    answer = await kv.create_consumer(
        "",
        {
            "deliver_subject": inbox.subject,
            "deliver_policy": "last_per_subject",
            "ack_policy": "none",
            "max_deliver": 1,
            "filter_subject": key_subject(kv, ">"),
            "flow_control": True,
            "idle_heartbeat": ns(5),
            "ack_wait": ns(22 * 3600),
            "mem_storage": True,
            "num_replicas": 1,
        },
    )
    assert answer["num_pending"] == 2
    b, latest_a = await inbox.some(2)
    assert (b.subject, b.payload) == (key_subject(kv, "b"), b"2")
    assert (latest_a.subject, latest_a.payload) == (key_subject(kv, "a"), b"3")
    assert [Delivery.of(message).pending for message in (b, latest_a)] == [1, 0]
    await put(kv, "b", b"", {"KV-Operation": "DEL"})
    change = await inbox.next()
    assert (change.subject, change.headers) == (key_subject(kv, "b"), {"KV-Operation": "DEL"})
    assert Delivery.of(change).stream_seq == 4


async def test_the_values_of_a_bucket_with_a_time_to_live_go(a: Connection) -> None:
    kv = await bucket(a, max_age=ns(0.5), duplicate_window=ns(0.5))
    await put(kv, "k", b"one")
    assert (await entry(kv, "k")).payload == b"one"

    async def gone() -> bool:
        return (await entry(kv, "k")).status == 404

    await eventually(gone)
    created = await put(kv, "k", b"two", {"Nats-Expected-Last-Subject-Sequence": "0"})
    assert created["seq"] == 2


async def test_a_key_with_a_time_to_live_of_its_own_goes_with_a_marker(a: Connection) -> None:
    kv = await bucket(a, allow_msg_ttl=True, subject_delete_marker_ttl=ns(1))
    await put(kv, "k", b"one", {"Nats-TTL": "1s"})
    await put(kv, "other", b"x")

    async def gone() -> bool:
        return (await entry(kv, "k")).payload != b"one"

    await eventually(gone)
    marker = await entry(kv, "k")
    assert marker.headers["Nats-Marker-Reason"] == "MaxAge"
    assert marker.headers["Nats-Sequence"] == "3"
    assert (await entry(kv, "other")).payload == b"x"


# --- object stores (ADR-20) ----------------------------------------------------------------


class Objects:
    """An object store, with the messages that a client of it sends."""

    def __init__(self, connection: Connection) -> None:
        self.name = token()
        self.stream = Stream(connection, f"OBJ_{self.name}")

    async def create(self) -> None:
        subjects = [f"$O.{self.name}.C.>", f"$O.{self.name}.M.>"]
        config = self.stream.config(
            subjects=subjects, allow_rollup_hdrs=True, allow_direct=True, discard="new"
        )
        answer = await self.stream.api("CREATE", config)
        assert "error" not in answer, answer

    def meta_subject(self, name: str) -> str:
        return f"$O.{self.name}.M.{base64.urlsafe_b64encode(name.encode()).decode()}"

    async def put(self, name: str, chunks: list[bytes]) -> str:
        """The word of its chunks. Those of what was there before go."""
        old = await self.info(name)
        nuid = token()
        connection = self.stream.connection
        for chunk in chunks:
            assert "error" not in await publish(connection, f"$O.{self.name}.C.{nuid}", chunk)
        digest = base64.urlsafe_b64encode(hashlib.sha256(b"".join(chunks)).digest()).decode()
        meta = {
            "name": name,
            "bucket": self.name,
            "nuid": nuid,
            "size": sum(map(len, chunks)),
            "chunks": len(chunks),
            "digest": f"SHA-256={digest}",
        }
        body = json.dumps(meta).encode()
        headers = {"Nats-Rollup": "sub"}
        assert "error" not in await publish(connection, self.meta_subject(name), body, headers)
        if old is not None:
            await self.stream.api("PURGE", {"filter": f"$O.{self.name}.C.{old['nuid']}"})
        return nuid

    async def info(self, name: str) -> dict[str, Any] | None:
        subject = f"$JS.API.DIRECT.GET.{self.stream.name}.{self.meta_subject(name)}"
        message = await ask(self.stream.connection, subject)
        if message.status == 404:
            return None
        meta: dict[str, Any] = json.loads(message.payload)
        return meta

    async def chunks(self, nuid: str) -> list[bytes]:
        answer = await self.stream.consumer(filter_subject=f"$O.{self.name}.C.{nuid}")
        return [message.payload for message in await self.stream.fetch_now(answer["name"])]


async def test_an_object_is_put_in_chunks_and_read(a: Connection) -> None:
    store = Objects(a)
    await store.create()
    chunks = [bytes([number]) * 100_000 for number in range(3)]
    nuid = await store.put("a file.txt", chunks)
    assert await store.info("another") is None
    info = await store.info("a file.txt")
    assert info is not None
    assert (info["nuid"], info["size"], info["chunks"]) == (nuid, 300_000, 3)
    assert await store.chunks(nuid) == chunks


async def test_an_object_that_is_replaced_leaves_no_chunks(a: Connection) -> None:
    store = Objects(a)
    await store.create()
    old = await store.put("file", [b"1", b"2"])
    new = await store.put("file", [b"3"])
    assert await store.chunks(old) == []
    assert await store.chunks(new) == [b"3"]
    state = await store.stream.state({"subjects_filter": ">"})
    assert state["subjects"] == {f"$O.{store.name}.C.{new}": 1, store.meta_subject("file"): 1}
    assert (state["messages"], state["first_seq"], state["last_seq"]) == (2, 4, 5)


# --- after a restart -----------------------------------------------------------------------


async def test_streams_and_messages_are_there_after_a_restart(own_nats: NatsHarness) -> None:
    async with own_nats.client() as connection:
        stream = await Stream.create(connection, max_msgs=100, metadata={"x": "y"})
        await stream.publish("a", b"1", {"X": "y"})
        await stream.fill("b", "c", "d")
        await stream.api("MSG.DELETE", {"seq": 3})
        memory = await Stream.create(connection, storage="memory")
        await memory.fill("a")
        before = await stream.api("INFO", {"deleted_details": True})
        message = await stream.get(seq=1)
    await own_nats.restart()
    async with own_nats.client() as connection:
        stream = Stream(connection, stream.name)
        after = await stream.api("INFO", {"deleted_details": True})
        assert after["state"] == before["state"]
        assert after["config"] == before["config"]
        assert after["created"] == before["created"]
        assert await stream.get(seq=1) == message
        assert (await stream.publish("e"))["seq"] == 5
        assert error(await Stream(connection, memory.name).api("INFO"))[1] == 10059


async def test_ids_are_known_after_a_restart(own_nats: NatsHarness) -> None:
    async with own_nats.client() as connection:
        stream = await Stream.create(connection)
        await stream.publish("a", b"1", {"Nats-Msg-Id": "one"})
        await stream.publish("a", b"2")
    await own_nats.restart()
    async with own_nats.client() as connection:
        stream = Stream(connection, stream.name)
        known = {"stream": stream.name, "seq": 1, "duplicate": True}
        assert await stream.publish("a", b"1", {"Nats-Msg-Id": "one"}) == known


async def test_an_empty_stream_keeps_its_last_sequence_over_a_restart(
    own_nats: NatsHarness,
) -> None:
    async with own_nats.client() as connection:
        stream = await Stream.create(connection)
        await stream.fill("a", "b")
        await stream.api("PURGE")
    await own_nats.restart()
    async with own_nats.client() as connection:
        stream = Stream(connection, stream.name)
        assert await stream.numbers() == (0, 3, 2, 0)
        assert (await stream.publish("a"))["seq"] == 3


async def test_a_durable_consumer_goes_on_after_a_restart(own_nats: NatsHarness) -> None:
    async with own_nats.client() as connection:
        stream = await Stream.create(connection)
        await stream.fill("a", "b", "c", "d")
        await stream.consumer("C", ack_policy="explicit", ack_wait=ns(0.2))
        one, _, three = await stream.fetch("C", 3)
        await acknowledge(connection, one)
        await acknowledge(connection, three)
        before = await stream.info("C")
    await own_nats.restart()
    async with own_nats.client() as connection:
        stream = Stream(connection, stream.name)
        after = await stream.info("C")
        assert after["config"] == before["config"]
        assert after["created"] == before["created"]
        assert (after["num_ack_pending"], after["num_pending"]) == (1, 1)
        assert after["ack_floor"]["stream_seq"] == 1
        assert after["delivered"]["stream_seq"] == 3
        messages = await stream.fetch("C", 2)
        assert sorted(sequences(messages)) == [2, 4]
        again = next(Delivery.of(x) for x in messages if Delivery.of(x).stream_seq == 2)
        assert again.delivered == 2


async def test_a_durable_push_consumer_goes_on_after_a_restart(own_nats: NatsHarness) -> None:
    subject = token()
    async with own_nats.client() as connection:
        stream = await Stream.create(connection)
        inbox = Inbox(connection, subject)
        await stream.consumer("C", deliver_subject=subject, ack_policy="explicit")
        await stream.fill("a")
        await acknowledge(connection, await inbox.next())
        inbox.close()
        await stream.fill("b")
    await own_nats.restart()
    async with own_nats.client() as connection:
        inbox = Inbox(connection, subject)
        message = Delivery.of(await inbox.next())
        assert (message.stream_seq, message.consumer_seq, message.delivered) == (2, 2, 1)


async def test_consumers_in_memory_are_gone_after_a_restart_and_ephemeral_ones_are_not(
    own_nats: NatsHarness,
) -> None:
    async with own_nats.client() as connection:
        stream = await Stream.create(connection)
        inbox = Inbox(connection)
        push = await stream.consumer(deliver_subject=inbox.subject, inactive_threshold=ns(60))
        pull = await stream.consumer(inactive_threshold=ns(60))
        await stream.consumer("Memory", mem_storage=True)
        await stream.consumer("C")
    await own_nats.restart()
    async with own_nats.client() as connection:
        answer = await api(connection, f"CONSUMER.NAMES.{stream.name}")
        assert answer["consumers"] == sorted(["C", push["name"], pull["name"]])
