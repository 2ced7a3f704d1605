"""Databases made and dropped at run time: names, sessions, files, and the other nodes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import trio

from ha.core.dsn import Dsn
from ha.core.errors import Code, HaError
from ha.engine.databases import Databases
from ha.engine.place import Place
from ha.engine.runtime import Runtime
from ha.log.api import LogError
from ha.log.memory import MemoryBroker, MemoryLog, MemoryStream
from ha.store.file import Store, StoreOptions
from tests.support.cluster import OPTIONS, open_node


def open_store(dsn: Dsn) -> Store:
    options = StoreOptions(synchronous="OFF", pragmas=dsn.pragmas)
    if dsn.memory:
        return Store.open_memory(dsn.path, options)
    return Store.open(dsn.path, options)


@asynccontextmanager
async def node(
    stream: MemoryStream,
    folder: Path | None,
    *,
    name: str = "n1",
    memory: bool = False,
    follow: bool = True,
    first: str | None = "first.db",
    asynchronous: bool = False,
) -> AsyncIterator[Databases]:
    """A node with ``first`` in memory, and a place for others."""
    place = Place(None if folder is None else str(folder), memory, "", open_store)
    commit = replace(OPTIONS.commit, node=name, asynchronous=asynchronous)
    options = replace(OPTIONS, commit=commit)
    async with MemoryBroker(stream, node=name) as broker:
        runtime = Runtime(random=Random(name))
        databases = Databases(
            broker, options, runtime, stream=stream.name, place=place, follow=follow
        )
        try:
            async with trio.open_nursery() as nursery:
                if first is not None:
                    await databases.open(first, open_store(Dsn(first, memory=True)), nursery)
                await databases.open_all(nursery)
                nursery.start_soon(databases.follow)
                yield databases
                nursery.cancel_scope.cancel()
        finally:
            databases.close()


async def run(databases: Databases, database_id: str | None, sql: str) -> list[tuple[object, ...]]:
    session = databases.session(database_id, protocol="test")
    try:
        return list((await session.execute(sql)).rows)
    finally:
        await session.aclose()


def opened(folder: Path) -> list[str]:
    """Files that this process has open there, deleted ones too."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(descriptor.readlink()))
    return [path for path in found if path.startswith(str(folder))]


async def eventually(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110  # another node's doing has no event here
            await trio.sleep(0.01)


async def until(databases: Databases, ids: list[str]) -> None:
    """Wait until the node serves just these."""
    await eventually(lambda: databases.database_ids() == ids)


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.fixture
def stream() -> MemoryStream:
    return MemoryStream(epoch="test")


async def test_a_database_is_created_used_and_dropped(stream: MemoryStream, tmp_path: Path) -> None:
    async with node(stream, tmp_path) as databases:
        await run(databases, None, "CREATE DATABASE shop.db")
        assert await run(databases, None, "SHOW DATABASES") == [("first.db",), ("shop.db",)]
        session = databases.session(protocol="test")
        await session.execute("SET DATABASE TO shop")
        await session.execute("CREATE TABLE t(x)")
        await session.execute("INSERT INTO t VALUES (1)")
        assert (tmp_path / "shop.db").exists()
        assert await run(databases, "shop.db", "SELECT * FROM t") == [(1,)]
        subject = stream.subject("ha_replication.shop_db")
        assert subject.last > 0
        await run(databases, None, "DROP DATABASE shop")
        assert databases.database_ids() == ["first.db"]
        assert files(tmp_path) == []
        assert subject.entries == []
        for use in (session.execute("SELECT 1"), session.prepare("SELECT 1")):
            with pytest.raises(HaError) as info:
                await use
            assert info.value.code is Code.NOT_FOUND
            assert info.value.message == "the database 'shop.db' was dropped"
        await session.execute("UNSET DATABASE")
        assert (await session.execute("SELECT 1")).rows == [(1,)]
        await run(databases, None, "CREATE DATABASE 'shop.db?_fk=on'")
        assert (
            await run(databases, "shop.db", "SELECT name FROM sqlite_schema WHERE name='t'") == []
        )
        await session.aclose()


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_nothing_stays_open_of_a_dropped_database(
    stream: MemoryStream, tmp_path: Path, asynchronous: bool
) -> None:
    async with node(stream, tmp_path, asynchronous=asynchronous) as databases:
        await run(databases, None, "CREATE DATABASE shop.db")
        await run(databases, "shop.db", "CREATE TABLE t(x)")
        assert opened(tmp_path)
        await run(databases, None, "DROP DATABASE shop")
        assert opened(tmp_path) == []


async def test_a_drop_ends_what_runs_and_what_is_open(stream: MemoryStream, tmp_path: Path) -> None:
    async with node(stream, tmp_path) as databases:
        await databases.create("shop.db")
        busy, open_, waiting, pinned = (
            databases.session("shop.db", protocol="test") for _ in range(4)
        )
        await busy.execute("CREATE TABLE t(x)")
        await busy.execute("INSERT INTO t VALUES (1), (2)")
        errors: list[HaError] = []

        async def fails(sql: str) -> None:
            try:
                await busy.execute(sql)
            except HaError as error:
                errors.append(error)

        await open_.execute("BEGIN IMMEDIATE")
        await open_.execute("INSERT INTO t VALUES (3)")
        await pinned.execute("CREATE TEMP TABLE own(x)")
        endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) SELECT max(i) FROM n"
        async with waiting.query("SELECT x FROM t") as rows, trio.open_nursery() as nursery:
            assert await rows.fetch(1) == [(1,)]
            nursery.start_soon(fails, endless)
            await trio.sleep(0.1)
            with trio.fail_after(5):
                await databases.drop("shop.db")
            with pytest.raises(HaError, match="dropped"):
                await rows.fetch(1)
        assert [e.code for e in errors] == [Code.NOT_FOUND]
        for session in (open_, pinned):
            with pytest.raises(HaError, match="dropped"):
                await session.execute("SELECT 1")
        for session in (busy, open_, waiting, pinned):
            await session.aclose()


@pytest.mark.parametrize(
    ("dsn", "code"),
    [
        ("../outside.db", Code.REFUSED),
        ("/etc/outside.db", Code.REFUSED),
        ("link/x.db", Code.REFUSED),
        ("file:../outside.db", Code.REFUSED),
        ("file:%2e%2e/outside.db", Code.REFUSED),
        ("nowhere/x.db", Code.NOT_FOUND),
        (".hidden", Code.BAD_REQUEST),
        ("x.db-wal", Code.BAD_REQUEST),
        ("a\nb.db", Code.BAD_REQUEST),
        ("x" * 250, Code.BAD_REQUEST),
        ("...", Code.BAD_REQUEST),
        ("", Code.BAD_REQUEST),
        ("first.db", Code.ALREADY_EXISTS),
        ("first", Code.ALREADY_EXISTS),
        ("first/db", Code.NOT_FOUND),
        ("first_db", Code.ALREADY_EXISTS),
        ("there.db", Code.ALREADY_EXISTS),
        ("x.db?_pragma=writable_schema(1)", Code.BAD_REQUEST),
        ("x.db?_pragma=journal_mode(DELETE)", Code.BAD_REQUEST),
    ],
)
async def test_names_that_lead_elsewhere_are_refused(
    stream: MemoryStream, tmp_path: Path, dsn: str, code: Code
) -> None:
    folder = tmp_path / "databases"
    folder.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "there.db").write_text("not a database")
    async with node(stream, folder) as databases:
        with pytest.raises(HaError) as info:
            await databases.create(dsn)
        assert info.value.code is code
        assert databases.database_ids() == ["first.db"]
    assert files(tmp_path) == ["databases", "databases/link", "databases/there.db", "elsewhere"]


async def test_without_a_place_nothing_is_created(stream: MemoryStream) -> None:
    async with node(stream, None) as databases:
        with pytest.raises(HaError) as info:
            await run(databases, None, "CREATE DATABASE x.db")
        assert info.value.code is Code.REFUSED
        assert "--create-db-dir" in (info.value.hint or "")


async def test_the_default_cannot_be_dropped_while_there_are_others(
    stream: MemoryStream, tmp_path: Path
) -> None:
    async with node(stream, tmp_path) as databases:
        await databases.create("x.db")
        with pytest.raises(HaError) as info:
            await databases.drop("first.db")
        assert info.value.code is Code.REFUSED
        with pytest.raises(HaError) as info:
            await databases.drop("never.db")
        assert info.value.code is Code.NOT_FOUND
        await databases.drop("x.db")
        await databases.drop("first.db")
        assert databases.not_ready() is not None
        session = databases
        with pytest.raises(HaError):
            session.session(protocol="test")


async def test_neither_can_be_part_of_a_transaction(stream: MemoryStream, tmp_path: Path) -> None:
    async with node(stream, tmp_path) as databases:
        session = databases.session(protocol="test")
        await session.execute("BEGIN")
        for sql in ("CREATE DATABASE x", "DROP DATABASE x"):
            with pytest.raises(HaError) as info:
                await session.execute(sql)
            assert info.value.code is Code.IN_TRANSACTION
        await session.aclose()


async def test_all_files_below_the_folder_are_served_again(
    stream: MemoryStream, tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "notes.txt").write_text("no database")
    async with node(stream, tmp_path) as databases:
        await databases.create("a.db?_fk=on")
        await databases.create("deep/b.sqlite")
        await run(databases, "a.db", "CREATE TABLE t(x)")
    async with node(stream, tmp_path) as databases:
        assert databases.database_ids() == ["first.db", "a.db", "b.sqlite"]
        assert databases.get("a.db").store.options.pragmas == (("foreign_keys", "ON"),)
        assert databases.get("b.sqlite").store.options.pragmas == ()
        assert await run(databases, "a.db", "SELECT * FROM t") == []


async def test_other_nodes_create_and_drop_what_one_does(
    stream: MemoryStream, tmp_path: Path
) -> None:
    async with (
        node(stream, tmp_path, name="n1") as one,
        node(stream, None, memory=True, name="n2") as two,
        node(stream, None, name="n3") as without_a_place,
        node(stream, None, memory=True, follow=False, name="n4") as alone,
    ):
        await run(one, None, "CREATE DATABASE 'shop.db?_fk=on'")
        await run(one, "shop.db", "CREATE TABLE t(x)")
        await until(two, ["first.db", "shop.db"])
        assert two.get("shop.db").store.options.pragmas == (("foreign_keys", "ON"),)
        await see_table(two)
        await run(two, "shop.db", "INSERT INTO t VALUES (2)")
        assert without_a_place.database_ids() == ["first.db"]
        assert alone.database_ids() == ["first.db"]
        await two.drop("shop.db")
        await until(one, ["first.db"])
        subject = stream.subject("ha_replication.shop_db")
        await eventually(lambda: files(tmp_path) == [] and subject.entries == [])
        await one.create("shop.db")
        await until(two, ["first.db", "shop.db"])
        assert await run(two, "shop.db", "SELECT name FROM sqlite_schema WHERE name = 't'") == []


async def see_table(databases: Databases) -> None:
    database = databases.get("shop.db")
    with trio.fail_after(10):
        last = (await database.log.state()).subject_last
        await database.committer.wait_applied(last)


async def test_a_node_that_was_down_learns_at_its_start(
    stream: MemoryStream, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    async with node(stream, here, name="n1") as one:
        async with node(stream, there, name="n2") as two:
            await one.create("gone.db")
            await one.create("stays.db")
            await until(two, ["first.db", "gone.db", "stays.db"])
        await one.drop("gone.db")
        await one.create("later.db")
        # n2 still has its consumer there, so the log waits for it
        assert stream.subject("ha_replication.gone_db").entries != []
        async with node(stream, there, name="n2") as two:
            await until(two, ["first.db", "stays.db", "later.db"])
            assert sorted(p.name for p in there.glob("*.db")) == ["later.db", "stays.db"]


async def test_a_name_is_used_again_while_a_node_with_the_former_one_is_down(
    stream: MemoryStream, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    async with node(stream, here, name="n1") as one:
        async with node(stream, there, name="n2") as two:
            await one.create("shop.db")
            await until(two, ["first.db", "shop.db"])
            await run(two, "shop.db", "CREATE TABLE old(x)")
        await one.drop("shop.db")
        await one.create("shop.db")
        await run(one, "shop.db", "CREATE TABLE new(x)")
        async with node(stream, there, name="n2") as two:
            await until(two, ["first.db", "shop.db"])
            with trio.fail_after(10):
                await two.get("shop.db").caught_up.wait()
            tables = "SELECT name FROM sqlite_schema WHERE name IN ('old', 'new')"
            assert await run(two, "shop.db", tables) == [("new",)]


async def test_a_log_that_does_not_answer_at_the_start_has_an_error_with_a_name() -> None:
    class Silent(MemoryBroker):
        async def log(self, database_id: str) -> MemoryLog:
            raise LogError("CONSUMER.INFO.s.c: JetStream system temporarily unavailable")

    async with Silent(MemoryStream(epoch="test"), node="n1") as broker:
        with pytest.RaisesGroup(HaError) as info:
            async with open_node("n1", broker):
                pass
    (error,) = info.value.exceptions
    assert isinstance(error, HaError)
    assert error.code is Code.UNAVAILABLE
    assert error.message.startswith("the log did not answer in time: CONSUMER.INFO.s.c")
