"""What a crash in the simulator means: nothing that the dead process still does has an effect."""

from __future__ import annotations

import random
import sqlite3

import apsw
import pytest
import trio

from ha.log.api import Outgoing
from sim.cluster import DATABASE, Cluster
from sim.disk import Disk
from sim.trace import Trace
from tests.support.simulated import play, process, ready, session


def test_a_finally_cannot_save_what_a_crash_took() -> None:
    """The network and the disk are cut off first, and only then are its tasks cancelled."""
    late: list[str] = []

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        await ready(cluster)
        victim = process(cluster, "n1")
        last = cluster.server.last
        path = victim.mount.path(DATABASE)

        async def save() -> None:
            try:
                await trio.sleep_forever()
            finally:
                late.append("ran")
                victim.link.to_server(
                    lambda: late.append(
                        str(cluster.server.append("ha.ha_db", Outgoing("late", b"{}")))
                    )
                )
                db = apsw.Connection(path, vfs=victim.mount.vfs_name)
                db.execute("PRAGMA user_version = 77")
                db.close(True)

        assert victim.databases is not None
        tasks = victim.databases._nursery
        assert tasks is not None
        tasks.start_soon(save)
        await trio.sleep(0.1)
        victim.crash()
        await trio.sleep(30)
        await ready(cluster)
        assert late == ["ran"]
        assert cluster.server.last == last
        found = await session(cluster, "n1").execute("PRAGMA user_version")
        assert found.rows == [(0,)]

    play(script)


def test_a_dead_process_holds_no_lock() -> None:
    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        victim = process(cluster, "n1")
        held = apsw.Connection(victim.mount.path(DATABASE), vfs=victim.mount.vfs_name)
        held.execute("BEGIN IMMEDIATE")
        victim.crash()
        await trio.sleep(5)
        await ready(cluster)
        await session(cluster, "n1").execute("INSERT INTO t VALUES (1)")
        held.close(True)

    play(script)


@pytest.mark.parametrize("synced", [True, False])
def test_a_power_failure_takes_what_was_not_synced(synced: bool) -> None:
    """Never what was; and what was not, in some runs wholly, in others in part or not at all."""
    outcomes: set[object] = set()
    for seed in range(30):
        disk = Disk("n1", random.Random(seed), Trace())
        mount = disk.mount(lambda: 0)
        try:
            db = apsw.Connection(mount.path("x.db"), vfs=mount.vfs_name)
            db.execute("PRAGMA journal_mode = WAL").fetchall()
            db.execute(f"PRAGMA synchronous = {'FULL' if synced else 'OFF'}").fetchall()
            db.execute("PRAGMA wal_autocheckpoint = 0").fetchall()
            db.execute("CREATE TABLE t(x)")
            for number in range(5):
                db.execute("INSERT INTO t VALUES (?)", (number,))
            mount.freeze(power=True)
            db.close(True)
            after = sqlite3.connect(disk.mount(lambda: 0).path("x.db"))
            try:
                outcomes.add(after.execute("SELECT count(*) FROM t").fetchone()[0])
            except sqlite3.Error as error:
                outcomes.add(type(error).__name__)
            after.close()
        finally:
            disk.destroy()
    if synced:
        assert outcomes == {5}
    else:
        assert len(outcomes) > 1
