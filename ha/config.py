"""Every option of a node, in one typed table.

A field of :class:`Config` is an option: its type and default stand in the field, all else
(help, how it is read from text, its group) in the :class:`Option` beside it. The flag, the
environment variable and the line of a config file all follow from the field's name:
``replication_url`` is ``--replication-url``, ``HA_REPLICATION_URL`` and ``replication-url …``.

:data:`NOT_BUILT` is the one place that says which options are understood but refused.
"""
# ruff: noqa: RUF009 (option() is dataclasses.field() with more metadata)

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ha.core import settings as read
from ha.core.changeset import Identify
from ha.core.dsn import DEFAULT_PARAMETERS, Dsn
from ha.core.durations import format_duration
from ha.core.naming import DEFAULT_STREAM

NOT_BUILT: dict[str, tuple[str, ...]] = {
    "the MySQL wire protocol": ("mysql-port", "mysql-user", "mysql-pass"),
    "proxying MySQL": (
        "mysql-proxied",
        "mysql-include",
        "mysql-exclude",
        "mysql-dump-bin",
        "mysql-dump-db",
        "mysql-dump-include",
        "mysql-proxy-id",
    ),
    "proxying PostgreSQL": ("pg-proxied", "pg-publication", "pg-slot"),
    "proxying a source database": (
        "proxy-local",
        "proxy-use-schema",
        "proxy-disable-redirect",
        "proxy-read-your-writes",
    ),
    "the Debezium sink": (
        "debezium-brokers",
        "debezium-group",
        "debezium-topics",
        "debezium-source-dsn",
    ),
}
"""Flags whose feature does not work yet, by feature: refused unless they have their default."""


REFUSED = {
    "async-replication-store-dir": "the outbox changes in one commit with the data, and so stands"
    " in the database's own file",
}
"""Flags of the existing system that would break a promise, and why."""


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"


class Durability(StrEnum):
    """What an acknowledged write survives: see README, "What an acknowledged write survives"."""

    NORMAL = "normal"
    FULL = "full"


class PgAuth(StrEnum):
    SCRAM = "scram"  # SCRAM-SHA-256
    PASSWORD = "password"  # clear text
    TRUST = "trust"  # no password at all


class Group(StrEnum):
    """The headings of ``--help``, in their order."""

    NODE = "Node"
    DATABASES = "Databases"
    HTTP = "HTTP and gRPC"
    NATS = "Embedded NATS server"
    REPLICATION = "Replication"
    SNAPSHOTS = "Snapshots"
    LEADER = "Leader mode"
    POSTGRES = "PostgreSQL wire protocol"
    MYSQL = "MySQL wire protocol"
    PROXY = "Proxy of a source database"
    DEBEZIUM = "Debezium sink"
    CLIENT = "Remote client"


Parser = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class Option:
    """What the field of an option does not say. ``parse`` raises ValueError("must be …")."""

    attribute: str
    group: Group
    help: str
    parse: Parser
    default: object
    metavar: str = ""  # empty: a boolean, which needs no value
    short: str = ""
    secret: bool = False
    default_text: str = ""

    @property
    def flag(self) -> str:
        return self.attribute.replace("_", "-")

    @property
    def environment(self) -> str:
        return "HA_" + self.attribute.upper()

    @property
    def boolean(self) -> bool:
        return not self.metavar

    @property
    def missing_feature(self) -> str | None:
        """The feature that is not built yet, or None."""
        return next((f for f, flags in NOT_BUILT.items() if self.flag in flags), None)

    @property
    def built(self) -> bool:
        return self.missing_feature is None


# --- the table -----------------------------------------------------------------------


def option(
    group: Group,
    default: object,
    help: str,
    *,
    parse: Parser = read.boolean,
    metavar: str = "",
    short: str = "",
    secret: bool = False,
    default_text: str | None = None,
) -> Any:
    """A field of :class:`Config`. ``default`` may be a function that finds it."""
    if default_text is None:
        default_text = _show(default)
    metadata = {
        "group": group,
        "help": help,
        "parse": parse,
        "metavar": metavar,
        "short": short,
        "secret": secret,
        "default_text": default_text,
    }
    if callable(default):
        return field(default_factory=default, repr=not secret, metadata=metadata)
    return field(default=default, repr=not secret, metadata=metadata)


def _seconds(group: Group, default: float, help: str, *, zero: bool = False) -> Any:
    return option(
        group,
        default,
        help,
        parse=read.duration(zero=zero),
        metavar="DURATION",
        default_text=format_duration(default),
    )


def _bytes(group: Group, default: int, help: str) -> Any:
    return option(
        group,
        default,
        help,
        parse=read.size,
        metavar="SIZE",
        default_text=read.format_size(default),
    )


def _show(default: object) -> str:
    if default is None or callable(default):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ",".join(default)
    return str(default)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a node is told. Durations are in seconds, sizes in bytes; None means not given."""

    # node
    name: str = option(
        Group.NODE,
        socket.gethostname,
        "Name of this node. Two live nodes of a cluster never share one.",
        parse=read.node_name,
        metavar="NAME",
        short="n",
        default_text="host name",
    )
    config: Path | None = option(
        Group.NODE,
        None,
        "Read options from FILE: a line 'flag value' each, '#' begins a comment.",
        parse=read.path,
        metavar="FILE",
        short="c",
    )
    log_level: LogLevel = option(
        Group.NODE,
        LogLevel.INFO,
        "What is logged to standard error: debug, info, warn or error, and what is worse.",
        parse=read.one_of(LogLevel),
        metavar="LEVEL",
    )
    durability: Durability = option(
        Group.NODE,
        Durability.NORMAL,
        "What an acknowledged write survives: normal, any process crash; full, a power failure "
        "too (SQLite and the embedded NATS server sync before the answer).",
        parse=read.one_of(Durability),
        metavar="LEVEL",
    )
    trust_broker_sync: bool = option(
        Group.NODE,
        False,
        "With --durability full: believe that the server at --replication-url syncs each message.",
    )

    # databases
    memory: bool = option(
        Group.DATABASES,
        False,
        "Keep databases in memory. A file that is named is loaded first, and never written.",
        short="m",
    )
    db_params: str = option(
        Group.DATABASES,
        DEFAULT_PARAMETERS,
        "Parameters for each database that does not set them itself: _journal, _timeout (ms), "
        "_sync, _fk, _pragma=name(value), and SQLite's own.",
        parse=read.db_params,
        metavar="PARAMS",
    )
    create_db_dir: Path | None = option(
        Group.DATABASES,
        None,
        "Where new databases are created. All SQLite files below it are served.",
        parse=read.path,
        metavar="DIR",
    )
    disable_db_sync: bool = option(
        Group.DATABASES,
        False,
        "Do not create the databases that other nodes announce.",
    )
    extensions: tuple[str, ...] = option(
        Group.DATABASES,
        (),
        "SQLite extensions to load, with commas between.",
        parse=read.comma_list,
        metavar="FILE,…",
    )
    concurrent_queries: int = option(
        Group.DATABASES,
        50,
        "How many statements of one database run at once, over all protocols; more wait.",
        parse=read.integer(1, 100_000, "a number from 1 to 100000"),
        metavar="NUMBER",
    )
    transaction_hold: float = _seconds(
        Group.DATABASES,
        5.0,
        "How long an open transaction may hold up the messages of other nodes before it is "
        "rolled back.",
    )

    # HTTP and gRPC
    port: int = option(
        Group.HTTP,
        8080,
        "Port for HTTP and gRPC. 0: any free one, which the log names.",
        parse=read.port,
        metavar="PORT",
        short="p",
    )
    token: str | None = option(
        Group.HTTP,
        None,
        "Clients must send this token in the header Authorization.",
        parse=read.optional_text,
        metavar="TOKEN",
        secret=True,
    )
    max_body: int = _bytes(Group.HTTP, 128 * 2**20, "Longest request body; a longer one gets 413.")
    max_result: int = _bytes(Group.HTTP, 4 * 2**20, "Largest result of one statement over gRPC.")
    http_cert: Path | None = option(
        Group.HTTP, None, "TLS certificate (PEM).", parse=read.path, metavar="FILE"
    )
    http_key: Path | None = option(
        Group.HTTP, None, "Key of the certificate (PEM).", parse=read.path, metavar="FILE"
    )
    http_client_ca: Path | None = option(
        Group.HTTP,
        None,
        "Clients must show a certificate signed by one of these (PEM).",
        parse=read.path,
        metavar="FILE",
    )

    # embedded NATS
    nats_port: int = option(
        Group.NATS,
        4222,
        "Port of the NATS server that the node starts. 0: none; -1: any free one.",
        parse=read.optional_port,
        metavar="PORT",
    )
    nats_store_dir: Path | None = option(
        Group.NATS,
        None,
        "Where the server keeps its streams. Without it: beside the first database, FILE.nats, "
        "or with -m in a temporary folder that goes when the node stops.",
        parse=read.path,
        metavar="DIR",
    )
    nats_user: str | None = option(
        Group.NATS,
        None,
        "User that clients of the server need.",
        parse=read.optional_text,
        metavar="USER",
    )
    nats_pass: str | None = option(
        Group.NATS,
        None,
        "Password of that user.",
        parse=read.optional_text,
        metavar="PASSWORD",
        secret=True,
    )
    nats_config: Path | None = option(
        Group.NATS,
        None,
        "The server's own configuration file, for a NATS cluster, say.",
        parse=read.path,
        metavar="FILE",
    )
    nats_logs: bool = option(Group.NATS, False, "Log what the server logs.")

    # replication
    replication_url: str | None = option(
        Group.REPLICATION,
        None,
        "NATS server that holds the log, or several with commas. Without it: the embedded one.",
        parse=read.nats_urls,
        metavar="URL",
        secret=True,
    )
    replication_stream: str = option(
        Group.REPLICATION,
        DEFAULT_STREAM,
        "Name of the JetStream stream.",
        parse=read.stream_name,
        metavar="NAME",
    )
    replication_timeout: float = _seconds(
        Group.REPLICATION, 15.0, "How long a write waits for the log."
    )
    replication_max_age: float = _seconds(
        Group.REPLICATION, 86400.0, "How long the stream keeps messages. 0s: for ever.", zero=True
    )
    replicas: int = option(
        Group.REPLICATION,
        1,
        "Copies that a NATS cluster keeps of the stream, 1 to 5.",
        parse=read.integer(1, 5, "a number from 1 to 5"),
        metavar="NUMBER",
    )
    replication_policy: str = option(
        Group.REPLICATION,
        "all",
        "Where a database without a position begins in the log: all, last, new, "
        "by_start_sequence=N or by_start_time='YYYY-MM-DD HH:MM:SS'. With anything but all a "
        "node may differ from the others.",
        parse=read.policy,
        metavar="POLICY",
    )
    row_identify: Identify = option(
        Group.REPLICATION,
        Identify.PK,
        "How a changed row is found on another node: pk, rowid or full (all old values).",
        parse=read.one_of(Identify),
        metavar="HOW",
    )
    disable_ddl_sync: bool = option(
        Group.REPLICATION, False, "Do not publish CREATE, ALTER and DROP: each node has its own."
    )
    async_replication: bool = option(
        Group.REPLICATION, False, "Answer writes before the log has them."
    )
    async_replication_store_dir: Path | None = option(
        Group.REPLICATION,
        None,
        "Refused unless empty: writes that the log does not have yet wait in the database's own "
        "file, since they change in one commit with the data.",
        parse=read.path,
        metavar="DIR",
    )
    interceptor: Path | None = option(
        Group.REPLICATION,
        None,
        "Python file that sees each change set before it is applied.",
        parse=read.path,
        metavar="FILE",
        short="i",
    )

    # snapshots
    from_latest_snapshot: bool = option(
        Group.SNAPSHOTS, False, "Start from the latest snapshot, then replay what follows it."
    )
    snapshot_interval: float = _seconds(
        Group.SNAPSHOTS, 0.0, "Time from one snapshot to the next. 0s: none by time.", zero=True
    )
    disable_base_snapshot: bool = option(
        Group.SNAPSHOTS,
        False,
        "Take no snapshot even when the stream is about to forget what no snapshot holds.",
    )

    # leader mode
    leader_addr: str | None = option(
        Group.LEADER,
        None,
        "Take part in the election of a leader, who takes all writes; the other nodes reach this "
        "one here: host:port, or an http(s) URL, of its HTTP and gRPC port.",
        parse=read.leader_address,
        metavar="ADDR",
    )
    leader_static: str | None = option(
        Group.LEADER,
        None,
        "Address of the leader: no election. The leader itself has it as its --leader-addr.",
        parse=read.leader_address,
        metavar="ADDR",
    )
    leader_lease: float = _seconds(
        Group.LEADER,
        2.0,
        "Time after which a leader that is not heard of is replaced.",
    )
    leader_wait: float = _seconds(
        Group.LEADER,
        10.0,
        "How long a write waits for a leader while there is none, before it fails (503, 57P03).",
    )
    leader_ca: Path | None = option(
        Group.LEADER,
        None,
        "Who signs the nodes' certificates (PEM). Without it: whom the system trusts.",
        parse=read.path,
        metavar="FILE",
    )
    grpc_insecure: bool = option(
        Group.LEADER,
        False,
        "Send writes to the leader without TLS, or to an https address without verifying it: on "
        "trusted networks only.",
    )

    # PostgreSQL
    pg_port: int = option(
        Group.POSTGRES,
        0,
        "Port for PostgreSQL clients. 0: none; -1: any free one.",
        parse=read.optional_port,
        metavar="PORT",
    )
    pg_user: str = option(Group.POSTGRES, "ha", "User.", parse=read.required, metavar="USER")
    pg_pass: str = option(
        Group.POSTGRES, "ha", "Password.", parse=read.required, metavar="PASSWORD", secret=True
    )
    pg_auth: PgAuth = option(
        Group.POSTGRES,
        PgAuth.SCRAM,
        "How clients show it: scram, password (in clear text over TLS) or trust (not at all).",
        parse=read.one_of(PgAuth),
        metavar="HOW",
    )
    pg_insecure: bool = option(
        Group.POSTGRES,
        False,
        "Take passwords in clear text without TLS too: on trusted networks only.",
    )
    pg_cert: Path | None = option(
        Group.POSTGRES, None, "TLS certificate (PEM).", parse=read.path, metavar="FILE"
    )
    pg_key: Path | None = option(
        Group.POSTGRES, None, "Key of the certificate (PEM).", parse=read.path, metavar="FILE"
    )

    # MySQL
    mysql_port: int = option(
        Group.MYSQL,
        0,
        "Port for MySQL clients. 0: none; -1: any free one.",
        parse=read.optional_port,
        metavar="PORT",
    )
    mysql_user: str = option(Group.MYSQL, "ha", "User.", parse=read.required, metavar="USER")
    mysql_pass: str | None = option(
        Group.MYSQL, None, "Password.", parse=read.optional_text, metavar="PASSWORD", secret=True
    )

    # proxies
    pg_proxied: str | None = option(
        Group.PROXY,
        None,
        "PostgreSQL database to copy and follow; writes go there.",
        parse=read.optional_text,
        metavar="DSN",
        secret=True,
    )
    pg_publication: str = option(
        Group.PROXY, "ha_publication", "Publication there.", parse=read.required, metavar="NAME"
    )
    pg_slot: str = option(
        Group.PROXY, "ha_slot", "Replication slot there.", parse=read.required, metavar="NAME"
    )
    mysql_proxied: str | None = option(
        Group.PROXY,
        None,
        "MySQL database to copy and follow; writes go there.",
        parse=read.optional_text,
        metavar="DSN",
        secret=True,
    )
    mysql_include: str | None = option(
        Group.PROXY, "^db.*", "Tables to copy.", parse=read.regex, metavar="REGEX"
    )
    mysql_exclude: str | None = option(
        Group.PROXY, None, "Tables to leave out.", parse=read.regex, metavar="REGEX"
    )
    mysql_dump_bin: Path | None = option(
        Group.PROXY, None, "The mysqldump command.", parse=read.path, metavar="FILE"
    )
    mysql_dump_db: str | None = option(
        Group.PROXY,
        None,
        "Database that mysqldump reads.",
        parse=read.optional_text,
        metavar="NAME",
    )
    mysql_dump_include: tuple[str, ...] = option(
        Group.PROXY, (), "Tables that mysqldump reads.", parse=read.comma_list, metavar="NAME,…"
    )
    mysql_proxy_id: str = option(
        Group.PROXY,
        "sqlite-ha",
        "Name under which the position is kept.",
        parse=read.required,
        metavar="NAME",
    )
    proxy_local: str = option(
        Group.PROXY, "ha.db", "The local copy.", parse=read.required, metavar="FILE"
    )
    proxy_use_schema: bool = option(
        Group.PROXY, False, "Create local tables as the source declares them."
    )
    proxy_disable_redirect: bool = option(Group.PROXY, False, "Run everything on the local copy.")
    proxy_read_your_writes: bool = option(
        Group.PROXY, False, "A read waits until the local copy has the client's last write."
    )

    # Debezium
    debezium_brokers: tuple[str, ...] = option(
        Group.DEBEZIUM, (), "Kafka brokers.", parse=read.comma_list, metavar="HOST:PORT,…"
    )
    debezium_group: str | None = option(
        Group.DEBEZIUM, None, "Kafka consumer group.", parse=read.optional_text, metavar="NAME"
    )
    debezium_topics: tuple[str, ...] = option(
        Group.DEBEZIUM, (), "Kafka topics.", parse=read.comma_list, metavar="NAME,…"
    )
    debezium_source_dsn: str | None = option(
        Group.DEBEZIUM,
        None,
        "Where writes go.",
        parse=read.optional_text,
        metavar="DSN",
        secret=True,
    )

    # client
    remote: str | None = option(
        Group.CLIENT,
        None,
        "Be a client of the node at URL, and start none.",
        parse=read.optional_text,
        metavar="URL",
        short="r",
    )
    execute: str | None = option(
        Group.CLIENT,
        None,
        "With -r: run these statements and leave.",
        parse=read.optional_text,
        metavar="SQL",
        short="e",
    )

    # not an option: the databases that stand on the command line
    databases: tuple[Dsn, ...] = (Dsn("ha.db"),)

    def secrets(self) -> tuple[str, ...]:
        """The passwords and tokens that no log line may show."""
        values = (getattr(self, o.attribute) for o in OPTIONS if o.secret)
        return tuple(part for value in values if value for part in _secret_parts(value))


def _secret_parts(value: str) -> list[str]:
    """The value itself; of URLs (with commas between) the passwords alone."""
    if "://" not in value:
        return [value]
    return [p for url in value.split(",") if (p := urlsplit(url.strip()).password)]


def _options() -> tuple[Option, ...]:
    out = []
    for f in fields(Config):
        if not f.metadata:
            continue
        default = f.default if f.default is not MISSING else None
        out.append(Option(attribute=f.name, default=default, **f.metadata))
    return tuple(out)


OPTIONS: tuple[Option, ...] = _options()
"""The table, in the order of ``--help``."""

_flags = {o.flag for o in OPTIONS}
assert all(flag in _flags for flags in NOT_BUILT.values() for flag in flags)
