"""Durations as Go writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.core.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("5m", 300),
        ("1h30m", 5400),
        ("300ms", 0.3),
        ("2h45m10s", 9910),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("5.s", 5),
        ("1us", 1e-6),
        ("1µs", 1e-6),
        ("1μs", 1e-6),
        ("100ns", 1e-7),
        ("-1m", -60),
        ("+1m", 60),
        ("1m1m", 120),
        (" 15s ", 15),
    ],
)
def test_parse(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, abs=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "m", ".", ".s", "-", "+-5s", "5 m", "5x", "1h5", "1d", "5M", "１s", "1e3s"],
)
def test_refused_with_what_would_be_right(text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_duration(text)
    assert str(error.value).endswith("write it like 300ms, 15s, 5m or 1h30m")
    assert repr(text) in str(error.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.3, "300ms"),
        (0.0015, "1.5ms"),
        (1e-6, "1µs"),
        (1e-9, "1ns"),
        (15, "15s"),
        (61.25, "1m1.25s"),
        (300, "5m"),
        (5400, "1h30m"),
        (3605, "1h5s"),
        (86400, "24h"),
        (-90, "-1m30s"),
    ],
)
def test_format(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(-(10**15), 10**15))
def test_what_is_formatted_parses_to_the_nanosecond(ns: int) -> None:
    assert round(parse_duration(format_duration(ns / 10**9)) * 10**9) == ns
