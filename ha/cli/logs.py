"""Logging: one line an event on standard error, ``time level message key=value…``.

Code logs with the standard library; fields come from ``extra``::

    log.info("listening", extra={"protocol": "http", "port": 8080})
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime

from ha.config import LogLevel

_LEVELS = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARN: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}
_NAMES = {logging.WARNING: "warn", logging.CRITICAL: "error"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_URL_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)")
_SHORTEST_SECRET = 6  # a shorter one would blot out ordinary words
_PLAIN = re.compile(r'[^\s"=]+')


def one_line(text: str) -> str:
    """``text`` with every character that does not print (line ends, escapes) spelled out."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class LineFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000Z info listening protocol=http port=8080``."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        long = sorted((s for s in secrets if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, long))) if long else None

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        level = _NAMES.get(record.levelno, record.levelname.lower())
        parts = [time.replace("+00:00", "Z"), level, one_line(record.getMessage())]
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        if record.name.partition(".")[0] != "ha":
            fields["logger"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = describe(record.exc_info[1])
            fields["trace"] = _trace(record.exc_info[1])
        parts += [f"{key}={_quote(str(value))}" for key, value in fields.items()]
        return self._redact(" ".join(parts))

    def _redact(self, line: str) -> str:
        line = _URL_PASSWORD.sub(r"\1***", line)
        return line if self._secrets is None else self._secrets.sub("***", line)


def _quote(value: str) -> str:
    if _PLAIN.fullmatch(value) and value.isprintable():
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{one_line(escaped)}"'


def describe(error: BaseException) -> str:
    """``ValueError: text``; of a group, what it is made of."""
    return "; ".join(f"{type(e).__name__}: {e}" for e in leaves(error))


def leaves(error: BaseException) -> list[BaseException]:
    """The errors that a group holds, at any depth; another error alone."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for e in error.exceptions for leaf in leaves(e)]
    return [error]


def _trace(error: BaseException) -> str:
    """The innermost calls first, on one line."""
    frames = [
        f for leaf in leaves(error) for f in reversed(traceback.extract_tb(leaf.__traceback__))
    ]
    return " < ".join(f"{f.filename}:{f.lineno}:{f.name}" for f in frames[:40])


def set_up(level: LogLevel, secrets: Iterable[str] = ()) -> None:
    """Log to standard error: ours from ``level`` on, that of libraries from warn on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(secrets))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("ha").setLevel(_LEVELS[level])
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a closed standard error must not stop the node
