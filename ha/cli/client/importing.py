"""``.import``: rows of a file into a table, in batches that are one message each in the log."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TextIO

import ha.dbapi as db

if TYPE_CHECKING:
    from ha.cli.client.shell import Shell

_BATCH_ROWS = 1_000
_BATCH_BYTES = 512 * 1024
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_REAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")

Value = int | float | str | bytes | None
Record = tuple[Value, ...]


def import_file(shell: Shell, name: str, table: str) -> None:
    """Insert the rows of ``name`` into ``table``. Raises Refused or db.Error."""
    from ha.cli.client.shell import Refused

    done = 0
    try:
        with open(name, encoding="utf-8-sig", newline="") as file:
            columns, records = _read(file, name)
            first = list(islice(records, _BATCH_ROWS))
            _make_table(shell, table, columns, first)
            marks = ", ".join("?" * len(columns))
            names = ", ".join(map(quote, columns))
            sql = f"INSERT INTO {quote(table)}({names}) VALUES ({marks})"
            for batch in _batches(chain(first, records)):
                shell.connection.executemany(sql, batch)
                done += len(batch)
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"cannot read {name}: {error}") from None
    except (ValueError, csv.Error) as error:
        raise Refused(f"{name}: {error}; {_so_far(shell, done)}") from None
    except db.Error as error:
        error.add_note(f"in rows {done + 1} and after; {_so_far(shell, done)}")
        raise
    shell.tell(f"{done} rows imported into {table}")


def _so_far(shell: Shell, done: int) -> str:
    if shell.connection.in_transaction:
        return f"{done} rows are in the open transaction"
    return f"{done} rows are imported"


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _read(file: TextIO, name: str) -> tuple[list[str], Iterator[Record]]:
    """The names of the columns, and the rows. Raises ValueError for what is no such file."""
    kind = name.lower().rpartition(".")[2]
    if kind in ("json", "jsonl", "ndjson"):
        return _read_json(file, lines=kind != "json")
    if kind not in ("csv", "tsv", "tab"):
        raise ValueError("the name must end in .csv, .tsv, .json or .jsonl, to tell what it is")
    reader = csv.reader(file, delimiter="," if kind == "csv" else "\t", strict=True)
    columns = next(reader, None)
    if not columns:
        raise ValueError("the first line must name the columns")
    _check_names(columns)
    return columns, _csv_records(reader, len(columns))


def _csv_records(reader: Any, width: int) -> Iterator[Record]:
    for fields in reader:
        if not fields:
            continue
        if len(fields) != width:
            raise ValueError(f"line {reader.line_num} has {len(fields)} fields, not {width}")
        yield tuple(field or None for field in fields)


def _read_json(file: TextIO, *, lines: bool) -> tuple[list[str], Iterator[Record]]:
    """A list of objects, or an object a line; the first one names the columns."""
    documents: Iterator[Any]
    if lines:
        documents = (json.loads(line) for line in file if line.strip())
    else:
        whole = json.load(file)
        if not isinstance(whole, list):
            raise ValueError("it must hold a list of objects")
        documents = iter(whole)
    first = next(documents, None)
    if not isinstance(first, dict) or not first:
        raise ValueError("it must hold objects, whose members are the columns")
    columns = list(first)
    _check_names(columns)

    def records() -> Iterator[Record]:
        for number, document in enumerate(chain([first], documents), 1):
            if not isinstance(document, dict) or not document.keys() <= set(columns):
                raise ValueError(f"object {number} has not the members of the first one")
            yield tuple(_json_value(document.get(column), number) for column in columns)

    return columns, records()


def _json_value(value: object, number: int) -> Value:
    """As ``.mode json`` writes it, and lists and objects as JSON text."""
    match value:
        case None | str() | float():
            return value
        case bool() | int():
            return int(value)
        case {"base64": str(text)} if len(value) == 1:  # type: ignore[arg-type]
            try:
                return base64.b64decode(text, validate=True)
            except ValueError:
                raise ValueError(f"object {number}: {text!r} is no base64") from None
        case {"real": ("inf" | "-inf") as text} if len(value) == 1:  # type: ignore[arg-type]
            return float(text)
    return json.dumps(value, ensure_ascii=False)


def _check_names(columns: Sequence[str]) -> None:
    lower = [column.lower() for column in columns]
    for column in columns:
        if not column:
            raise ValueError("a column has no name")
        if lower.count(column.lower()) > 1:
            raise ValueError(f"two columns are named {column!r}")


def _make_table(shell: Shell, table: str, columns: Sequence[str], rows: Sequence[Record]) -> None:
    """Create it if it is not there; types as the first rows suggest."""
    found = shell.query(
        "SELECT 1 FROM sqlite_schema WHERE lower(name) = lower(?) AND type IN ('table', 'view')",
        [table],
    )
    if found:
        return
    types = [_type_of([row[i] for row in rows]) for i in range(len(columns))]
    declared = ", ".join(f"{quote(c)} {t}".rstrip() for c, t in zip(columns, types, strict=True))
    shell.connection.execute(f"CREATE TABLE {quote(table)}({declared})")
    shell.schema_changed = True


def _type_of(values: Sequence[Value]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if any(isinstance(value, bytes) for value in known):
        return ""
    texts = [str(value) for value in known]
    if all(map(_INTEGER.fullmatch, texts)):
        return "INTEGER"
    return "REAL" if all(map(_REAL.fullmatch, texts)) else "TEXT"


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += sum(len(v) if isinstance(v, str | bytes) else 8 for v in record)
        if len(batch) == _BATCH_ROWS or size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
