"""The driver against PEP 249, sentence by sentence, on a real node."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ha.dbapi as db
from ha.wire.http.server import Tls
from tests.support.grpc_server import Served, serving

FOREVER = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n"


@pytest.fixture(scope="module")
def node() -> Iterator[Served]:
    with serving() as node:
        yield node


@pytest.fixture
def connection(node: Served) -> Iterator[db.Connection]:
    connection = db.connect(f"ha://{node.target}/ha")
    connection.execute("DROP TABLE IF EXISTS t")
    connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT, x)")
    connection.commit()
    yield connection
    connection.close()


# --- the module ----------------------------------------------------------------------


def test_what_the_module_says_of_itself() -> None:
    assert (db.apilevel, db.threadsafety, db.paramstyle) == ("2.0", 1, "qmark")


def test_the_tree_of_exceptions() -> None:
    assert issubclass(db.Warning, Exception)
    assert issubclass(db.Error, Exception)
    assert issubclass(db.InterfaceError, db.Error)
    assert issubclass(db.DatabaseError, db.Error)
    for name in ("Data", "Operational", "Integrity", "Internal", "Programming", "NotSupported"):
        cls = getattr(db, f"{name}Error")
        assert issubclass(cls, db.DatabaseError)
        assert getattr(db.Connection, f"{name}Error") is cls


def test_type_objects_equal_the_types_that_columns_declare(connection: db.Connection) -> None:
    cursor = connection.execute("SELECT id, name, x, 1.5, x'00' FROM t")
    assert cursor.description is not None
    assert [d[:2] for d in cursor.description] == [
        ("id", "INTEGER"),
        ("name", "TEXT"),
        ("x", None),
        ("1.5", None),
        ("x'00'", None),
    ]
    assert all(len(d) == 7 and set(d[2:]) == {None} for d in cursor.description)
    connection.execute("INSERT INTO t(name, x) VALUES ('a', 1)")
    cursor.execute("SELECT id, name, x, 1.5, x'00', CAST('2020-01-01' AS DATE) FROM t")
    kinds = [d[1] for d in cursor.description]
    assert [kinds[0] == db.NUMBER, kinds[0] == db.STRING] == [True, False]
    assert kinds[1] == db.STRING
    assert kinds[2] == db.NUMBER
    assert kinds[3] == db.NUMBER
    assert kinds[4] == db.BINARY
    assert db.STRING != db.NUMBER
    assert db.DATETIME == "TIMESTAMP"
    assert db.ROWID == "ROWID"


def test_constructors_of_types(connection: db.Connection) -> None:
    values = [
        db.Date(2024, 2, 29),
        db.Time(1, 2, 3),
        db.Timestamp(2024, 2, 29, 1, 2, 3),
        db.Binary(b"\x00\xff"),
    ]
    read = connection.execute("SELECT ?, ?, ?, ?", values).fetchone()
    assert read == ("2024-02-29", "01:02:03", "2024-02-29 01:02:03", b"\x00\xff")
    ticks = 1_700_000_000
    assert db.DateFromTicks(ticks) == datetime.date.fromtimestamp(ticks)
    assert db.TimestampFromTicks(ticks) == datetime.datetime.fromtimestamp(ticks)
    assert db.TimeFromTicks(ticks) == datetime.datetime.fromtimestamp(ticks).time()


# --- values --------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_a_value_comes_back_as_it_went(connection: db.Connection, values: list[object]) -> None:
    marks = ", ".join("?" * len(values))
    read = connection.execute(f"SELECT {marks}", values).fetchone()  # type: ignore[arg-type]
    assert read is not None
    assert [(type(v), v) for v in read] == [(type(v), v) for v in values]


def test_parameters_by_name(connection: db.Connection) -> None:
    assert connection.execute("SELECT :a, @b, $a", {"a": 1, "b": "x"}).fetchone() == (1, "x", 1)


@pytest.mark.parametrize(
    ("sql", "parameters", "error"),
    [
        ("SELECT ?", [object()], db.InterfaceError),
        ("SELECT ?", [2**63], db.DataError),
        ("SELECT ?", ["\ud800"], db.DataError),
        ("SELECT ?", "x", db.ProgrammingError),
        ("SELECT ?", 1, db.ProgrammingError),
        ("SELECT ?", [], db.ProgrammingError),
        ("SELECT ?", [1, 2], db.ProgrammingError),
        ("SELECT :a", {"b": 1}, db.ProgrammingError),
    ],
)
def test_parameters_that_cannot_be(
    connection: db.Connection, sql: str, parameters: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        connection.execute(sql, parameters)  # type: ignore[arg-type]
    assert connection.execute("SELECT 1").fetchone() == (1,)


# --- cursors -------------------------------------------------------------------------


def test_description_and_rowcount_follow_each_statement(connection: db.Connection) -> None:
    cursor = connection.cursor()
    assert (cursor.description, cursor.rowcount, cursor.lastrowid) == (None, -1, None)
    cursor.execute("INSERT INTO t(name) VALUES ('a'), ('b')")
    assert (cursor.description, cursor.rowcount, cursor.lastrowid) == (None, 2, 2)
    cursor.execute("UPDATE t SET x = 1 WHERE id > 5")
    assert cursor.rowcount == 0
    cursor.execute("SELECT * FROM t")
    assert cursor.description is not None
    assert cursor.rowcount == -1
    cursor.execute("CREATE INDEX i ON t(x)")
    assert (cursor.description, cursor.rowcount) == (None, -1)
    cursor.execute("DELETE FROM t")
    assert cursor.rowcount == 2
    cursor.execute("WITH n(i) AS (VALUES (7), (8)) INSERT INTO t(id) SELECT i FROM n")
    assert (cursor.rowcount, cursor.lastrowid) == (2, 8)
    cursor.execute("INSERT INTO t(name) VALUES ('c') RETURNING id")
    assert cursor.rowcount == 1
    assert cursor.fetchall() == [(9,)]


def test_fetching(connection: db.Connection) -> None:
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO t(id) VALUES (?)", [(n,) for n in range(10)])
    cursor.execute("SELECT id FROM t ORDER BY id")
    assert cursor.rownumber == 0
    assert cursor.fetchone() == (0,)
    assert cursor.arraysize == 1
    assert cursor.fetchmany() == [(1,)]
    cursor.arraysize = 2
    assert cursor.fetchmany() == [(2,), (3,)]
    assert cursor.fetchmany(3) == [(4,), (5,), (6,)]
    assert cursor.rownumber == 7
    assert next(cursor) == (7,)
    assert list(cursor) == [(8,), (9,)]
    assert cursor.fetchone() is None
    assert cursor.fetchmany(5) == []
    assert cursor.fetchall() == []


def test_no_rows_is_an_empty_result_and_no_result_is_an_error(connection: db.Connection) -> None:
    cursor = connection.execute("SELECT * FROM t")
    assert cursor.fetchone() is None
    assert cursor.fetchall() == []
    cursor.execute("INSERT INTO t(id) VALUES (1)")
    for fetch in (cursor.fetchone, cursor.fetchmany, cursor.fetchall):
        with pytest.raises(db.Error):
            fetch()
    with pytest.raises(db.Error):
        connection.cursor().fetchone()


def test_a_large_result_comes_in_pages(connection: db.Connection) -> None:
    """Far over what the node sends at once to a client that asks for no pages."""
    numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n LIMIT 100)"
    cursor = connection.execute(f"{numbers} SELECT i, zeroblob(100000) FROM n")
    assert cursor.fetchone() == (1, bytes(100_000))
    other = connection.execute("SELECT 'between'")
    assert [row[0] for row in cursor] == list(range(2, 101))
    assert other.fetchone() == ("between",)


def test_a_result_may_be_left_in_the_middle(connection: db.Connection) -> None:
    numbers = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n)"
    cursor = connection.execute(f"{numbers} SELECT i, zeroblob(100000) FROM n")
    assert cursor.fetchone() == (1, bytes(100_000))
    cursor.execute("SELECT 2")
    assert cursor.fetchall() == [(2,)]


def test_executemany(connection: db.Connection) -> None:
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO t(id, name) VALUES (?, ?)", ((n, str(n)) for n in range(100)))
    assert cursor.rowcount == 100
    cursor.executemany("UPDATE t SET x = :x WHERE id = :id", [{"id": 1, "x": 5}, {"id": 2, "x": 6}])
    assert cursor.rowcount == 2
    with pytest.raises(db.IntegrityError):
        cursor.executemany("INSERT INTO t(id) VALUES (?)", [(100,), (1,)])
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (100,)
    cursor.executemany("INSERT INTO t(id) VALUES (?)", [])
    with pytest.raises(db.ProgrammingError):
        cursor.executemany("SELECT ?", [(1,), (2,)])
    with pytest.raises(db.ProgrammingError):
        cursor.fetchall()


def test_executemany_is_one_message_in_the_log(node: Served) -> None:
    with db.connect(f"ha://{node.target}", autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS many(x)")
        before = connection.txseq
        connection.executemany("INSERT INTO many VALUES (?)", [(n,) for n in range(1000)])
        assert connection.txseq == before + 1


def test_a_closed_cursor_and_a_closed_connection(connection: db.Connection, node: Served) -> None:
    cursor = connection.cursor()
    cursor.close()
    cursor.close()
    for use in (
        lambda: cursor.execute("SELECT 1"),
        cursor.fetchone,
        lambda: cursor.setinputsizes([]),
    ):
        with pytest.raises(db.Error):
            use()
    other = db.connect(f"ha://{node.target}")
    open_cursor = other.cursor()
    other.close()
    other.close()
    for use in (
        other.cursor,
        other.commit,
        other.rollback,
        lambda: other.execute("SELECT 1"),
        lambda: open_cursor.execute("SELECT 1"),
    ):
        with pytest.raises(db.Error):
            use()


def test_optional_methods(connection: db.Connection) -> None:
    with connection.cursor() as cursor:
        cursor.setinputsizes([None])
        cursor.setoutputsize(1000)
        cursor.setoutputsize(1000, 1)
        assert cursor.connection is connection
        with pytest.raises(db.NotSupportedError):
            cursor.nextset()
        with pytest.raises(db.NotSupportedError):
            cursor.callproc("x")
        assert cursor.executescript(
            "INSERT INTO t(id) VALUES (1); SELECT id FROM t"
        ).fetchall() == [(1,)]


# --- errors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "error", "code"),
    [
        ("SELEC 1", db.ProgrammingError, "syntax_error"),
        ("SELECT * FROM nowhere", db.ProgrammingError, "unknown_table"),
        ("SELECT missing FROM t", db.ProgrammingError, "unknown_column"),
        ("CREATE TABLE t(x)", db.ProgrammingError, "object_exists"),
        ("INSERT INTO t(id) VALUES (1), (1)", db.IntegrityError, "unique_violation"),
        ("INSERT INTO t(id) VALUES ('x')", db.DataError, "type_mismatch"),
        ("ATTACH 'x' AS y", db.NotSupportedError, "refused"),
        ("VACUUM", db.NotSupportedError, "refused"),
    ],
)
def test_errors_by_class_and_code(
    connection: db.Connection, sql: str, error: type[db.Error], code: str
) -> None:
    with pytest.raises(error) as info:
        connection.execute(sql)
    assert info.value.code == code
    assert connection.execute("SELECT 1").fetchone() == (1,)


# --- transactions --------------------------------------------------------------------


def test_a_transaction_is_open_from_the_first_statement_to_commit(
    connection: db.Connection, node: Served
) -> None:
    with db.connect(f"ha://{node.target}", autocommit=True) as other:
        assert not connection.in_transaction
        connection.execute("INSERT INTO t(id) VALUES (1)")
        assert connection.in_transaction
        assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)
        connection.commit()
        assert not connection.in_transaction
        assert other.execute("SELECT count(*) FROM t").fetchone() == (1,)
        connection.execute("DELETE FROM t")
        connection.rollback()
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)


def test_commit_and_rollback_without_a_transaction_do_nothing(connection: db.Connection) -> None:
    connection.commit()
    connection.rollback()
    assert not connection.in_transaction


def test_closing_rolls_back(connection: db.Connection, node: Served) -> None:
    other = db.connect(f"ha://{node.target}")
    other.execute("INSERT INTO t(id) VALUES (1)")
    other.close()
    assert connection.execute("SELECT * FROM t").fetchall() == []


def test_a_connection_as_context_commits_or_rolls_back(
    connection: db.Connection, node: Served
) -> None:
    with db.connect(f"ha://{node.target}") as other:
        other.execute("INSERT INTO t(id) VALUES (1)")
    assert other.closed

    def fail() -> None:
        with db.connect(f"ha://{node.target}") as other:
            other.execute("INSERT INTO t(id) VALUES (2)")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]


def test_autocommit(connection: db.Connection, node: Served) -> None:
    with db.connect(f"ha://{node.target}", autocommit=True) as other:
        other.execute("INSERT INTO t(id) VALUES (1)")
        assert not other.in_transaction
        assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]
        connection.rollback()
        other.execute("BEGIN")
        other.execute("INSERT INTO t(id) VALUES (2)")
        assert other.in_transaction
        with pytest.raises(db.ProgrammingError):
            other.autocommit = True
        other.rollback()
        assert not other.in_transaction
        other.autocommit = False
        other.execute("INSERT INTO t(id) VALUES (3)")
        assert other.in_transaction
        other.rollback()


def test_commands_and_pragmas_open_no_transaction(connection: db.Connection) -> None:
    for sql in ("SHOW DATABASES", "PRAGMA foreign_keys = ON", "SET DATABASE TO ha.db", "-- x"):
        connection.execute(sql)
        assert not connection.in_transaction, sql
    assert connection.database == "ha.db"


def test_a_statement_that_fails_keeps_the_transaction(connection: db.Connection) -> None:
    connection.execute("INSERT INTO t(id) VALUES (1)")
    with pytest.raises(db.IntegrityError):
        connection.execute("INSERT INTO t(id) VALUES (1)")
    assert connection.in_transaction
    connection.commit()
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)


# --- more ----------------------------------------------------------------------------


def test_another_thread_interrupts_a_statement(connection: db.Connection, node: Served) -> None:
    connection.execute("INSERT INTO t(id) VALUES (1)")
    done = threading.Event()

    def interrupt() -> None:
        while not done.wait(0.05):
            connection.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(db.OperationalError) as info:
            connection.execute(FOREVER)
    finally:
        done.set()
        thread.join()
    assert info.value.code == "cancelled"
    connection.interrupt()
    assert connection.execute("SELECT id FROM t").fetchall() == [(1,)]
    assert connection.in_transaction


def test_a_statement_may_take_so_long(node: Served) -> None:
    with db.connect(f"ha://{node.target}", timeout=0.3) as connection:
        with pytest.raises(db.OperationalError) as info:
            connection.execute(FOREVER)
        assert info.value.code == "timeout"
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_txseq_passes_from_one_connection_to_another(
    connection: db.Connection, node: Served
) -> None:
    connection.execute("INSERT INTO t(id) VALUES (1)")
    connection.commit()
    assert connection.txseq > 0
    with db.connect(f"ha://{node.target}/ha.db", txseq=connection.txseq) as other:
        assert other.txseq == connection.txseq
        assert other.execute("SELECT id FROM t").fetchall() == [(1,)]
    with pytest.raises(db.OperationalError, match="the log ends at"):
        db.connect(f"ha://{node.target}/ha.db", txseq=connection.txseq + 1000)


# --- connecting ----------------------------------------------------------------------


def test_addresses(node: Served) -> None:
    with db.connect(f"ha://127.0.0.1:1,{node.target}/ha.db?connect_timeout=5") as connection:
        assert str(connection.address) == node.target
        assert connection.database == "ha.db"
        assert connection.server_version
    with pytest.raises(db.OperationalError, match=r"127\.0\.0\.1:1: .*refused"):
        db.connect("ha://127.0.0.1:1/ha.db")
    with pytest.raises(db.OperationalError, match="no database 'other'"):
        db.connect(f"ha://{node.target}/other")


@pytest.mark.parametrize(
    "dsn",
    [
        "localhost:8080",
        "postgres://localhost",
        "ha://localhost:x",
        "ha://localhost:99999",
        "ha://:8080",
        "ha://h?unknown=1",
        "ha://h?timeout=soon",
        "ha://h?timeout=-1",
        "ha://h?tls=perhaps",
        "ha://h?ca=x.pem",
        "ha://h?tls=true&ca=/nowhere.pem",
        "ha://h?token=a&token=b",
    ],
)
def test_what_is_no_address(dsn: str) -> None:
    with pytest.raises(db.InterfaceError):
        db.connect(dsn)


def test_the_token_is_sent_and_not_shown() -> None:
    with serving(token="s3cret/+") as node:
        for dsn in (f"ha://s3cret%2F%2B@{node.target}", f"ha://{node.target}/?token=s3cret/%2B"):
            with db.connect(dsn) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
                assert "s3cret" not in repr(connection._core.options)
        with pytest.raises(db.OperationalError, match="token") as info:
            db.connect(f"ha://{node.target}")
        assert info.value.code == "unauthorized"


def test_what_is_no_node_is_told_apart() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            client, _ = server.accept()
            client.recv(1000)
            client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            client.close()

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(db.OperationalError, match="does not speak HTTP/2"):
            db.connect(f"ha://127.0.0.1:{port}")
        thread.join()


def test_tls_and_certificates(tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client")
    files = {name: tmp_path / f"{name}.pem" for name in ("cert", "key", "ca", "mine", "other")}
    server.cert_chain_pems[0].write_to_path(files["cert"])
    server.private_key_pem.write_to_path(files["key"])
    authority.cert_pem.write_to_path(files["ca"])
    client.private_key_and_cert_chain_pem.write_to_path(files["mine"])
    stranger.cert_pem.write_to_path(files["other"])
    with serving(tls=Tls(files["cert"], files["key"], files["ca"])) as node:
        known = f"ca={files['ca']}&cert={files['mine']}"
        for dsn in (
            f"ha://localhost:{node.port}/ha?tls=true&{known}",
            f"https://localhost:{node.port}/ha?{known}",
        ):
            with db.connect(dsn) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        for dsn in (
            f"ha://localhost:{node.port}/ha?tls=true&ca={files['ca']}",
            f"ha://localhost:{node.port}/ha?tls=true&ca={files['other']}&cert={files['mine']}",
            f"ha://localhost:{node.port}/ha",
        ):
            with pytest.raises(db.OperationalError):
                db.connect(dsn)
