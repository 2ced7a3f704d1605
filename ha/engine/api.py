"""What protocols see of the engine: results, prepared statements, and the session's shape.

:class:`SessionApi` is implemented by :class:`ha.engine.session.Session`; wires are typed
against it, so that their codecs and servers can be tested without a database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from ha.core.since import Since
from ha.core.undo import Mode, Obstacle
from ha.core.values import Value
from ha.engine.leadership import Leader

Params: TypeAlias = Sequence[Value] | Mapping[str, Value] | None
"""Positional (``?``, ``?1``), or by name without prefix (``:name``, ``$name``, ``@name``).
A mapping whose names are all numbers (``$1`` → ``"1"``) is positional."""


@dataclass(frozen=True, slots=True)
class Statement:
    sql: str
    params: Params = None


@dataclass(frozen=True, slots=True)
class Column:
    """A result column. ``decltype`` as declared in CREATE TABLE, None for expressions;
    ``table`` and ``origin`` name the column it comes from, None for expressions."""

    name: str
    decltype: str | None = None
    table: str | None = None
    origin: str | None = None


class Kind(StrEnum):
    """What a statement is, as SQLite's own parser and authorizer saw it."""

    EMPTY = "empty"  # white space and comments
    READ = "read"  # SELECT, VALUES, WITH … SELECT, EXPLAIN, pragmas that answer
    WRITE = "write"  # INSERT, UPDATE, DELETE, REPLACE
    DDL = "ddl"  # CREATE, DROP, ALTER, REINDEX, ANALYZE
    BEGIN = "begin"
    COMMIT = "commit"
    ROLLBACK = "rollback"
    SAVEPOINT = "savepoint"
    RELEASE = "release"
    ROLLBACK_TO = "rollback_to"
    PRAGMA = "pragma"  # one that sets something, of the session or of the file
    COMMAND = "command"  # SHOW DATABASES, SET DATABASE, HISTORY, UNDO …: ours, not SQLite's


@dataclass(frozen=True, slots=True)
class Prepared:
    """A statement that SQLite has parsed, but not run.

    ``verb`` is its first keyword in upper case (``INSERT``, ``CREATE``…); ``parameters`` the
    names without prefix, None for positional ones; ``remaining`` what follows its semicolon.
    """

    sql: str
    kind: Kind
    verb: str
    columns: tuple[Column, ...] = ()
    parameters: tuple[str | None, ...] = ()
    remaining: str = ""


@dataclass(slots=True)
class Result:
    """The outcome of one statement. ``columns`` is empty when it answers no rows."""

    kind: Kind
    verb: str = ""
    columns: tuple[Column, ...] = ()
    rows: list[tuple[Value, ...]] = field(default_factory=list)
    rows_affected: int = 0
    last_insert_id: int = 0


class Status(StrEnum):
    IDLE = "idle"
    TRANSACTION = "transaction"
    ABORTED = "aborted"  # the engine rolled it back (hold, SQLite): only ROLLBACK is taken


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """A transaction of the log. ``time_ns``: the broker's, Unix nanoseconds; ``statements``: its
    changes as SQL, for people; ``more``: it has more of them than those shown."""

    sequence: int
    time_ns: int
    node: str
    statements: list[str] = field(default_factory=list)
    more: bool = False


@dataclass(slots=True)
class UndoReport:
    """What an undo did, or with ``dry_run`` would do.

    ``sequence``: where it stands in the log, 0 if it changed nothing or was a dry run;
    ``rows``: how many it changed; ``transactions``: how many it reverted, in whole or in part,
    from sequence ``first`` to ``last``; ``schema``: DDL among these, which stays as it is;
    ``statements``: of a dry run.
    """

    sequence: int = 0
    rows: int = 0
    transactions: int = 0
    first: int = 0
    last: int = 0
    obstacles: list[Obstacle] = field(default_factory=list)
    schema: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Routing:
    """Where in a cluster with a leader a session's statements run.

    ``local``: here alone, so that a follower only reads; ``forward`` False: a write on a follower
    is refused (NOT_LEADER, with the leader's URL) in place of being sent to the leader;
    ``linearizable``: a read shows all writes that were acknowledged before it began.
    """

    local: bool = False
    forward: bool = True
    linearizable: bool = False


class Rows(Protocol):
    """An open result. Holds a read snapshot until it is closed; never blocks a writer."""

    @property
    def columns(self) -> tuple[Column, ...]: ...

    async def fetch(self, count: int) -> list[tuple[Value, ...]]:
        """The next rows, at most ``count``; an empty list at the end."""
        ...


class SessionApi(Protocol):
    """One client's conversation. Not for use by two tasks at once, but for :meth:`cancel`.

    All methods raise :class:`ha.core.errors.HaError` and nothing else.
    """

    @property
    def status(self) -> Status: ...

    @property
    def database_id(self) -> str: ...

    @property
    def txseq(self) -> int:
        """Sequence of the last transaction that this session wrote; 0 if none."""
        ...

    @property
    def routing(self) -> Routing:
        """Set it between statements. Raises UNSUPPORTED for ``linearizable`` where every node
        takes writes."""
        ...

    @routing.setter
    def routing(self, value: Routing) -> None: ...

    async def prepare(self, sql: str) -> Prepared:
        """Parse the first statement of ``sql``; the rest is in ``remaining``. Runs nothing."""
        ...

    async def execute(
        self, sql: str, params: Params = None, *, max_rows: int | None = None
    ) -> Result:
        """Run exactly one statement, whatever it is (BEGIN and our commands too).

        Outside a transaction a write returns when it is in the log and in the database.
        Raises TOO_LARGE when there are more than ``max_rows`` rows.
        """
        ...

    async def transaction(
        self, statements: Sequence[Statement], *, max_rows: int | None = None
    ) -> list[Result]:
        """Run all as one transaction, or none. Refused inside a transaction."""
        ...

    def query(self, sql: str, params: Params = None) -> AbstractAsyncContextManager[Rows]:
        """Run one reading statement and fetch its rows piece by piece."""
        ...

    def history(self, since: Since) -> AbstractAsyncContextManager[AsyncIterator[HistoryItem]]:
        """The transactions of the log from a place on, read page by page."""
        ...

    async def undo(
        self,
        mode: Mode,
        since: Since,
        rows: Mapping[str, frozenset[int]] | None = None,
        *,
        dry_run: bool = False,
    ) -> UndoReport:
        """Revert transactions by a new one; ``rows``, by table, limits it to these rowids.

        Raises CONSTRAINT_VIOLATION with the list of obstacles (a dry run reports them), and
        IN_TRANSACTION inside a transaction.
        """
        ...

    async def wait_for(self, txseq: int) -> None:
        """Return when the database shows ``txseq``; raises STALE after a bound."""
        ...

    async def use_database(self, database_id: str) -> None:
        """Switch to another database of the node. Refused inside a transaction."""
        ...

    def cancel(self) -> None:
        """Interrupt the running statement, from any task: it raises CANCELLED."""
        ...

    async def aclose(self) -> None:
        """Roll back what is open and give everything back. Never raises."""
        ...


class Sessions(Protocol):
    """Where wires get their sessions from (the node's databases)."""

    def session(self, database_id: str | None = None, *, protocol: str) -> SessionApi:
        """A session on a database (None: the default one). Raises NOT_FOUND."""
        ...

    def database_ids(self) -> list[str]:
        """The ids, the default first."""
        ...


@dataclass(frozen=True, slots=True)
class Download:
    """A database file on its way out. ``sequence``: the position in the log that it holds;
    ``size``: bytes, None if not known before the end; ``etag``: equal for equal content."""

    filename: str
    sequence: int
    size: int | None
    etag: str
    chunks: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be applied. ``state``: ``halted`` (the database stands before it)
    or ``skipped``. ``time_ns``: the broker's, in Unix nanoseconds."""

    sequence: int
    message: bytes
    error: str
    time_ns: int
    state: str


@dataclass(frozen=True, slots=True)
class DatabaseStatus:
    """How a database of this node stands. ``position``: the last sequence applied, ``last``: the
    log's, None if that is not in reach; ``lag``: messages between; ``snapshot``: what the newest
    one holds; ``peers``: other nodes by their consumers' names, with their positions; ``problem``:
    why it should get no traffic; ``leader``: who takes its writes, None if all do."""

    database_id: str
    path: str
    default: bool
    position: int
    last: int | None
    lag: int | None
    snapshot: int | None
    peers: Mapping[str, int]
    problem: str | None
    leader: str | None = None


@dataclass(frozen=True, slots=True)
class NodePosition:
    """How far a node has come with a database: the last sequence applied, and how many messages
    it lacks (None if the log is not in reach)."""

    database_id: str
    position: int
    lag: int | None


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """``role``: ``leader``, ``follower`` or ``none``; without leader mode all are ``writer``.
    ``last_seen``: seconds ago, 0 for this node, None if nobody counts them."""

    name: str
    address: str | None
    role: str
    last_seen: float | None
    positions: list[NodePosition]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """``mode``: ``elected``, ``static`` or ``leaderless``. ``lease_left``: seconds until the
    leader's lease ends unless it is renewed, None where there is no lease."""

    mode: str
    leader: Leader | None
    term: int
    lease_left: float | None
    nodes: list[ClusterNode]


class Operations(Protocol):
    """What may be done to the databases of a node beside talking to them. A ``database_id`` of
    None means the default one. All methods raise HaError and nothing else."""

    async def create_database(self, dsn: str) -> str:
        """Make a database, and tell the other nodes; its id."""
        ...

    async def drop_database(self, database_id: str) -> None:
        """Close a database and remove its files, on all nodes that follow."""
        ...

    async def etag(self, database_id: str | None) -> str:
        """Of the database as it is now: that of :meth:`download`."""
        ...

    def download(self, database_id: str | None) -> AbstractAsyncContextManager[Download]:
        """A consistent copy, made while writes go on."""
        ...

    async def take_snapshot(self, database_id: str | None) -> int:
        """The sequence that the new snapshot holds, 0 if the newest one holds all there is."""
        ...

    def latest_snapshot(self, database_id: str | None) -> AbstractAsyncContextManager[Download]:
        """Raises NOT_FOUND when there is none."""
        ...

    async def replications(self, database_id: str | None) -> list[dict[str, object]]:
        """Consumer info of JetStream for each node, as JSON."""
        ...

    async def remove_replication(self, database_id: str | None, name: str) -> None:
        """Detach a node. Raises NOT_FOUND."""
        ...

    async def dead_letters(self, database_id: str | None) -> list[DeadLetter]: ...

    async def skip_dead_letter(self, database_id: str | None, sequence: int) -> int:
        """Let all nodes pass over a message; where in the log that is said."""
        ...

    async def adopt(self, database_id: str | None) -> int:
        """A file that does not follow its log gives way to it; the position it then has.

        Raises NOT_FOUND when it follows."""
        ...

    async def rebase(self, database_id: str | None) -> int:
        """A file that does not follow its log becomes its new base; where in the log that is said.

        Raises NOT_FOUND when it follows."""
        ...

    async def status(self) -> list[DatabaseStatus]: ...

    async def cluster(self) -> ClusterStatus:
        """The nodes as this one sees them, itself first."""
        ...
