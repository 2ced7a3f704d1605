"""Operating real nodes, with kill -9 in the middle of snapshot, restore and undo."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest

from tests.conftest import NatsProcess
from tests.support.dump import dump
from tests.support.processes import HaProcess, running_node

pytestmark = pytest.mark.processes

MANY = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
    " INSERT INTO t SELECT i, hex(randomblob(20)) FROM n"
)
WRITE = "INSERT INTO t(x) VALUES (hex(randomblob(8)))"


def ha(*arguments: str, cwd: Path, status: int = 0) -> str:
    """Run a command of ``ha`` to its end; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "ha", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout if status == 0 else done.stderr


def eventually(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Another process's doing can only be asked for."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def node_on(
    server: NatsProcess, name: str, *arguments: str, cwd: Path, start: bool = True
) -> HaProcess:
    base = ["-n", name, "--port", "0", "--nats-port", "0", "--replication-url", server.url]
    node = HaProcess([*base, *arguments], cwd)
    return node.start() if start else node


def content(node: HaProcess, folder: Path) -> Any:
    """What the node holds, by a download."""
    path = folder / f"content-{time.monotonic_ns()}.db"
    path.write_bytes(node.client.get(f"{node.url}/download").content)
    try:
        return dump(path)
    finally:
        path.unlink()


def test_a_download_and_the_rest_of_the_log_are_the_database(tmp_path: Path) -> None:
    with running_node("n1", cwd=tmp_path) as one:
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"})
        for _ in range(20):
            one.query({"sql": WRITE})
        # As the manual has it: curl -O -J
        subprocess.run(
            ["curl", "-s", "-S", "-O", "-J", f"{one.url}/download"],
            cwd=tmp_path,
            check=True,
            timeout=60,
        )
        (file,) = tmp_path.glob("*_ha.db")
        check = subprocess.run(
            [sys.executable, "-c", "import sqlite3, sys; print(sqlite3.connect(sys.argv[1])"
             ".execute('PRAGMA integrity_check').fetchone()[0])", file.name],
            cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
        assert check.stdout == "ok\n"
        for _ in range(20):
            one.query({"sql": WRITE})
        with running_node(
            "n2", file.name, "--replication-url", one.nats_url, cwd=tmp_path, nats=False
        ) as two:
            assert two.query({"sql": "SELECT 1"}, "/databases/ha.db")["rows"] == [[1]]
            two.wait_rows("SELECT count(*) FROM t", [[40]])
            assert content(two, tmp_path) == content(one, tmp_path)


def test_a_late_joiner_of_a_log_that_was_cut_begins_by_the_snapshot(
    nats_server: NatsProcess, tmp_path: Path
) -> None:
    nodes = [node_on(nats_server, "n1", "-m", "--replication-max-age", "3s", cwd=tmp_path)]
    try:
        one = nodes[0]
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"})
        for _ in range(50):
            one.query({"sql": WRITE})
        # Nobody asks for a snapshot: before its messages go the node takes one by itself.
        last = eventually(lambda: status(one)["snapshot"] or 0)
        eventually(lambda: first_of_stream(nats_server) > 1, 30)
        nodes.append(node_on(nats_server, "n2", "-m", cwd=tmp_path))
        two = nodes[1]
        two.wait_rows("SELECT count(*) FROM t", [[50]])
        one.query({"sql": WRITE})
        two.wait_rows("SELECT count(*) FROM t", [[51]])
        assert content(two, tmp_path) == content(one, tmp_path)
        assert last > 0
        nodes.append(node_on(nats_server, "n3", "-m", "--from-latest-snapshot", cwd=tmp_path))
        nodes[2].wait_rows("SELECT count(*) FROM t", [[51]])
    finally:
        for node in nodes:
            node.kill()


def status(node: HaProcess, database: str = "ha.db") -> dict[str, Any]:
    answer = node.client.get(f"{node.url}/status").json()
    found: dict[str, Any] = next(d for d in answer["databases"] if d["id"] == database)
    return found


def first_of_stream(server: NatsProcess) -> int:
    """The stream's first sequence, as an operator sees it."""
    import random

    import trio

    from ha.log.jetstream import JetStreamBroker, JetStreamOptions

    async def ask() -> int:
        options = JetStreamOptions(urls=server.url, node="operator")
        async with JetStreamBroker(options, rng=random.SystemRandom()) as broker:
            info = await broker.api.call("STREAM.INFO.ha_replication")
            return int(info["state"]["first_seq"])

    return trio.run(ask)


def test_a_node_that_was_away_too_long_recovers_by_itself(
    nats_server: NatsProcess, tmp_path: Path
) -> None:
    one = node_on(nats_server, "n1", "one/ha.db", "--replication-max-age", "3s", cwd=tmp_path,
                  start=False)  # fmt: skip
    two = node_on(nats_server, "n2", "two/ha.db", cwd=tmp_path, start=False)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    try:
        one.start()
        two.start()
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"})
        two.wait_rows("SELECT count(*) FROM t", [[0]])
        two.kill()
        for _ in range(30):
            one.query({"sql": WRITE})
        position = status(one)["position"]
        eventually(lambda: first_of_stream(nats_server) > position, 30)
        two.start()
        two.wait_rows("SELECT count(*) FROM t", [[30]])
        two.query({"sql": WRITE})
        one.wait_rows("SELECT count(*) FROM t", [[31]])
        assert content(two, tmp_path) == content(one, tmp_path)
    finally:
        one.kill()
        two.kill()


def test_a_file_with_content_is_the_base_of_its_peers(
    nats_server: NatsProcess, tmp_path: Path
) -> None:
    db = sqlite3.connect(tmp_path / "mydatabase.db")
    db.executescript("CREATE TABLE t(x); INSERT INTO t VALUES ('from before');")
    db.close()
    one = node_on(nats_server, "n1", "mydatabase.db", cwd=tmp_path)
    (tmp_path / "two").mkdir()
    two = node_on(nats_server, "n2", "-m", "mydatabase.db", cwd=tmp_path / "two")
    try:
        two.wait_rows("SELECT * FROM t", [["from before"]])
        assert content(two, tmp_path) == content(one, tmp_path)
    finally:
        one.kill()
        two.kill()


@pytest.mark.parametrize("delay", [0.0, 0.03, 0.1, 0.3])
def test_kill_9_during_a_snapshot_leaves_the_old_one_or_the_new_one(
    nats_server: NatsProcess, tmp_path: Path, delay: float
) -> None:
    one = node_on(nats_server, "n1", "--disable-base-snapshot", "ha.db", cwd=tmp_path)
    try:
        one.query({"sql": "CREATE TABLE t(x)"})
        first = int(one.client.post(f"{one.url}/snapshot").headers["x-sequence"])
        one.query({"sql": "INSERT INTO t VALUES (randomblob(40000000))"})
        second = status(one)["position"]
        taking = threading.Thread(
            target=_ignore, args=(lambda: one.client.post(f"{one.url}/snapshot"),)
        )
        taking.start()
        time.sleep(delay)
        one.kill()
        taking.join(20)
        one.start()
        response = one.client.get(f"{one.url}/snapshot")
        held = int(response.headers["x-sequence"])
        assert held in (first, second)
        file = tmp_path / "got.db"
        file.write_bytes(response.content)
        got = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
        assert got.execute("PRAGMA integrity_check").get == "ok"
        assert got.execute("SELECT received_seq FROM ha_stats").get == held
        got.close()
        again = one.client.post(f"{one.url}/snapshot").headers["x-sequence"]
        assert int(again) in (0, second)
        assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".ha-copy-")] == []
    finally:
        one.kill()


def _ignore(work: Callable[[], object]) -> None:
    with suppress(httpx.HTTPError):
        work()


@pytest.mark.parametrize("delay", [0.02, 0.2, 0.5])
def test_kill_9_while_a_snapshot_is_loaded(
    nats_server: NatsProcess, tmp_path: Path, delay: float
) -> None:
    one = node_on(nats_server, "n1", "-m", cwd=tmp_path)
    (tmp_path / "two").mkdir()
    two = node_on(nats_server, "n2", "--from-latest-snapshot", "ha.db", cwd=tmp_path / "two",
                  start=False)  # fmt: skip
    try:
        one.query({"sql": "CREATE TABLE t(x)"})
        one.query({"sql": "INSERT INTO t VALUES (randomblob(60000000))"})
        one.client.post(f"{one.url}/snapshot").raise_for_status()
        starting = threading.Thread(target=_ignore_start, args=(two,))
        starting.start()
        eventually(lambda: hasattr(two, "process"))
        time.sleep(0.6 + delay)
        two.process.kill()
        starting.join(60)
        two.start()
        two.wait_rows("SELECT count(*), sum(length(x)) FROM t", [[1, 60000000]])
        assert content(two, tmp_path) == content(one, tmp_path)
    finally:
        one.kill()
        two.kill()


def _ignore_start(node: HaProcess) -> None:
    with suppress(AssertionError):
        node.start()


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.3])
def test_kill_9_during_an_undo_leaves_all_or_nothing_of_it(
    nats_server: NatsProcess, tmp_path: Path, delay: float
) -> None:
    one = node_on(nats_server, "n1", "ha.db", cwd=tmp_path)
    try:
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"})
        before = content(one, tmp_path)
        one.query({"sql": MANY})
        after = content(one, tmp_path)
        undoing = threading.Thread(
            target=_ignore, args=(lambda: one.client.post(f"{one.url}/undo"),)
        )
        undoing.start()
        time.sleep(delay)
        one.kill()
        undoing.join(20)
        one.start()
        one.wait_ready()
        with_two = node_on(nats_server, "n2", "-m", cwd=tmp_path)
        try:
            with_two.wait_rows(
                "SELECT max(received_seq) FROM ha_stats",
                one.rows("SELECT max(received_seq) FROM ha_stats"),
            )
            found = content(one, tmp_path)
            assert found in (before, after)
            assert content(with_two, tmp_path) == found
        finally:
            with_two.kill()
    finally:
        one.kill()


def test_databases_made_on_one_node_are_on_the_other_and_survive_a_restart(
    nats_server: NatsProcess, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = node_on(nats_server, "n1", "--create-db-dir", "dbs", cwd=tmp_path / "one")
    two = node_on(nats_server, "n2", "--create-db-dir", "dbs", cwd=tmp_path / "two")
    try:
        one.client.post(f"{one.url}/databases", json={"dsn": "shop.db"}).raise_for_status()
        one.query({"sql": "CREATE DATABASE 'staff.db?_fk=on'"})
        one.query({"sql": "CREATE TABLE t(x)"}, "/databases/shop.db")
        both = {"databases": ["ha.db", "shop.db", "staff.db"]}
        eventually(lambda: two.client.get(f"{two.url}/databases").json() == both)
        eventually(lambda: not status(two, "shop.db")["lag"])
        two.query({"sql": "INSERT INTO t VALUES (1)"}, "/databases/shop.db")
        assert two.stop() == 0
        one.client.delete(f"{one.url}/databases/staff.db").raise_for_status()
        one.query({"sql": "INSERT INTO t VALUES (2)"}, "/databases/shop.db")
        two.start()
        listed = two.client.get(f"{two.url}/databases").json()
        assert listed == {"databases": ["ha.db", "shop.db"]}
        eventually(
            lambda: (
                two.query({"sql": "SELECT count(*) FROM t"}, "/databases/shop.db")["rows"] == [[2]]
            )
        )
        found = sorted(p.name for p in (tmp_path / "two" / "dbs").glob("*.db"))
        assert found == ["shop.db"]
    finally:
        one.kill()
        two.kill()


def test_the_commands_that_operate_a_node(tmp_path: Path) -> None:
    with running_node("n1", cwd=tmp_path) as one:
        at = ("-r", one.url)
        one.query({"sql": "CREATE TABLE t(id INTEGER PRIMARY KEY, x)"})
        one.query({"sql": "INSERT INTO t VALUES (1, 'a'), (2, 'b')"})
        one.query({"sql": "UPDATE t SET x = 'A' WHERE id = 1"})
        last = status(one)["position"]

        shown = ha("status", *at, cwd=tmp_path)
        table = shown[shown.index("DATABASE") :].splitlines()
        assert table[0].split() == ["DATABASE", "POSITION", "LAG", "SNAPSHOT", "PEERS", "LEADER",
                                    "STATE"]  # fmt: skip
        assert table[1].split()[:3] == ["ha.db*", str(last), "0"]
        (only,) = json.loads(ha("status", *at, "--json", cwd=tmp_path))["databases"]
        assert (only["id"], only["position"], only["problem"]) == ("ha.db", last, None)

        history = ha("history", "1h", *at, cwd=tmp_path)
        assert "INSERT INTO t (id, x) VALUES (1, 'a');" in history
        items = json.loads(ha("history", *at, "--json", cwd=tmp_path))["history"]
        assert [i["seq"] for i in items] == [last]

        dry = ha("undo", str(last), *at, "--dry-run", cwd=tmp_path)
        assert f"would revert 1 transaction at {last} (1 row)" in dry
        assert "UPDATE t SET x = 'a' WHERE id = 1;" in dry
        done = json.loads(ha("undo", str(last), *at, "--entities", "--json", cwd=tmp_path))
        assert (done["rows"], done["sequence"]) == (1, last + 1)
        assert one.rows("SELECT x FROM t ORDER BY id") == [["a"], ["b"]]
        assert "reverted 1 transaction" in ha("undo", *at, "--where", "t(1)", cwd=tmp_path)

        taken = ha("snapshot", *at, cwd=tmp_path)
        # A node takes one by itself, too, soon after its file is no longer empty.
        nothing_new = "nothing new: the newest snapshot holds all there is\n"
        assert taken in (f"snapshot at {last + 2}\n", nothing_new)
        assert "nothing new" in ha("snapshot", *at, cwd=tmp_path)
        restored = json.loads(ha("restore", "back.db", *at, "--json", cwd=tmp_path))
        assert restored["sequence"] == last + 2
        assert "is there already" in ha("restore", "back.db", *at, cwd=tmp_path, status=1)
        ha("restore", "back.db", *at, "--force", "--from", "now", cwd=tmp_path)
        db = sqlite3.connect(tmp_path / "back.db")
        assert db.execute("SELECT x FROM t ORDER BY id").fetchall() == [("A",), ("b",)]
        db.close()

        missing = ha("restore", "no/where.db", *at, cwd=tmp_path, status=1)
        assert "no/where.db: " in missing
        assert "No such file" in missing
        one.query({"sql": "ALTER TABLE t ADD COLUMN y"})
        dry = ha("undo", str(last), *at, "--dry-run", cwd=tmp_path)
        assert "would be refused" in dry
        assert "obstacle: the schema changed at" in dry
        refused = ha("undo", "99999", *at, cwd=tmp_path, status=1)
        assert "there is nothing at 99999" in refused
        assert "see ha undo --help" in ha("undo", "1", "--nope", *at, cwd=tmp_path, status=2)
        usage = subprocess.run(
            [sys.executable, "-m", "ha", "undo", "--help"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert "--dry-run" in usage.stdout
    assert "is not in reach" in ha("status", *at, cwd=tmp_path, status=1)


def test_commands_with_a_token(tmp_path: Path) -> None:
    with running_node("n1", "--token", "secret", cwd=tmp_path) as one:
        assert "token" in ha("status", "-r", one.url, cwd=tmp_path, status=1)
        assert "ha.db*" in ha("status", "-r", one.url, "--token", "secret", cwd=tmp_path)
