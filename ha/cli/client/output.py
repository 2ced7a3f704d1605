"""Results as text: tables for people, CSV, JSON and lines for programs and narrow terminals."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from typing import Protocol, TextIO

from wcwidth import wcswidth, wcwidth

from ha.core.values import Value

Row = Sequence[Value]

_SAMPLE = 1_000  # rows that decide on the widths of a table
_LEAST_WIDTH = 8  # a column is never made narrower than this
_BLOB_SHOWN = 24  # bytes


class Mode(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    LINE = "line"


@dataclass(frozen=True, slots=True)
class Screen:
    """Where output goes. ``width``: columns of a terminal, None elsewhere: nothing is cut."""

    width: int | None = None
    colours: bool = False


class _Writer(Protocol):
    def __call__(
        self, out: TextIO, columns: Sequence[str], rows: Iterator[Row], screen: Screen
    ) -> int: ...


def write(
    mode: Mode, out: TextIO, columns: Sequence[str], rows: Iterable[Row], screen: Screen
) -> int:
    """Write a result as its rows come; returns their number."""
    return _WRITERS[mode](out, columns, iter(rows), screen)


# --- cells ---------------------------------------------------------------------------


def cell(value: Value, *, cut: bool) -> str:
    """A value on one line. ``cut``: long BLOBs are shortened."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return real(value)
    if isinstance(value, bytes):
        if cut and len(value) > _BLOB_SHOWN:
            return f"x'{value[:_BLOB_SHOWN].hex()}…' ({len(value)} bytes)"
        return f"x'{value.hex()}'"
    return _one_line(str(value))


def real(value: float) -> str:
    """As SQLite writes it: with a point, always."""
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    return repr(value)


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def width_of(text: str) -> int:
    """Columns of a terminal that ``text`` takes."""
    if text.isascii():
        return len(text)
    return max(wcswidth(text), 0)


def clip(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, with … where something is missing."""
    if width_of(text) <= width:
        return text
    out = []
    left = width - 1
    for character in text:
        left -= max(wcwidth(character), 0)
        if left < 0:
            break
        out.append(character)
    return "".join(out) + "…"


# --- tables --------------------------------------------------------------------------

_BOLD, _DIM, _PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def _table(out: TextIO, columns: Sequence[str], rows: Iterator[Row], screen: Screen) -> int:
    cut = screen.width is not None
    sample = list(islice(rows, _SAMPLE))
    heads = [_one_line(name) for name in columns]
    cells = [[cell(value, cut=cut) for value in row] for row in sample]
    widths = [
        max(chain([width_of(head)], (width_of(row[i]) for row in cells)))
        for i, head in enumerate(heads)
    ]
    if screen.width is not None:
        fitted = fit(widths, screen.width)
        if fitted is None:
            return _lines(out, columns, chain(sample, rows), screen)
        widths = fitted
    right = [_numbers(row[i] for row in sample) for i in range(len(columns))]

    def line(texts: Sequence[str], marks: Sequence[str]) -> str:
        parts = [
            _pad(clip(text, width) if cut else text, width, right=at_right, mark=mark)
            for text, width, at_right, mark in zip(texts, widths, right, marks, strict=True)
        ]
        return "│".join(parts).rstrip() + "\n"

    bold = [_BOLD if screen.colours else ""] * len(columns)
    out.write(line(heads, bold))
    out.write("┼".join("─" * (width + 2) for width in widths) + "\n")
    count = 0
    for row in chain(sample, rows):
        texts = [cell(value, cut=cut) for value in row]
        out.write(line(texts, [_DIM if screen.colours and v is None else "" for v in row]))
        count += 1
    return count


def _pad(text: str, width: int, *, right: bool, mark: str) -> str:
    space = " " * (width - width_of(text))
    shown = f"{mark}{text}{_PLAIN}" if mark else text
    return f" {space}{shown} " if right else f" {shown}{space} "


def _numbers(values: Iterable[Value]) -> bool:
    kinds = {type(value) for value in values if value is not None}
    return bool(kinds) and kinds <= {int, float}


def fit(widths: Sequence[int], total: int) -> list[int] | None:
    """Widths that fit into ``total`` columns, the widest cut first; None if they cannot."""
    room = total - 3 * len(widths) + 1
    out = list(widths)
    if sum(out) <= room:
        return out
    low, high = _LEAST_WIDTH, max(out)
    if sum(min(width, low) for width in out) > room:
        return None
    while low < high:  # the largest limit that fits
        middle = (low + high + 1) // 2
        if sum(min(width, middle) for width in out) <= room:
            low = middle
        else:
            high = middle - 1
    return [min(width, low) for width in out]


# --- the other modes -----------------------------------------------------------------


def _lines(out: TextIO, columns: Sequence[str], rows: Iterator[Row], screen: Screen) -> int:
    heads = [_one_line(name) for name in columns]
    width = max(map(width_of, heads), default=0)
    count = 0
    for row in rows:
        if count:
            out.write("\n")
        for head, value in zip(heads, row, strict=True):
            text = cell(value, cut=screen.width is not None)
            out.write(f"{' ' * (width - width_of(head))}{head} = {text}\n")
        count += 1
    return count


def _csv(out: TextIO, columns: Sequence[str], rows: Iterator[Row], screen: Screen) -> int:
    """RFC 4180, but lines end with a newline alone. NULL is empty, an empty text is ``""``."""
    out.write(",".join(map(_csv_text, columns)) + "\n")
    count = 0
    for row in rows:
        out.write(",".join(map(_csv_cell, row)) + "\n")
        count += 1
    return count


def _csv_cell(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _csv_text(value)
    return cell(value, cut=False)


def _csv_text(text: str) -> str:
    if not text or any(c in text for c in ',"\r\n') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _json(out: TextIO, columns: Sequence[str], rows: Iterator[Row], screen: Screen) -> int:
    """A list of objects, one a line. BLOBs and infinite numbers as the node's HTTP API has them."""
    names = _distinct(columns)
    count = 0
    out.write("[")
    for row in rows:
        document = {name: _json_value(v) for name, v in zip(names, row, strict=True)}
        out.write(",\n " if count else "\n ")
        out.write(json.dumps(document, ensure_ascii=False))
        count += 1
    out.write("\n]\n" if count else "]\n")
    return count


def _json_value(value: Value) -> object:
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and math.isinf(value):
        return {"real": "inf" if value > 0 else "-inf"}
    return value


def _distinct(columns: Sequence[str]) -> list[str]:
    """Names of columns may repeat, names in an object may not: ``x``, ``x:2``."""
    out: list[str] = []
    for name in columns:
        number = 2
        unique = name
        while unique in out:
            unique = f"{name}:{number}"
            number += 1
        out.append(unique)
    return out


_WRITERS: dict[Mode, _Writer] = {
    Mode.TABLE: _table,
    Mode.CSV: _csv,
    Mode.JSON: _json,
    Mode.LINE: _lines,
}
