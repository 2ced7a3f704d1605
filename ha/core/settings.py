"""Reading option values from text, as flags, environment and config file give them.

Each function raises ValueError with words that go on after "bad value …: ".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from ha.core.dsn import check_parameters
from ha.core.durations import parse_duration
from ha.core.errors import HaError
from ha.core.naming import normalise


def boolean(text: str) -> bool:
    lower = text.lower()
    if lower in ("1", "t", "true", "yes", "on"):
        return True
    if lower in ("0", "f", "false", "no", "off"):
        return False
    raise ValueError("must be true or false")


def optional_text(text: str) -> str | None:
    return text or None


def required(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def path(text: str) -> Path | None:
    if "\0" in text:
        raise ValueError("must be the path of a file, without NUL")
    return Path(text) if text else None


def comma_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def integer(low: int, high: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be {what}")
        return int(text)

    return parse


port = integer(0, 65535, "a port from 0 to 65535")
optional_port = integer(-1, 65535, "a port from 1 to 65535, 0 for none or -1 for any free one")


def duration(*, zero: bool) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = parse_duration(text)
        except ValueError:
            raise ValueError("must be a duration like 300ms, 15s, 5m or 1h30m") from None
        if seconds < 0 or (seconds == 0 and not zero):
            raise ValueError("must not be negative" if zero else "must be more than 0s")
        return seconds

    return parse


_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"k": 2**10, "m": 2**20, "g": 2**30, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def size(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,15}) *([a-z]*)", text.strip().lower())
    if match is None or match[2] not in _UNITS or int(match[1]) == 0:
        raise ValueError("must be a size like 65536, 512KiB, 4MiB or 1GiB")
    return int(match[1]) * _UNITS[match[2]]


def format_size(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def one_of(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    def parse(text: str) -> StrEnum:
        try:
            return kind(text.lower())
        except ValueError:
            words = [member.value for member in kind]
            raise ValueError(f"must be {', '.join(words[:-1])} or {words[-1]}") from None

    return parse


def node_name(text: str) -> str:
    if not normalise(text):
        raise ValueError("must hold a character that a NATS name may have")
    return text


def stream_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", text):
        raise ValueError("must be 1 to 32 letters, digits, '_' or '-'")
    return text


def nats_urls(text: str) -> str | None:
    for url in comma_list(text):
        scheme, separator, rest = url.partition("://")
        if separator and (scheme not in ("nats", "tls", "ws", "wss") or not rest):
            raise ValueError("must be a NATS URL like nats://host:4222, or several with commas")
    return text or None


def leader_address(text: str) -> str | None:
    """As it was written: what it means is for who connects there."""
    if not text:
        return None
    message = "must be host:port, http://host:port or https://host:port"
    url = text if "://" in text else f"//{text}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(message) from None
    plain = parts.path in ("", "/") and not parts.query and not parts.fragment
    if not host or not plain or any(c.isspace() for c in text):
        raise ValueError(message)
    if parts.scheme not in ("", "http", "https") or (port is None and not parts.scheme):
        raise ValueError(message)
    if parts.username is not None or parts.password is not None:
        raise ValueError("must hold no user and password: --token lets nodes in")
    return text


def policy(text: str) -> str:
    name, equals, value = text.partition("=")
    if not equals and name in ("", "all", "last", "new"):
        return text or "all"
    if name == "by_start_sequence" and re.fullmatch(r"[0-9]{1,19}", value):
        return text
    if name == "by_start_time" and _is_time(value):
        return text
    raise ValueError(
        "must be all, last, new, by_start_sequence=NUMBER or by_start_time=YYYY-MM-DD HH:MM:SS"
    )


def _is_time(text: str) -> bool:
    try:
        datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        return False
    return True


def db_params(text: str) -> str:
    try:
        check_parameters(text)
    except HaError as error:
        raise ValueError(error.message) from None
    return text


def regex(text: str) -> str | None:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"must be a regular expression: {error}") from None
    return text or None
