"""The NATS protocol without I/O: what is cut anywhere is put together again."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.log import nats_wire as wire

Message = tuple[int, bytes, bytes, bytes, bytes]

TOKEN = st.text("abcXYZ_$.-", min_size=1, max_size=12).map(str.encode)
HEADERS = st.dictionaries(
    st.text("abcdefXYZ-", min_size=1, max_size=8),
    st.text(st.characters(codec="utf-8")).map(lambda text: " ".join(text.split())),
    max_size=3,
).map(lambda headers: wire.encode_headers(headers) if headers else b"")
MESSAGE = st.tuples(
    st.integers(1, 10**6), TOKEN, st.just(b"") | TOKEN, HEADERS, st.binary(max_size=200)
)
CONTROL = st.sampled_from([b"PING", b"PONG", b"+OK", b"-ERR 'Stale Connection'", b'INFO {"a":1}'])


def received(message: Message) -> bytes:
    """As the server sends it."""
    sid, subject, reply, headers, payload = message
    middle = b" ".join([subject, b"%d" % sid, *([reply] if reply else [])])
    if headers:
        sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
        return b"HMSG %b %b\r\n%b%b\r\n" % (middle, sizes, headers, payload)
    return b"MSG %b %d\r\n%b\r\n" % (middle, len(payload), payload)


class Recorder:
    def __init__(self) -> None:
        self.seen: list[object] = []
        self.parser = wire.Parser(
            lambda *message: self.seen.append(message), lambda *control: self.seen.append(control)
        )


@given(st.lists(MESSAGE | CONTROL, max_size=8), st.lists(st.integers(0, 3000), max_size=12))
def test_whatever_the_cuts_the_same_comes_out(
    items: list[Message | bytes], cuts: list[int]
) -> None:
    data = b"".join(i + b"\r\n" if isinstance(i, bytes) else received(i) for i in items)
    recorder = Recorder()
    borders = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, stop in pairwise(borders):
        recorder.parser.feed(data[start:stop])
    expected: list[object] = [
        i if isinstance(i, tuple) else (i.partition(b" ")[0], i.partition(b" ")[2]) for i in items
    ]
    assert recorder.seen == expected


@given(st.lists(MESSAGE, max_size=3))
def test_byte_by_byte(items: list[Message]) -> None:
    recorder = Recorder()
    for item in items:
        for byte in received(item):
            recorder.parser.feed(bytes([byte]))
    assert recorder.seen == list(items)


@pytest.mark.parametrize(
    "data",
    [b"MSG a x 3\r\nabc\r\n", b"MSG\r\n", b"HMSG a 1 z 3\r\nabc\r\n", b"x" * (wire.MAX_LINE + 1)],
)
def test_what_is_not_the_protocol_is_an_error(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        Recorder().parser.feed(data)


def test_commands() -> None:
    assert wire.publish(b"a.b", b"", b"", b"xy") == b"PUB a.b 2\r\nxy\r\n"
    assert wire.publish(b"a", b"r", b"", b"") == b"PUB a r 0\r\n\r\n"
    headers = wire.encode_headers({"K": "v", "L": "ü"})
    assert headers == "NATS/1.0\r\nK: v\r\nL: ü\r\n\r\n".encode()
    assert wire.publish(b"a", b"r", headers, b"xy") == b"HPUB a r 25 27\r\n" + headers + b"xy\r\n"
    assert wire.subscribe("a.*", 7) == b"SUB a.* 7\r\n"
    assert wire.unsubscribe(7) == b"UNSUB 7\r\n"


@given(
    st.dictionaries(
        st.text("abcdefXYZ-", min_size=1, max_size=8),
        st.text().map(lambda t: " ".join(t.split())).filter(lambda t: t.isprintable()),
        max_size=4,
    )
)
def test_headers_come_back(headers: dict[str, str]) -> None:
    assert wire.decode_headers(wire.encode_headers(headers)) == headers


@pytest.mark.parametrize(
    "headers", [{"a\r\nb": "c"}, {"a": "b\r\nc: d"}, {"a": "b\n"}, {"a b": "c"}, {"a:": "b"}]
)
def test_no_header_breaks_out_of_its_line(headers: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="not a message header"):
        wire.encode_headers(headers)


def test_status_lines() -> None:
    heartbeat = b"NATS/1.0 100 Idle Heartbeat\r\nNats-Last-Consumer: 3\r\n\r\n"
    assert wire.status(heartbeat) == 100
    assert wire.description(heartbeat) == "Idle Heartbeat"
    assert wire.decode_headers(heartbeat) == {"Nats-Last-Consumer": "3"}
    assert wire.status(b"NATS/1.0 503\r\n\r\n") == 503
    assert wire.status(b"NATS/1.0\r\nA: 100\r\n\r\n") == 0
    assert wire.status(b"") == 0
