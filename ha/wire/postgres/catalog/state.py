"""What the catalogue of one connection knows: whose it is, and the schema as it stands now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import apsw

from ha.wire.postgres import oids as t
from ha.wire.postgres.catalog import snapshot as s
from ha.wire.postgres.catalog.vtab import Contents, TableSpec
from ha.wire.postgres.settings import REPORTED, Settings

DATABASE_BASE = 16001
_SYSTEM_BASE = 12000


@dataclass(slots=True)
class Identity:
    """Whose session a connection serves."""

    user: str
    process_id: int
    settings: Settings
    database: Callable[[], str] = lambda: ""
    databases: Callable[[], Sequence[str]] = lambda: ()


class Catalogue:
    """Reads the schema again whenever it has changed."""

    def __init__(self, connection: apsw.Connection, identity: Identity) -> None:
        self.identity = identity
        self._connection = connection
        self._fingerprint: tuple[object, ...] | None = None
        self._snapshot = s.Snapshot([])
        self._contents: dict[str, Contents] = {}
        self._system: dict[str, tuple[int, TableSpec]] = {}

    @property
    def snapshot(self) -> s.Snapshot:
        self.refresh()
        return self._snapshot

    def refresh(self) -> None:
        now = s.fingerprint(self._connection)
        if now != self._fingerprint:
            self._snapshot = s.read_snapshot(self._connection)
            self._contents.clear()
            self._fingerprint = now

    def contents(self, spec: TableSpec) -> Contents:
        """The rows of a catalogue table. Those of the session itself are never kept."""
        if spec.name in _SESSION_TABLES:
            return Contents(spec.rows(self))
        self.refresh()
        found = self._contents.get(spec.name)
        if found is None:
            found = self._contents[spec.name] = Contents(spec.rows(self))
        return found

    def file_size(self, which: object) -> int:
        """Bytes of the database's file; 0 for the name of another database."""
        if isinstance(which, str) and which != self.identity.database():
            return 0
        sql = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        return int(self._connection.execute(sql).fetchall()[0][0])  # type: ignore[arg-type]

    # --- names -----------------------------------------------------------------------

    def namespaces(self) -> list[tuple[int, str]]:
        return [
            (s.PG_CATALOG, "pg_catalog"),
            (s.PUBLIC, "public"),
            (s.INFORMATION_SCHEMA, "information_schema"),
            (s.TEMPORARY, "pg_temp_1"),
        ]

    def namespace_name(self, oid: int) -> str:
        return dict(self.namespaces()).get(oid, "public")

    def namespace_oid(self, name: str) -> int | None:
        return {n: o for o, n in self.namespaces()}.get(name.lower())

    @staticmethod
    def setting_name(key: str) -> str:
        return REPORTED.get(key, key)

    # --- the catalogue itself -----------------------------------------------------------

    def register(
        self, schema: str, specs: Sequence[TableSpec], named: Callable[[str], str]
    ) -> None:
        for spec in specs:
            oid = _SYSTEM_BASE + len(self._system)
            self._system[f"{schema}.{named(spec.name)}"] = (oid, spec)

    def oid_of(self, spec: TableSpec) -> int:
        return next((oid for oid, known in self._system.values() if known is spec), 0)

    def visible(self, oid: int) -> bool:
        """Can the relation be named without its schema?"""
        name = next((n for n, (known, _) in self._system.items() if known == oid), "")
        return not name.startswith("information_schema.")

    def system_tables(self) -> Iterator[tuple[str, int]]:
        """(schema.table, oid)"""
        for name, (oid, _) in self._system.items():
            yield name, oid

    def system_columns(self, name: str) -> list[tuple[str, t.PgType]]:
        return [(n, t.of_declared(kind)) for n, kind in self._system[name][1].columns]

    def relation_oid(self, name: str) -> int | None:
        """By name, with or without a schema; of tables, views and indexes."""
        schema, _, bare = name.rpartition(".")
        system = self._system.get(f"{schema or 'pg_catalog'}.{bare}".lower())
        snapshot = self.snapshot
        relation = snapshot.by_name.get(bare.lower())
        if relation is not None and schema in ("", "public", "main", "pg_temp_1"):
            return relation.oid
        if system is not None:
            return system[0]
        index = snapshot.index_named(bare)
        return index.oid if index is not None else None

    def relation_name(self, oid: int) -> str | None:
        snapshot = self.snapshot
        relation = snapshot.by_oid.get(oid)
        if relation is not None:
            return relation.name
        found = snapshot.index_by_oid.get(oid)
        if found is not None:
            return found[1].name
        for name, (system_oid, _) in self._system.items():
            if system_oid == oid:
                return name.partition(".")[2] if name.startswith("pg_catalog.") else name
        return None


_SESSION_TABLES = frozenset(
    {"pg_database", "pg_roles", "pg_authid", "pg_user", "pg_settings", "pg_stat_activity"}
)
