"""The query endpoint's language: JSON to statements, results to JSON. No I/O.

A request is one statement, ``{"sql": …, "params": …}``, or a list of them, which is one
transaction. SQLite's values in JSON, in both directions:

=======  ==================================================================================
NULL     ``null``
INTEGER  a number without fraction and exponent; beyond 64 bits it is refused
REAL     a number with one of them; ``{"real": "inf"}``, ``{"real": "-inf"}``
TEXT     a string
BLOB     ``{"base64": "…"}``
=======  ==================================================================================

Only answers have ``{"text_base64": "…"}``: the bytes of a TEXT that is no valid UTF-8, which
a ``CAST(x'ff' AS TEXT)`` makes and no parameter can be.

``true`` and ``false`` come in as 1 and 0, as in SQL. Answers are JSON by RFC 8259 and nothing
beyond: no NaN, no Infinity, no lone surrogates.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ha.core.errors import Code, HaError
from ha.core.values import RawText, Value
from ha.engine.api import Params, Result, Statement

ROWS_A_PIECE = 1000
"""How many rows are encoded at a stretch; between the pieces a server can serve others."""

_MAX_EXACT = 2**53 - 1
_INT64 = 2**63


@dataclass(frozen=True, slots=True)
class Query:
    """``many``: the request was a list, and so is the answer."""

    statements: list[Statement]
    many: bool


@dataclass(frozen=True, slots=True)
class Format:
    """How an answer is written.

    ``bare_blobs``: a BLOB is its bare base64 string, as the existing system answers.
    ``big_integers_as_strings``: integers that JavaScript's numbers cannot hold are strings.
    """

    bare_blobs: bool = False
    big_integers_as_strings: bool = False


DEFAULT_FORMAT = Format()


# Requests


class _JsonError(ValueError):
    """Raised inside the JSON parser, which lets it through."""


def decode_query(body: bytes | bytearray) -> Query:
    """The statements of a request body.

    Raises HaError: BAD_REQUEST for what is not JSON or has another shape, with the position or
    the name of what is wrong; BAD_PARAMETERS for a value that is none of SQLite's.
    """
    if not body or body.isspace():
        raise _bad('the body is empty: send {"sql": "SELECT …", "params": {…}}, or a list of those')
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(
            f"the body is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}"
        ) from None
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _bad(
            f"the body is not JSON: {error.msg} at line {error.lineno} column {error.colno}"
            f" (character {error.pos})"
        ) from None
    except _JsonError as error:
        raise _bad(f"the body is not JSON that can be taken: {error}") from None
    except RecursionError:
        raise _bad("the body is nested too deeply") from None
    except ValueError:  # Python's own limit on the digits of one integer
        raise _bad("the body holds an integer that is out of SQLite's range") from None
    # Only an escape can bring a lone surrogate: UTF-8 has none.
    surrogates = "\\ud" in text or "\\uD" in text
    if type(document) is dict:
        return Query([_statement(document, 0, surrogates)], many=False)
    if type(document) is list:
        return Query(
            [_statement(item, number, surrogates) for number, item in enumerate(document, 1)],
            many=True,
        )
    raise _bad(
        f"the body is {_kind(document)}: send an object with sql and params, or a list of those"
    )


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen = set()
        for name, _ in pairs:
            if name in seen:
                raise _JsonError(f"an object has the member {json.dumps(name)} twice")
            seen.add(name)
    return members


def _constant(name: str) -> NoReturn:
    raise _JsonError(f'{name} is not JSON; write infinity as {{"real": "inf"}}, NaN as null')


def _real(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _JsonError(f'the number {text[:40]} is out of range; write {{"real": "inf"}}')
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_members, parse_constant=_constant, parse_float=_real)


# ``number`` counts the statements of a list from 1; 0 is the statement of a request without a
# list. It stays a number until an error needs words: a request may hold 100,000 statements.


def _statement(item: object, number: int, surrogates: bool) -> Statement:
    if type(item) is not dict:
        raise _bad(f"expected an object with sql and params, not {_kind(item)}", number)
    sql = item.get("sql")
    if type(sql) is not str:
        if "sql" in item:
            raise _bad(f'"sql" must be a string, not {_kind(sql)}', number)
        raise _bad('the member "sql" is missing', number)
    if len(item) != 1 + ("params" in item):
        unknown = next(name for name in item if name not in ("sql", "params"))
        raise _bad(f"unknown member {json.dumps(unknown)}: a statement has sql and params", number)
    if surrogates and not _is_unicode(sql):
        raise _bad('"sql" holds a lone surrogate, which is not valid Unicode', number)
    params = item.get("params")
    return Statement(sql, None if params is None else _params(params, number, surrogates))


def _params(params: object, number: int, surrogates: bool) -> Params:
    if type(params) is dict:
        named: dict[str, Value] = {}
        for key, value in params.items():
            name = key[1:] if key[:1] in _PREFIXES else key
            kind = type(value)
            if (
                (kind is str and not surrogates)
                or (kind is int and -_INT64 <= value < _INT64)
                or value is None
            ):
                named[name] = value
            else:
                named[name] = _value(value, number, name)
        if len(named) != len(params) or "" in named:
            raise _misnamed(params, number)
        return named
    if type(params) is list:
        kinds = set(map(type, params))
        if not surrogates and (kinds <= _PLAIN or (kinds <= _PLAIN_OR_INTEGER and _fit(params))):
            return tuple(params)
        return tuple(_value(value, number, place) for place, value in enumerate(params, 1))
    raise _bad(f'"params" must be an object or a list, not {_kind(params)}', number)


_PREFIXES = frozenset(":$@?")
_PLAIN = {str, float, type(None)}
_PLAIN_OR_INTEGER = {*_PLAIN, int}


def _fit(params: list[Any]) -> bool:
    """Do its integers have 64 bits?"""
    return all(type(value) is not int or -_INT64 <= value < _INT64 for value in params)


def _misnamed(params: dict[str, Any], number: int) -> HaError:
    names = [key[1:] if key[:1] in _PREFIXES else key for key in params]
    if "" in names:
        return _bad("a parameter has no name", number, Code.BAD_PARAMETERS)
    twice = next(name for name in names if names.count(name) > 1)
    return _bad(f"the parameter {json.dumps(twice)} is given twice", number, Code.BAD_PARAMETERS)


def _value(value: object, number: int, name: str | int) -> Value:
    if value is None or type(value) is float:
        return value
    if type(value) is str:
        if not _is_unicode(value):
            raise _refuse(
                "the string holds a lone surrogate, which is not valid Unicode;"
                ' bytes go in as {"base64": "…"}',
                number,
                name,
                Code.BAD_TEXT,
            )
        return value
    if type(value) is int:
        if not -_INT64 <= value < _INT64:
            raise _refuse("the integer does not fit in 64 bits", number, name)
        return value
    if type(value) is bool:
        return int(value)
    if type(value) is dict and len(value) == 1:
        [(tag, content)] = value.items()
        if tag == "base64":
            return _bytes(content, number, name)
        if tag == "real":
            if content == "inf":
                return math.inf
            if content == "-inf":
                return -math.inf
            raise _refuse('"real" takes "inf" or "-inf"; write other reals plainly', number, name)
        if tag == "text_base64":
            raise _refuse(
                'TEXT that is not UTF-8 cannot be bound: give {"base64": "…"},'
                " and CAST(… AS TEXT) in the SQL",
                number,
                name,
                Code.BAD_TEXT,
            )
    raise _refuse(
        f"{_kind(value)} is no value of SQLite's: give null, a number, a string, a boolean,"
        ' {"base64": "…"}, {"real": "inf"}, or JSON text as a string',
        number,
        name,
    )


def _bytes(content: object, number: int, name: str | int) -> bytes:
    if type(content) is str:
        try:
            return base64.b64decode(content, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise _refuse("base64 takes a string in the standard alphabet, with padding", number, name)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind(value: object) -> str:
    if value is None:
        return "null"
    if type(value) is bool:
        return "a boolean"
    if type(value) is int or type(value) is float:
        return "a number"
    if type(value) is str:
        return "a string"
    return "a list" if type(value) is list else "an object"


def _bad(message: str, number: int = 0, code: Code = Code.BAD_REQUEST) -> HaError:
    return HaError(code, f"statement {number}: {message}" if number else message)


def _refuse(reason: str, number: int, name: str | int, code: Code = Code.BAD_PARAMETERS) -> HaError:
    label = json.dumps(name) if type(name) is str else str(name)
    return _bad(f"parameter {label}: {reason}", number, code)


# Answers


def encode_results(
    results: Sequence[Result], *, many: bool, answer: Format = DEFAULT_FORMAT
) -> Iterator[bytes]:
    """The body in pieces of bounded work: one result, or ``{"results": […]}``.

    A statement with columns answers its rows. Any other answers the columns ``rows_affected``
    and ``last_insert_id``, as the existing system does.
    """
    if not many:
        (result,) = results
        yield from _result(result, answer)
        return
    pending = ['{"results":[']
    separator = ""
    for result in results:
        if result.columns:
            pending.append(separator)
            yield "".join(pending).encode()
            pending.clear()
            yield from _result(result, answer)
        else:
            pending.append(separator + _counts(result, answer))
            if len(pending) >= ROWS_A_PIECE:
                yield "".join(pending).encode()
                pending.clear()
        separator = ","
    pending.append("]}")
    yield "".join(pending).encode()


def _counts(result: Result, answer: Format) -> str:
    last = result.last_insert_id
    text = f'"{last}"' if answer.big_integers_as_strings and abs(last) > _MAX_EXACT else str(last)
    return (
        f'{{"columns":["rows_affected","last_insert_id"],"rows":[[{result.rows_affected},{text}]]}}'
    )


def _result(result: Result, answer: Format) -> Iterator[bytes]:
    if not result.columns:
        yield _counts(result, answer).encode()
        return
    names = _encode_plain([column.name for column in result.columns])
    head = b'{"columns":' + names.encode("utf-8", "replace") + b',"rows":['
    rows = result.rows
    if len(rows) <= ROWS_A_PIECE:
        yield head + _rows(rows, answer) + b"]}"
        return
    yield head + _rows(rows[:ROWS_A_PIECE], answer)
    for start in range(ROWS_A_PIECE, len(rows), ROWS_A_PIECE):
        yield b"," + _rows(rows[start : start + ROWS_A_PIECE], answer)
    yield b"]}"


def _rows(rows: list[tuple[Value, ...]], answer: Format) -> bytes:
    """The rows without the brackets around all of them."""
    if not answer.big_integers_as_strings:
        # The encoder in C writes what is plain JSON, and calls back for BLOBs. It stops at
        # infinities and at text that UTF-8 cannot write: both are rare.
        try:
            return _ENCODERS[answer.bare_blobs](rows)[1:-1].encode()
        except (ValueError, UnicodeEncodeError):
            pass
    return _encode_plain([[_plain(value, answer) for value in row] for row in rows])[1:-1].encode()


def _plain(value: Value, answer: Format) -> object:
    if type(value) is float and not math.isfinite(value):
        return None if math.isnan(value) else {"real": "inf" if value > 0 else "-inf"}
    if type(value) is int and answer.big_integers_as_strings and abs(value) > _MAX_EXACT:
        return str(value)
    if type(value) is str and not _is_unicode(value):
        return _tagged(RawText(value.encode("utf-8", "surrogatepass")))
    if isinstance(value, bytes | bytearray | memoryview | RawText):
        return _bare(value) if answer.bare_blobs else _tagged(value)
    return value


def _tagged(value: object) -> dict[str, str]:
    if isinstance(value, RawText):
        return {"text_base64": base64.b64encode(value.data).decode("ascii")}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"base64": base64.b64encode(value).decode("ascii")}
    raise TypeError(f"not a value of SQLite's: {type(value).__name__}")


def _bare(value: object) -> str | dict[str, str]:
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    return _tagged(value)


_encode_plain = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode

_ENCODERS = {
    bare: json.JSONEncoder(
        ensure_ascii=False,
        allow_nan=False,
        check_circular=False,
        separators=(",", ":"),
        default=_bare if bare else _tagged,
    ).encode
    for bare in (False, True)
}
