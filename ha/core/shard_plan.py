"""What each database is asked for a cross-shard query, and how the answers are merged. Three ways:

* *plain*: rows of one database after the other; LIMIT is counted while they pass.
* *partial*: each database aggregates its own rows, by the keys of GROUP BY; the merge adds up.
* *raw*: each database answers the columns that are used outside of FROM and WHERE, and the rest
  of the query (aggregates, GROUP BY, HAVING, DISTINCT, ORDER BY, LIMIT) runs over all their rows,
  in a table whose columns have the affinity and the collation of the ones that they come from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from ha.core.select_text import Call, Span, Term
from ha.core.shard_query import SHARD_COLUMN, ShardQuery, literal
from ha.core.tokens import fold_case, quote

_MERGEABLE = frozenset(("count", "sum", "total", "min", "max", "avg"))


class Way(Enum):
    PLAIN = auto()
    PARTIAL = auto()
    RAW = auto()


@dataclass(slots=True)
class Plan:
    """``leaves``: refs, folded, with the columns of the merge that stand for them; ``columns``:
    how the databases are asked for these."""

    query: ShardQuery
    way: Way
    leaves: dict[str, str]
    columns: list[str]
    partials: list[tuple[str, str | None]] = field(default_factory=list)
    """Of PARTIAL: what the databases aggregate, and the ref whose collation it has."""
    _names: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.way is Way.PARTIAL:
            for span in self.query.merged():
                self._put(span)

    # --- the databases ---------------------------------------------------------------

    def shard_sql(self, shard: str) -> str:
        """What one database is asked."""
        query = self.query
        text = query.text
        if self.way is Way.PLAIN:
            return self._plain(shard)
        listed = [self._leaf(c, shard) for c in self.columns]
        listed += [partial for partial, _ in self.partials]
        stars = [query.shard_text(i.expression, shard) for i in query.items if i.star]
        sql = query.head(shard) + "SELECT " + (", ".join([*listed, *stars]) or "NULL")
        sql += f"\nFROM {query.shard_text(query.from_, shard)}"
        if query.where:
            sql += f"\nWHERE {query.shard_text(query.where, shard)}"
        if self.way is Way.PARTIAL and query.group_by:
            keys = [self._leaf(text.source(s), shard) for s in query.group_by]
            sql += f"\nGROUP BY {', '.join(keys)}"
        elif self.way is Way.RAW:
            sql += self._top(shard)
        return sql

    def _top(self, shard: str) -> str:
        """Where rows are only sorted and counted off, each database does it too: no more than
        its first ones can be among the first of all."""
        query = self.query
        text = query.text
        if not query.limit or query.distinct or query.group_by or query.having:
            return ""
        if any(query.is_aggregate(c) for s in query.merged() for c in text.calls(s)):
            return ""
        for term in query.order_by:
            refs = list(text.refs(term.expression))
            if not refs or any(r.folded not in self.leaves for r in refs):
                return ""
            if len(refs) == 1 and refs[0].folded in query.aliases:
                return ""
        terms = [query.shard_text(t.whole, shard) for t in query.order_by]
        return f"\nORDER BY {', '.join(terms)}{self._limit_text()}"

    def _limit_text(self) -> str:
        text = self.query.text
        limit = text.source(self.query.limit)
        offset = text.source(self.query.offset) or "0"
        return f"\nLIMIT CASE WHEN ({limit}) < 0 THEN -1 ELSE ({limit}) + max(0, ({offset})) END"

    def _leaf(self, column: str, shard: str) -> str:
        if fold_case(column.strip('"`[]')) == SHARD_COLUMN:
            return literal(shard)
        return column

    def _plain(self, shard: str) -> str:
        """Nothing is merged: all but the limits as it stands; at most so many rows as counted."""
        query = self.query
        text = query.text
        tokens = text.tokens
        end = len(tokens)
        if query.limit:
            end = next(
                i
                for i in range(len(tokens) - 1, -1, -1)
                if text.depths[i] == 0 and text.word(i, "LIMIT")
            )
        sql = query.shard_text(Span(0, end), shard)
        return sql + self._limit_text() if query.limit else sql

    def limits_sql(self) -> str | None:
        """Of PLAIN: a query for LIMIT and OFFSET, None if there is none."""
        query = self.query
        if not query.limit:
            return None
        offset = query.text.source(query.offset) or "0"
        return f"SELECT ({query.text.source(query.limit)}), ({offset})"

    # --- the merge -------------------------------------------------------------------

    def merge_sql(self, stars: Sequence[Sequence[str]]) -> str:
        """The rest of the query over a table ``part``. ``stars``: for each star in turn the
        columns of ``part`` that it stands for."""
        query = self.query
        text = query.text
        listed: list[str] = []
        rest = iter(stars)
        for item in query.items:
            if item.star:
                listed += [quote(c) for c in next(rest)]
                continue
            sql = self._put(item.expression)
            listed.append(sql if item.alias is None else f"{sql} AS {quote(item.alias)}")
        sql = f"SELECT {'DISTINCT ' if query.distinct else ''}{', '.join(listed)}\nFROM part"
        if query.group_by:
            sql += "\nGROUP BY " + ", ".join(self._put(s) for s in query.group_by)
        if query.having:
            sql += f"\nHAVING {self._put(query.having)}"
        if query.order_by:
            sql += "\nORDER BY " + ", ".join(self._order(t) for t in query.order_by)
        if query.limit:
            sql += f"\nLIMIT {text.source(query.limit)}"
        if query.offset:
            sql += f"\nOFFSET {text.source(query.offset)}"
        return sql

    def _order(self, term: Term) -> str:
        text = self.query.text
        suffix = text.source(Span(term.expression.end, term.whole.end))
        refs = list(text.refs(term.expression))
        alone = len(refs) == 1 and refs[0].span == term.expression
        if alone and refs[0].folded in self.query.aliases:
            # A term that is a name is a result column first, and a column of a table second.
            return f"{refs[0].text} {suffix}"
        return f"{self._put(term.expression)} {suffix}"

    def _put(self, span: Span) -> str:
        """An expression with the merge's columns in place of the databases'."""
        text = self.query.text
        put: dict[int, tuple[int, str]] = {}
        taken: list[Span] = []
        if self.way is Way.PARTIAL:
            for call in text.calls(span):
                if self.query.is_aggregate(call):
                    put[call.span.start] = (call.span.end, self._merged(call))
                    taken.append(call.span)
        for ref in text.refs(span):
            if any(t.start <= ref.span.start < t.end for t in taken):
                continue
            leaf = self.leaves.get(ref.folded)
            if leaf is not None:
                put[ref.span.start] = (ref.span.end, quote(leaf))
        return text.source(span, put)

    def _merged(self, call: Call) -> str:
        """How the partial results of an aggregate become one."""
        argument = "*" if not call.arguments else self.query.text.source(call.arguments[0])
        if call.name == "count":
            return f"coalesce(sum({self._column('count', argument)}), 0)"
        if call.name == "avg":
            total = self._column("total", argument)
            return f"(total({total}) / nullif(sum({self._column('count', argument)}), 0))"
        return f"{call.name}({self._column(call.name, argument)})"

    def _column(self, function: str, argument: str) -> str:
        key = (function, argument)
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"ha_p{len(self.partials)}"
            ref = argument if function in ("min", "max") else None
            self.partials.append((f"{function}({argument})", ref))
        return quote(name)

    @property
    def part_columns(self) -> list[str]:
        """The columns of ``part``, without those of stars."""
        return [*self.leaves.values(), *(f"ha_p{n}" for n in range(len(self.partials)))]


def make_plan(query: ShardQuery, is_column: Callable[[str], bool]) -> Plan:
    """``is_column`` says whether the databases know a ref (as it is written) as a column;
    what they do not know is an alias, or nothing, which SQLite will say."""
    columns: dict[str, str] = {}
    for folded, text in query.refs().items():
        if folded == SHARD_COLUMN or is_column(text):
            columns[folded] = text
    if not _merges(query):
        return Plan(query, Way.PLAIN, {}, [])
    partial = _partial(query, columns)
    if partial is not None:
        return partial
    leaves = {folded: f"ha_c{n}" for n, folded in enumerate(columns)}
    return Plan(query, Way.RAW, leaves, list(columns.values()))


def _merges(query: ShardQuery) -> bool:
    aggregates = any(
        query.is_aggregate(call) for span in query.merged() for call in query.text.calls(span)
    )
    return bool(aggregates or query.group_by or query.having or query.distinct or query.order_by)


def _partial(query: ShardQuery, columns: Mapping[str, str]) -> Plan | None:
    """A plan in which the databases aggregate, if that comes to the same."""
    text = query.text
    if any(item.star for item in query.items):
        return None
    keys: dict[str, str] = {}
    for span in query.group_by:
        refs = list(text.refs(span))
        if len(refs) != 1 or refs[0].span != span or refs[0].folded not in columns:
            return None
        keys.setdefault(refs[0].folded, refs[0].text)
    aggregates: list[Call] = []
    for span in query.merged():
        calls = [c for c in text.calls(span) if query.is_aggregate(c)]
        for call in calls:
            if not _adds_up(query, call, columns):
                return None
        aggregates += calls
        for ref in text.refs(span):
            inside = any(c.span.start <= ref.span.start < c.span.end for c in calls)
            if not inside and ref.folded in columns and ref.folded not in keys:
                return None  # a bare column: of which row is for the merge to say
    if not aggregates:
        return None
    return Plan(
        query, Way.PARTIAL, {k: f"ha_k{n}" for n, k in enumerate(keys)}, list(keys.values())
    )


def _adds_up(query: ShardQuery, call: Call, columns: Mapping[str, str]) -> bool:
    if call.name not in _MERGEABLE or not call.plain or len(call.arguments) > 1:
        return False
    if any(r.folded == SHARD_COLUMN for a in call.arguments for r in query.text.refs(a)):
        return False
    if call.name in ("min", "max"):
        # Compared by the collation of a column, which the merge can have only of a column.
        refs = list(query.text.refs(call.arguments[0]))
        return len(refs) == 1 and refs[0].span == call.arguments[0] and refs[0].folded in columns
    return True
