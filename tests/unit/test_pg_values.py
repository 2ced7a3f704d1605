"""Values in PostgreSQL's text and binary forms, and the forms that SQLite stores."""

from __future__ import annotations

import datetime as dt
import math
import struct
import uuid
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ha.core.values import Value
from ha.wire.postgres import numerics
from ha.wire.postgres import oids as t
from ha.wire.postgres.arrays import parse_array, write_array
from ha.wire.postgres.backend import data_row
from ha.wire.postgres.decode import decoder
from ha.wire.postgres.encode import Misfit, encoder
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.rows import ResultColumn, batch_encoder
from tests.support.pg import sqlstate_of

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"

FITS: list[tuple[PgType, Value, bytes, bytes]] = [
    (t.INT8, 7, b"7", struct.pack("!q", 7)),
    (t.INT8, 7.0, b"7", struct.pack("!q", 7)),
    (t.FLOAT8, 1.5, b"1.5", struct.pack("!d", 1.5)),
    (t.FLOAT8, 2, b"2", struct.pack("!d", 2.0)),
    (t.FLOAT8, math.inf, b"Infinity", struct.pack("!d", math.inf)),
    (t.NUMERIC, 12, b"12", bytes.fromhex("0001 0000 0000 0000 000c")),
    (t.NUMERIC, 1.25, b"1.25", bytes.fromhex("0002 0000 0000 0002 0001 09c4")),
    (t.NUMERIC, "-0.5", b"-0.5", bytes.fromhex("0001 ffff 4000 0001 1388")),
    (t.NUMERIC, 0, b"0", bytes.fromhex("0000 0000 0000 0000")),
    (t.TEXT, "é", "é".encode(), "é".encode()),
    (t.TEXT, 5, b"5", b"5"),
    (t.TEXT, 1.0, b"1", b"1"),
    (t.BYTEA, b"\0\xff", b"\\x00ff", b"\0\xff"),
    (t.BYTEA, "ab", b"\\x6162", b"ab"),
    (t.BOOL, 1, b"t", b"\1"),
    (t.BOOL, 0, b"f", b"\0"),
    (t.DATE, "2000-01-02", b"2000-01-02", struct.pack("!i", 1)),
    (t.DATE, "1999-12-31 00:00:00", b"1999-12-31", struct.pack("!i", -1)),
    (t.TIME, "12:34:56.5", b"12:34:56.5", struct.pack("!q", 45296500000)),
    (t.TIMESTAMP, "2000-01-01 00:00:01", b"2000-01-01 00:00:01", struct.pack("!q", 10**6)),
    (t.TIMESTAMP, "2000-01-01T00:00:00.25", b"2000-01-01 00:00:00.25", struct.pack("!q", 250000)),
    (t.TIMESTAMPTZ, "2000-01-01 00:00:00", b"2000-01-01 00:00:00+00", struct.pack("!q", 0)),
    (t.TIMESTAMPTZ, "2000-01-01T02:00:00+02:00", b"2000-01-01 00:00:00+00", struct.pack("!q", 0)),
    (t.JSON, '{"a":1}', b'{"a":1}', b'{"a":1}'),
    (t.JSON, 5, b"5", b"5"),
    (t.JSONB, "[1]", b"[1]", b"\1[1]"),
    (t.UUID, UUID.upper(), UUID.encode(), uuid.UUID(UUID).bytes),
    (t.UUID, uuid.UUID(UUID).bytes, UUID.encode(), uuid.UUID(UUID).bytes),
]


@pytest.mark.parametrize(("kind", "value", "text", "binary"), FITS)
def test_stored_values_as_results(kind: PgType, value: Value, text: bytes, binary: bytes) -> None:
    assert encoder(kind, False)(value) == text
    assert encoder(kind, True)(value) == binary


MISFITS: list[tuple[PgType, Value]] = [
    (t.INT8, "x"), (t.INT8, "7"), (t.INT8, 1.5), (t.INT8, b"1"), (t.INT8, 1e300),
    (t.FLOAT8, "x"), (t.FLOAT8, b""), (t.NUMERIC, "abc"), (t.NUMERIC, b"1"), (t.TEXT, b"x"),
    (t.TEXT, "a\0b"), (t.BYTEA, 1), (t.BYTEA, 1.5), (t.BOOL, 2), (t.BOOL, "t"), (t.BOOL, 1.0),
    (t.DATE, "today"), (t.DATE, 5), (t.DATE, "2000-01-01 00:00:01"), (t.TIMESTAMP, 1700000000),
    (t.TIMESTAMP, "2000-13-01"), (t.TIMESTAMPTZ, "noon"), (t.TIME, "25:00:00"), (t.JSON, "{"),
    (t.JSON, b"{}"), (t.JSON, math.inf), (t.UUID, "x"), (t.UUID, b"short"), (t.UUID, 1),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value"), MISFITS)
@pytest.mark.parametrize("binary", [False, True])
def test_values_that_do_not_fit(kind: PgType, value: Value, binary: bool) -> None:
    with pytest.raises((Misfit, OverflowError)):
        encoder(kind, binary)(value)
    with pytest.raises(PgError) as info:
        batch_encoder([ResultColumn("col", kind)], [int(binary)])([(None,), (value,)])
    assert info.value.sqlstate == "22P02"
    assert "col" in info.value.message
    assert "CAST" in (info.value.hint or "")


PARAMETERS: list[tuple[PgType, bytes, Value]] = [
    (t.INT8, b"42", 42), (t.INT4, b" -1 ", -1), (t.FLOAT8, b"1e3", 1000.0),
    (t.FLOAT8, b"-Infinity", -math.inf), (t.NUMERIC, b"1.50", 1.5), (t.NUMERIC, b"12", 12),
    (t.NUMERIC, b"1e20", 1e20), (t.TEXT, "é".encode(), "é"), (t.BYTEA, b"\\x00ff", b"\0\xff"),
    (t.BYTEA, b"a\\\\b\\001", b"a\\b\1"), (t.BOOL, b"true", 1), (t.BOOL, b"off", 0),
    (t.DATE, b"2024-02-29", "2024-02-29"), (t.TIME, b"01:02:03.500", "01:02:03.5"),
    (t.TIMESTAMP, b"2024-01-02T03:04:05", "2024-01-02 03:04:05"),
    (t.TIMESTAMPTZ, b"2024-01-02 03:04:05+02", "2024-01-02 01:04:05"),
    (t.TIMESTAMPTZ, b"2024-01-02 03:04:05", "2024-01-02 03:04:05"),
    (t.JSON, b'{"a": 1}', '{"a": 1}'), (t.UUID, UUID.upper().encode(), UUID),
    (t.array_of(t.INT8), b"{1,NULL,3}", "[1,null,3]"),
    (t.array_of(t.TEXT), b'{a,"b c"}', '["a","b c"]'),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "data", "value"), PARAMETERS)
def test_parameters_take_their_stored_form(kind: PgType, data: bytes, value: Value) -> None:
    found = decoder(kind, False)(data)
    assert (found, type(found)) == (value, type(value))


REFUSED: list[tuple[PgType, bytes, str]] = [
    (t.INT8, b"x", "22P02"), (t.INT8, b"1.5", "22P02"), (t.INT8, b"9223372036854775808", "22003"),
    (t.INT4, b"3000000000", "22003"), (t.INT2, b"40000", "22003"), (t.FLOAT8, b"abc", "22P02"),
    (t.FLOAT8, b"NaN", "22003"), (t.NUMERIC, b"x", "22P02"),
    (t.NUMERIC, b"0.12345678901234567890", "22003"), (t.NUMERIC, b"NaN", "22003"),
    (t.NUMERIC, b"9007199254740993.5", "22003"), (t.BOOL, b"perhaps", "22P02"),
    (t.BYTEA, b"\\xzz", "22P02"), (t.DATE, b"yesterday", "22007"), (t.DATE, b"2024-02-30", "22007"),
    (t.TIMESTAMP, b"1", "22007"), (t.JSON, b"{", "22P02"), (t.UUID, b"1", "22P02"),
    (t.TEXT, b"\xff", "22021"), (t.TEXT, b"a\0", "22021"), (t.array_of(t.INT8), b"{x}", "22P02"),
    (t.array_of(t.INT8), b"1,2", "22P02"), (t.INT8, b"1_000", "22P02"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "data", "sqlstate"), REFUSED)
def test_parameters_that_are_none(kind: PgType, data: bytes, sqlstate: str) -> None:
    with pytest.raises(PgError) as info:
        decoder(kind, False)(data)
    assert info.value.sqlstate == sqlstate


@pytest.mark.parametrize("kind", [t.INT8, t.FLOAT8, t.NUMERIC, t.DATE, t.TIMESTAMP, t.UUID, t.BOOL])
def test_binary_parameters_of_a_wrong_length(kind: PgType) -> None:
    with pytest.raises(PgError) as info:
        decoder(kind, True)(b"abc")
    assert info.value.sqlstate == "22P03"


def test_binary_types_that_are_not_spoken_are_refused_by_name() -> None:
    with pytest.raises(PgError, match="interval"):
        decoder(t.INTERVAL, True)


# --- what goes in comes out -----------------------------------------------------------------

decimals = st.decimals(
    allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9
)
stamps = st.datetimes(min_value=dt.datetime(1, 1, 2), max_value=dt.datetime(9999, 12, 30))


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers(value: int) -> None:
    assert decoder(t.INT8, True)(encoder(t.INT8, True)(value)) == value
    assert decoder(t.INT8, False)(encoder(t.INT8, False)(value)) == value


@given(st.floats(allow_nan=False))
def test_floats(value: float) -> None:
    assert decoder(t.FLOAT8, True)(encoder(t.FLOAT8, True)(value)) == value
    assert decoder(t.FLOAT8, False)(encoder(t.FLOAT8, False)(value)) == value


@given(decimals)
def test_decimals(value: Decimal) -> None:
    assert numerics.decode(numerics.encode(value)) == value
    assert Decimal(numerics.text(value)) == value


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_is_stored_exactly_or_refused(value: Decimal) -> None:
    assume(-300 < value.adjusted() < 300)
    try:
        stored = numerics.to_sqlite(value)
    except OverflowError:
        assert Decimal(repr(float(value))) != value
    else:
        assert Decimal(repr(stored)) == value


@given(stamps)
def test_timestamps(value: dt.datetime) -> None:
    for kind in (t.TIMESTAMP, t.TIMESTAMPTZ):
        stored = decoder(kind, False)(value.isoformat().encode())
        assert decoder(kind, True)(encoder(kind, True)(stored)) == stored
        assert decoder(kind, False)(encoder(kind, False)(stored)) == stored


@given(st.dates())
def test_dates(value: dt.date) -> None:
    stored = value.isoformat()
    assert decoder(t.DATE, True)(encoder(t.DATE, True)(stored)) == stored


def test_texts_of_instants_order_as_the_instants() -> None:
    texts = [b"2024-01-01 00:00:00+02", b"2023-12-31 22:00:00.5+00", b"2023-12-31 23:00:00-01"]
    stored = [decoder(t.TIMESTAMPTZ, False)(x) for x in texts]
    assert stored == sorted(stored, key=str)


@given(st.lists(st.none() | st.text(alphabet='ab{}",\\ NULLé\n', max_size=6)))
def test_array_literals(values: list[str | None]) -> None:
    assert parse_array(write_array(values)) == values


@given(st.binary(max_size=40))
def test_any_bytes_are_a_numeric_or_an_error(data: bytes) -> None:
    state = sqlstate_of(lambda: decoder(t.NUMERIC, True)(data))
    assert state in (None, "22P03", "22003")


@given(st.text(max_size=30))
def test_any_text_is_a_value_or_an_error(text: str) -> None:
    for kind in (t.INT8, t.FLOAT8, t.NUMERIC, t.BOOL, t.BYTEA, t.DATE, t.TIME, t.TIMESTAMPTZ,
                 t.JSON, t.UUID, t.array_of(t.TEXT)):  # fmt: skip
        read = decoder(kind, False)
        state = sqlstate_of(lambda read=read: read(text.encode("utf-8", "replace")))
        assert state is None or state.startswith("22")


ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(-(2**63), 2**63 - 1),
        st.none() | st.floats(allow_nan=False),
        st.none() | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=2000),
        st.none() | st.binary(max_size=2000),
    ),
    max_size=5,
)


@given(ROWS, st.lists(st.sampled_from([0, 1]), min_size=4, max_size=4))
def test_the_generated_encoder_agrees_with_the_plain_one(
    rows: list[tuple[Value, ...]], formats: list[int]
) -> None:
    kinds = (t.INT8, t.FLOAT8, t.TEXT, t.BYTEA)
    columns = [ResultColumn(k.name, k) for k in kinds]
    encoders = [encoder(k, bool(f)) for k, f in zip(kinds, formats, strict=True)]
    expected = b"".join(
        data_row([None if v is None else e(v) for e, v in zip(encoders, row, strict=True)])
        for row in rows
    )
    assert batch_encoder(columns, formats)(rows) == expected
