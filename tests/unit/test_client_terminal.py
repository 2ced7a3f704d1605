"""``ha -r`` in a real terminal: what is typed, and what can be seen."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.grpc_server import Served, serving
from tests.support.terminal import Terminal

pytestmark = pytest.mark.processes

CTRL_C, CTRL_D, TAB, UP = "\x03", "\x04", "\t", "\x1b[A"
FOREVER = "WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i+1 FROM n) SELECT max(i) FROM n;"


@pytest.fixture
def node() -> Iterator[Served]:
    with serving() as node:
        yield node


@pytest.fixture
def open_client(node: Served, tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    with ExitStack() as stack:

        def run(**options: object) -> Terminal:
            env = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
            env.pop("NO_COLOR", None)
            terminal = Terminal(
                ["-r", f"http://{node.target}"],
                env=env,
                cwd=tmp_path,
                **options,  # type: ignore[arg-type]
            )
            stack.callback(terminal.close)
            return terminal

        yield run


def test_a_conversation(open_client: Callable[..., Terminal], node: Served) -> None:
    client = open_client()
    client.wait_prompt()
    assert f"at {node.target}, ha.db" in client.text
    client.line("CREATE TABLE tea(id INTEGER PRIMARY KEY, name TEXT, price REAL);")
    client.wait_for("done (")
    client.wait_prompt()
    client.line("INSERT INTO tea(name, price) VALUES")
    client.line("('Assam', 4.5), ('Sencha', NULL);")
    client.wait_for("2 rows changed (")
    client.wait_prompt()
    client.line("SELECT * FROM tea;")
    seen = client.wait_for("2 rows (")
    assert "  1 │ Assam  │   4.5\n  2 │ Sencha │  NULL\n" in seen
    client.wait_prompt()
    client.line("SELECT * FROM coffee;")
    client.wait_for("error: no such table: coffee")
    client.wait_prompt()
    client.line("BEGIN;")
    client.wait_prompt("ha*> ")
    client.line("ROLLBACK;")
    client.wait_prompt()
    client.line("EXIT;")
    assert client.ended() == 0


def test_colours(open_client: Callable[..., Terminal]) -> None:
    client = open_client()
    client.wait_prompt()
    client.type("SELECT 'x' ")
    client.wait_for("SELECT 'x'")
    row = client.screen.buffer[client.screen.cursor.y]
    keyword, text = row[len("ha> ")], row[len("ha> SELECT ")]
    assert keyword.fg != "default"
    assert text.fg not in ("default", keyword.fg)
    client.line(", NULL AS n;")
    client.wait_for("1 row (")
    y = next(y for y, line in enumerate(client.screen.display) if line.startswith(" 'x' │ n"))
    assert client.screen.buffer[y][1].bold


def test_tab_completes_keywords_tables_columns_and_commands(
    open_client: Callable[..., Terminal],
) -> None:
    client = open_client()
    client.wait_prompt()
    client.line("CREATE TABLE customers(id INTEGER PRIMARY KEY, nickname TEXT);")
    client.wait_for("done (")
    for typed, completed in (
        ("SELECT nick" + TAB, "SELECT nickname"),
        ("SELECT * FROM cust" + TAB, "SELECT * FROM customers"),
        ("select customers.ni" + TAB, "select customers.nickname"),
        ("sele" + TAB, "select"),
        (".imp" + TAB, ".import"),
        (".mode js" + TAB, ".mode json"),
        ("SET DATABASE TO h" + TAB, "SET DATABASE TO ha.db"),
    ):
        client.wait_prompt()
        client.type(typed)
        client.wait_for("ha> " + completed)
        client.type(CTRL_C)


def test_history_is_kept_for_the_next_time_in_a_private_file(
    open_client: Callable[..., Terminal], tmp_path: Path
) -> None:
    client = open_client()
    client.wait_prompt()
    client.line("SELECT 'remembered';")
    client.wait_for("1 row (")
    client.wait_prompt()
    client.line(" SELECT 'kept to myself';")
    client.wait_for("kept to myself\n1 row (")
    client.wait_prompt()
    client.type(CTRL_D)
    assert client.ended() == 0
    file = tmp_path / "state" / "ha" / "history"
    assert file.stat().st_mode & 0o077 == 0
    assert "kept to myself" not in file.read_text()
    again = open_client()
    again.wait_prompt()
    again.type(UP)
    again.wait_for("ha> SELECT 'remembered';")


def test_ctrl_c_clears_the_line_and_cancels_the_statement(
    open_client: Callable[..., Terminal], node: Served
) -> None:
    client = open_client()
    client.wait_prompt()
    client.type("SELECT something")
    client.wait_for("something")
    client.type(CTRL_C)
    client.wait_prompt()
    client.line("CREATE TEMP TABLE mine(x);")
    client.wait_for("done (")
    client.wait_prompt()
    client.line(FOREVER)
    node.wait_running()
    client.type(CTRL_C)
    client.wait_for("cancelled")
    client.wait_prompt()
    client.line("SELECT count(*) FROM mine;")
    client.wait_for("1 row (")
    assert "connected again" not in client.text


def test_ctrl_d_leaves_and_says_what_becomes_of_the_transaction(
    open_client: Callable[..., Terminal],
) -> None:
    client = open_client()
    client.wait_prompt()
    client.line("BEGIN; CREATE TABLE gone(x);")
    client.wait_prompt("ha*> ")
    client.type(CTRL_D)
    client.wait_for("the open transaction is rolled back")
    assert client.ended() == 0


def test_wide_results_fit_into_the_window(open_client: Callable[..., Terminal]) -> None:
    client = open_client(size=(60, 40))
    client.wait_prompt()
    client.line("SELECT 1 AS id, printf('%.*c', 200, 'x') AS long, 'end' AS last;")
    client.wait_for("1 row (")
    assert "x… │ end" in client.text
    client.wait_prompt()
    many = ", ".join(f"{n} AS column{n}" for n in range(12))
    client.line(f"SELECT {many};")
    client.wait_for("column11 = 11")


def test_it_connects_again_after_a_restart_and_says_so(
    open_client: Callable[..., Terminal], node: Served
) -> None:
    client = open_client()
    client.wait_prompt()
    client.line("SELECT 1;")
    client.wait_for("1 row (")
    client.wait_prompt()
    node.kill()
    client.line("SELECT 2;")
    client.wait_for("error: cannot connect to")
    client.wait_prompt()
    with serving(port=node.port):
        client.line("SELECT 3 AS three;")
        client.wait_for("three", "connected again, to", "session is new")
        client.wait_prompt()
        client.line("BEGIN;")
        client.wait_prompt("ha*> ")
    client.line("SELECT 4;")
    client.wait_for("the transaction was rolled back")
    with serving(port=node.port):
        client.wait_prompt()
        client.line("EXIT")
        assert client.ended() == 0
