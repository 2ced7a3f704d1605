"""COPY TO: encoded values in, lines out. No I/O. Source: PostgreSQL documentation, "COPY"."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ha.wire.postgres.commands import CopyOptions
from ha.wire.postgres.copy_read import SIGNATURE

Line: TypeAlias = Callable[[Sequence[bytes | None]], bytes]

BINARY_HEADER = SIGNATURE + struct.pack("!Ii", 0, 0)
BINARY_TRAILER = struct.pack("!h", -1)

_SPECIAL = {
    b"\\": b"\\\\", b"\b": b"\\b", b"\f": b"\\f", b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t",
    b"\v": b"\\v",
}  # fmt: skip


def line_writer(options: CopyOptions, names: Sequence[str]) -> Line:
    """Makes one line, or one binary tuple, of a row."""
    if options.format == "binary":
        return _binary
    if options.format == "csv":
        return _csv(options, names)
    return _text(options)


def _binary(row: Sequence[bytes | None]) -> bytes:
    parts = [struct.pack("!h", len(row))]
    for value in row:
        parts.append(struct.pack("!i", -1 if value is None else len(value)))
        parts.append(value or b"")
    return b"".join(parts)


def _text(options: CopyOptions) -> Line:
    delimiter, null = options.delimiter.encode(), options.null.encode()
    special = re.compile(rb"[\\\b\f\n\r\t\v" + re.escape(delimiter) + rb"]")

    def escaped(match: re.Match[bytes]) -> bytes:
        return _SPECIAL.get(match[0], b"\\" + match[0])

    def line(row: Sequence[bytes | None]) -> bytes:
        return delimiter.join([null if v is None else special.sub(escaped, v) for v in row]) + b"\n"

    return line


def _csv(options: CopyOptions, names: Sequence[str]) -> Line:
    delimiter, null = options.delimiter.encode(), options.null.encode()
    quote, escape = options.quote.encode(), options.escape.encode()
    needs = re.compile(rb"[\n\r" + re.escape(delimiter) + re.escape(quote) + rb"]")
    inner = re.compile(
        re.escape(quote) if escape == quote else rb"[" + re.escape(quote + escape) + rb"]"
    )
    forced = options.force_quote
    always = [forced is not None and (not forced or n.lower() in forced) for n in names]

    def field(value: bytes | None, force: bool, alone: bool) -> bytes:
        if value is None:
            return null
        plain = not force and value != null and not needs.search(value)
        if plain and not (alone and value == b"\\."):
            return value
        return quote + inner.sub(lambda m: escape + m[0], value) + quote

    def line(row: Sequence[bytes | None]) -> bytes:
        alone = len(row) == 1
        fields = [field(v, f, alone) for v, f in zip(row, always, strict=True)]
        return delimiter.join(fields) + b"\n"

    return line


def header(options: CopyOptions, names: Sequence[str]) -> bytes:
    """The line of names, or the binary header."""
    if options.format == "binary":
        return BINARY_HEADER
    if options.header == "off":
        return b""
    return line_writer(options, names)([n.encode() for n in names])
