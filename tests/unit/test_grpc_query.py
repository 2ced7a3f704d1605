"""The Query stream, as grpcio and clients of the existing system use it."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import empty_pb2, wrappers_pb2

from ha.wire.grpc.session import Limits
from tests.support.grpc_client import (
    Request,
    Stream,
    channel,
    messages,
    named,
    pack,
    request,
    rows,
    services,
)
from tests.support.grpc_server import Served, serving

PING = Request(type=messages.QUERY_TYPE_PING)


@pytest.fixture(scope="module")
def node() -> Iterator[Served]:
    with serving(limits=Limits(request=2**20, result=64 * 1024)) as node:
        yield node


@pytest.fixture
def stub(node: Served) -> Iterator[object]:
    with channel(node.target) as connection:
        yield services.DatabaseServiceStub(connection)


@pytest.fixture
def stream(stub: object) -> Iterator[Stream]:
    stream = Stream(stub, timeout=30)
    stream.ask("DROP TABLE IF EXISTS t")
    assert not stream.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, x)").error
    yield stream
    stream.close()


def test_a_statement_and_its_result(stream: Stream) -> None:
    wrote = stream.ask("INSERT INTO t(x) VALUES (?), (?), (?), (?)", "a", 1.5, b"\x00", None)
    assert (wrote.rows_affected, wrote.last_insert_id) == (4, 4)
    assert not wrote.HasField("result_set")
    read = stream.ask("SELECT id, x FROM t ORDER BY id")
    assert list(read.result_set.columns) == ["id", "x"]
    assert rows(read) == [(1, "a"), (2, 1.5), (3, b"\x00"), (4, None)]
    assert not read.result_set.declared_types
    assert not read.HasField("session")


def test_no_rows_is_a_result_with_columns(stream: Stream) -> None:
    response = stream.ask("SELECT id, x FROM t")
    assert list(response.result_set.columns) == ["id", "x"]
    assert rows(response) == []


def test_the_type_is_a_hint(stream: Stream) -> None:
    update = {"type": messages.QUERY_TYPE_EXEC_UPDATE}
    query = {"type": messages.QUERY_TYPE_EXEC_QUERY}
    assert stream.rows("INSERT INTO t(x) VALUES (1) RETURNING id, x", **update) == [(1, 1)]
    assert stream.rows("SELECT x FROM t", **update) == [(1,)]
    assert stream.ask("DELETE FROM t", **query).rows_affected == 1


def test_an_error_is_an_answer_and_the_stream_lives_on(stream: Stream) -> None:
    bad = stream.ask("SELEC 1")
    assert "syntax error" in bad.error
    assert bad.error_detail.code == "syntax_error"
    assert bad.error_detail.position == 1
    stream.ask("INSERT INTO t VALUES (1, 1)")
    clash = stream.ask("INSERT INTO t VALUES (1, 2)")
    assert clash.error == "UNIQUE constraint failed: t.id"
    assert clash.error_detail.code == "unique_violation"
    assert stream.rows("SELECT x FROM t") == [(1,)]


def test_one_response_for_each_request_in_order(stream: Stream) -> None:
    asked = []
    for n in range(50):
        asked += [request("SELECT ?", n), request("nonsense"), PING, request(""), request("-- x")]
    stream.send(*asked)
    for n in range(50):
        assert rows(stream.receive()) == [(n,)]
        assert stream.receive().error
        assert not stream.receive().error
        assert not stream.receive().error
        assert not stream.receive().error


def test_parameters_by_name_or_by_ordinal(stream: Stream) -> None:
    assert stream.rows(named("SELECT :a, @b, $a", a=1, b="x")) == [(1, "x", 1)]
    shuffled = Request(
        sql="SELECT ?, ?",
        params=[
            messages.NamedValue(ordinal=2, value=pack("second")),
            messages.NamedValue(ordinal=1, value=pack("first")),
        ],
    )
    assert stream.rows(shuffled) == [("first", "second")]
    unset = Request(sql="SELECT ?, ?", params=[messages.NamedValue(ordinal=n) for n in (1, 2)])
    assert stream.rows(unset) == [(None, None)]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (request("SELECT ?"), "1 parameters, 0 were given"),
        (request("SELECT ?", 1, 2), "1 parameters, 2 were given"),
        (named("SELECT :a", b=1), "'a'"),
        (request("SELECT ?", wrappers_pb2.UInt64Value(value=2**64 - 1)), "beyond SQLite's"),
        (
            Request(sql="SELECT ?", params=[messages.NamedValue(ordinal=7, value=pack(1))]),
            "ordinals 1 to 1, not 7",
        ),
        (request("SELECT ?", messages.Row()), "unknown type 'sql.v1.Row'"),
    ],
)
def test_wrong_parameters_are_named(stream: Stream, bad: object, words: str) -> None:
    response = stream.ask(bad)
    assert words in response.error
    assert stream.rows("SELECT 1") == [(1,)]


def test_transactions(stub: object, stream: Stream) -> None:
    other = Stream(stub, timeout=30)
    assert not stream.ask("BEGIN").error
    stream.ask("INSERT INTO t VALUES (1, 'mine')")
    assert stream.rows("SELECT x FROM t") == [("mine",)]
    assert other.rows("SELECT x FROM t") == []
    committed = stream.ask("COMMIT")
    assert not committed.error
    assert committed.txseq > 0
    assert other.rows("SELECT x FROM t") == [("mine",)]
    stream.ask("BEGIN")
    stream.ask("DELETE FROM t")
    stream.ask("ROLLBACK")
    assert other.rows("SELECT x FROM t") == [("mine",)]
    assert "no transaction" in stream.ask("COMMIT").error
    other.close()


def test_what_a_jdbc_client_does(stub: object) -> None:
    """Int32 parameters, a transaction, PRAGMA query_only, a PING between."""
    stream = Stream(stub, timeout=30)
    stream.ask("CREATE TABLE IF NOT EXISTS jdbc(id INTEGER PRIMARY KEY, n)")
    assert not stream.ask("BEGIN").error
    inserted = stream.ask(
        "INSERT INTO jdbc(id, n) VALUES (?, ?)",
        wrappers_pb2.Int32Value(value=1),
        wrappers_pb2.Int32Value(value=-7),
        type=messages.QUERY_TYPE_EXEC_UPDATE,
    )
    assert inserted.rows_affected == 1
    assert not stream.ask("COMMIT").error
    assert not stream.ask(PING).error
    assert not stream.ask("PRAGMA query_only = 1").error
    assert stream.ask("DELETE FROM jdbc").error_detail.code == "read_only"
    assert not stream.ask(PING).error
    assert not stream.ask("PRAGMA query_only = 0").error
    assert stream.rows("SELECT n FROM jdbc", type=messages.QUERY_TYPE_EXEC_QUERY) == [(-7,)]
    assert stream.ask("DELETE FROM jdbc").rows_affected == 1
    stream.close()


def test_several_statements_in_one_text_run_one_after_the_other(stream: Stream) -> None:
    response = stream.ask("INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b'); -- end")
    assert not response.error
    assert stream.rows("SELECT count(*) FROM t; ") == [(2,)]
    failed = stream.ask("DELETE FROM t WHERE id = 1; INSERT INTO nowhere VALUES (1); DELETE FROM t")
    assert "nowhere" in failed.error
    assert stream.rows("SELECT id FROM t") == [(2,)]


def test_txseq_is_told_and_may_be_presented(stub: object, stream: Stream) -> None:
    wrote = stream.ask("INSERT INTO t VALUES (1, 1)").txseq
    assert stream.ask("SELECT 1").txseq == wrote
    assert stream.rows("SHOW ha.txseq") == [(wrote,)]
    assert not stream.ask(f"SET ha.txseq = {wrote}").error
    reader = Stream(stub, timeout=30, metadata=[("ha-txseq", str(wrote))])
    assert reader.rows("SELECT x FROM t") == [(1,)]
    assert reader.ask("SELECT 1").txseq == 0
    reader.close()
    bad = Stream(stub, timeout=30, metadata=[("ha-txseq", "soon")])
    bad.send(PING)
    with pytest.raises(grpc.RpcError, match="ha-txseq") as info:
        bad.receive()
    assert info.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_result_over_the_limit_is_an_error_that_says_so(stream: Stream) -> None:
    big = (
        "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 10000) SELECT i FROM n"
    )
    response = stream.ask(big)
    assert "larger than 64KiB" in response.error
    assert response.error_detail.code == "too_large"
    assert "--max-result" in response.error_detail.hint
    assert "larger than 64KiB" in stream.ask("SELECT zeroblob(70000)").error
    near = stream.ask("SELECT zeroblob(65000)")
    assert not near.error
    assert near.ByteSize() <= 64 * 1024
    assert stream.rows("SELECT 1") == [(1,)]


def test_a_write_whose_rows_do_not_fit_says_that_it_was_done(stream: Stream) -> None:
    response = stream.ask("INSERT INTO t VALUES (1, zeroblob(70000)) RETURNING x")
    assert "was carried out" in response.error
    assert stream.rows("SELECT id FROM t") == [(1,)]


def test_pages_for_those_who_ask(stream: Stream) -> None:
    count = 10_000
    numbers = f"WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT {count})"
    response = stream.ask(f"{numbers} SELECT i FROM n", page_bytes=16 * 1024)
    got = rows(response)
    pages = 1
    while response.more:
        assert response.ByteSize() < 17 * 1024
        response = stream.ask(Request(type=messages.QUERY_TYPE_FETCH, page_bytes=16 * 1024))
        got += rows(response)
        pages += 1
    assert got == [(i,) for i in range(1, count + 1)]
    assert pages > 10
    assert "no open result" in stream.ask(Request(type=messages.QUERY_TYPE_FETCH)).error


def test_a_page_holds_one_row_at_least(stream: Stream) -> None:
    response = stream.ask("SELECT zeroblob(5000) UNION ALL SELECT 'end'", page_bytes=10)
    assert rows(response) == [(bytes(5000),)]
    assert response.more
    response = stream.ask(Request(type=messages.QUERY_TYPE_FETCH, page_bytes=10))
    assert rows(response) == [("end",)]
    assert not response.more


def test_pages_come_with_types_and_the_state_of_the_session(stream: Stream) -> None:
    response = stream.ask("SELECT id, x, 1 FROM t", page_bytes=1000)
    assert list(response.result_set.declared_types) == ["INTEGER", "", ""]
    assert response.session.replication_id == "ha.db"
    assert response.session.transaction == messages.SessionState.TRANSACTION_NONE
    begun = stream.ask("BEGIN", page_bytes=1000)
    assert begun.session.transaction == messages.SessionState.TRANSACTION_OPEN
    assert stream.ask("nonsense", page_bytes=1000).session.transaction == begun.session.transaction
    stream.ask("ROLLBACK")


def test_another_statement_closes_the_open_result(stream: Stream) -> None:
    sql = "VALUES (1), (2), (3)"
    assert stream.ask(sql, page_bytes=1).more
    assert stream.ask(PING).error == ""
    fetch = Request(type=messages.QUERY_TYPE_FETCH, page_bytes=1)
    assert stream.rows(fetch) == [(2,)]
    assert stream.rows("SELECT 9") == [(9,)]
    assert stream.ask(fetch).error


def batch(sql: str, *sets: tuple[object, ...]) -> object:
    return Request(
        sql=sql,
        batch=[messages.Params(params=request("", *values).params) for values in sets],
    )


def test_a_batch_is_one_transaction(stream: Stream) -> None:
    done = stream.ask(batch("INSERT INTO t VALUES (?, ?)", (1, "a"), (2, "b"), (3, "c")))
    assert (done.rows_affected, done.last_insert_id) == (3, 3)
    failed = stream.ask(batch("INSERT INTO t VALUES (?, ?)", (4, "d"), (1, "twice"), (5, "e")))
    assert failed.error_detail.code == "unique_violation"
    assert stream.rows("SELECT count(*) FROM t") == [(3,)]
    assert "INSERT" in stream.ask(batch("SELECT ?", (1,))).error


def test_a_batch_in_a_transaction_is_all_or_nothing_too(stream: Stream) -> None:
    stream.ask("BEGIN")
    stream.ask("INSERT INTO t VALUES (1, 'kept')")
    assert stream.ask(batch("INSERT INTO t VALUES (?, ?)", (2, "b"), (1, "twice"))).error
    assert stream.rows("SELECT id FROM t") == [(1,)]
    assert stream.ask(batch("INSERT INTO t VALUES (?, ?)", (2, "b"), (3, "c"))).rows_affected == 2
    assert not stream.ask("COMMIT").error
    assert stream.rows("SELECT id FROM t") == [(1,), (2,), (3,)]


def test_a_message_over_the_limit_ends_the_stream_and_says_why(stub: object) -> None:
    stream = Stream(stub, timeout=30)
    stream.send(request("SELECT length(?)", bytes(2**20)))
    with pytest.raises(grpc.RpcError) as info:
        stream.receive()
    assert info.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(2**20) in info.value.details()


def test_unknown_fields_and_types_hurt_nobody(stream: Stream) -> None:
    strange = Request.FromString(request("SELECT 1").SerializeToString() + b"\xa0\x7d\x01")
    strange.type = 77
    assert stream.rows(strange) == [(1,)]
    assert stream.rows(request("SELECT ?", empty_pb2.Empty())) == [(None,)]


def test_text_that_is_no_text_does_not_break_the_stream(stream: Stream) -> None:
    assert stream.ask("SELECT CAST(x'ff61' AS TEXT)").error_detail.code == "bad_text"
    assert stream.rows("SELECT ?", "a\x00b€😀") == [("a\x00b€😀",)]


def test_each_stream_is_a_session_of_its_own(stub: object, stream: Stream) -> None:
    other = Stream(stub, timeout=30)
    stream.ask("CREATE TEMP TABLE mine(x)")
    assert "mine" in other.ask("SELECT * FROM mine").error
    stream.ask("INSERT INTO t VALUES (5, 5)")
    assert stream.rows("SELECT last_insert_rowid()") == [(5,)]
    assert other.rows("SELECT last_insert_rowid()") == [(0,)]
    other.close()


def test_a_statement_may_open_its_transaction(stub: object, stream: Stream) -> None:
    other = Stream(stub, timeout=30)
    opened = stream.ask(
        "INSERT INTO t VALUES (1, 1)", begin=messages.BEGIN_DEFERRED, page_bytes=1000
    )
    assert opened.session.transaction == messages.SessionState.TRANSACTION_OPEN
    assert not stream.ask("INSERT INTO t VALUES (2, 2)", begin=messages.BEGIN_IMMEDIATE).error
    assert other.rows("SELECT * FROM t") == []
    assert not stream.ask("COMMIT").error
    assert other.rows("SELECT id FROM t") == [(1,), (2,)]
    failed = stream.ask("nonsense", begin=messages.BEGIN_IMMEDIATE, page_bytes=1000)
    assert failed.session.transaction == messages.SessionState.TRANSACTION_OPEN
    assert not stream.ask("ROLLBACK").error
    other.close()


def test_history_and_undo(stream: Stream) -> None:
    wrote = stream.ask("INSERT INTO t VALUES (1, 'x')").txseq
    response = stream.ask(f"HISTORY {wrote}")
    assert list(response.result_set.columns) == ["seq", "sql", "timestamp"]
    kinds = [value.type_url.rpartition(".")[2] for value in response.result_set.rows[0].values]
    assert kinds == ["UInt64Value", "StringValue", "Timestamp"]
    ((seq, sql, when),) = rows(response)
    assert seq == wrote
    assert "INSERT INTO t" in sql
    assert when.seconds >= 0
    undone = stream.ask(f"UNDO {wrote}")
    assert not undone.error
    assert undone.txseq > wrote
    assert stream.rows("SELECT * FROM t") == []
    stream.ask("BEGIN")
    assert stream.ask(f"UNDO {wrote}").error_detail.code == "in_transaction"
    stream.ask("ROLLBACK")
