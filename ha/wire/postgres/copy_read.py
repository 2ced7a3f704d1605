"""COPY FROM: bytes in, rows of fields out. No I/O.

A field is bytes, or None for NULL; text and CSV fields are unescaped, binary ones are as sent.
Source: PostgreSQL documentation, "COPY", "File Formats".
"""

from __future__ import annotations

import re
import struct
from typing import Protocol, TypeAlias

from ha.wire.postgres.commands import CopyOptions
from ha.wire.postgres.errors import PgError

Field: TypeAlias = bytes | None

SIGNATURE = b"PGCOPY\n\xff\r\n\0"


class CopyReader(Protocol):
    """Feed pieces of any size, then call :meth:`finish`. Raises PgError 22P04."""

    header: list[bytes] | None

    def feed(self, data: bytes) -> list[list[Field]]: ...

    def finish(self) -> list[list[Field]]: ...


def copy_reader(options: CopyOptions, limit: int) -> CopyReader:
    """``limit``: bytes of one row."""
    if options.format == "binary":
        return BinaryReader(limit)
    if options.format == "csv":
        return CsvReader(options, limit)
    return TextReader(options, limit)


def bad(message: str) -> PgError:
    return PgError("22P04", message)


class LineReader:
    """Cuts at line ends, whatever they are; ``\\.`` alone on a line is the end of the data."""

    def __init__(self, options: CopyOptions, limit: int) -> None:
        self.header: list[bytes] | None = None
        self._wants_header = options.header != "off"
        self._null = options.null.encode()
        self._delimiter = options.delimiter.encode()
        self._rest = b""
        self._ended = False
        self._limit = limit

    def feed(self, data: bytes) -> list[list[Field]]:
        lines = self.take(data)
        return self.rows(lines) if lines else []

    def take(self, data: bytes) -> bytes:
        """The lines that are whole now, for :meth:`rows`."""
        if self._ended:
            return b""
        data = self._rest + data if self._rest else data
        cut = self._cut(data)
        self._rest = data[cut:]
        if len(self._rest) > self._limit:
            raise PgError("54000", f"a row of COPY is longer than {self._limit} bytes")
        return data[:cut]

    @property
    def in_rows(self) -> bool:
        """Are lines rows, not a header, nor behind the end?"""
        return not self._wants_header and not self._ended

    def finish(self) -> list[list[Field]]:
        rest, self._rest = self._rest, b""
        return self.rows(rest) if rest and not self._ended else []

    def _cut(self, data: bytes) -> int:
        return data.rfind(b"\n") + 1

    def rows(self, data: bytes) -> list[list[Field]]:
        raise NotImplementedError

    def _take_header(self, rows: list[list[Field]]) -> list[list[Field]]:
        if self._wants_header and rows:
            self._wants_header = False
            self.header = [f or b"" for f in rows.pop(0)]
        return rows


_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_ESCAPE = re.compile(rb"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)


def unescaped(field: bytes) -> bytes:
    """What a field in text format stands for."""
    return _ESCAPE.sub(_unescaped, field)


def _unescaped(match: re.Match[bytes]) -> bytes:
    body = match[1]
    if body[:1].isdigit() and body[:1] in b"01234567":
        return bytes([int(body, 8) & 0xFF])
    if body[:1] == b"x" and len(body) > 1:
        return bytes([int(body[1:], 16)])
    return _ESCAPES.get(body, body)


class TextReader(LineReader):
    def rows(self, data: bytes) -> list[list[Field]]:
        if not data:
            return []
        lines = data.split(b"\n")
        if not lines[-1]:
            lines.pop()
        if b"\r" in data:
            lines = [line[:-1] if line.endswith(b"\r") else line for line in lines]
        if b"\\." in data and b"\\." in lines:
            lines = lines[: lines.index(b"\\.")]
            self._ended = True
        delimiter, null = self._delimiter, self._null
        if b"\\" not in data:
            split: list[list[Field]] = [list(line.split(delimiter)) for line in lines]
            if null == b"\\N":
                return self._take_header(split)
            return self._take_header([[None if f == null else f for f in row] for row in split])
        return self._take_header([self._fields(line) for line in lines])

    def _fields(self, line: bytes) -> list[Field]:
        parts = line.split(self._delimiter)
        if b"\\" not in line:
            return [None if p == self._null else p for p in parts]
        joined: list[bytes] = []
        for part in parts:
            # A delimiter behind an odd number of backslashes belongs to the field.
            if joined and _odd_backslashes(joined[-1]):
                joined[-1] += self._delimiter + part
            else:
                joined.append(part)
        return [None if p == self._null else unescaped(p) for p in joined]


def _odd_backslashes(part: bytes) -> bool:
    return (len(part) - len(part.rstrip(b"\\"))) % 2 == 1


class CsvReader(LineReader):
    def __init__(self, options: CopyOptions, limit: int) -> None:
        super().__init__(options, limit)
        self._quote = options.quote.encode()
        self._escape = options.escape.encode()

    def _cut(self, data: bytes) -> int:
        """After the last line end that stands outside of quotes."""
        quote = self._quote
        if self._escape == quote:
            cut = data.rfind(b"\n") + 1
            inside = data.count(quote, 0, cut) % 2
            while inside and cut:
                before = data.rfind(b"\n", 0, cut - 1) + 1
                inside = (inside + data.count(quote, before, cut)) % 2
                cut = before
            return cut
        end = 0
        position = 0
        while (newline := data.find(b"\n", position)) >= 0:
            position = newline + 1
            if self._balanced(data[end:position]):
                end = position
        return end

    def _balanced(self, line: bytes) -> bool:
        inside = False
        i = 0
        while i < len(line):
            c = line[i : i + 1]
            if inside and c == self._escape:
                i += 2
                continue
            if c == self._quote:
                inside = not inside
            i += 1
        return not inside

    def rows(self, data: bytes) -> list[list[Field]]:
        out: list[list[Field]] = []
        if self._quote not in data:
            for line in data.split(b"\n")[: None if not data.endswith(b"\n") else -1]:
                line = line[:-1] if line.endswith(b"\r") else line
                if line == b"\\.":
                    self._ended = True
                    break
                out.append([None if f == self._null else f for f in line.split(self._delimiter)])
            return self._take_header(out)
        position = 0
        while position < len(data):
            row, position = self._row(data, position)
            if row == [b"\\."]:
                self._ended = True
                break
            out.append(row)
        return self._take_header(out)

    def _row(self, data: bytes, i: int) -> tuple[list[Field], int]:
        row: list[Field] = []
        while True:
            field, i = self._field(data, i)
            row.append(field)
            if data[i : i + 1] == self._delimiter:
                i += 1
                continue
            if data[i : i + 2] == b"\r\n":
                return row, i + 2
            return row, i + 1  # a line end, or the end of the data

    def _field(self, data: bytes, i: int) -> tuple[Field, int]:
        parts: list[bytes] = []
        quoted = False
        while i < len(data):
            c = data[i : i + 1]
            if c == self._quote:
                quoted = True
                text, i = self._quoted(data, i + 1)
                parts.append(text)
            elif c == self._delimiter or c == b"\n" or data[i : i + 2] == b"\r\n":
                break
            else:
                end = i + 1
                while end < len(data) and data[end : end + 1] not in (
                    self._delimiter, self._quote, b"\n", b"\r",
                ):  # fmt: skip
                    end += 1
                parts.append(data[i:end])
                i = end
        text = b"".join(parts)
        return (None if not quoted and text == self._null else text), i

    def _quoted(self, data: bytes, i: int) -> tuple[bytes, int]:
        parts: list[bytes] = []
        while True:
            quote = data.find(self._quote, i)
            if self._escape != self._quote:
                escape = data.find(self._escape, i)
                if 0 <= escape < quote:
                    parts.append(data[i:escape] + data[escape + 1 : escape + 2])
                    i = escape + 2
                    continue
            if quote < 0:
                raise bad("unterminated CSV quoted field")
            parts.append(data[i:quote])
            if self._escape == self._quote and data[quote + 1 : quote + 2] == self._quote:
                parts.append(self._quote)
                i = quote + 2
                continue
            return b"".join(parts), quote + 1


class BinaryReader:
    def __init__(self, limit: int) -> None:
        self.header: list[bytes] | None = None
        self.buffer = b""
        self._started = False
        self._ended = False
        self._limit = limit

    def feed(self, data: bytes) -> list[list[Field]]:
        out: list[list[Field]] = []
        position = self.take(data)
        while (found := self.tuple_at(position)) is not None:
            row, position = found
            out.append(row)
        self.drop(position)
        return out

    def take(self, data: bytes) -> int:
        """Put ``data`` behind what is in the buffer; where the first tuple begins there."""
        self.buffer = self.buffer + data if self.buffer else data
        return 0 if self._started else self._begin()

    def drop(self, position: int) -> None:
        """Everything before ``position`` has been read."""
        self.buffer = self.buffer[position:]
        if len(self.buffer) > self._limit:
            raise PgError("54000", f"a row of COPY is longer than {self._limit} bytes")

    def finish(self) -> list[list[Field]]:
        if not self._started or (self.buffer and not self._ended):
            raise bad("unexpected EOF in COPY data")
        return []

    def _begin(self) -> int:
        if len(self.buffer) < 19:
            return 0
        if not self.buffer.startswith(SIGNATURE):
            raise bad("COPY file signature not recognized")
        flags, extension = struct.unpack_from("!Ii", self.buffer, 11)
        if flags & 0xFFFF0000 or extension < 0:
            raise bad("unrecognized critical flags in COPY file header")
        if len(self.buffer) < 19 + extension:
            return 0
        self._started = True
        return 19 + int(extension)

    @property
    def in_rows(self) -> bool:
        return self._started and not self._ended

    def tuple_at(self, position: int) -> tuple[list[Field], int] | None:
        """A row and where the next one begins; None: it is not whole, or the end was reached."""
        buffer = self.buffer
        if not self.in_rows or position + 2 > len(buffer):
            return None
        (count,) = struct.unpack_from("!h", buffer, position)
        position += 2
        if count == -1:
            self._ended = True
            return None
        if count < 0:
            raise bad(f"row field count is {count}")
        row: list[Field] = []
        for _ in range(count):
            if position + 4 > len(buffer):
                return None
            (length,) = struct.unpack_from("!i", buffer, position)
            position += 4
            if length == -1:
                row.append(None)
                continue
            if length < 0:
                raise bad("invalid field size")
            if position + length > len(buffer):
                return None
            row.append(buffer[position : position + length])
            position += length
        return row, position
