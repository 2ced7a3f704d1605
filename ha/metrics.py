"""``GET /metrics``: the node's state in Prometheus' text format, read when it is asked for.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from ha import __version__
from ha.core.distribution import Distribution
from ha.engine.database import Database
from ha.engine.databases import Databases
from ha.engine.leadership import Role
from ha.engine.standing import Standing
from ha.log.api import LogError

_PATIENCE = 1.0  # seconds to ask the broker how far the log goes


@dataclass
class Requests:
    """What the wires count, by protocol."""

    total: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: dict[str, Distribution] = field(default_factory=dict)

    def observe(self, protocol: str, outcome: str, seconds: float) -> None:
        key = (protocol, outcome)
        self.total[key] = self.total.get(key, 0) + 1
        self.seconds.setdefault(protocol, Distribution()).observe(seconds)


class Metrics:
    """``name``: of the node; ``leadership``: None where every node takes writes."""

    def __init__(self, databases: Databases, name: str, leadership: Standing | None = None) -> None:
        self._databases = databases
        self._name = name
        self._leadership = leadership
        self.requests = Requests()

    async def render(self) -> bytes:
        """The exposition, a few KiB."""
        last: dict[str, int] = {}
        async with trio.open_nursery() as nursery:
            for database in self._databases.all():
                nursery.start_soon(_read_last, database, last)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(list(self._families(last))))
        return generate_latest(registry)

    def _families(self, last: dict[str, int]) -> Iterator[Metric]:
        info = GaugeMetricFamily("ha_info", "Always 1.", labels=["node", "version"])
        info.add_metric([self._name, __version__], 1)
        yield info
        yield from self._leader_families()
        databases = self._databases.all()
        for name, help_text, read in _GAUGES:
            gauge = GaugeMetricFamily(name, help_text, labels=["database"])
            for database in databases:
                gauge.add_metric([database.id], read(database))
            yield gauge
        for name, help_text, read in _COUNTERS:
            counter = CounterMetricFamily(name, help_text, labels=["database"])
            for database in databases:
                counter.add_metric([database.id], read(database))
            yield counter
        lag = GaugeMetricFamily(
            "ha_lag_messages", "Sequences between the log's end and the file.", labels=["database"]
        )
        seconds = GaugeMetricFamily(
            "ha_lag_seconds",
            "Age of the last applied message while the file is behind, else 0.",
            labels=["database"],
        )
        for database in databases:
            if database.id in last:
                behind = max(last[database.id] - database.committer.applied, 0)
                lag.add_metric([database.id], behind)
                age = (database.runtime.now_ns() - database.committer.applied_time_ns) / 1e9
                seconds.add_metric([database.id], max(age, 0.0) if behind else 0.0)
        yield lag
        yield seconds
        for name, help_text, distribution in _HISTOGRAMS:
            histogram = HistogramMetricFamily(name, help_text, labels=["database"])
            for database in databases:
                values: Distribution = distribution(database)
                histogram.add_metric([database.id], list(values.cumulative()), values.sum)
            yield histogram
        yield from self._request_families()

    def _leader_families(self) -> Iterator[Metric]:
        leadership = self._leadership
        if leadership is None:
            return
        yield GaugeMetricFamily(
            "ha_leader", "1 if this node leads.", value=int(leadership.role is Role.LEADER)
        )
        yield GaugeMetricFamily(
            "ha_leader_known", "1 if a leader is known.", value=int(leadership.leader is not None)
        )
        yield GaugeMetricFamily("ha_leader_term", "The highest term known.", value=leadership.term)
        yield CounterMetricFamily(
            "ha_leader_changes",
            "How often this node saw another leader, or none.",
            value=leadership.changes,
        )
        yield CounterMetricFamily(
            "ha_elections",
            "How often this node tried to become the leader.",
            value=leadership.campaigns,
        )

    def _request_families(self) -> Iterator[Metric]:
        sessions = GaugeMetricFamily(
            "ha_sessions", "Sessions that are open.", labels=["database", "protocol"]
        )
        for database in self._databases.all():
            for protocol, count in sorted(database.sessions.items()):
                sessions.add_metric([database.id, protocol], count)
        yield sessions
        total = CounterMetricFamily(
            "ha_requests", "Requests answered.", labels=["protocol", "outcome"]
        )
        for (protocol, outcome), count in sorted(self.requests.total.items()):
            total.add_metric([protocol, outcome], count)
        yield total
        seconds = HistogramMetricFamily(
            "ha_request_seconds", "Time from a request to its answer.", labels=["protocol"]
        )
        for protocol, values in sorted(self.requests.seconds.items()):
            seconds.add_metric([protocol], list(values.cumulative()), values.sum)
        yield seconds


class _Snapshot:
    """A collector of families that are made already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


async def _read_last(database: Database, last: dict[str, int]) -> None:
    with trio.move_on_after(_PATIENCE):
        try:
            last[database.id] = (await database.log.state()).subject_last
        except LogError:
            return


def _outbox(database: Database) -> int:
    return database.relay.outbox.depth if database.relay is not None else 0


def _tentative(database: Database) -> int:
    relay = database.relay
    return relay.outbox.transactions(database.store.executor) if relay is not None else 0


def _published(database: Database) -> int:
    relayed = database.relay.published if database.relay is not None else 0
    return database.committer.counters.published + relayed


_Read = Callable[[Database], int]
_GAUGES: tuple[tuple[str, str, _Read], ...] = (
    ("ha_applied_sequence", "Sequence up to which the file contains the log.",
     lambda d: d.committer.applied),
    ("ha_published_sequence", "Sequence of the last message of this process met in the log.",
     lambda d: d.committer.counters.published_sequence),
    ("ha_ready", "1 if the database may get traffic.", lambda d: int(d.not_ready() is None)),
    ("ha_outbox_messages", "Messages that are committed here, but not in the log yet.", _outbox),
    ("ha_tentative_transactions", "Transactions that these messages carry.", _tentative),
    ("ha_writers_waiting", "Transactions that wait for the writer.",
     lambda d: d.committer.waiting),
)  # fmt: skip
_COUNTERS: tuple[tuple[str, str, _Read], ...] = (
    ("ha_published_messages", "Messages sent to the log.", _published),
    ("ha_applied_messages", "Messages of the log that are in the file.",
     lambda d: d.committer.counters.applied),
    ("ha_ignored_messages", "Messages that the fold ignored.",
     lambda d: d.committer.counters.ignored),
    ("ha_batches", "Batches of transactions published.", lambda d: d.committer.counters.batches),
    ("ha_replayed_batches", "Batches that another message had come before.",
     lambda d: d.committer.counters.replayed),
    ("ha_redone_transactions", "Tentative transactions taken back and applied again.",
     lambda d: d.fold.redone),
    ("ha_dead_letters", "Messages that could not be applied.",
     lambda d: d.committer.counters.dead_letters),
)  # fmt: skip
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Database], Distribution]], ...] = (
    ("ha_publish_seconds", "Time from publishing a batch to meeting it in the log.",
     lambda d: d.committer.counters.publish_seconds),
    ("ha_apply_seconds", "Time to apply messages of other nodes, a transaction of SQLite.",
     lambda d: d.committer.counters.apply_seconds),
)  # fmt: skip
