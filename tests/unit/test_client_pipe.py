"""``ha -r`` without a terminal: pipes, -e, exit statuses, imports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.grpc_server import Served, serving

pytestmark = pytest.mark.processes

Client = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def node() -> Iterator[Served]:
    with serving() as node:
        yield node


@pytest.fixture
def client(node: Served, tmp_path: Path) -> Client:
    """Runs ``ha -r`` on the node, in a folder of its own, on an empty table t."""

    def run(*arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ha", "-r", f"http://{node.target}", *arguments],
            input=input or "",
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    done = run("-e", "DROP TABLE IF EXISTS t; DROP TABLE IF EXISTS new;"
               "CREATE TABLE t(id INTEGER PRIMARY KEY, name TEXT)")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return run


def test_statements_from_a_pipe(client: Client) -> None:
    done = client(input="INSERT INTO t(name)\nVALUES ('a'), ('b');\nSELECT * FROM t;\n")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [" id │ name", "────┼──────", "  1 │ a", "  2 │ b"]


def test_the_first_error_ends_it_with_status_1(client: Client) -> None:
    done = client(
        input="SELECT 1 AS one;\n\nSELECT * FROM nowhere;\nINSERT INTO t VALUES (1, 'x');\n"
    )
    assert done.returncode == 1
    assert " one" in done.stdout
    assert done.stderr == "standard input, line 3: error: no such table: nowhere\n"
    assert client("-e", ".mode csv\nSELECT count(*) FROM t").stdout == "count(*)\n0\n"


def test_statements_on_the_command_line(client: Client) -> None:
    done = client("-e", "SELECT 1 AS a; SELECT 2 AS b")
    assert done.returncode == 0
    assert done.stdout.split() == ["a", "───", "1", "b", "───", "2"]
    assert client("-e", "nonsense").returncode == 1
    assert client("--execute", "EXIT; nonsense").returncode == 0


def test_a_transaction_over_several_statements(client: Client) -> None:
    client(input="BEGIN; INSERT INTO t(name) VALUES ('gone'); ROLLBACK;"
                 "BEGIN; INSERT INTO t(name) VALUES ('kept'); COMMIT;"
                 "BEGIN; INSERT INTO t(name) VALUES ('left open');")  # fmt: skip
    assert client("-e", ".mode csv\nSELECT name FROM t").stdout == "name\nkept\n"


def test_a_file_of_statements(client: Client, tmp_path: Path) -> None:
    (tmp_path / "good.sql").write_text("INSERT INTO t VALUES (1, 'x');\n.mode csv\nSELECT * FROM t")
    done = client(input=".read good.sql\n")
    assert (done.returncode, done.stdout) == (0, "id,name\n1,x\n")
    (tmp_path / "bad.sql").write_text("SELECT 1;\n\nnonsense;\nSELECT 2;")
    done = client(input=".read bad.sql\nSELECT 3;")
    assert done.returncode == 1
    assert "bad.sql, line 3" in done.stderr
    assert "3" not in done.stdout
    assert "cannot read missing.sql" in client(input=".read missing.sql\n").stderr


def test_what_leaves_in_json_or_csv_comes_back_by_import(client: Client, tmp_path: Path) -> None:
    client("-e", "INSERT INTO t VALUES (1, 'a,\"b\"'), (2, NULL), (3, ' x\ny')")
    for mode, suffix in (("json", "json"), ("csv", "csv")):
        rows = client("-e", f".mode {mode}\nSELECT * FROM t").stdout
        (tmp_path / f"out.{suffix}").write_text(rows)
        done = client(input=f".import out.{suffix} new\n.mode {mode}\nSELECT * FROM new;"
                            "DROP TABLE new;")  # fmt: skip
        assert (done.stderr, done.stdout) == ("", rows)


def test_import_makes_a_table_with_types(client: Client, tmp_path: Path) -> None:
    lines = [json.dumps({"n": n, "x": n / 4, "s": str(n), "b": {"base64": "AP8="}, "l": [n]})
             for n in range(2500)]  # fmt: skip
    (tmp_path / "many.jsonl").write_text("\n".join(lines))
    done = client(input=".import many.jsonl new\n.schema new\n.mode csv\n"
                        "SELECT count(*), sum(n), sum(x), min(l) FROM new;"
                        "SELECT DISTINCT typeof(n), typeof(x), typeof(s), hex(b)"
                        " FROM new;")  # fmt: skip
    assert done.stderr == ""
    schema, _, totals, _, types = done.stdout.splitlines()
    assert schema == 'CREATE TABLE "new"("n" INTEGER, "x" REAL, "s" INTEGER, "b", "l" TEXT);'
    assert totals == f"2500,{sum(range(2500))},{sum(range(2500)) / 4},[0]"
    assert types == "integer,real,integer,00FF"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.csv", "id,name\n1,a\n2\n", "line 3 has 1 fields, not 2"),
        ("x.csv", "", "first line must name"),
        ("x.csv", "id,ID\n1,2\n", "two columns are named"),
        ("x.csv", "id,other\n1,2\n", "other"),
        ("x.csv", "id,name\n1,a\n1,b\n", "UNIQUE"),
        ("x.json", "{}", "list of objects"),
        ("x.json", '[{"id": 1}, {"name": 2}]', "object 2"),
        ("x.json", "[nonsense", "x.json"),
        ("x.txt", "", "must end in .csv"),
    ],
)
def test_what_cannot_be_imported_says_why_and_what_was_done(
    client: Client, tmp_path: Path, name: str, content: str, words: str
) -> None:
    (tmp_path / name).write_text(content)
    done = client(input=f".import {name} t\n")
    assert done.returncode == 1
    assert words in done.stderr


def test_tables_and_schema_hide_what_a_node_keeps_for_itself(client: Client) -> None:
    done = client(input="CREATE INDEX i ON t(name); .mode csv\n")
    assert done.returncode == 0
    assert client("-e", ".mode csv\n.tables t").stdout == "name,type\nt,table\n"
    everything = client("-e", ".schema").stdout
    assert "CREATE INDEX i ON t(name);" in everything
    assert "ha_log" not in everything
    assert "ha_log" not in client("-e", ".tables").stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (".nothing", ".help lists them"),
        (".mode pie", "table, csv, json, line"),
        (".read", "usage: .read FILE"),
        (".read 'x", "No closing quotation"),
        (".import x.csv", "usage: .import FILE TABLE"),
    ],
)
def test_commands_that_cannot_be(client: Client, command: str, words: str) -> None:
    done = client("-e", command)
    assert done.returncode == 1
    assert words in done.stderr


def test_help_names_every_command(client: Client) -> None:
    text = client("-e", ".help").stdout
    for word in (".tables", ".import", "SET DATABASE", "HISTORY", "UNDO", "EXIT"):
        assert word in text


def test_where_no_node_is_there_is_one_line_and_status_2() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ha", "-r", "http://127.0.0.1:1", "-e", "SELECT 1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "ha: cannot connect to 127.0.0.1:1: Connection refused\n"


def test_the_token_comes_by_flag_or_environment(tmp_path: Path) -> None:
    import os

    with serving(token="secret") as node:
        command = [sys.executable, "-m", "ha", "-r", f"http://{node.target}", "-e", "SELECT 1"]
        run = {"capture_output": True, "text": True, "timeout": 60, "check": False}
        assert subprocess.run([*command, "--token", "secret"], **run).returncode == 0  # type: ignore[call-overload]
        env = {**os.environ, "HA_TOKEN": "secret"}
        assert subprocess.run(command, env=env, **run).returncode == 0  # type: ignore[call-overload]
        refused = subprocess.run(command, **run)  # type: ignore[call-overload]
        assert refused.returncode == 2
        assert "token" in refused.stderr


def test_several_databases(tmp_path: Path) -> None:
    with serving("one.db", "two.db") as node:
        command = [sys.executable, "-m", "ha", "-r"]
        run = {"capture_output": True, "text": True, "timeout": 60, "check": False}
        script = ".mode csv\nSHOW DATABASES; SET DATABASE TO two;"
        script += "CREATE TABLE two(x); SELECT * FROM two"
        done = subprocess.run([*command, f"http://{node.target}", "-e", script], **run)  # type: ignore[call-overload]
        assert (done.stderr, done.stdout) == ("", "database\none.db\ntwo.db\nx\n")
        at_two = subprocess.run([*command, f"http://{node.target}/two", "-e", ".tables"], **run)  # type: ignore[call-overload]
        assert "two" in at_two.stdout
        unsaid = subprocess.run([*command, f"http://{node.target}", "-e", "SELECT 1"], **run)  # type: ignore[call-overload]
        assert "one.db" in unsaid.stderr
