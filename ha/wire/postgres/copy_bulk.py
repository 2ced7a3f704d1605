"""COPY FROM at speed: whole pieces of data turned into SQLite values at once.

The loops are generated for the types of one table, as in rows.py. They know the ordinary case
alone; at anything else they give up, and :mod:`ha.wire.postgres.copy_read` reads the same piece
field by field. It knows every rule, and which field is at fault.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Protocol, TypeAlias

from ha.core.values import Value
from ha.wire.postgres import oids as t
from ha.wire.postgres.commands import CopyOptions
from ha.wire.postgres.copy_read import BinaryReader, CopyReader, Field, LineReader, unescaped
from ha.wire.postgres.decode import Decoder
from ha.wire.postgres.errors import PgError
from ha.wire.postgres.oids import PgType

Lines: TypeAlias = Callable[[bytes], list[Value] | None]
"""The values of all rows of some lines, one after the other; None: read them field by field."""

Tuples: TypeAlias = Callable[[bytes, int, list[Value]], int]
"""(data, position, values): appends the values of binary tuples from ``position`` on, as far as
they are whole and ordinary, and answers where the next one begins. What it raises it raises
before it has appended anything."""

_UNUSUAL = (ValueError, TypeError, OverflowError, struct.error, PgError)


class Bulk(Protocol):
    """Feeds ``reader``, and appends to ``values`` what is decoded here; rows that are not go to
    ``fields``, in their order."""

    def feed(self, data: bytes, values: list[Value], fields: Fields) -> None: ...


Fields: TypeAlias = Callable[[Sequence[Sequence[Field]]], None]


def bulk(
    options: CopyOptions,
    reader: CopyReader,
    kinds: Sequence[PgType],
    decoders: Sequence[Decoder],
) -> Bulk:
    if isinstance(reader, BinaryReader):
        return _BulkTuples(reader, tuples_reader(kinds, decoders))
    assert isinstance(reader, LineReader)
    forced = options.force_null is not None or options.force_not_null is not None
    return _BulkLines(reader, None if forced else lines_reader(options, kinds, decoders))


class _BulkLines:
    def __init__(self, reader: LineReader, read: Lines | None) -> None:
        self._reader = reader
        self._read = read

    def feed(self, data: bytes, values: list[Value], fields: Fields) -> None:
        lines = self._reader.take(data)
        if not lines:
            return
        if self._read is not None and self._reader.in_rows:
            found = self._read(lines)
            if found is not None:
                values += found
                return
        fields(self._reader.rows(lines))


class _BulkTuples:
    def __init__(self, reader: BinaryReader, read: Tuples) -> None:
        self._reader = reader
        self._read = read

    def feed(self, data: bytes, values: list[Value], fields: Fields) -> None:
        reader = self._reader
        position = reader.take(data)
        ordinary = True
        while True:
            if ordinary and reader.in_rows:
                try:
                    position = self._read(reader.buffer, position, values)
                except _UNUSUAL:
                    ordinary = False
            found = reader.tuple_at(position)
            if found is None:
                break
            row, position = found
            fields([row])
        reader.drop(position)


def lines_reader(
    options: CopyOptions, kinds: Sequence[PgType], decoders: Sequence[Decoder]
) -> Lines:
    """For text and CSV."""
    delimiter, null = options.delimiter, options.null
    csv = options.format == "csv"
    quoted = _quoted_reader(options, kinds, decoders) if csv else None
    readers = {
        (checked, escapes): _compile_lines(kinds, decoders, options, checked, escapes)
        for checked in (False, True)
        for escapes in (False, True)
    }

    def read(data: bytes) -> list[Value] | None:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return None
        if csv and options.quote in text:
            return quoted(text) if quoted is not None else None
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        escapes = not csv and "\\" in text
        if "\0" in text or "\r" in text or (escapes and f"\\{delimiter}" in text) or "\\." in text:
            return None
        if text.endswith("\n"):
            text = text[:-1]
        out: list[Value] = []
        checked = "_" in text or not text.isascii()
        try:
            readers[checked, escapes or (csv or "\\" not in null)](text, out.extend)
        except _UNUSUAL:
            return None
        return out

    return read


def _unescape(text: str) -> str:
    return unescaped(text.encode()).decode()


def _compile_lines(
    kinds: Sequence[PgType],
    decoders: Sequence[Decoder],
    options: CopyOptions,
    checked: bool,
    escapes: bool,
) -> Callable[[str, Callable[[Sequence[Value]], None]], None]:
    """``checked``: digits may be what PostgreSQL does not take for digits; ``escapes``: there may
    be NULLs, and in text format backslashes."""
    names: dict[str, Any] = {"NULL": options.null, "unescape": _unescape}
    variables = [f"v{i}" for i in range(len(kinds))]
    values = []
    for i, (kind, decode) in enumerate(zip(kinds, decoders, strict=True)):
        v = variables[i]
        names[f"d{i}"] = decode
        if kind is t.INT8:
            slow = f"d{i}({v}.encode())"
            value = slow if checked else f"int({v}) if len({v}) < 19 else {slow}"
        elif kind in t.TEXTS:
            value = v
            if escapes and options.format == "text":
                value = f"({v} if '\\\\' not in {v} else unescape({v}))"
        elif escapes and options.format == "text":
            value = f"d{i}({v}.encode() if '\\\\' not in {v} else unescape({v}).encode())"
        else:
            value = f"d{i}({v}.encode())"
        values.append(f"(None if {v} == NULL else {value})" if escapes else value)
    names["DELIMITER"] = options.delimiter
    source = f"""
def read(text, extend):
  for line in text.split("\\n"):
    {", ".join(variables)}, = line.split(DELIMITER)
    extend(({", ".join(values)},))
"""
    exec(source, names)
    found: Callable[[str, Callable[[Sequence[Value]], None]], None] = names["read"]
    return found


def _quoted_reader(
    options: CopyOptions, kinds: Sequence[PgType], decoders: Sequence[Decoder]
) -> Callable[[str], list[Value] | None] | None:
    """For CSV with quotes, which are doubled inside of quotes."""
    if options.escape != options.quote:
        return None
    quote, delimiter, null = options.quote, options.delimiter, options.null
    q, d = re.escape(quote), re.escape(delimiter)
    pattern = re.compile(f"({q}[^{q}]*(?:{q}{q}[^{q}]*)*{q}|[^{q}{d}\r\n]*)({d}|\n)")
    width = len(kinds)
    shape = delimiter * (width - 1) + "\n"
    texts = [kind in t.TEXTS for kind in kinds]

    def plain(field: str) -> str | None:
        if field.startswith(quote):
            field = field[1:-1]
            return field.replace(quote * 2, quote) if quote in field else field
        return None if field == null else field

    def read(text: str) -> list[Value] | None:
        if "\0" in text or "\\." in text:
            return None
        if not text.endswith("\n"):
            text += "\n"
        found = pattern.findall(text)
        ends = "".join([end for _, end in found])
        fields = [field for field, _ in found]
        if sum(map(len, fields)) + len(ends) != len(text):
            return None
        if ends != shape * (len(found) // width):
            return None
        columns: list[list[Value]] = []
        try:
            for i, decode in enumerate(decoders):
                values = [plain(field) for field in fields[i::width]]
                columns.append(
                    list(values)
                    if texts[i]
                    else [None if v is None else decode(v.encode()) for v in values]
                )
        except _UNUSUAL:
            return None
        return list(chain.from_iterable(zip(*columns, strict=True)))

    return read


# --- binary ------------------------------------------------------------------------------

_FIXED = {t.INT8: ("q", 8), t.FLOAT8: ("d", 8), t.INT4: ("i", 4), t.INT2: ("h", 2)}


def tuples_reader(kinds: Sequence[PgType], decoders: Sequence[Decoder]) -> Tuples:
    """For the binary format. NULL is not ordinary where a number may stand."""
    names: dict[str, Any] = {"NUL": "\0"}
    body: list[str] = []
    pending, targets, checks = "h", ["n"], [f"n == {len(kinds)}"]
    size = 2
    values: list[str] = []
    structs = 0

    def unpack() -> None:
        """Read the fixed part that has been collected so far."""
        nonlocal pending, targets, checks, size, structs
        if not pending:
            return
        names[f"s{structs}"] = struct.Struct("!" + pending).unpack_from
        body.append(f"if p + {size} > end: return position")
        body.append(f"{', '.join(targets)}, = s{structs}(data, p)")
        body.append(f"p += {size}")
        if checks:
            body.append(f"if not ({' and '.join(checks)}): return position")
        structs += 1
        pending, targets, checks, size = "", [], [], 0

    for i, (kind, decode) in enumerate(zip(kinds, decoders, strict=True)):
        pending += "i"
        targets.append(f"l{i}")
        size += 4
        names[f"d{i}"] = decode
        if kind in _FIXED:
            letter, length = _FIXED[kind]
            pending += letter
            targets.append(f"v{i}")
            checks.append(f"l{i} == {length}")
            if letter == "d":
                checks.append(f"v{i} == v{i}")
            size += length
        else:
            unpack()
            text = kind in t.TEXTS
            read = "data[p:e].decode()" if text else f"d{i}(data[p:e])"
            body += [
                f"if l{i} > 0:",
                f"  e = p + l{i}",
                "  if e > end: return position",
                f"  v{i} = {read}",
                *([f"  if NUL in v{i}: return position"] if text else []),
                "  p = e",
                f"elif l{i} == -1: v{i} = None",
                f"elif l{i} == 0: v{i} = {read.replace('p:e', 'p:p')}",
                "else: return position",
            ]
        values.append(f"v{i}")
    unpack()
    lines = "\n    ".join(body)
    source = f"""
def rows(data, position, end, extend):
  while True:
    p = position
    {lines}
    extend(({", ".join(values)},))
    position = p

def read(data, position, values):
  found = []
  position = rows(data, position, len(data), found.extend)
  values += found
  return position
"""
    exec(source, names)
    found: Tuples = names["read"]
    return found
