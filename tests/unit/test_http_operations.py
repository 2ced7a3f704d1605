"""Backup, snapshots, history, undo, databases and replications over HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
import trio

from ha.engine.operations import NodeOperations
from ha.log.api import Outgoing
from ha.log.memory import MemoryStream
from ha.wire.http.app import create_app
from tests.support.dump import dump
from tests.support.http_server import client_of
from tests.unit.test_databases import node


@pytest.fixture
def stream() -> MemoryStream:
    return MemoryStream(epoch="test")


@asynccontextmanager
async def client_and_node(
    stream: MemoryStream, folder: Path | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    async with node(stream, folder, memory=folder is None, first="ha.db") as databases:
        app = create_app(databases, operations=NodeOperations(databases))
        async with client_of(app) as client:
            yield client, databases


async def write(client: httpx.AsyncClient, sql: str, path: str = "/") -> int:
    response = await client.post(path, json={"sql": sql})
    assert response.status_code == 200, response.text
    return int(response.headers["x-txseq"])


async def test_a_download_is_a_database_with_its_place(
    stream: MemoryStream, tmp_path: Path
) -> None:
    async with client_and_node(stream) as (client, databases):
        await write(client, "CREATE TABLE t(x)")
        sequence = await write(client, "INSERT INTO t VALUES (1)")
        for path in ("/download", "/databases/ha.db", "/databases/ha"):
            response = await client.get(path)
            assert response.status_code == 200
            assert response.headers["x-sequence"] == str(sequence)
            assert int(response.headers["content-length"]) == len(response.content)
            name = re.fullmatch(
                r'attachment; filename="(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)_ha\.db"',
                response.headers["content-disposition"],
            )
            assert name is not None
            file = tmp_path / "got.db"
            file.write_bytes(response.content)
            db = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
            assert db.execute("PRAGMA integrity_check").get == "ok"
            assert dump(db) == dump(databases.get().store.path)
            db.close()
        etag = response.headers["etag"]
        same = await client.get("/download", headers={"if-none-match": etag})
        assert (same.status_code, same.content) == (304, b"")
        await write(client, "INSERT INTO t VALUES (2)")
        other = await client.get("/download", headers={"if-none-match": etag})
        assert other.status_code == 200
        missing = await client.get("/databases/nope")
        assert missing.status_code == 404
        left = Path(databases.get().store.path).parent
        assert [p.name for p in left.iterdir() if "copy" in p.name] == []


async def test_a_client_that_leaves_a_download_leaves_no_copy(stream: MemoryStream) -> None:
    async with client_and_node(stream) as (client, databases):
        await write(client, "CREATE TABLE t(x)")
        await write(client, "INSERT INTO t VALUES (zeroblob(30000000))")
        async with client.stream("GET", "/download") as response:
            async for _ in response.aiter_bytes(1000):
                break
        folder = Path(databases.get().store.path).parent
        with trio.fail_after(10):
            while [p for p in folder.iterdir() if "copy" in p.name]:  # noqa: ASYNC110
                await trio.sleep(0.01)


async def test_snapshots(stream: MemoryStream, tmp_path: Path) -> None:
    async with client_and_node(stream) as (client, _):
        assert (await client.get("/snapshot")).status_code == 404
        sequence = await write(client, "CREATE TABLE t(x)")
        taken = await client.post("/snapshot")
        assert taken.status_code == 200
        assert taken.headers["x-sequence"] == str(sequence)
        assert taken.json() == {"sequence": sequence}
        again = await client.post("/databases/ha.db/snapshot")
        assert again.headers["x-sequence"] == "0"
        response = await client.get("/snapshot")
        assert response.headers["x-sequence"] == str(sequence)
        assert response.headers["content-disposition"].endswith(f'_ha_snapshot_{sequence}.db"')
        assert response.content[:15] == b"SQLite format 3"


async def test_history_and_undo(stream: MemoryStream) -> None:
    async with client_and_node(stream) as (client, _):
        created = await write(client, "CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        n = await write(client, "INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        m = await write(client, "UPDATE t SET x = 'A' WHERE id = 1")
        answer = (await client.get(f"/history/{created}")).json()
        assert [h["seq"] for h in answer["history"]] == [created, n, m]
        assert answer["history"][1]["sql"] == [
            "INSERT INTO t (id, x) VALUES (1, 'a')",
            "INSERT INTO t (id, x) VALUES (2, 'b')",
        ]
        assert answer["history"][1]["node"] == "n1"
        assert isinstance(answer["history"][1]["timestamp_ns"], int)
        for path in ("/history/0", "/history", "/databases/ha.db/history"):
            assert [h["seq"] for h in (await client.get(path)).json()["history"]] == [m]
        limited = await client.get(f"/history/{created}", params={"limit": "2"})
        assert [h["seq"] for h in limited.json()["history"]] == [created, n]
        assert (await client.get("/history/1h")).json() == answer
        assert (await client.get("/history/nonsense")).status_code == 400

        dry = (await client.post(f"/undo/{n}?dry_run=true")).json()
        assert dry["statements"] == ["DELETE FROM t WHERE id = 1", "DELETE FROM t WHERE id = 2"]
        assert (dry["rows"], dry["transactions"], dry["sequence"]) == (2, 2, 0)
        done = await client.post(f"/undo/{n}?where=t(2)")
        assert done.status_code == 200
        assert done.headers["x-txseq"] == str(done.json()["sequence"])
        rows = await client.post("/", json={"sql": "SELECT * FROM t"})
        assert rows.json()["rows"] == [[1, "A"]]
        assert (await client.post(f"/undoe/{m}")).json()["rows"] == 1
        assert (await client.post(f"/databases/ha.db/undot/{n}")).json()["rows"] == 1
        rows = await client.post("/", json={"sql": "SELECT * FROM t"})
        assert rows.json()["rows"] == []
        await write(client, "INSERT INTO t VALUES (3, 'c')")
        await write(client, "ALTER TABLE t ADD COLUMN y")
        await write(client, "UPDATE t SET x = 'C'")
        k = await write(client, "UPDATE t SET x = 'D'")
        await write(client, "ALTER TABLE t DROP COLUMN y")
        refused = await client.post(f"/undo/{k}")
        assert refused.status_code == 409
        assert "ALTER TABLE t DROP COLUMN y" in refused.json()["error"]["detail"]
        assert (await client.post("/undo/99999")).status_code == 404


async def test_databases_are_made_and_dropped(stream: MemoryStream, tmp_path: Path) -> None:
    async with client_and_node(stream, tmp_path) as (client, _):
        made = await client.post("/databases", json={"dsn": "shop.db?_fk=on"})
        assert (made.status_code, made.json()) == (201, {"id": "shop.db"})
        assert (await client.get("/databases")).json() == {"databases": ["ha.db", "shop.db"]}
        await write(client, "CREATE TABLE t(x)", "/databases/shop.db")
        assert (await client.post("/databases", json={"dsn": "shop.db"})).status_code == 409
        assert (await client.post("/databases", json={"dsn": "../x.db"})).status_code == 403
        assert (await client.post("/databases", json={"name": "x"})).status_code == 400
        assert (await client.post("/databases", content=b"{")).status_code == 400
        assert (await client.delete("/databases/ha.db")).status_code == 403
        assert (await client.delete("/databases/shop")).status_code == 200
        assert (await client.delete("/databases/shop")).status_code == 404
        assert (await client.get("/databases")).json() == {"databases": ["ha.db"]}


async def test_replications_and_status(stream: MemoryStream) -> None:
    async with (
        client_and_node(stream) as (client, databases),
        node(stream, None, name="n2", first="ha.db") as other,
    ):
        n = await write(client, "CREATE TABLE t(x)")
        await other.get().committer.wait_applied(n)
        with trio.fail_after(10):
            while stream._durables["ha_db_n2"].position < n:  # noqa: ASYNC110
                await trio.sleep(0.01)
        listed = (await client.get("/replications")).json()["replications"]
        assert {r["name"] for r in listed} == {"ha_db_n1", "ha_db_n2"}
        one = await client.get("/databases/ha.db/replications/ha_db_n2")
        assert one.json()["replications"]["ack_floor"]["stream_seq"] == n
        (status,) = (await client.get("/status")).json()["databases"]
        assert status == {
            "id": "ha.db",
            "path": databases.get().store.path,
            "default": True,
            "position": n,
            "last": n,
            "lag": 0,
            "snapshot": None,
            "peers": {"ha_db_n2": n},
            "problem": None,
            "leader": None,
        }
        assert (await client.delete("/replications/ha_db_n2")).status_code == 204
        assert (await client.delete("/replications/ha_db_n2")).status_code == 404
        assert (await client.get("/replications/ha_db_n2")).status_code == 404


async def test_a_dead_letter_is_shown_and_passed_over(stream: MemoryStream) -> None:
    async with client_and_node(stream) as (client, databases):
        bad = stream.append("ha_replication.ha_db", Outgoing("bad", b"\xff not json")).sequence
        with trio.fail_after(10):
            while databases.get().committer.halted_at is None:  # noqa: ASYNC110
                await trio.sleep(0.01)
        (letter,) = (await client.get("/replications/dead-letters")).json()["dead_letters"]
        assert (letter["sequence"], letter["state"]) == (bad, "halted")
        assert letter["message_base64"] == "/yBub3QganNvbg=="
        assert (await client.post("/replications/dead-letters/77/skip")).status_code == 404
        skipped = await client.post(f"/replications/dead-letters/{bad}/skip")
        assert skipped.json()["sequence"] > bad
        await write(client, "CREATE TABLE t(x)")
