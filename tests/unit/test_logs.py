"""The form of a log line."""

from __future__ import annotations

import logging

import pytest

from ha.cli.logs import LineFormatter, one_line


def line(message: str, *args: object, level: int = logging.INFO, secrets: tuple[str, ...] = (),
         name: str = "ha.node", **extra: object) -> str:  # fmt: skip
    record = logging.getLogger(name).makeRecord(
        name, level, __file__, 1, message, args, None, extra=extra
    )
    record.created = 1_769_860_800.5
    return LineFormatter(secrets).format(record)


def test_time_level_message_fields() -> None:
    assert line("listening", protocol="http", port=8080) == (
        "2026-01-31T12:00:00.500Z info listening protocol=http port=8080"
    )
    assert line("%d left", 3, level=logging.WARNING).endswith(" warn 3 left")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("with blank", '"with blank"'),
        ("a=b", '"a=b"'),
        ("", '""'),
        ('say "x"\\', '"say \\"x\\"\\\\"'),
        ("two\nlines", '"two\\nlines"'),
        (None, "None"),
        (1.5, "1.5"),
    ],
)
def test_values_are_quoted_when_they_must(value: object, shown: str) -> None:
    assert line("x", key=value).endswith(f" x key={shown}")


def test_an_event_is_one_line_whatever_it_says() -> None:
    text = line("a\r\nb\x1b[31m\x85", key="c\u2028d")
    assert text.isprintable()


def test_an_error_is_told_on_the_same_line() -> None:
    try:
        raise ExceptionGroup("several", [ValueError("first\nproblem"), KeyError("second")])
    except ExceptionGroup as error:
        record = logging.makeLogRecord({"msg": "failed", "name": "ha", "levelno": logging.ERROR,
                                        "levelname": "ERROR"})  # fmt: skip
        record.exc_info = (type(error), error, error.__traceback__)
        text = LineFormatter().format(record)
    assert text.isprintable()
    assert "ValueError: first\\nproblem; KeyError: 'second'" in text
    assert "trace=" in text


def test_secrets_are_blotted_out() -> None:
    text = line(
        "token s3cret-token at nats://ha:pa55@host:4222",
        secrets=("s3cret-token", "ha"),
        url="nats://u:p@h",
    )
    assert "s3cret-token" not in text
    assert "pa55" not in text
    assert "nats://ha:***@host:4222" in text  # a short secret would blot out ordinary words
    assert text.endswith("url=nats://u:***@h")


def test_a_library_is_named() -> None:
    assert line("x", name="hypercorn.error").endswith(" x logger=hypercorn.error")


def test_one_line_leaves_plain_text_alone() -> None:
    assert one_line("naïve ☃ text") == "naïve ☃ text"
    assert one_line("a\tb\udc80") == "a\\tb\\udc80"
