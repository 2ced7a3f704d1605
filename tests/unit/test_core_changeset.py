"""The change-set message: round trips, and what is refused by name."""

from __future__ import annotations

import gc
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.core.changeset import (
    Change,
    ChangeSet,
    FormatError,
    Identify,
    Kind,
    Operation,
    Origin,
    SequenceChange,
    decode,
    decode_change,
    encode,
    encode_change,
    encode_changes,
)
from ha.core.values import RawText, Value

INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(max_size=12)
NOT_UTF8 = st.binary(min_size=1, max_size=4).map(lambda b: RawText(b + b"\xff"))
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(), INTEGERS, st.floats(allow_nan=False), TEXT, st.binary(max_size=12), NOT_UTF8
)
NAMES = st.text(min_size=1, max_size=6)


@st.composite
def changes(draw: st.DrawFn) -> Change:
    operation = draw(st.sampled_from(list(Operation)))
    database = draw(st.sampled_from(("main", "temp")))
    if operation in (Operation.SQL, Operation.CUSTOM):
        args = draw(st.lists(VALUES, max_size=3))
        return Change(
            operation, draw(TEXT), command=draw(TEXT), args=tuple(args), database=database
        )
    columns = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    row = st.tuples(*[VALUES] * len(columns))
    rowid = st.none() | INTEGERS
    return Change(
        operation,
        draw(TEXT),
        tuple(columns),
        tuple(draw(st.lists(st.sampled_from(columns), unique=True))),
        draw(rowid),
        draw(rowid),
        None if operation is Operation.INSERT else draw(row),
        None if operation is Operation.DELETE else draw(row),
        database=database,
    )


CHANGE_SETS = st.builds(
    ChangeSet,
    node=TEXT,
    process_id=INTEGERS,
    database_id=TEXT,
    changes=st.lists(changes(), max_size=5).map(tuple),
    timestamp_ns=INTEGERS,
    kind=st.sampled_from(list(Kind)),
    uuid=st.none() | TEXT,
    base=st.none() | INTEGERS,
    after=st.none() | INTEGERS,
    identify=st.sampled_from(list(Identify)),
    virtual=st.lists(NAMES, max_size=2).map(tuple),
    sequences=st.lists(
        st.builds(SequenceChange, NAMES, st.none() | INTEGERS, st.none() | INTEGERS), max_size=2
    ).map(tuple),
    target=st.none() | INTEGERS,
    snapshot=st.none() | INTEGERS,
    extra=st.dictionaries(st.sampled_from(("part", "era")), st.lists(INTEGERS), max_size=2),
)


@given(CHANGE_SETS, st.none() | INTEGERS)
def test_a_message_comes_back_as_it_was(cs: ChangeSet, number: int | None) -> None:
    if number is not None:
        cs = replace(cs, origin=Origin(cs.node, cs.process_id, number))
    payload = encode(cs)
    assert payload.isascii()
    back = decode(payload)
    assert back == cs
    assert repr(back) == repr(cs)  # 1 is not 1.0, -0.0 is not 0.0


@given(st.lists(changes(), max_size=6))
def test_the_fast_text_of_changes_is_the_plain_one(listed: list[Change]) -> None:
    doubled = [c for c in listed for _ in (1, 2)]
    assert json.loads(encode_changes(doubled)) == [encode_change(c) for c in doubled]
    assert [decode_change(raw) for raw in json.loads(encode_changes(doubled))] == doubled


def test_rows_of_one_table_share_their_columns_again() -> None:
    cs = ChangeSet(
        "n", 1, "x", tuple(Change(Operation.INSERT, "t", ("a", "b"), ("a",), None, i, None, (i, i))
                           for i in range(3)),
    )  # fmt: skip
    one, two, three = decode(encode(cs)).changes
    assert one.columns is two.columns is three.columns
    assert one.pk_columns is three.pk_columns


def raw_message(change: Any = None, **members: Any) -> bytes:
    base: dict[str, Any] = {"node": "n", "process_id": 1, "filename": "x", "changes": []}
    if change is not None:
        base["changes"] = [change]
    return json.dumps({**base, **members}).encode()


INSERT = {"operation": "INSERT", "table": "t", "columns": ["a"], "new_values": [1]}


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"node": NaN}', "not JSON: NaN is not JSON"),
        (b"[]", "a change set is a JSON object, not list"),
        (b"null", "a change set is a JSON object, not NoneType"),
        (raw_message(node=1), "node is not a string"),
        (raw_message(process_id="1"), "process_id is not an integer"),
        (raw_message(process_id=True), "process_id is not an integer"),
        (raw_message(timestamp_ns=1.5), "timestamp_ns is not an integer"),
        (raw_message(filename=[]), "filename is not a string"),
        (raw_message(changes="abc"), "changes is not a list"),
        (raw_message(changes={"a": 1}), "changes is not a list"),
        (raw_message("x"), "a change is a JSON object, not str"),
        (raw_message({}), "operation None is not known"),
        (raw_message({"operation": "MERGE"}), "operation 'MERGE' is not known"),
        (raw_message({"operation": ["INSERT"]}), "broken change set"),
        (raw_message({**INSERT, "table": 5}), "table is not a string"),
        (raw_message({**INSERT, "columns": "a"}), "columns is not a list"),
        (raw_message({**INSERT, "columns": [1]}), "a name is not a string: 1"),
        (raw_message({**INSERT, "columns": [[]]}), "a name is not a string"),
        (raw_message({**INSERT, "pk_columns": {"a": 1}}), "pk_columns is not a list"),
        (raw_message({**INSERT, "columns": ["a", "b"]}), "1 values for 2 columns"),
        (raw_message({**INSERT, "columns": None}), "1 values for 0 columns"),
        (raw_message({**INSERT, "new_values": None}), "INSERT without new_values"),
        (raw_message({**INSERT, "new_values": {"a": 1}}), "new_values is not a list"),
        (raw_message({**INSERT, "operation": "UPDATE", "new_values": []}), "UPDATE without"),
        (raw_message({**INSERT, "new_values": [{}]}), "not a SQLite value in JSON: dict"),
        (raw_message({**INSERT, "new_values": [2**63]}), "integer out of SQLite's range"),
        (raw_message({**INSERT, "new_rowid": "1"}), "new_rowid is not a 64-bit integer"),
        (raw_message({**INSERT, "new_rowid": 2**63}), "new_rowid is not a 64-bit integer"),
        (raw_message({**INSERT, "old_rowid": True}), "old_rowid is not a 64-bit integer"),
        (raw_message({**INSERT, "new_types": "bb"}), "1 values with 2 type letters"),
        (raw_message({**INSERT, "new_types": 5}), "type letters are not a string"),
        (raw_message({**INSERT, "new_types": "b"}), "type letter 'b' needs a string"),
        (raw_message({**INSERT, "new_types": "q", "new_values": ["x"]}), "unknown type letter"),
        (raw_message({**INSERT, "new_types": "b", "new_values": ["?"]}), "broken change set"),
        (raw_message({**INSERT, "new_types": "r", "new_values": ["x"]}), "broken change set"),
        (raw_message({"operation": "SQL", "args": "x"}), "args is not a list"),
        (raw_message({"operation": "SQL", "command": 1}), "command is not a string"),
        (raw_message(ha=1), "member 'ha' is not an object"),
        (raw_message(ha={}), "message version None is not known here: upgrade this node"),
        (raw_message(ha={"v": 2}), "message version 2 is not known here: upgrade this node"),
        (raw_message(ha={"v": 1, "kind": "other"}), "'other' is not a valid Kind"),
        (raw_message(ha={"v": 1, "kind": []}), "broken change set"),
        (raw_message(ha={"v": 1, "identify": "x"}), "'x' is not a valid Identify"),
        (raw_message(ha={"v": 1, "n": "1"}), "n is not an integer"),
        (raw_message(ha={"v": 1, "uuid": 5}), "uuid is not a string"),
        (raw_message(ha={"v": 1, "base": "5"}), "base is not a 64-bit integer"),
        (raw_message(ha={"v": 1, "virtual": "ft"}), "virtual is not a list"),
        (raw_message(ha={"v": 1, "virtual": [1]}), "a name is not a string"),
        (raw_message(ha={"v": 1, "sequences": [["t", 1]]}), "broken change set"),
        (raw_message(ha={"v": 1, "sequences": [[1, 1, 1]]}), "a sequence without the name"),
        (raw_message(ha={"v": 1, "sequences": [["t", "1", 1]]}), "a sequence is not a 64-bit"),
    ],
)
def test_broken_messages_are_refused_by_name(payload: bytes, sentence: str) -> None:
    with pytest.raises(FormatError) as error:
        decode(payload)
    assert sentence in str(error.value)


def test_absent_and_null_are_zero_and_empty() -> None:
    cs = decode(b'{"changes":null,"node":null}')
    assert cs == ChangeSet("", 0, "", ())
    got = decode(raw_message({"operation": "DELETE", "table": "t", "pk_columns": None})).changes[0]
    assert got == Change(Operation.DELETE, "t")


def test_members_of_tomorrow_are_kept() -> None:
    cs = decode(raw_message(ha={"v": 1, "n": 3, "era": 4}, more=1))
    assert cs.extra == {"era": 4}
    assert json.loads(encode(cs))["ha"] == {"v": 1, "n": 3, "era": 4}


def test_the_message_id() -> None:
    assert Origin("node1", 17, 3).message_id == "node1-17-3"


def test_a_value_that_sqlite_does_not_know_is_not_encoded() -> None:
    bad: Any = (object(),)
    cs = ChangeSet("n", 1, "x", (Change(Operation.INSERT, "t", ("a",), new_values=bad),))
    with pytest.raises(TypeError, match="not a SQLite value: object"):
        encode(cs)


def test_decoding_leaves_the_garbage_collector_as_it_was() -> None:
    changes = tuple(
        Change(Operation.INSERT, "t", ("a",), (), None, i, None, ("x" * 50,)) for i in range(2_000)
    )
    payload = encode(ChangeSet("n", 1, "x", changes))
    assert decode(payload).changes == changes
    assert gc.isenabled()
    with pytest.raises(FormatError):
        decode(payload[:-1])
    assert gc.isenabled()
    gc.disable()
    try:
        decode(payload)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_many_rows_are_encoded_together_as_each_would_be_alone() -> None:
    columns = ("id", "text")
    odd = ["],\n[", "\n", "\0", '"', "é", "\ud800", "", None, 1, -(2**63)]
    rows = [
        Change(Operation.UPDATE, "t", columns, ("id",), n, n, (n, value), (n, "new"))
        for n, value in enumerate(odd)
    ]
    some = [
        Change(Operation.INSERT, "t", columns, ("id",), None, n, None, (n, value))
        for n, value in enumerate([1.5, b"b", *odd])
    ]
    mixed = [*rows, *some, rows[0], *some[2:]]
    assert json.loads(encode_changes(mixed)) == [encode_change(c) for c in mixed]
