"""What the simulator found in ``ha/``, each as a script of its own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from ha.core.changeset import ChangeSet, Kind, Origin
from ha.core.errors import Code, HaError
from ha.core.parts import encode_all
from ha.engine.operations import NodeOperations
from ha.log.api import Outgoing
from sim.cluster import Cluster, Gone
from sim.letters import let_pass
from sim.nats.stream import Stream
from tests.support.simulated import outcome, play, process, ready, session


def test_a_part_that_was_lost_does_not_stop_the_writer() -> None:
    """Its transaction is executed again; the writer does not wait for the part for ever."""
    lost: list[str] = []

    def censor(message_id: str) -> str:
        if message_id.endswith(".1") and not lost:
            lost.append(message_id)
            return "drop"
        return ""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        cluster.server.censor = censor
        with trio.fail_after(1):
            assert await outcome(one.execute("INSERT INTO t(x) VALUES (zeroblob(20000))")) == "ok"
            assert lost
            await one.execute("INSERT INTO t(x) VALUES (1)")
        await ready(cluster)

    play(script, max_payload=4096)


def test_a_transaction_expires_while_its_statement_runs() -> None:
    """The statement may end well all the same: the transaction is over, and says so."""

    async def script(cluster: Cluster) -> None:
        one, other = session(cluster, "n1"), session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        node = cluster.nodes["n1"].process
        assert node is not None
        slow = trio.Event()

        async def in_thread(work: object) -> object:
            result = work()  # type: ignore[operator]
            await slow.wait()
            return result

        object.__setattr__(node.database.runtime, "run_in_thread", in_thread)
        await one.execute("BEGIN")
        errors: list[HaError] = []

        async def write() -> None:
            try:
                await one.execute("INSERT INTO t SELECT 1")  # short ones run on the event loop
            except HaError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(0.1)
            nursery.start_soon(other.execute, "INSERT INTO t VALUES (2)")
            await trio.sleep(2)
            slow.set()
        assert [e.code for e in errors] == [Code.TRANSACTION_HOLD]
        await one.execute("ROLLBACK")
        assert (await one.execute("SELECT * FROM t")).rows == [(2,)]

    play(script)


def test_a_transaction_expires_while_it_reads_piece_by_piece() -> None:
    """The writer comes back when the piece has been read, not at the client's next statement."""

    async def script(cluster: Cluster) -> None:
        one, other = session(cluster, "n1"), session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        await one.execute("INSERT INTO t VALUES (1), (2), (3)")
        await one.execute("BEGIN IMMEDIATE")
        async with one.query("SELECT * FROM t") as rows:
            assert await rows.fetch(1) == [(1,)]
            await other.execute("INSERT INTO t VALUES (4)")
            with pytest.raises(HaError) as info:
                await rows.fetch(1)
            assert info.value.code is Code.TRANSACTION_HOLD

    play(script)


def test_new_writes_do_not_wait_longer_than_they_may_for_earlier_ones() -> None:
    """A batch whose messages were lost on the way, and no connection: the next client learns
    in time that nothing of his was written."""

    async def script(cluster: Cluster) -> None:
        one, other = session(cluster, "n1"), session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        cluster.server.censor = lambda _: "drop"
        said: list[str] = []
        told = trio.Event()

        async def write(which: int) -> None:
            client = one if which == 1 else other
            said.append(await outcome(client.execute("INSERT INTO t VALUES (?)", [which])))
            if len(said) == 2:
                told.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, 1)
            await trio.sleep(1)
            cluster.nodes["n1"].cut(up=True, down=True)
            nursery.start_soon(write, 2)
            with trio.fail_after(60):
                await told.wait()
            assert sorted(said) == ["not_written", "outcome_unknown"]
            cluster.server.censor = None
            cluster.nodes["n1"].heal()
        await ready(cluster)

    play(script)


def test_a_commit_ends_when_its_node_does() -> None:
    """The wait for a COMMIT cannot be cancelled: the committer must end it when it ends."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        await one.execute("BEGIN")
        await one.execute("INSERT INTO t VALUES (1)")
        cluster.nodes["n1"].cut(up=True, down=True)
        node = process(cluster, "n1")

        async def commit() -> None:
            with pytest.raises(Gone):
                await node.call(lambda: one.execute("COMMIT"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit)
            await trio.sleep(1)
            node.crash()
            with trio.fail_after(1):
                await node.ended.wait()
        cluster.nodes["n1"].heal()

    play(script)


def test_an_undo_ends_when_its_node_does() -> None:
    """It waits for its connection to be free, and nobody frees it but the committer's end."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await one.execute("INSERT INTO t VALUES (1, 1)")
        cluster.server.censor = lambda _: "drop"
        node = process(cluster, "n1")

        async def undo() -> None:
            with trio.move_on_after(0.3):  # its client goes away first
                await one.execute(f"UNDOE {one.txseq}")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(undo)
            await trio.sleep(0.5)
            node.crash()
            with trio.fail_after(1):
                await node.ended.wait()
        cluster.server.censor = None

    play(script)


def test_a_transaction_whose_ack_came_and_whose_earlier_part_is_lost_is_in_doubt() -> None:
    """The log has its last message, and every node will ignore it: that is not 'written'."""
    lost: list[str] = []

    def censor(message_id: str) -> str:
        if message_id.endswith(".1") and not lost:
            lost.append(message_id)
            return "drop"
        return ""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        cluster.server.censor = censor
        cluster.server.faults.stall = 1.0  # acks arrive, messages do not
        cluster.server.faults.stall_delay = 100.0
        cluster.timeline.after(0.15, cluster.server.lose_leader)  # nor can they be looked up
        said = await outcome(one.execute("INSERT INTO t(x) VALUES (zeroblob(20000))"))
        assert said == "outcome_unknown"
        assert lost
        cluster.server.faults.clear()
        cluster.server.elect_leader()
        await ready(cluster)
        assert (await one.execute("SELECT count(*) FROM t")).rows == [(0,)]

    play(script, max_payload=4096)


@pytest.mark.parametrize("kind", ["read", "write", "sync"])
def test_errors_of_the_disk_reach_clients_by_name_and_kill_no_node(kind: str) -> None:
    """Wherever SQLite meets them: BEGIN, the schema, the batch, the close."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(id INTEGER PRIMARY KEY AUTOINCREMENT, x)")
        node = process(cluster, "n1")
        setattr(cluster.nodes["n1"].disk.faults, f"{kind}_errors", 0.3)
        for n in range(60):
            client = session(cluster, "n1")
            await outcome(client.execute("INSERT INTO t(x) VALUES (?)", [n]))
            await outcome(client.execute("SELECT count(*) FROM t"))
            await outcome(client.execute("BEGIN"))
            await outcome(client.execute("UPDATE t SET x = 1"))
            await outcome(client.execute("COMMIT"))
            await client.aclose()
        assert not node.ended.is_set()
        node.shutdown.set()
        await node.ended.wait()
        cluster.nodes["n1"].disk.faults.clear()
        await ready(cluster)
        assert await outcome(session(cluster, "n1").execute("INSERT INTO t(x) VALUES (1)")) == "ok"

    play(script, checkpoint=10)


def test_a_node_that_starts_while_the_log_does_not_answer_waits_and_says_so() -> None:
    """An unanswered question while it joins is no error without a name."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        node = process(cluster, "n2")
        node.crash()
        cluster.nodes["n2"].disk.wipe()
        await node.ended.wait()
        for _ in range(40):
            cluster.nodes["n2"].cut(up=True, down=True)
            await trio.sleep(0.5)
            cluster.nodes["n2"].heal()
            await trio.sleep(0.003)
        await ready(cluster)

    play(script)


def test_what_an_asynchronous_node_writes_goes_out_at_once() -> None:
    """Also when its outbox had been empty: the next message is not one that was sent before."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        for number in range(3):
            before = cluster.server.last
            await one.execute("INSERT INTO t VALUES (?)", [number])
            with trio.fail_after(1):
                await process(cluster, "n2").database.committer.wait_applied(before + 1)
                while process(cluster, "n1").database.committer.applied <= before:  # noqa: ASYNC110
                    await trio.sleep(0.01)

    play(script, asynchronous=("n1",))


class Forgetful(random.Random):
    """The chance of a disk that a power failure leaves with nothing but what was synced."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def random(self) -> float:
        return 0.99


def test_what_got_new_numbers_in_an_outbox_keeps_them_when_the_power_fails() -> None:
    """The log may have it under the new ones: under the old ones it would count once more."""

    async def script(cluster: Cluster) -> None:
        one, two = session(cluster, "n1"), session(cluster, "n2")
        node = cluster.nodes["n1"]
        await one.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        await ready(cluster)
        node.disk.chance = Forgetful(0)
        node.cut(up=True, down=True)
        for number in (1, 2):
            await one.execute("INSERT INTO t VALUES (?, 'mine')", [number])
        process(cluster, "n1").database.store.executor.raw.wal_checkpoint()

        def censor(_: str) -> str:
            """Of the two the first is lost, so the second one does not count where it stands."""
            cluster.server.censor = None
            return "drop"

        cluster.server.censor = censor
        before = cluster.server.last
        node.heal()
        with trio.fail_after(60):
            await process(cluster, "n2").database.committer.wait_applied(before + 3)
            await two.execute("UPDATE t SET x = 'later'")
        process(cluster, "n1").crash(power=True)
        with trio.fail_after(60):
            await trio.sleep(5)
            await ready(cluster)
            await trio.sleep(20)
            await ready(cluster)
        for name in ("n1", "n2"):
            found = await session(cluster, name).execute("SELECT * FROM t")
            assert found.rows == [(1, "later"), (2, "later")]

    play(script, asynchronous=("n1",), checkpoint=1000)


def test_a_node_that_stands_before_a_message_does_not_spin_over_what_is_under_way() -> None:
    """What became of it, the log says only beyond the message: till then it is in doubt."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        subject = process(cluster, "n1").database.log.subject

        def censor(_: str) -> str:
            cluster.server.censor = None
            cluster.server.append(subject, Outgoing("poison-1", b"no message"))
            return "drop"

        cluster.server.censor = censor
        assert await outcome(one.execute("INSERT INTO t VALUES (1)")) == "outcome_unknown"
        broken = cluster.server.last
        assert process(cluster, "n1").database.committer.halted_at == broken
        await let_pass(cluster, broken)
        with trio.fail_after(60):
            while await outcome(one.execute("INSERT INTO t VALUES (2)")) != "ok":  # noqa: ASYNC110
                await trio.sleep(1)
        assert (await one.execute("SELECT * FROM t")).rows == [(2,)]

    play(script)


def test_what_one_log_let_nodes_pass_over_counts_in_the_next_one() -> None:
    """After a repair another message stands at that place."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        server = cluster.server
        await ready(cluster)
        server.sync()
        subject = process(cluster, "n1").database.log.subject
        broken = server.append(subject, Outgoing("poison-1", b"no message"))
        await let_pass(cluster, broken)
        await ready(cluster)
        server.power_failure()
        server.start()
        for name in ("n1", "n2"):
            databases = process(cluster, name).databases
            assert databases is not None
            with trio.fail_after(60):
                while databases.get(None).committer.severed is None:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            await NodeOperations(databases).adopt(None)
        for number in range(5):
            await one.execute("INSERT INTO t VALUES (?)", [number])
        assert server.last > broken
        await ready(cluster)
        for name in ("n1", "n2"):
            found = await session(cluster, name).execute("SELECT count(*) FROM t")
            assert found.rows == [(5,)]

    play(script, durable_broker=False)


def test_what_was_acknowledged_and_is_lost_before_it_was_read_stops_nobody() -> None:
    """The broker may lose just the last message: no file is ahead of the log then."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        server = cluster.server
        await one.execute("CREATE TABLE t(x)")
        await ready(cluster)
        server.sync()
        server.faults.stall = 1.0  # acks arrive, messages do not
        server.faults.stall_delay = 100.0
        setattr(process(cluster, "n1").link, "latency", lambda: 0.001)  # noqa: B010
        said: list[str] = []

        async def write() -> None:
            said.append(await outcome(one.execute("INSERT INTO t VALUES (1)")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.sleep(0.1)
            loss = server.power_failure()
            assert loss is not None
            assert len(loss.lost) == 1
            server.faults.clear()
            server.start()
        assert said[0] in ("not_written", "outcome_unknown")
        with trio.fail_after(60):
            while await outcome(one.execute("INSERT INTO t VALUES (2)")) != "ok":  # noqa: ASYNC110
                await trio.sleep(1)
        await ready(cluster)
        for name in ("n1", "n2"):
            assert (await session(cluster, name).execute("SELECT * FROM t")).rows == [(2,)]

    play(script, durable_broker=False)


def test_a_leader_whose_term_is_over_waits_for_its_bucket_without_spinning() -> None:
    """The log has a higher term, and the bucket does not answer who may take the next one."""

    async def script(cluster: Cluster) -> None:
        leader = next(p for p in cluster.serving() if p.leads)
        one = session(cluster, leader.node.name)
        await one.execute("CREATE TABLE t(x)")
        await ready(cluster)
        server, publish = cluster.server, cluster.server._publish

        def without_keys(stream: Stream, *rest: Any) -> None:
            if not stream.name.startswith("KV_"):
                publish(stream, *rest)

        setattr(server, "_publish", without_keys)  # noqa: B010
        database = leader.database
        foreign = ChangeSet(
            node="n9",
            process_id=9,
            database_id=database.committer.database_id,
            changes=(),
            timestamp_ns=0,
            kind=Kind.TERM,
            origin=Origin("n9", 9, 1),
            uuid=database.fold.position.uuid,
            term=database.fold.term.number + 1,
        )
        payload = encode_all(foreign, 10_000)[0]
        await trio.sleep(2)
        server.append(database.log.subject, Outgoing("foreign", payload))
        said = await outcome(one.execute("INSERT INTO t VALUES (1)"))
        assert said in ("not_written", "no_leader", "not_leader")
        setattr(server, "_publish", publish)  # noqa: B010
        with trio.fail_after(60):
            while not any(p.leads for p in cluster.serving()):  # noqa: ASYNC110
                await trio.sleep(0.5)

    play(script, lease=5.0, publish_timeout=1.0)


def test_a_quiet_database_lacks_nothing_though_a_new_node_stands_where_the_stream_begins() -> None:
    """Others have written much since its last message, and the stream has forgotten that."""

    async def script(cluster: Cluster) -> None:
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        await ready(cluster)
        server = cluster.server
        databases = process(cluster, "n1").databases
        assert databases is not None
        await NodeOperations(databases).take_snapshot(None)
        for number in range(20):
            server.append(f"{server.name}.other_db", Outgoing(f"other-{number}", b"{}"))
        assert server.stream is not None
        server.stream.purge(before=server.last - 5)
        new = process(cluster, "n2")
        new.crash()
        await new.ended.wait()
        cluster.nodes["n2"].disk.wipe()
        for name, consumer in list(server.js.consumers[server.name].items()):
            if name.endswith("_n2"):
                server.js.forget(consumer)
        with trio.fail_after(60):
            while not _is_ready(cluster, "n2"):  # noqa: ASYNC110
                await trio.sleep(0.5)
        await trio.sleep(5)
        old = process(cluster, "n1")
        old.shutdown.set()
        await old.ended.wait()
        with trio.fail_after(60):
            while not _is_ready(cluster, "n1"):  # noqa: ASYNC110
                await trio.sleep(0.5)
        await session(cluster, "n1").execute("INSERT INTO t VALUES (1)")

    play(script)


def _is_ready(cluster: Cluster, name: str) -> bool:
    found = cluster.process(name)
    return (
        found is not None
        and found.serving
        and found.databases is not None
        and (found.databases.not_ready() is None)
    )


def test_a_node_knows_from_its_own_consumer_that_its_file_has_lost_its_end() -> None:
    """The log has let go of what the power took: without it the file is no state of the log."""

    async def script(cluster: Cluster) -> None:
        node = cluster.nodes["n1"]
        one = session(cluster, "n1")
        await one.execute("CREATE TABLE t(x)")
        databases = process(cluster, "n1").databases
        assert databases is not None
        await NodeOperations(databases).take_snapshot(None)
        snapshots = next(s for n, s in cluster.server.js.streams.items() if n.startswith("OBJ_"))
        early = snapshots.image()
        process(cluster, "n1").database.store.executor.raw.wal_checkpoint()
        for number in range(10):
            await one.execute("INSERT INTO t VALUES (?)", [number])
        await trio.sleep(5)  # its consumer follows
        node.disk.chance = Forgetful(0)
        process(cluster, "n1").crash(power=True)
        server = cluster.server
        snapshots.restore(early)
        assert server.stream is not None
        for number in range(3):
            server.append(f"{server.name}.other_db", Outgoing(f"other-{number}", b"{}"))
        server.stream.purge(before=server.last)
        await trio.sleep(30)
        while process(cluster, "n1").databases is None:  # noqa: ASYNC110
            await trio.sleep(0.5)
        databases = process(cluster, "n1").databases
        assert databases is not None
        assert "lacks messages up to 12" in (databases.not_ready() or "")
        with pytest.raises(HaError, match="lacks messages"):
            await session(cluster, "n1").execute("INSERT INTO t VALUES (99)")
        await NodeOperations(databases).rebase(None)
        await session(cluster, "n1").execute("INSERT INTO t VALUES (99)")

    play(script, nodes=1)
