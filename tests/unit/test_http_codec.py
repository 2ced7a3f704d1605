"""The JSON of the query endpoint: what comes in, what goes out, and that both are exact."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.core.errors import Code, HaError
from ha.core.values import RawText, Value
from ha.engine.api import Column, Kind, Result, Statement
from ha.wire.http import codec
from ha.wire.http.codec import DEFAULT_FORMAT, Format, decode_query, encode_results
from ha.wire.http.errors import STATUS, body_of, headers_of

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters())  # with lone surrogates
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


RAW_TEXT = st.binary(min_size=1).filter(lambda data: not _is_utf8(data)).map(RawText)
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(), INT64, st.floats(allow_nan=False), UNICODE, st.binary()
)
NAMES = UNICODE.filter(lambda name: name != "" and name[0] not in ":$@?")


def strict(text: bytes | str) -> Any:
    """JSON by RFC 8259 and nothing more, as picky parsers want it."""

    def refuse(name: str) -> NoReturn:
        raise ValueError(name)

    body = text.decode("utf-8") if isinstance(text, bytes) else text
    document = json.loads(body, parse_constant=refuse)
    json.dumps(document, ensure_ascii=False).encode("utf-8")  # raises at a lone surrogate
    return document


def answer(
    rows: Sequence[tuple[Value, ...]], answer: Format = DEFAULT_FORMAT, names: Sequence[str] = ()
) -> Any:
    columns = tuple(Column(name) for name in names or ("c",) * max(map(len, rows), default=1))
    result = Result(Kind.READ, "SELECT", columns, list(rows))
    return strict(b"".join(encode_results([result], many=False, answer=answer)))


def params_of(document: object) -> Any:
    body = json.dumps({"sql": "SELECT 1", "params": document}).encode()
    (statement,) = decode_query(body).statements
    return statement.params


def refusal(body: bytes | str) -> HaError:
    with pytest.raises(HaError) as caught:
        decode_query(body.encode() if isinstance(body, str) else body)
    return caught.value


def answered(body: bytes) -> int:
    """The status that a request ends with, as far as the codec decides."""
    try:
        decode_query(body)
    except HaError as error:
        return STATUS[error.code]
    return 200


# Both directions


@given(st.lists(VALUES, min_size=1))
def test_every_value_of_sqlite_survives_the_way_out_and_in_again(values: list[Value]) -> None:
    [row] = answer([tuple(values)])["rows"]
    assert typed(params_of(row)) == typed(values)


@given(st.dictionaries(NAMES, VALUES, min_size=1))
def test_named_parameters_are_exact(values: dict[str, Value]) -> None:
    [row] = answer([tuple(values.values())])["rows"]
    given_params = dict(zip(values, row, strict=True))
    back = params_of(given_params)
    assert list(back) == list(values)
    assert typed(back.values()) == typed(values.values())


def typed(values: Any) -> list[tuple[type, object]]:
    """Equality that tells 1 from 1.0 and 0.0 from -0.0."""
    return [(type(v), repr(v)) for v in values]


# Requests


def test_one_statement() -> None:
    query = decode_query(b'{"sql": "SELECT :a", "params": {"a": 1}}')
    assert query == codec.Query([Statement("SELECT :a", {"a": 1})], many=False)


def test_a_list_is_a_transaction_even_of_one_or_none() -> None:
    assert decode_query(b'[{"sql": "SELECT 1"}]').many
    assert decode_query(b"[]") == codec.Query([], many=True)


@pytest.mark.parametrize("params", ["null", None])
def test_no_parameters(params: str | None) -> None:
    tail = "" if params is None else f', "params": {params}'
    (statement,) = decode_query(f'{{"sql": "SELECT 1"{tail}}}'.encode()).statements
    assert statement.params is None


@pytest.mark.parametrize("prefix", ["", ":", "$", "@"])
def test_prefixes_of_names_fall_away(prefix: str) -> None:
    assert params_of({f"{prefix}name": "x"}) == {"name": "x"}


def test_numbers_are_names_of_positions() -> None:
    assert params_of({"$1": "a", "$2": "b"}) == {"1": "a", "2": "b"}
    assert params_of({"?1": "a"}) == {"1": "a"}


def test_a_list_of_parameters_is_positional() -> None:
    assert params_of([1, "a", None]) == (1, "a", None)


def test_tags() -> None:
    params = [{"base64": "AP8="}, {"real": "inf"}, {"real": "-inf"}]
    assert params_of(params) == (b"\x00\xff", math.inf, -math.inf)


@given(RAW_TEXT)
def test_text_that_is_no_utf8_goes_out_but_not_in(text: RawText) -> None:
    [[value]] = answer([(text,)])["rows"]
    assert base64.b64decode(value["text_base64"]) == text.data
    error = refusal(json.dumps({"sql": "x", "params": [value]}))
    assert error.code is Code.BAD_TEXT
    assert "CAST" in error.message


def test_booleans_are_the_integers_of_sql() -> None:
    assert typed(params_of([True, False])) == typed([1, 0])


def test_embedded_nul_and_surrogate_pairs_are_text() -> None:
    (statement,) = decode_query(
        rb'{"sql": "SELECT ?", "params": ["a\u0000\ud83d\ude00"]}'
    ).statements
    assert statement.params == ("a\x00\N{GRINNING FACE}",)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert decode_query(b'\xef\xbb\xbf{"sql": "SELECT 1"}').statements == [Statement("SELECT 1")]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", ["empty", "sql"]),
        (b" \n", ["empty"]),
        (b'{"sql": "SELECT 1"', ["not JSON", "line 1 column 19"]),
        (b'{"sql":\n oops}', ["line 2 column 2", "character 9"]),
        (b'{"sql": "SELECT 1"} x', ["Extra data", "column 21"]),
        (b'{"sql": "SELECT \xff"}', ["UTF-8", "0xff", "at 16"]),
        (b'{"sql": "a", "sql": "b"}', ['"sql" twice']),
        (b'{"sql": "a", "params": {"x": 1, "x": 2}}', ['"x" twice']),
        (b'{"sql": "a", "params": [NaN]}', ["NaN", "null"]),
        (b'{"sql": "a", "params": [-Infinity]}', ["-Infinity", '{"real": "inf"}']),
        (b'{"sql": "a", "params": [1e999]}', ["1e999", "out of range"]),
        (b"[" * 100_000, ["deep"]),
        (b"1" * 5_000, ["integer", "range"]),
        (b"7", ["a number", "object with sql"]),
        (b'"SELECT 1"', ["a string"]),
        (b'[{"sql": "a"}, null]', ["statement 2", "null"]),
        (b'[{"sql": "a"}, {"params": []}]', ["statement 2", '"sql" is missing']),
        (b'{"sql": 1}', ['"sql" must be a string', "a number"]),
        (b'{"sql": "a", "args": []}', ['"args"', "sql and params"]),
        (b'{"sql": "a", "params": "x"}', ['"params"', "a string"]),
        (rb'{"sql": "\ud800"}', ['"sql"', "surrogate"]),
    ],
)
def test_what_is_no_request_is_refused_in_words(body: bytes, words: list[str]) -> None:
    error = refusal(body)
    assert error.code is Code.BAD_REQUEST
    for word in words:
        assert word in error.message


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ('{"a": 9223372036854775808}', ['"a"', "64 bits"]),
        ("[1, -9223372036854775809]", ["parameter 2", "64 bits"]),
        ('{"a": {"b": 1}}', ['"a"', "an object"]),
        ('{"a": [1]}', ['"a"', "a list"]),
        ('{"a": {"base64": "?"}}', ['"a"', "base64"]),
        ('{"a": {"base64": 1}}', ['"a"', "base64"]),
        ('{"a": {"base64": "QQ"}}', ["padding"]),
        ('{"a": {"real": "nan"}}', ['"inf" or "-inf"']),
        ('{"a": {"base64": "", "real": "inf"}}', ['"a"', "an object"]),
        ('{"a": 1, ":a": 2}', ['"a" is given twice']),
        ('{":": 1}', ["no name"]),
    ],
)
def test_bad_parameters_are_named(params: str, words: list[str]) -> None:
    for body in (f'{{"sql": "x", "params": {params}}}', f'[{{"sql": "x", "params": {params}}}]'):
        error = refusal(body)
        assert error.code is Code.BAD_PARAMETERS
        for word in words:
            assert word in error.message
        assert error.message.startswith("statement 1: ") == body.startswith("[")


@pytest.mark.parametrize("params", [r'{"a": "\ud800x"}', r'["\uDFFF"]', r'{"a": "\ude00\ud83d"}'])
def test_lone_surrogates_are_no_text(params: str) -> None:
    error = refusal(f'{{"sql": "x", "params": {params}}}')
    assert error.code is Code.BAD_TEXT
    assert "surrogate" in error.message


@given(st.binary())
def test_any_bytes_are_a_query_or_refused(body: bytes) -> None:
    assert answered(body) in (200, 400)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["sql", "params", "base64"]), inner)
    ),
)


@given(JSON)
def test_any_json_is_a_query_or_refused(document: object) -> None:
    assert answered(json.dumps(document).encode()) in (200, 400)


# Answers


def test_rows() -> None:
    assert answer([(1, "a"), (2, None)], names=["id", "name"]) == {
        "columns": ["id", "name"],
        "rows": [[1, "a"], [2, None]],
    }


def test_two_columns_may_have_one_name() -> None:
    assert answer([(1, 2)], names=["a", "a"])["columns"] == ["a", "a"]


def test_a_write_answers_its_counts() -> None:
    result = Result(Kind.WRITE, "INSERT", rows_affected=1, last_insert_id=3)
    assert b"".join(encode_results([result], many=False)) == (
        b'{"columns":["rows_affected","last_insert_id"],"rows":[[1,3]]}'
    )


def test_what_returns_rows_answers_them_whatever_it_is() -> None:
    result = Result(Kind.WRITE, "INSERT", (Column("id"),), [(7,)], rows_affected=1)
    assert strict(b"".join(encode_results([result], many=False)))["rows"] == [[7]]


def test_no_rows_still_have_columns() -> None:
    assert answer([], names=["a"]) == {"columns": ["a"], "rows": []}


def test_results_of_a_list() -> None:
    write = Result(Kind.WRITE, "INSERT", rows_affected=1, last_insert_id=2)
    read = Result(Kind.READ, "SELECT", (Column("a"),), [(1,)])
    written = {"columns": ["rows_affected", "last_insert_id"], "rows": [[1, 2]]}
    rows = {"columns": ["a"], "rows": [[1]]}
    for results, documents in (
        ([], []),
        ([write], [written]),
        ([read], [rows]),
        ([write, read, read, write, write], [written, rows, rows, written, written]),
    ):
        body = b"".join(encode_results(results, many=True))
        assert strict(body) == {"results": documents}


@pytest.mark.parametrize("count", [999, 1000, 1001, 2000, 2500])
def test_long_answers_come_in_pieces_that_make_one_document(count: int) -> None:
    rows: list[tuple[Value, ...]] = [(n, b"x") for n in range(count)]
    result = Result(Kind.READ, "SELECT", (Column("a"), Column("b")), rows)
    pieces = list(encode_results([result], many=False))
    assert len(pieces) == 1 if count <= 1000 else len(pieces) >= 3
    assert [row[0] for row in strict(b"".join(pieces))["rows"]] == list(range(count))
    writes = [Result(Kind.WRITE, rows_affected=1, last_insert_id=n) for n in range(count)]
    many = b"".join(encode_results(writes, many=True))
    assert [r["rows"][0][1] for r in strict(many)["results"]] == list(range(count))


def test_values_that_json_has_no_word_for() -> None:
    row = (b"\x00\xff", math.inf, -math.inf, math.nan, RawText(b"\xff"), "\ud800", bytearray(b"a"))
    assert answer([row])["rows"] == [
        [
            {"base64": "AP8="},
            {"real": "inf"},
            {"real": "-inf"},
            None,
            {"text_base64": "/w=="},
            {"text_base64": "7aCA"},
            {"base64": "YQ=="},
        ]
    ]


def test_bare_blobs() -> None:
    bare = Format(bare_blobs=True)
    assert answer([(b"\x00\xff", RawText(b"\xff"))], bare)["rows"] == [
        ["AP8=", {"text_base64": "/w=="}]
    ]
    assert answer([(b"\x00\xff", math.inf)], bare)["rows"] == [["AP8=", {"real": "inf"}]]


def test_big_integers() -> None:
    row = (2**53 - 1, 2**53, -(2**53) + 1, -(2**53), 2**63 - 1, 1.5)
    assert typed(answer([row])["rows"][0]) == typed(row)
    as_strings = Format(big_integers_as_strings=True)
    assert answer([row], as_strings)["rows"] == [
        [2**53 - 1, str(2**53), -(2**53) + 1, str(-(2**53)), str(2**63 - 1), 1.5]
    ]
    write = Result(Kind.WRITE, rows_affected=1, last_insert_id=2**60)
    body = b"".join(encode_results([write], many=False, answer=as_strings))
    assert strict(body)["rows"] == [[1, str(2**60)]]


@given(
    st.lists(st.tuples(VALUES | st.floats() | TEXT | RAW_TEXT, VALUES)),
    st.booleans(),
    st.booleans(),
)
def test_answers_are_always_strict_json(
    rows: list[tuple[Value, Value]], bare: bool, strings: bool
) -> None:
    assert len(answer(rows, Format(bare, strings))["rows"]) == len(rows)


def test_a_name_that_is_no_unicode_is_still_json() -> None:
    assert answer([(1,)], names=["a\ud800"])["columns"] == ["a?"]


# Errors


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)


def test_an_error_tells_what_it_knows() -> None:
    error = HaError(Code.SYNTAX_ERROR, 'near "\ud800"', hint="h", detail="d", offset=0, sequence=7)
    assert strict(body_of(error)) == {
        "error": {
            "code": "syntax_error",
            "message": 'near "?"',
            "hint": "h",
            "detail": "d",
            "offset": 0,
            "sequence": 7,
        }
    }
    assert strict(body_of(HaError(Code.BUSY, "m"))) == {"error": {"code": "busy", "message": "m"}}


def test_only_what_may_be_repeated_says_when() -> None:
    retried = {code for code in Code if dict(headers_of(HaError(code, ""))).get(b"retry-after")}
    assert Code.NOT_WRITTEN in retried
    assert retried.isdisjoint({Code.OUTCOME_UNKNOWN, Code.WRITTEN_NOT_APPLIED, Code.INTERNAL})
    assert all(STATUS[code] == 503 for code in retried)
