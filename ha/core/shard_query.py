"""A SELECT over many databases, as far as its text tells: its clauses, and what is refused.

FROM and WHERE run in each database: a row meets only rows of its own database there. All else
runs where the rows of all are merged (:mod:`ha.core.shard_plan`). What could not be the same when
the databases were one is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from ha.core.errors import Code, HaError
from ha.core.select_text import Call, Item, SelectText, Span, Term, number_parameters
from ha.core.tokens import fold_case, tokenize

SHARD_COLUMN = "ha_shard"
"""The id of the database that a row comes from, wherever a column may stand."""
_HINT = re.compile(r"/\*\+\s*(.*?)\s*\*/", re.DOTALL)
_DB = re.compile(r"(?:^|\s)db\s*=\s*(\S+)")

Functions = Mapping[str, frozenset[tuple[str, int]]]
"""By folded name, as PRAGMA function_list tells: (type, number of arguments), -1 for any."""

_ENDS_EXPRESSION = frozenset(
    ("END", "NULL", "ISNULL", "NOTNULL", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP")
)
_CLAUSES = ("FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT")
_COMPOUND = ("UNION", "INTERSECT", "EXCEPT")
_SESSION_FUNCTIONS = frozenset(("changes", "total_changes", "last_insert_rowid"))
_FTS_FUNCTIONS = frozenset(("bm25", "highlight", "snippet", "offsets", "matchinfo"))


def hint_of(sql: str) -> str | None:
    """The pattern of ``/*+ db=PATTERN */`` in the first statement; None without, and for self."""
    if "/*+" not in sql:
        return None
    end = next((t.start for t in tokenize(sql) if t.text == ";"), len(sql))
    for match in _HINT.finditer(sql):
        if match.start() >= end or _is_inside_token(sql, match.start()):
            continue
        db = _DB.search(match[1])
        if db is not None:
            return None if db[1].lower() == "self" else db[1]
    return None


def _is_inside_token(sql: str, place: int) -> bool:
    """In a string, say, where it is no comment."""
    return any(t.start <= place < t.end for t in tokenize(sql))


def _refuse(what: str, hint: str | None = None) -> NoReturn:
    raise HaError(
        Code.UNSUPPORTED,
        f"{what} cannot be merged over several databases",
        hint=hint or "run it on one database, or ask for the rows and merge them yourself",
    )


class ShardQuery:
    """A SELECT with the hint, understood as far as its text tells.

    ``parameters`` are as SQLite numbers them, names without prefix; in the texts that come out
    each stands as ``?N``. Raises HaError (UNSUPPORTED, SYNTAX_ERROR) for what is refused.
    """

    def __init__(self, sql: str, functions: Functions) -> None:
        end = next((t.start for t in tokenize(sql) if t.text == ";"), len(sql))
        self.remaining = sql[end + 1 :]
        self.original = sql[:end]
        self.functions = functions
        numbered, self.parameters = number_parameters(self.original)
        self.text = text = SelectText(numbered)
        self.with_ = Span(0, 0)
        start = 0
        if text.word(0, "WITH"):
            start = self._skip_with()
            self.with_ = Span(0, start)
        if not text.word(start, "SELECT"):
            _refuse_statement(text.text(start) or text.text(0))
        if any(text.word(i, "RETURNING") for i in range(len(text.tokens))):
            _refuse_statement("RETURNING")
        self._cut(start)
        self._check()

    def _skip_with(self) -> int:
        text = self.text
        if text.word(1, "RECURSIVE"):
            _refuse("WITH RECURSIVE")
        for at in range(1, len(text.tokens)):
            if text.depths[at] == 0 and text.word(
                at, "SELECT", "INSERT", "UPDATE", "DELETE", "REPLACE", "VALUES"
            ):
                return at
        return len(text.tokens)

    def _cut(self, start: int) -> None:
        text = self.text
        places: dict[str, int] = {}
        for at in range(start + 1, len(text.tokens)):
            if text.depths[at] != 0:
                continue
            if text.word(at, *_COMPOUND):
                _refuse(f"a compound SELECT ({text.text(at).upper()})")
            for clause in _CLAUSES:
                if clause not in places and text.word(at, clause) and self._is_clause(clause, at):
                    places[clause] = at
        order = sorted(places.items(), key=lambda p: p[1])
        order.append(("", len(text.tokens)))
        bounds = {c: Span(p, order[i + 1][1]) for i, (c, p) in enumerate(order[:-1])}
        if "WINDOW" in bounds:
            _refuse("a WINDOW clause")
        first = start + 1
        self.distinct = text.word(first, "DISTINCT")
        if self.distinct or text.word(first, "ALL"):
            first += 1
        self.items = [self._item(s) for s in text.split(Span(first, order[0][1]))]

        def body(clause: str, skip: int = 1) -> Span:
            span = bounds.get(clause, Span(0, 0))
            return Span(span.start + skip, span.end) if span else Span(0, 0)

        self.from_ = body("FROM")
        self.where = body("WHERE")
        self.group_by = text.split(body("GROUP", 2))
        self.having = body("HAVING")
        self.order_by = [self._term(s) for s in text.split(body("ORDER", 2))]
        self.limit, self.offset = self._limits(body("LIMIT"))

    def _is_clause(self, clause: str, at: int) -> bool:
        text = self.text
        if clause == "FROM":
            return not (text.word(at - 1, "DISTINCT") and text.word(at - 2, "IS", "NOT"))
        if clause in ("GROUP", "ORDER"):
            return text.word(at + 1, "BY")
        if clause == "WINDOW":
            return text.word(at + 2, "AS")
        return True

    def _item(self, span: Span) -> Item:
        text = self.text
        if not span:
            raise HaError(Code.SYNTAX_ERROR, "a result column is missing")
        last = span.end - 1
        if text.text(last) == "*" and (last == span.start or text.text(last - 1) == "."):
            return Item(span, star=True)
        token = text.tokens[last]
        name = token.name
        if name is None or last == span.start:
            return Item(span)
        if text.word(last - 1, "AS") and text.depths[last - 1] == text.depths[span.start]:
            return Item(Span(span.start, last - 1), name)
        named = token.kind in ("quoted", "string") or text.is_name(last)
        before = text.tokens[last - 1]
        ends = (
            before.text == ")"
            or before.kind in ("number", "blob", "string", "quoted")
            or (before.kind == "word" and text.is_name(last - 1))
            or before.is_word(*_ENDS_EXPRESSION)
        )
        if named and ends and not text.word(last - 2, "COLLATE") and text.depths[last] == 0:
            return Item(Span(span.start, last), name)
        return Item(span)

    def _term(self, span: Span) -> Term:
        text = self.text
        end = span.end
        if text.word(end - 1, "FIRST", "LAST") and text.word(end - 2, "NULLS"):
            end -= 2
        if text.word(end - 1, "ASC", "DESC"):
            end -= 1
        return Term(Span(span.start, end), span)

    def _limits(self, span: Span) -> tuple[Span, Span]:
        text = self.text
        for at in range(span.start, span.end):
            if text.depths[at] == 0 and text.word(at, "OFFSET"):
                return Span(span.start, at), Span(at + 1, span.end)
            if text.depths[at] == 0 and text.text(at) == ",":
                return Span(at + 1, span.end), Span(span.start, at)
        return span, Span(0, 0)

    # --- what is refused -------------------------------------------------------------

    def _check(self) -> None:
        text = self.text
        for at in range(len(text.tokens)):
            if text.word(at, "OVER") and text.text(at - 1) == ")":
                _refuse("a window function")
        if not self.from_:
            _refuse("a SELECT that reads no table")
        self._check_subqueries(self.with_)
        self._check_subqueries(self.from_)
        self._check_subqueries(self.where, filters=True)
        for span in self.merged():
            for at in range(span.start, span.end):
                if text.word(at, "SELECT", "VALUES", "EXISTS"):
                    _refuse("a subquery outside of FROM and WHERE", "join the table instead")
                if text.word(at, "MATCH"):
                    _refuse("MATCH outside of WHERE")
        for span in (*self.merged(), self.where, self.from_):
            for call in text.calls(span):
                if call.name in _SESSION_FUNCTIONS:
                    _refuse(f"{call.name}(), which belongs to one database,")
                if call.name in _FTS_FUNCTIONS:
                    _refuse(f"{call.name}(), which is relative to one full-text index,")

    def merged(self) -> list[Span]:
        """The expressions that run where rows are merged."""
        return [
            *(item.expression for item in self.items if not item.star),
            *self.group_by,
            self.having,
            *(term.expression for term in self.order_by),
            self.limit,
            self.offset,
        ]

    def _check_subqueries(self, span: Span, *, filters: bool = False) -> None:
        """Those that run in one database must mean the same in a union of all."""
        text = self.text
        for at in range(span.start, span.end):
            if text.text(at) != "(":
                continue
            if text.word(at + 1, "VALUES") and not filters:
                _refuse("VALUES in FROM")
            if not text.word(at + 1, "SELECT", "WITH"):
                continue
            asks = text.word(at - 1, "IN", "EXISTS")
            if not asks and (filters or not self._is_table(span, at)):
                _refuse("a scalar subquery", "join the table instead")
            inside = Span(at + 1, text.close(at))
            check_plain(text, inside, "a subquery", self.is_aggregate, asks)

    def _is_table(self, span: Span, at: int) -> bool:
        """Is the parenthesis in FROM or WITH one around a table?"""
        text = self.text
        if at == span.start or text.text(at - 1) in (",", "("):
            return True
        return text.word(at - 1, "JOIN", "AS", "MATERIALIZED")

    def check_view(self, name: str, sql: str) -> None:
        """A view that FROM may name, by its definition. Raises HaError (UNSUPPORTED)."""
        text = SelectText(sql)
        for at in range(len(text.tokens)):
            if text.depths[at] == 0 and text.word(at, "AS") and text.word(at + 1, "SELECT", "WITH"):
                inside = Span(at + 1, len(text.tokens))
                check_plain(text, inside, f"the view {name}", self.is_aggregate)
                return
        _refuse(f"the view {name}")

    @property
    def names_read(self) -> frozenset[str]:
        """Folded names among which are all tables and views that are read."""
        text = self.text
        return frozenset(
            fold_case(name)
            for span in (self.with_, self.from_, self.where)
            for at in range(span.start, span.end)
            if (name := text.tokens[at].name) is not None
        )

    @property
    def uses_rank(self) -> bool:
        """Is there a ``rank``, which in a full-text index is relative to it?"""
        return any(token.is_word("RANK") for token in self.text.tokens)

    def is_aggregate(self, call: Call) -> bool:
        count = 0 if call.star else len(call.arguments)
        known = self.functions.get(call.name, frozenset())
        exact = {kind for kind, number in known if number == count}
        kinds = exact or {kind for kind, number in known if number < 0}
        return bool(kinds & {"a", "w"})

    # --- columns ---------------------------------------------------------------------

    def refs(self) -> dict[str, str]:
        """What may be columns outside of FROM and WHERE: folded, and how it is written first."""
        out: dict[str, str] = {}
        for span in self.merged():
            for ref in self.text.refs(span):
                out.setdefault(ref.folded, ref.text)
        return out

    @property
    def aliases(self) -> frozenset[str]:
        return frozenset(fold_case(i.alias) for i in self.items if i.alias is not None)

    def probe(self, columns: Sequence[str], shard: str) -> str:
        """A query that has these columns, and no rows."""
        listed = ", ".join(columns) or "NULL"
        return (
            f"{self.head(shard)}SELECT {listed} FROM {self.shard_text(self.from_, shard)} WHERE 0"
        )

    def as_written(self, shard: str) -> str:
        """The whole query, for one database: it tells the names of the columns."""
        return self.shard_text(Span(0, len(self.text.tokens)), shard)

    def head(self, shard: str) -> str:
        return f"{self.shard_text(self.with_, shard)} " if self.with_ else ""

    def shard_text(self, span: Span, shard: str) -> str:
        """With the id of the database in place of its column."""
        put: dict[int, tuple[int, str]] = {}
        for at in range(span.start, span.end):
            if self._is_shard_column(at):
                put[at] = (at + 1, literal(shard))
        return self.text.source(span, put)

    def _is_shard_column(self, at: int) -> bool:
        name = self.text.tokens[at].name
        token = self.text.tokens[at]
        return (
            name is not None
            and token.kind != "string"
            and fold_case(name) == SHARD_COLUMN
            and self.text.text(at - 1) != "."
            and not self.text.word(at - 1, "AS")
        )

    def is_shard_item(self, item: Item) -> bool:
        """Is a result column just the database's id?"""
        span = item.expression
        return span.end - span.start == 1 and self._is_shard_column(span.start)


def check_plain(
    text: SelectText,
    span: Span,
    what: str,
    is_aggregate: Callable[[Call], bool],
    filters: bool = False,
) -> None:
    """A SELECT whose rows over all databases are those of each, one after the other. ``filters``:
    only whether there are rows, or which, is asked."""
    for at in range(span.start, span.end):
        if text.word(at, *_COMPOUND):
            _refuse(f"{text.text(at).upper()} in {what}")
        if text.word(at, "LIMIT"):
            _refuse(f"LIMIT in {what}")
        if text.word(at, "GROUP") and text.word(at + 1, "BY"):
            _refuse(f"GROUP BY in {what}")
        if text.word(at, "HAVING"):
            _refuse(f"HAVING in {what}")
        if text.word(at, "SELECT") and text.word(at + 1, "DISTINCT") and not filters:
            _refuse(f"DISTINCT in {what}")
        if text.word(at, "RECURSIVE"):
            _refuse(f"WITH RECURSIVE in {what}")
        if text.word(at, "COLLATE") and not filters:
            _refuse(f"COLLATE in {what}")
        if text.word(at, "OVER") and text.text(at - 1) == ")":
            _refuse(f"a window function in {what}")
        if text.word(at, "VALUES") and not filters:
            _refuse(f"VALUES in {what}")
    for call in text.calls(span):
        if is_aggregate(call):
            _refuse(f"an aggregate ({call.name}) in {what}")


def _refuse_statement(word: str) -> NoReturn:
    raise HaError(
        Code.REFUSED,
        f"the hint db= is for one SELECT, not for {word.upper() or 'nothing'}",
        hint="leave the hint out, or write db=self",
    )


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"
