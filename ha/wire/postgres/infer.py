"""The types of result columns and parameters, before a statement runs.

Declared types are followed from tables through subqueries, views and CTEs; expressions have
the type that their operator or function gives. A parameter without a declared type takes that
of what it is compared with, assigned to or combined with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from ha.wire.postgres import oids as t
from ha.wire.postgres.dialect import read
from ha.wire.postgres.expressions import MAX_DEPTH, Expressions, series_type
from ha.wire.postgres.functions import (
    ARGUMENTS,
    TABLE_FUNCTIONS,
)
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.relations import Relation, Schema
from ha.wire.postgres.scopes import Column, Scope, all_columns, renamed, unify


@dataclass(slots=True)
class Inference:
    """``columns`` is None where the statement could not be read; so is a column's type."""

    parameters: list[PgType]
    columns: list[PgType | None] | None


def infer(
    sql: str,
    schema: Schema,
    declared: Sequence[PgType | None],
    width: int | None,
    *,
    translated: bool = False,
) -> Inference:
    """``declared`` are the parameter types that the client named; ``width`` the number of result
    columns that SQLite says. ``translated``: casts mean what PostgreSQL means by them."""
    walk = _Walk(schema, list(declared), translated, width)
    tree = read(sql)
    columns: list[Column] | None = None
    if tree is not None:
        try:
            columns = walk.statement(tree)
        except RecursionError:
            columns = None
    parameters = [kind or t.TEXT for kind in walk.parameters]
    if columns is None or width is None:
        return Inference(parameters, None)
    types = walk.fitted([c.type for c in columns])
    return Inference(parameters, types)


def infer_view(relation: Relation, schema: Schema) -> list[PgType | None]:
    """The types of a view's columns, in order."""
    walk = _Walk(schema, [], False, None)
    return [c.type for c in walk.relation(relation)]


class _Walk(Expressions):
    def __init__(
        self,
        schema: Schema,
        parameters: list[PgType | None],
        translated: bool,
        width: int | None,
    ) -> None:
        super().__init__(parameters, translated)
        self.schema = schema
        self.width = width
        self._views: set[str] = set()

    def fitted(self, types: list[PgType | None]) -> list[PgType | None] | None:
        return types if len(types) == self.width else None

    # --- statements ------------------------------------------------------------------

    def statement(self, tree: exp.Expr) -> list[Column] | None:
        if isinstance(tree, exp.Query | exp.Values):
            return self._filled(self.query(tree, None))
        if isinstance(tree, exp.Insert):
            return self._filled(self.insert(tree))
        if isinstance(tree, exp.Update):
            return self._filled(self.update(tree))
        if isinstance(tree, exp.Delete):
            return self._filled(self.delete(tree))
        return None

    def _filled(self, columns: list[Column]) -> list[Column]:
        """One hole is as wide as SQLite's number of columns leaves room for."""
        holes = [i for i, c in enumerate(columns) if c.hole]
        if len(holes) != 1 or self.width is None:
            return columns
        at = holes[0]
        missing = self.width - len(columns) + 1
        return [*columns[:at], *[Column("", None)] * max(0, missing), *columns[at + 1 :]]

    def query(self, tree: exp.Expr, parent: Scope | None) -> list[Column]:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise RecursionError
        try:
            return self._query(tree, parent)
        finally:
            self._depth -= 1

    def _query(self, tree: exp.Expr, parent: Scope | None) -> list[Column]:
        scope = Scope(parent)
        self._with(tree, scope)
        if isinstance(tree, exp.Subquery):
            return self.query(tree.this, scope)
        if isinstance(tree, exp.SetOperation):
            left = self.query(tree.this, scope)
            right = self.query(tree.expression, scope)
            self._limit(tree, scope)
            if len(left) != len(right):
                return left
            return [
                Column(a.name, unify((a.type, b.type)), a.hole)
                for a, b in zip(left, right, strict=True)
            ]
        if isinstance(tree, exp.Values):
            return self._values(tree, scope)
        if isinstance(tree, exp.Select):
            return self._select(tree, scope)
        return []

    def _with(self, tree: exp.Expr, scope: Scope) -> None:
        clause = tree.args.get("with_") or tree.args.get("with")
        if clause is None:
            return
        for cte in clause.expressions:
            name = cte.alias.lower()
            body = cte.this
            names = [c.name for c in (cte.args["alias"].columns if cte.args.get("alias") else ())]
            recursive = clause.args.get("recursive") and isinstance(body, exp.SetOperation)
            if recursive:  # the first part says the types
                scope.ctes[name] = renamed(self.query(body.this, scope), names)
            if isinstance(body, exp.Query):
                scope.ctes[name] = renamed(self.query(body, scope), names)
            elif isinstance(body, exp.Insert | exp.Update | exp.Delete):
                scope.ctes[name] = self.statement(body) or []

    def _values(self, tree: exp.Values, scope: Scope) -> list[Column]:
        rows = [row.expressions for row in tree.expressions if isinstance(row, exp.Tuple)]
        width = max((len(r) for r in rows), default=0)
        types = [
            unify([self.type(row[i], scope) for row in rows if i < len(row)]) for i in range(width)
        ]
        for row in rows:
            for cell, kind in zip(row, types, strict=False):
                self.want(cell, kind)
        return [Column(f"column{i + 1}", kind) for i, kind in enumerate(types)]

    def _select(self, tree: exp.Select, scope: Scope) -> list[Column]:
        source = tree.args.get("from_") or tree.args.get("from")
        if source is not None:
            self._source(source.this, scope)
        for join in tree.args.get("joins") or ():
            self._source(join.this, scope)
            if join.args.get("on"):
                self.condition(join.args["on"], scope)
        for lateral in tree.args.get("laterals") or ():
            self._source(lateral, scope)
        columns: list[Column] = []
        for item in tree.expressions:
            columns.extend(self._projection(item, scope))
        aliases = {c.name.lower(): c for c in columns if c.name}
        inner = Scope(scope, {"": list(aliases.values())})
        for key in ("where", "having", "qualify"):
            clause = tree.args.get(key)
            if clause is not None:
                self.condition(clause.this, scope if key == "where" else inner)
        for key in ("group", "order"):
            clause = tree.args.get(key)
            if clause is not None:
                for node in clause.expressions:
                    self.type(node.this if isinstance(node, exp.Ordered) else node, inner)
        self._limit(tree, scope)
        return columns

    def _limit(self, tree: exp.Expr, scope: Scope) -> None:
        for key in ("limit", "offset"):
            clause = tree.args.get(key)
            if clause is not None:
                count = clause.args.get("expression") or clause.args.get("count")
                if count is not None:
                    self.type(count, scope)
                    self.want(count, t.INT8)

    def _projection(self, item: exp.Expr, scope: Scope) -> list[Column]:
        if isinstance(item, exp.Star):
            return all_columns(scope.sources.values())
        if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            columns = scope.sources.get(item.table.lower())
            return all_columns([columns or []])
        kind = self.type(item, scope)
        return [Column(item.alias_or_name, kind)]

    def _source(self, node: exp.Expr, scope: Scope) -> None:
        alias = node.alias.lower()
        names = [c.name for c in node.args["alias"].columns] if node.args.get("alias") else []
        if isinstance(node, exp.Lateral):
            node = node.this
        if isinstance(node, exp.Table):
            columns = self._table(node, scope)
            alias = alias or node.name.lower()
            for join in node.args.get("joins") or ():
                scope.sources[alias] = columns
                self._source(join.this, scope)
                if join.args.get("on"):
                    self.condition(join.args["on"], scope)
        elif isinstance(node, exp.Subquery) and isinstance(node.this, exp.Table | exp.Join):
            self._source(node.this, scope)
            return
        elif isinstance(node, exp.Query | exp.Values):
            columns = self.query(node, scope)
        elif isinstance(node, exp.Unnest):
            columns = self._function("unnest", node.expressions, scope)
        else:
            columns = self._function(node.name.lower(), node.args.get("expressions") or [], scope)
        key = alias or f"\0{len(scope.sources)}"
        scope.sources[key] = renamed(columns, names)

    def _table(self, node: exp.Table, scope: Scope) -> list[Column]:
        if isinstance(node.this, exp.Anonymous):
            return self._function(node.this.name.lower(), node.this.expressions, scope)
        name = node.name.lower()
        if not node.db:
            cte = scope.cte(name)
            if cte is not None:
                return list(cte)
        relation = self.schema.get(name, node.db)
        return [] if relation is None else self.relation(relation)

    def _function(self, name: str, arguments: Sequence[exp.Expr], scope: Scope) -> list[Column]:
        types = [self.type(a, scope) for a in arguments]
        for argument, kind in zip(arguments, ARGUMENTS.get(name, ()), strict=False):
            self.want(argument, kind)
        if name == "generate_series" and types:
            return [Column("value", series_type(types))]
        if name == "unnest" and types and types[0] is not None:
            return [Column("unnest", types[0].element)]
        return [Column(n, kind) for n, kind in TABLE_FUNCTIONS.get(name, ())]

    def relation(self, relation: Relation) -> list[Column]:
        """The columns of a table or view; expressions of a view are inferred from its text."""
        if relation.kind == "view" and None in relation.columns.values():
            key = relation.name.lower()
            if key not in self._views:
                self._views.add(key)
                self._infer_view(relation)
                self._views.discard(key)
        return [Column(n, relation.columns[n.lower()]) for n in relation.names]

    def _infer_view(self, relation: Relation) -> None:
        tree = read(relation.sql)
        body = tree.expression if isinstance(tree, exp.Create) else None
        if body is None:
            return
        inner = _Walk(self.schema, [], False, len(relation.names))
        inner._views = self._views
        inner._depth = self._depth
        columns = inner._filled(inner.query(body, None))
        if len(columns) != len(relation.names):
            return
        for name, column in zip(relation.names, columns, strict=True):
            if relation.columns[name.lower()] is None:
                relation.columns[name.lower()] = column.type

    # --- writing statements --------------------------------------------------------------

    def insert(self, tree: exp.Insert) -> list[Column]:
        scope = Scope()
        self._with(tree, scope)
        target = tree.this
        table = target.this if isinstance(target, exp.Schema) else target
        columns = self._table(table, scope) if isinstance(table, exp.Table) else []
        if isinstance(target, exp.Schema):
            known = {c.name.lower(): c.type for c in columns}
            types = [known.get(e.name.lower()) for e in target.expressions]
        else:
            types = [c.type for c in columns]
        body = tree.expression
        if isinstance(body, exp.Values):
            for row in body.expressions:
                for cell, kind in zip(row.expressions, types, strict=False):
                    self.want(cell, kind)
                    self.type(cell, scope)
        elif isinstance(body, exp.Query):
            if isinstance(body, exp.Select):
                for cell, kind in zip(body.expressions, types, strict=False):
                    self.want(cell, kind)
                self._want_through(body, types)
            self.query(body, scope)
        name = (table.alias or table.name).lower() if isinstance(table, exp.Table) else ""
        scope.sources = {name: columns, "excluded": columns}
        conflict = tree.args.get("conflict")
        if conflict is not None:
            self._assignments(conflict.expressions or (), columns, scope)
            if conflict.args.get("where"):
                self.condition(conflict.args["where"].this, scope)
        scope.sources.pop("excluded")
        return self._returning(tree, scope)

    def _want_through(self, select: exp.Select, types: Sequence[PgType | None]) -> None:
        """INSERT … SELECT p0::x FROM (VALUES ($1, …)) AS s(p0, …): the target says the type."""
        source = select.args.get("from_") or select.args.get("from")
        values = source.this if source is not None else None
        if isinstance(values, exp.Subquery):
            values = values.this
        if not isinstance(values, exp.Values):
            return
        alias = (source.this.args.get("alias") or values.args.get("alias")) if source else None
        names = [c.name.lower() for c in alias.columns] if alias is not None else []
        wanted: dict[str, PgType | None] = {}
        for cell, kind in zip(select.expressions, types, strict=False):
            inner = cell.this if isinstance(cell, exp.Cast) else cell
            if isinstance(inner, exp.Column):
                wanted[inner.name.lower()] = kind
        for row in values.expressions:
            for name, cell in zip(names, row.expressions, strict=False):
                self.want(cell, wanted.get(name))

    def update(self, tree: exp.Update) -> list[Column]:
        scope = Scope()
        self._with(tree, scope)
        self._source(tree.this, scope)
        columns = next(iter(scope.sources.values()), [])
        own = dict(scope.sources)
        source = tree.args.get("from_") or tree.args.get("from")
        if source is not None:
            self._source(source.this, scope)
            for join in source.this.args.get("joins") or tree.args.get("joins") or ():
                self._source(join.this, scope)
        self._assignments(tree.expressions, columns, scope)
        if tree.args.get("where"):
            self.condition(tree.args["where"].this, scope)
        scope.sources = own
        return self._returning(tree, scope)

    def delete(self, tree: exp.Delete) -> list[Column]:
        scope = Scope()
        self._with(tree, scope)
        self._source(tree.this, scope)
        if tree.args.get("where"):
            self.condition(tree.args["where"].this, scope)
        return self._returning(tree, scope)

    def _assignments(self, items: Sequence[exp.Expr], columns: list[Column], scope: Scope) -> None:
        known = {c.name.lower(): c.type for c in columns}
        for item in items:
            if not isinstance(item, exp.EQ):
                continue
            left, right = item.this, item.expression
            pairs = [(left, right)]
            if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
                pairs = list(zip(left.expressions, right.expressions, strict=False))
            for target, value in pairs:
                self.want(value, known.get(target.name.lower()))
                self.type(value, scope)

    def _returning(self, tree: exp.Expr, scope: Scope) -> list[Column]:
        clause = tree.args.get("returning")
        out: list[Column] = []
        for item in clause.expressions if clause is not None else ():
            out.extend(self._projection(item, scope))
        return out
