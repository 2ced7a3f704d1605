"""PostgreSQL messages as bytes alone, written out from the protocol documentation."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.wire.postgres import backend
from ha.wire.postgres.codec import MAX_STARTUP, FrontendDecoder, ProtocolError
from ha.wire.postgres.messages import (
    Bind,
    CancelRequest,
    Close,
    CopyData,
    CopyDone,
    CopyFail,
    Describe,
    Execute,
    Flush,
    FunctionCall,
    GSSENCRequest,
    Parse,
    PasswordMessage,
    Query,
    SSLRequest,
    StartupMessage,
    Sync,
    Terminate,
)


def decoder(data: bytes, limit: int = 1 << 20) -> FrontendDecoder:
    out = FrontendDecoder(limit)
    out.receive(data)
    return out


def framed(kind: bytes, body: bytes = b"") -> bytes:
    """A message with the right length."""
    return kind + struct.pack("!i", len(body) + 4) + body


def packet(body: bytes) -> bytes:
    """A packet of the start-up phase."""
    return struct.pack("!i", len(body) + 4) + body


STARTUPS = [
    (bytes.fromhex("04d2162f"), SSLRequest()),
    (bytes.fromhex("04d21630"), GSSENCRequest()),
    (bytes.fromhex("04d2162e 0000002a 01020304"), CancelRequest(42, b"\1\2\3\4")),
    (  # protocol 3.2 has longer keys
        bytes.fromhex("04d2162e 0000002a") + bytes(range(32)),
        CancelRequest(42, bytes(range(32))),
    ),
    (
        b"\0\3\0\0user\0ha\0database\0x\0\0",
        StartupMessage(0, {"user": "ha", "database": "x"}),
    ),
    (b"\0\3\0\2user\0ha\0\0", StartupMessage(2, {"user": "ha"})),
]


@pytest.mark.parametrize(("body", "expected"), STARTUPS)
def test_startup_packets(body: bytes, expected: object) -> None:
    assert decoder(packet(body)).next_startup() == expected


def test_a_query_byte_for_byte() -> None:
    assert decoder(b"Q\0\0\0\x0dselect 1\0").next() == Query("select 1")


MESSAGES = [
    (b"Q", b"select 1\0", Query("select 1")),
    (b"P", b"s1\0select $1\0\0\1\0\0\0\x17", Parse("s1", "select $1", (23,))),
    (b"P", b"\0\0\0\0", Parse("", "", ())),
    (
        b"B",
        b"p\0s\0\0\1\0\1\0\2\0\0\0\4\0\0\0\7\xff\xff\xff\xff\0\1\0\0",
        Bind("p", "s", (1,), (b"\0\0\0\7", None), (0,)),
    ),
    (b"B", b"\0\0\0\0\0\0\0\0", Bind("", "", (), (), ())),
    (b"D", b"Sname\0", Describe("S", "name")),
    (b"D", b"P\0", Describe("P", "")),
    (b"E", b"p\0\0\0\0\x0a", Execute("p", 10)),
    (b"C", b"Pp\0", Close("P", "p")),
    (b"S", b"", Sync()),
    (b"H", b"", Flush()),
    (b"X", b"", Terminate()),
    (b"d", b"abc\n", CopyData(b"abc\n")),
    (b"c", b"", CopyDone()),
    (b"f", b"no more\0", CopyFail("no more")),
    (b"p", b"secret\0", PasswordMessage(b"secret\0")),
    (b"F", b"\0\0", FunctionCall()),
]


@pytest.mark.parametrize(("kind", "body", "expected"), MESSAGES)
def test_messages(kind: bytes, body: bytes, expected: object) -> None:
    assert decoder(framed(kind, body)).next() == expected


def test_messages_come_whole_however_they_are_cut() -> None:
    stream = b"".join(framed(kind, body) for kind, body, _ in MESSAGES)
    out = FrontendDecoder(1 << 20)
    found = []
    for i in range(len(stream)):
        out.receive(stream[i : i + 1])
        while (message := out.next()) is not None:
            found.append(message)
    assert found == [m for _, _, m in MESSAGES]
    assert out.buffered == 0


BROKEN = [
    (b"z\0\0\0\4", "invalid frontend message type"),
    (b"Q\0\0\0\3", "invalid message length"),
    (framed(b"Q", b"select"), "no terminator"),
    (framed(b"Q", b"a\0b"), "left over"),
    (framed(b"Q", b"\xff\0"), "invalid byte sequence"),
    (framed(b"P", b"a\0b\0\0\2\0\0\0\1"), "insufficient data"),
    (framed(b"B", b"a\0b\0\0\0\0\1\0\0\0\x09abc"), "insufficient data"),
    (framed(b"B", b"a\0b\0\0\0\0\1\xff\xff\xff\xfe\0\0"), "invalid length"),
    (framed(b"B", b"\0\0\0\1\0\7\0\0\0\0"), "unsupported format code"),
    (framed(b"D", b"Xa\0"), "subtype"),
    (framed(b"E", b"a\0\0"), "insufficient data"),
    (framed(b"S", b"!"), "left over"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_broken_messages_are_protocol_errors(data: bytes, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        decoder(data).next()


def test_a_message_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="over the limit") as info:
        decoder(b"Q" + struct.pack("!i", 1001), limit=1000).next()
    assert info.value.sqlstate == "54000"


@pytest.mark.parametrize("length", [0, 7, -1, MAX_STARTUP + 1, 0x47455420])
def test_start_up_packets_have_a_sane_length(length: int) -> None:
    with pytest.raises(ProtocolError, match="length of startup packet"):
        decoder(struct.pack("!i", length) + b"T / HTTP/1.1\r\n").next_startup()


@pytest.mark.parametrize(
    "body",
    [
        b"\0\2\0\0user\0ha\0\0",  # protocol 2
        b"\0\3\0\0user\0ha",  # no terminator
        b"\0\3\0\0user\0\0",  # a name without a value
        b"\0\3\0\0user\0\xff\xfe\0\0",  # not UTF-8
        bytes.fromhex("04d2162f") + b"more",  # SSLRequest with a tail
    ],
)
def test_broken_start_up_packets(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        decoder(packet(body)).next_startup()


def test_what_follows_is_seen_as_far_as_the_next_sync_or_execute() -> None:
    sync, execute = framed(b"S"), framed(b"E", b"\0\0\0\0\0")
    assert decoder(framed(b"D", b"P\0") + sync + sync).peek_types() == b"DS"
    assert decoder(framed(b"C", b"P\0") + execute + sync).peek_types() == b"CE"
    assert decoder(framed(b"C", b"P\0") + sync[:3]).peek_types() == b"C"


def test_messages_can_be_put_back() -> None:
    out = decoder(framed(b"S") + framed(b"H"))
    first = out.next()
    assert first == Sync()
    out.unread([first, CopyDone()])
    assert out.peek_types() == b"S"
    assert [out.next() for _ in range(4)] == [Sync(), CopyDone(), Flush(), None]


@given(st.binary(max_size=200))
def test_any_bytes_give_messages_or_a_protocol_error(data: bytes) -> None:
    for start in (True, False):
        out = decoder(data)
        with contextlib.suppress(ProtocolError):
            while (out.next_startup() if start else out.next()) is not None:
                pass


@given(st.sampled_from(b"QPBDECfpS"), st.binary(max_size=60))
def test_any_body_gives_a_message_or_a_protocol_error(kind: int, body: bytes) -> None:
    out = decoder(framed(bytes([kind]), body))
    with contextlib.suppress(ProtocolError):
        assert out.next() is not None


# --- backend --------------------------------------------------------------------------


def test_constant_messages_have_the_length_they_say() -> None:
    for data in (
        backend.AUTHENTICATION_OK,
        backend.AUTHENTICATION_CLEARTEXT,
        backend.PARSE_COMPLETE,
        backend.BIND_COMPLETE,
        backend.CLOSE_COMPLETE,
        backend.NO_DATA,
        backend.EMPTY_QUERY,
        backend.PORTAL_SUSPENDED,
        backend.COPY_DONE,
        *backend.READY.values(),
    ):
        assert struct.unpack_from("!i", data, 1)[0] == len(data) - 1


def test_backend_messages() -> None:
    assert backend.parameter_status("a", "b") == b"S\0\0\0\x08a\0b\0"
    assert backend.backend_key_data(1, b"abcd") == b"K\0\0\0\x0c\0\0\0\1abcd"
    assert backend.command_complete("SELECT 1") == b"C\0\0\0\x0dSELECT 1\0"
    assert backend.parameter_description([20, 25]) == b"t\0\0\0\x0e\0\2\0\0\0\x14\0\0\0\x19"
    assert backend.data_row([b"x", None]) == b"D\0\0\0\x0f\0\2\0\0\0\1x\xff\xff\xff\xff"
    assert backend.ready_for_query("T") == b"Z\0\0\0\5T"
    assert backend.authentication_sasl(["A"]) == b"R\0\0\0\x0b\0\0\0\x0aA\0\0"
    field = backend.Field("n", 20, 8, table_oid=1, attribute=2, format=1)
    assert backend.row_description([field]) == (
        b"T\0\0\0\x1a\0\1n\0\0\0\0\1\0\2\0\0\0\x14\0\x08\xff\xff\xff\xff\0\1"
    )
    assert backend.copy_in_response(False, 2) == b"G\0\0\0\x0b\0\0\2\0\0\0\0"
    assert backend.negotiate_protocol_version(2, ["_pq_.x"]) == (
        b"v\0\0\0\x13\0\3\0\2\0\0\0\1_pq_.x\0"
    )


def test_an_error_response_carries_its_fields() -> None:
    notice = backend.Notice("ERROR", "42601", "bad", hint="h", position=3, column="c")
    assert backend.error_response(notice) == (
        b"E\0\0\0(SERROR\0VERROR\0C42601\0Mbad\0Hh\0P3\0cc\0\0"
    )


def test_a_nul_cannot_cut_a_text() -> None:
    assert backend.text("a\0b") == b"ab\0"
