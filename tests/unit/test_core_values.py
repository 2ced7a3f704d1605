"""SQLite values in JSON, exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest

from ha.core.values import RawText, Value, decode_values, encode_values, is_plain


@pytest.mark.parametrize(
    ("value", "json", "letters"),
    [
        (None, None, None),
        (0, 0, None),
        (2**63 - 1, 2**63 - 1, None),
        (-(2**63), -(2**63), None),
        (1.0, 1.0, None),
        (-0.0, -0.0, None),
        (5e-324, 5e-324, None),
        (math.inf, "inf", "r"),
        (-math.inf, "-inf", "r"),
        ("", "", None),
        ("a\0b", "a\0b", None),
        ("\ud800", "\ud800", None),
        (b"", "", "b"),
        (b"\x00\xff", "AP8=", "b"),
        (RawText(b"\xff"), "/w==", "x"),
    ],
)
def test_each_value(value: Value, json: object, letters: str | None) -> None:
    coded, types = encode_values([value])
    assert (repr(coded), types) == (repr([json]), letters)
    (back,) = decode_values(coded, types)
    assert repr(back) == repr(value)
    assert type(back) is type(value)


def test_letters_stand_beside_all_values_of_a_row() -> None:
    row: list[Value] = [1, b"x", "y", math.inf, None, RawText(b"\x80")]
    assert encode_values(row)[1] == ".b.r.x"
    assert decode_values(*encode_values(row)) == tuple(row)


def test_other_buffers_are_blobs() -> None:
    buffers: list[Any] = [bytearray(b"x"), memoryview(b"y")]
    assert encode_values(buffers) == (["eA==", "eQ=="], "bb")


def test_nan_survives_as_what_it_is() -> None:
    coded, letters = encode_values([math.nan])
    assert (coded, letters) == (["nan"], "r")
    (back,) = decode_values(coded, letters)
    assert isinstance(back, float)
    assert math.isnan(back)


def test_plain_is_sure() -> None:
    assert is_plain((1, "x", None))
    assert not is_plain((1.0,))
    assert not is_plain((b"",))
    assert is_plain(())


def test_booleans_of_existing_nodes_are_integers() -> None:
    row = decode_values([True, False, "x", 1.5, None], None)
    assert repr(row) == "(1, 0, 'x', 1.5, None)"


@pytest.mark.parametrize(
    ("values", "letters", "sentence"),
    [
        ([[]], None, "not a SQLite value in JSON: list"),
        ([2**63], None, "integer out of SQLite's range: 9223372036854775808"),
        ([-(2**63) - 1], ".", "integer out of SQLite's range"),
        (["x"], "", "1 values with 0 type letters"),
        ([1], "x", "type letter 'x' needs a string, not int"),
        (["AP8"], "b", "padding"),
        (["x"], "?", "unknown type letter: '?'"),
        (["x"], [".",], "type letters are not a string"),
    ],
)  # fmt: skip
def test_what_no_encoder_writes_is_refused(
    values: list[object], letters: object, sentence: str
) -> None:
    with pytest.raises(ValueError) as error:
        decode_values(values, letters)
    assert sentence in str(error.value)


def test_a_wrong_type_is_not_encoded() -> None:
    bad: list[Any] = [1, complex(1)]
    with pytest.raises(TypeError, match="not a SQLite value: complex"):
        encode_values(bad)
