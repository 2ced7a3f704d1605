"""Statements as the engine sees them: their kind, a cache of what SQLite said, results."""

from __future__ import annotations

from collections import OrderedDict

from ha.core.errors import Code, HaError
from ha.engine.api import Column, Kind, Prepared, Result
from ha.store.brief import is_brief
from ha.store.connection import Connection
from ha.store.executor import Ran
from ha.store.parse import Parsed, first_word

_CACHE_SIZE = 2_000
_CACHE_TEXT = 10_000
_TRANSACTION = {"BEGIN": Kind.BEGIN, "COMMIT": Kind.COMMIT, "ROLLBACK": Kind.ROLLBACK}
_SAVEPOINT = {"BEGIN": Kind.SAVEPOINT, "RELEASE": Kind.RELEASE, "ROLLBACK": Kind.ROLLBACK_TO}


def described(parsed: Parsed) -> tuple[Kind, tuple[Column, ...]]:
    """Kind and result columns, worked out once."""
    memo: tuple[Kind, tuple[Column, ...]] | None = parsed.memo
    if memo is None:
        kind = _kind(parsed)
        # SQLite makes a query of its own for some ALTERs, whose columns are nobody's.
        columns = () if kind is Kind.DDL else tuple(Column(*c) for c in parsed.columns)
        memo = parsed.memo = (kind, columns)
    return memo


def kind_of(parsed: Parsed) -> Kind:
    return described(parsed)[0]


def columns_of(parsed: Parsed) -> tuple[Column, ...]:
    return described(parsed)[1]


def _kind(parsed: Parsed) -> Kind:
    if parsed.empty:
        return Kind.EMPTY
    if parsed.transaction is not None:
        return _TRANSACTION[parsed.transaction]
    if parsed.savepoint is not None:
        return _SAVEPOINT[parsed.savepoint[0]]
    if parsed.pragma is not None and not parsed.explain:
        return Kind.PRAGMA if parsed.session_pragma or parsed.file_pragma else Kind.READ
    if parsed.ddl:
        return Kind.DDL
    if parsed.readonly or parsed.explain:
        return Kind.READ
    return Kind.WRITE


def is_stream(parsed: Parsed) -> bool:
    """Can its rows be fetched one by one, with no effect but reading?"""
    return bool(parsed.columns) and not (
        parsed.changes_file or parsed.transaction or parsed.savepoint or parsed.pragma
    )


def to_prepared(parsed: Parsed) -> Prepared:
    return Prepared(
        sql=parsed.sql,
        kind=kind_of(parsed),
        verb=parsed.verb,
        columns=columns_of(parsed),
        parameters=parsed.parameters,
        remaining=parsed.remaining,
    )


def to_result(parsed: Parsed, ran: Ran) -> Result:
    kind, columns = described(parsed)
    return Result(kind, parsed.verb, columns, ran.rows, ran.rows_affected, ran.last_insert_id)


class StatementCache:
    """What SQLite said of each text, until the schema changes. For statements on main only."""

    def __init__(self) -> None:
        self._parsed: OrderedDict[str, Parsed] = OrderedDict()

    def get(self, sql: str) -> Parsed | None:
        parsed = self._parsed.get(sql)
        if parsed is not None:
            self._parsed.move_to_end(sql)
        return parsed

    def parse(self, connection: Connection, sql: str) -> Parsed:
        """From the cache, or by ``connection``, which sees the committed schema alone."""
        parsed = self.get(sql)
        if parsed is None:
            parsed = connection.parse(sql)
            if len(sql) <= _CACHE_TEXT:
                self._parsed[sql] = parsed
                if len(self._parsed) > _CACHE_SIZE:
                    self._parsed.popitem(last=False)
        return parsed

    def clear(self) -> None:
        self._parsed.clear()


class OwnStatements(StatementCache):
    """For a connection whose transaction may see another schema than the committed one."""

    def __init__(self) -> None:
        super().__init__()
        self._version: object = None

    def parse(self, connection: Connection, sql: str) -> Parsed:
        version = connection.execute("PRAGMA schema_version")
        if version != self._version:
            self.clear()
            self._version = version
        return super().parse(connection, sql)

    def is_brief(self, connection: Connection, parsed: Parsed) -> bool:
        """See :func:`ha.store.brief.is_brief`."""
        if not parsed.dml:
            return False
        if parsed.brief is None:
            parsed.brief = is_brief(connection.raw, parsed.sql, len(parsed.parameters))
        return parsed.brief


def require_single(parsed: Parsed) -> None:
    """Raises BAD_REQUEST when a second statement follows."""
    rest = parsed.remaining
    if rest and not rest.isspace() and first_word(rest):
        raise HaError(
            Code.BAD_REQUEST,
            f"one statement at a time: {first_word(rest)} … follows the first one",
            hint="send a list of statements; it runs as one transaction",
        )
