"""Messages are found in whatever pieces a socket gives them."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError

from ha.log.frames import Frames

Message = tuple[int, bytes, bytes, bytes, bytes]

_word = st.text("abcdefgXYZ.$_*>-0123456789", min_size=1, max_size=20).map(str.encode)
_messages = st.lists(
    st.tuples(
        st.integers(1, 10**6),
        _word,
        st.one_of(st.just(b""), _word),
        st.one_of(st.just(b""), st.just(b"NATS/1.0\r\n\r\n"), st.just(b"NATS/1.0\r\nA: 1\r\n\r\n")),
        st.binary(max_size=50),
    ),
    max_size=6,
)


class Client:
    """Notes what is not a message."""

    def __init__(self) -> None:
        self.told: list[str] = []

    async def _process_ping(self) -> None:
        self.told.append("PING")

    async def _process_pong(self) -> None:
        self.told.append("PONG")

    async def _process_info(self, info: dict[str, object]) -> None:
        self.told.append(f"INFO {info}")

    async def _process_err(self, error: str) -> None:
        self.told.append(error)


def wire(message: Message) -> bytes:
    sid, subject, reply, headers, payload = message
    to = b" " + reply if reply else b""
    if headers:
        sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
        return b"HMSG %b %d%b %b\r\n%b%b\r\n" % (subject, sid, to, sizes, headers, payload)
    return b"MSG %b %d%b %d\r\n%b\r\n" % (subject, sid, to, len(payload), payload)


def feed(pieces: list[bytes]) -> tuple[list[Message], list[str]]:
    got: list[Message] = []
    client = Client()
    frames = Frames(client, lambda *message: got.append(message))

    async def run() -> None:
        for piece in pieces:
            await frames.parse(piece)

    asyncio.run(run())
    return got, client.told


@given(_messages, st.lists(st.integers(0, 400), max_size=8), st.sampled_from([b"", b"PING\r\n"]))
def test_messages_come_out_as_they_were_however_they_were_cut(
    messages: list[Message], cuts: list[int], between: bytes
) -> None:
    data = between.join(map(wire, messages)) + between
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(places) if b > a]
    got, told = feed(pieces)
    assert got == messages
    assert told == ["PING"] * (max(len(messages), 1) if between else 0)


def test_a_big_message_in_many_reads() -> None:
    payload = bytes(range(256)) * 4_096
    data = wire((7, b"s", b"r", b"NATS/1.0\r\n\r\n", payload)) + b"PONG\r\n"
    got, told = feed([data[i : i + 1_000] for i in range(0, len(data), 1_000)])
    assert got == [(7, b"s", b"r", b"NATS/1.0\r\n\r\n", payload)]
    assert told == ["PONG"]


def test_what_is_no_message_goes_to_the_client() -> None:
    info = b'INFO {"server_name":"%b"}\r\n' % (b"x" * 6_000)
    pieces = [info[:5_000], info[5_000:] + b"+OK\r\n-ERR 'Stale Connection'\r\n"]
    got, told = feed(pieces)
    assert got == []
    assert told == [f"INFO {{'server_name': '{'x' * 6_000}'}}", "'stale connection'"]


@pytest.mark.parametrize(
    "data", [b"MSG a\r\n", b"MSG a b 1\r\nx\r\n", b"HMSG a 1 x\r\n", b"what\r\n", b"M" * 5_000]
)
def test_nonsense_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed([data])
