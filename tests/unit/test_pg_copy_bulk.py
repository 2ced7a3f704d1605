"""COPY FROM at speed reads exactly what the field by field way reads, or leaves it to that."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.core.values import Value
from ha.wire.postgres import oids as t
from ha.wire.postgres.command_parser import parse_command
from ha.wire.postgres.commands import Copy, CopyOptions
from ha.wire.postgres.copy_bulk import bulk
from ha.wire.postgres.copy_read import SIGNATURE, Field, copy_reader
from ha.wire.postgres.decode import Decoder, decoder
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.oids import PgType

KINDS = (t.INT8, t.TEXT, t.FLOAT8, t.BOOL)


def options_of(words: str) -> CopyOptions:
    command = parse_command(f"COPY t FROM STDIN {words}")
    assert isinstance(command, Copy)
    return command.options


class Sink:
    """Takes rows as COPY does, and counts those that were decoded field by field."""

    def __init__(self, options: CopyOptions, kinds: Sequence[PgType], fast: bool) -> None:
        binary = options.format == "binary"
        self.decoders: list[Decoder] = [decoder(kind, binary) for kind in kinds]
        self.reader = copy_reader(options, 1 << 20)
        self.fast = bulk(options, self.reader, kinds, self.decoders) if fast else None
        self.values: list[Value] = []
        self.slow = 0

    def fields(self, rows: Sequence[Sequence[Field]]) -> None:
        for row in rows:
            self.slow += 1
            if len(row) != len(self.decoders):
                raise PgError("22P04", "wrong number of fields")
            self.values += [
                None if field is None else decode(field)
                for decode, field in zip(self.decoders, row, strict=True)
            ]

    def run(self, pieces: Sequence[bytes]) -> list[Value] | str:
        """The values, or the SQLSTATE of what was wrong."""
        try:
            for piece in pieces:
                if self.fast is not None:
                    self.fast.feed(piece, self.values, self.fields)
                else:
                    self.fields(self.reader.feed(piece))
            self.fields(self.reader.finish())
        except PgError as error:
            return error.sqlstate
        return self.values


def both_ways(data: bytes, words: str, step: int, kinds: Sequence[PgType] = KINDS) -> Sink:
    pieces = [data[i : i + step] for i in range(0, len(data), step)]
    slow, fast = (Sink(options_of(words), kinds, way) for way in (False, True))
    expected = slow.run(pieces)
    assert repr(fast.run(pieces)) == repr(expected)
    return fast


lines = st.lists(
    st.lists(
        st.sampled_from(
            [
                "1", "-7", "9223372036854775807", "9223372036854775808", "1_0", " 5 ", "٣", "\\N",
                "", "t", "f", "1.5", "nan", "inf", "a b", "ä", "x\\ty", "\\\\", "\\x41", '"', '""',
                '"a,b"', '"a""b"', '"\n"', "NULL", "\\.", "a\\", "\0", "\ud800",
            ]
        ),
        min_size=1,
        max_size=5,
    ),
    max_size=6,
)  # fmt: skip
formats = st.sampled_from(
    [
        ("", "\t"),
        ("(FORMAT text, NULL '')", "\t"),
        ("(DELIMITER ';')", ";"),
        ("(FORMAT csv)", ","),
        ("(FORMAT csv, HEADER)", ","),
        ("(FORMAT csv, NULL 'NULL', DELIMITER ';')", ";"),
        ("(FORMAT csv, QUOTE '''', ESCAPE '\\')", ","),
        ("(FORMAT csv, FORCE_NULL (b))", ","),
    ]
)


@given(lines, formats, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 60))
def test_lines(
    rows: list[list[str]], form: tuple[str, str], end: str, last: bool, step: int
) -> None:
    words, delimiter = form
    text = end.join(delimiter.join(row) for row in rows) + (end if last else "")
    both_ways(text.encode("utf-8", "surrogatepass"), words, step)


good = st.tuples(
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.none() | st.floats(allow_nan=False),
    st.none() | st.booleans(),
)


@given(st.lists(good, max_size=8), st.integers(1, 80), st.data())
def test_tuples(rows: list[tuple[object, ...]], step: int, data: st.DataObject) -> None:
    body = SIGNATURE + struct.pack("!Ii", 0, 0)
    for number, text, real, flag in rows:
        body += struct.pack("!h", 4)
        for value, form in ((number, "!q"), (text, ""), (real, "!d"), (flag, "!?")):
            raw = (
                value.encode() if isinstance(value, str) else struct.pack(form or "!q", value or 0)
            )
            body += struct.pack("!i", -1) if value is None else struct.pack("!i", len(raw)) + raw
    body += struct.pack("!h", -1)
    both_ways(body, "BINARY", step)
    broken = bytearray(body)
    at = data.draw(st.integers(19, len(broken) - 1))
    broken[at] = data.draw(st.integers(0, 255))
    both_ways(bytes(broken[: data.draw(st.integers(1, len(broken)))]), "BINARY", step)


@pytest.mark.parametrize(
    ("words", "data"),
    [
        ("", b"1\ta_b\t1.5\tt\n-2\t\xc3\xa4\t\\N\tf\n"),
        ("", b"1\ta\\tb\t\\N\tt\n"),
        ("(FORMAT csv)", b"1,a,1.5,t\r\n2,,,f\r\n"),
        ("(FORMAT csv)", b'1,"a, ""b""\nc",1.5,t\n2,,,f\n'),
    ],
)
def test_ordinary_data_takes_the_fast_way(words: str, data: bytes) -> None:
    found = both_ways(data, words, len(data))
    assert found.slow == 0
    assert len(found.values) == 4 * (2 if b"2" in data else 1)
