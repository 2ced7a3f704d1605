"""Commands and headers of the NATS protocol, as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.log import nats_wire as wire


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
