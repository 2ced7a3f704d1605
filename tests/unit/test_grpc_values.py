"""Values in google.protobuf.Any, read and written by Google's own library on the other side."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest
from google.protobuf import any_pb2, duration_pb2, empty_pb2, timestamp_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st
from protobuf.wkt import Any

from ha.core.errors import Code, HaError
from ha.core.values import RawText
from ha.wire.grpc.values import encode_row, pack_sequence, pack_time, value_of, varint
from tests.support.grpc_client import messages, pack, unpack

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)


def same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (a == b and math.copysign(1, a) == math.copysign(1, b)) or (a != a and b != b)
    return type(a) is type(b) and a == b


@given(st.lists(VALUES))
def test_a_row_is_read_as_it_was_written(row: list[object]) -> None:
    message = messages.Row.FromString(encode_row(row))  # type: ignore[arg-type]
    out = [unpack(value) for value in message.values]
    assert len(out) == len(row)
    assert all(map(same, out, row)), (row, out)


@given(VALUES)
def test_a_parameter_is_read_as_it_was_packed(value: object) -> None:
    packed = Any.from_binary(pack(value).SerializeToString())
    assert same(value_of(packed, "it"), value)


@given(st.integers(0, 2**64 - 1))
def test_a_varint_is_what_protobuf_reads(number: int) -> None:
    assert wrappers_pb2.UInt64Value.FromString(b"\x08" + varint(number)).value == number


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (wrappers_pb2.Int32Value(value=-5), -5),
        (wrappers_pb2.UInt32Value(value=2**32 - 1), 2**32 - 1),
        (wrappers_pb2.UInt64Value(value=2**63 - 1), 2**63 - 1),
        (wrappers_pb2.FloatValue(value=0.5), 0.5),
        (wrappers_pb2.BoolValue(value=True), 1),
        (wrappers_pb2.BoolValue(), 0),
        (empty_pb2.Empty(), None),
        (timestamp_pb2.Timestamp(seconds=0), "1970-01-01 00:00:00+00:00"),
        (
            timestamp_pb2.Timestamp(seconds=1_700_000_000, nanos=120_000_000),
            "2023-11-14 22:13:20.12+00:00",
        ),
        (timestamp_pb2.Timestamp(seconds=-1, nanos=1), "1969-12-31 23:59:59.000000001+00:00"),
    ],
)
def test_every_type_that_clients_send_is_taken(message: object, expected: object) -> None:
    packed = Any.from_binary(pack(message).SerializeToString())
    assert same(value_of(packed, "it"), expected)


def test_an_any_that_is_not_set_is_null() -> None:
    assert value_of(None, "it") is None
    assert value_of(Any(), "it") is None


@pytest.mark.parametrize(
    ("packed", "code"),
    [
        (pack(duration_pb2.Duration(seconds=1)), Code.BAD_PARAMETERS),
        (any_pb2.Any(type_url="nonsense", value=b"x"), Code.BAD_PARAMETERS),
        (
            any_pb2.Any(type_url="x/google.protobuf.Int64Value", value=b"\x08"),
            Code.BAD_PARAMETERS,
        ),
        (pack(wrappers_pb2.UInt64Value(value=2**63)), Code.NUMERIC_OUT_OF_RANGE),
        (pack(timestamp_pb2.Timestamp(seconds=2**62)), Code.BAD_PARAMETERS),
    ],
)
def test_what_is_no_value_is_an_error_that_names_the_parameter(packed: object, code: Code) -> None:
    with pytest.raises(HaError, match="parameter 3") as info:
        value_of(Any.from_binary(packed.SerializeToString()), "parameter 3")  # type: ignore[attr-defined]
    assert info.value.code is code


def test_text_that_is_no_text_goes_as_its_bytes() -> None:
    message = messages.Row.FromString(encode_row([RawText(b"\xff")]))
    assert [unpack(v) for v in message.values] == [b"\xff"]


@pytest.mark.parametrize("number", [0, 1, 2**63 - 1])
def test_history_names_sequences_without_a_sign(number: int) -> None:
    out = any_pb2.Any.FromString(pack_sequence(number))
    assert out.type_url == "type.googleapis.com/google.protobuf.UInt64Value"
    assert unpack(out) == number


@given(st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)))
def test_history_gives_times_as_timestamps(moment: datetime) -> None:
    text = moment.isoformat(" ")
    out = unpack(any_pb2.Any.FromString(pack_time(text)))
    assert out.ToDatetime(UTC) == moment.replace(tzinfo=UTC)
