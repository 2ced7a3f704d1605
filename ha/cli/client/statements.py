"""Text into statements: where one ends, and what the client does itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apsw

# Where a semicolon does not end a statement: strings, names in quotes, comments.
_PIECE = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]"""
    r"""|--[^\n]*|/\*.*?\*/|[^'"`\[;/-]+|;|.""",
    re.DOTALL,
)
_BLANK = re.compile(r"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/|;)*", re.DOTALL)
_EXIT = re.compile(r"\s*(?:exit|quit)\s*;?\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Item:
    """A statement of SQL, or a command of the client's own (``.tables``); ``line`` from 1."""

    text: str
    line: int

    @property
    def command(self) -> bool:
        return self.text.startswith(".")

    @property
    def leaves(self) -> bool:
        return _EXIT.fullmatch(self.text) is not None


def blank(text: str) -> bool:
    """Nothing but white space, comments and semicolons."""
    return _BLANK.fullmatch(text) is not None


def complete(text: str) -> bool:
    """Can this be run, or does more of it have to come?"""
    stripped = text.strip()
    return (
        not stripped
        or stripped.startswith(".")
        or _EXIT.fullmatch(text) is not None
        or (blank(text) and not stripped.startswith("/*"))
        or apsw.complete(text)
    )


def split(lines: Iterable[str]) -> Iterator[Item]:
    """The items of a text that comes line by line, each as soon as it is complete.

    A last statement needs no semicolon.
    """
    pending = ""
    start = 1
    for number, line in enumerate(lines, 1):
        if blank(pending):
            pending, start = "", number
            if line.startswith("."):
                yield Item(line.strip(), number)
                continue
            if _EXIT.fullmatch(line):
                yield Item(line.strip(), number)
                continue
        pending += line
        if ";" not in line:
            continue
        begin = 0
        for end in _ends(pending):
            piece = pending[begin:end]
            if not blank(piece):
                yield _item(piece, start)
            start += piece.count("\n")
            begin = end
        pending = pending[begin:]
    if not blank(pending):
        yield _item(pending, start)


def _item(text: str, line: int) -> Item:
    """``text`` begins in ``line``, maybe with blank lines and comments before the statement."""
    lead = _BLANK.match(text)
    before = text[: lead.end()] if lead else ""
    return Item(text.strip(), line + before.count("\n"))


def _ends(text: str) -> Iterator[int]:
    """Where complete statements end, one after the other."""
    begin = 0
    for match in _PIECE.finditer(text):
        # A trigger holds semicolons that end nothing: SQLite itself says what is complete.
        if match[0] == ";" and apsw.complete(text[begin : match.end()]):
            yield match.end()
            begin = match.end()
