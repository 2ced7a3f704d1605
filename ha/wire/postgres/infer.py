"""The types of result columns and parameters, before a statement runs.

Declared types are followed from tables through subqueries, views and CTEs; expressions have
the type that their operator or function gives. A parameter without a declared type takes that
of what it is compared with, assigned to or combined with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlglot import exp

from ha.wire.postgres import oids as t
from ha.wire.postgres.dialect import parameter, read
from ha.wire.postgres.functions import (
    ARGUMENTS,
    FIRST_ARGUMENT,
    RESULTS,
    TABLE_FUNCTIONS,
    UNIFIED,
)
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.relations import Relation, Schema

_MAX_DEPTH = 40


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
    columns: list[_Column] | None = None
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


def unify(types: Iterable[PgType | None]) -> PgType | None:
    """The type that holds all of ``types``; None where nothing is known (NULL alone)."""
    known = {kind for kind in types if kind is not None}
    if not known:
        return None
    if len(known) == 1:
        return known.pop()
    if known <= t.NUMBERS | {t.BOOL}:
        if t.NUMERIC in known and not known & t.FLOATS:
            return t.NUMERIC
        return t.FLOAT8 if known & t.FLOATS else t.INT8
    if known <= {t.DATE, t.TIMESTAMP, t.TIMESTAMPTZ}:
        return t.TIMESTAMPTZ if t.TIMESTAMPTZ in known else t.TIMESTAMP
    if known <= {t.JSON, t.JSONB}:
        return t.JSON
    return t.TEXT


@dataclass(slots=True)
class _Column:
    name: str
    type: PgType | None
    hole: bool = False
    """Stands for an unknown number of columns (``*`` of a source that is not known)."""


@dataclass(slots=True)
class _Scope:
    """What names mean in one query. ``sources`` map lower-case aliases to columns."""

    parent: _Scope | None = None
    sources: dict[str, list[_Column]] = field(default_factory=dict)
    ctes: dict[str, list[_Column]] = field(default_factory=dict)

    def cte(self, name: str) -> list[_Column] | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.ctes:
                return scope.ctes[name]
            scope = scope.parent
        return None

    def column(self, table: str, name: str) -> PgType | None:
        scope: _Scope | None = self
        while scope is not None:
            for alias, columns in scope.sources.items():
                if table and alias != table:
                    continue
                for column in columns:
                    if column.name.lower() == name:
                        return column.type
            scope = scope.parent
        return t.INT8 if name in ("rowid", "oid", "_rowid_") else None


_COMPARISONS = (
    exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ,
)  # fmt: skip
_PATTERNS = (exp.Like, exp.ILike, exp.Glob, exp.RegexpLike, exp.RegexpILike, exp.SimilarTo)
_LOGIC = (exp.And, exp.Or, exp.Xor)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.IntDiv)
_BITS = (exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseLeftShift, exp.BitwiseRightShift)


class _Walk:
    def __init__(
        self,
        schema: Schema,
        parameters: list[PgType | None],
        translated: bool,
        width: int | None,
    ) -> None:
        self.schema = schema
        self.parameters = parameters
        self.translated = translated
        self.width = width
        self._views: set[str] = set()
        self._depth = 0

    def fitted(self, types: list[PgType | None]) -> list[PgType | None] | None:
        return types if len(types) == self.width else None

    # --- statements ------------------------------------------------------------------

    def statement(self, tree: exp.Expr) -> list[_Column] | None:
        if isinstance(tree, exp.Query | exp.Values):
            return self._filled(self.query(tree, None))
        if isinstance(tree, exp.Insert):
            return self._filled(self.insert(tree))
        if isinstance(tree, exp.Update):
            return self._filled(self.update(tree))
        if isinstance(tree, exp.Delete):
            return self._filled(self.delete(tree))
        return None

    def _filled(self, columns: list[_Column]) -> list[_Column]:
        """One hole is as wide as SQLite's number of columns leaves room for."""
        holes = [i for i, c in enumerate(columns) if c.hole]
        if len(holes) != 1 or self.width is None:
            return columns
        at = holes[0]
        missing = self.width - len(columns) + 1
        return [*columns[:at], *[_Column("", None)] * max(0, missing), *columns[at + 1 :]]

    def query(self, tree: exp.Expr, parent: _Scope | None) -> list[_Column]:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise RecursionError
        try:
            return self._query(tree, parent)
        finally:
            self._depth -= 1

    def _query(self, tree: exp.Expr, parent: _Scope | None) -> list[_Column]:
        scope = _Scope(parent)
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
                _Column(a.name, unify((a.type, b.type)), a.hole)
                for a, b in zip(left, right, strict=True)
            ]
        if isinstance(tree, exp.Values):
            return self._values(tree, scope)
        if isinstance(tree, exp.Select):
            return self._select(tree, scope)
        return []

    def _with(self, tree: exp.Expr, scope: _Scope) -> None:
        clause = tree.args.get("with_") or tree.args.get("with")
        if clause is None:
            return
        for cte in clause.expressions:
            name = cte.alias.lower()
            body = cte.this
            names = [c.name for c in (cte.args["alias"].columns if cte.args.get("alias") else ())]
            recursive = clause.args.get("recursive") and isinstance(body, exp.SetOperation)
            if recursive:  # the first part says the types
                scope.ctes[name] = _renamed(self.query(body.this, scope), names)
            if isinstance(body, exp.Query):
                scope.ctes[name] = _renamed(self.query(body, scope), names)
            elif isinstance(body, exp.Insert | exp.Update | exp.Delete):
                scope.ctes[name] = self.statement(body) or []

    def _values(self, tree: exp.Values, scope: _Scope) -> list[_Column]:
        rows = [row.expressions for row in tree.expressions if isinstance(row, exp.Tuple)]
        width = max((len(r) for r in rows), default=0)
        types = [
            unify([self.type(row[i], scope) for row in rows if i < len(row)]) for i in range(width)
        ]
        for row in rows:
            for cell, kind in zip(row, types, strict=False):
                self.want(cell, kind)
        return [_Column(f"column{i + 1}", kind) for i, kind in enumerate(types)]

    def _select(self, tree: exp.Select, scope: _Scope) -> list[_Column]:
        source = tree.args.get("from_") or tree.args.get("from")
        if source is not None:
            self._source(source.this, scope)
        for join in tree.args.get("joins") or ():
            self._source(join.this, scope)
            if join.args.get("on"):
                self.condition(join.args["on"], scope)
        for lateral in tree.args.get("laterals") or ():
            self._source(lateral, scope)
        columns: list[_Column] = []
        for item in tree.expressions:
            columns.extend(self._projection(item, scope))
        aliases = {c.name.lower(): c for c in columns if c.name}
        inner = _Scope(scope, {"": list(aliases.values())})
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

    def _limit(self, tree: exp.Expr, scope: _Scope) -> None:
        for key in ("limit", "offset"):
            clause = tree.args.get(key)
            if clause is not None:
                count = clause.args.get("expression") or clause.args.get("count")
                if count is not None:
                    self.type(count, scope)
                    self.want(count, t.INT8)

    def _projection(self, item: exp.Expr, scope: _Scope) -> list[_Column]:
        if isinstance(item, exp.Star):
            return _all(scope.sources.values())
        if isinstance(item, exp.Column) and isinstance(item.this, exp.Star):
            columns = scope.sources.get(item.table.lower())
            return _all([columns or []])
        kind = self.type(item, scope)
        return [_Column(item.alias_or_name, kind)]

    def _source(self, node: exp.Expr, scope: _Scope) -> None:
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
        scope.sources[key] = _renamed(columns, names)

    def _table(self, node: exp.Table, scope: _Scope) -> list[_Column]:
        if isinstance(node.this, exp.Anonymous):
            return self._function(node.this.name.lower(), node.this.expressions, scope)
        name = node.name.lower()
        if not node.db:
            cte = scope.cte(name)
            if cte is not None:
                return list(cte)
        relation = self.schema.get(name, node.db)
        return [] if relation is None else self.relation(relation)

    def _function(self, name: str, arguments: Sequence[exp.Expr], scope: _Scope) -> list[_Column]:
        types = [self.type(a, scope) for a in arguments]
        for argument, kind in zip(arguments, ARGUMENTS.get(name, ()), strict=False):
            self.want(argument, kind)
        if name == "generate_series" and types:
            return [_Column("value", _series(types))]
        if name == "unnest" and types and types[0] is not None:
            return [_Column("unnest", types[0].element)]
        return [_Column(n, kind) for n, kind in TABLE_FUNCTIONS.get(name, ())]

    def relation(self, relation: Relation) -> list[_Column]:
        """The columns of a table or view; expressions of a view are inferred from its text."""
        if relation.kind == "view" and None in relation.columns.values():
            key = relation.name.lower()
            if key not in self._views:
                self._views.add(key)
                self._infer_view(relation)
                self._views.discard(key)
        return [_Column(n, relation.columns[n.lower()]) for n in relation.names]

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

    def insert(self, tree: exp.Insert) -> list[_Column]:
        scope = _Scope()
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

    def update(self, tree: exp.Update) -> list[_Column]:
        scope = _Scope()
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

    def delete(self, tree: exp.Delete) -> list[_Column]:
        scope = _Scope()
        self._with(tree, scope)
        self._source(tree.this, scope)
        if tree.args.get("where"):
            self.condition(tree.args["where"].this, scope)
        return self._returning(tree, scope)

    def _assignments(
        self, items: Sequence[exp.Expr], columns: list[_Column], scope: _Scope
    ) -> None:
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

    def _returning(self, tree: exp.Expr, scope: _Scope) -> list[_Column]:
        clause = tree.args.get("returning")
        out: list[_Column] = []
        for item in clause.expressions if clause is not None else ():
            out.extend(self._projection(item, scope))
        return out

    # --- parameters ----------------------------------------------------------------------

    def want(self, node: exp.Expr | None, kind: PgType | None) -> None:
        """If ``node`` is a parameter without a type, it takes ``kind``."""
        number = parameter(node)
        if number is not None and kind is not None and 1 <= number <= len(self.parameters):
            if self.parameters[number - 1] is None:
                self.parameters[number - 1] = kind
        elif isinstance(node, exp.Case | exp.Alias | exp.Paren | exp.Collate) or (
            isinstance(node, exp.Anonymous) and node.name.lower() in UNIFIED
        ):
            for child in _results(node):
                self.want(child, kind)

    def condition(self, node: exp.Expr, scope: _Scope) -> None:
        self.want(node, t.BOOL)
        self.type(node, scope)

    # --- expressions ---------------------------------------------------------------------

    def type(self, node: exp.Expr, scope: _Scope) -> PgType | None:
        """The type of an expression, giving types to the parameters inside."""
        self._depth += 1
        if self._depth > 20 * _MAX_DEPTH:
            raise RecursionError
        try:
            return self._type(node, scope)
        finally:
            self._depth -= 1

    def _type(self, node: exp.Expr, scope: _Scope) -> PgType | None:
        number = parameter(node)
        if number is not None:
            return self.parameters[number - 1] if 1 <= number <= len(self.parameters) else None
        if isinstance(node, exp.Column):
            return scope.column(node.table.lower(), node.name.lower())
        if isinstance(node, exp.Literal):
            return _literal(node)
        if isinstance(node, exp.Null):
            return None
        if isinstance(node, exp.Cast):
            return self._cast(node, scope)
        if isinstance(node, _COMPARISONS):
            return self._compare(node, scope)
        if isinstance(node, _LOGIC):
            self.condition(node.this, scope)
            self.condition(node.expression, scope)
            return t.BOOL
        if isinstance(node, _ARITHMETIC):
            return self._arithmetic(node, scope)
        if isinstance(node, exp.Anonymous):
            return self._call(node, scope)
        if isinstance(node, exp.Paren | exp.Alias | exp.Collate):
            return self.type(node.this, scope)
        if isinstance(node, exp.Subquery | exp.Query):
            columns = self.query(node, scope)
            return columns[0].type if columns else None
        return self._other(node, scope)

    def _other(self, node: exp.Expr, scope: _Scope) -> PgType | None:
        if isinstance(node, exp.Case):
            return self._case(node, scope)
        if isinstance(node, exp.Between):
            kind = self.type(node.this, scope)
            kinds = [self.type(node.args[k], scope) for k in ("low", "high")]
            self.want(node.args["low"], kind)
            self.want(node.args["high"], kind)
            self.want(node.this, unify(kinds))
            return t.BOOL
        if isinstance(node, exp.In):
            return self._in(node, scope)
        if isinstance(node, exp.Not):
            self.condition(node.this, scope)
            return t.BOOL
        if isinstance(node, exp.Exists):
            self.query(node.this, scope)
            return t.BOOL
        if isinstance(node, _PATTERNS):
            for side in (node.this, node.expression):
                self.type(side, scope)
                self.want(side, t.TEXT)
            return t.BOOL
        if isinstance(node, exp.Escape | exp.Operator):
            self.type(node.this, scope)
            self.type(node.expression, scope)
            self.want(node.expression, t.TEXT)
            return t.BOOL
        if isinstance(node, exp.DPipe | exp.Concat):
            for side in (node.this, node.args.get("expression")):
                if isinstance(side, exp.Expr):
                    self.type(side, scope)
                    self.want(side, t.TEXT)
            return t.TEXT
        if isinstance(node, exp.Neg):
            return self.type(node.this, scope)
        if isinstance(node, _BITS):
            for side in (node.this, node.expression):
                self.type(side, scope)
                self.want(side, t.INT8)
            return t.INT8
        if isinstance(node, exp.BitwiseNot):
            self.type(node.this, scope)
            return t.INT8
        if isinstance(node, exp.Window | exp.Filter | exp.WithinGroup | exp.Distinct):
            return self._wrapped(node, scope)
        return self._leaf(node, scope)

    def _wrapped(self, node: exp.Expr, scope: _Scope) -> PgType | None:
        if isinstance(node, exp.Distinct):
            found = [self.type(e, scope) for e in node.expressions]
            return found[0] if found else None
        kind = self.type(node.this, scope)
        if isinstance(node, exp.Filter):
            self.condition(node.expression.this, scope)
        for part in node.args.get("partition_by") or ():
            self.type(part, scope)
        order = node.args.get("order")
        for ordered in order.expressions if order is not None else ():
            self.type(ordered.this, scope)
        return kind

    def _leaf(self, node: exp.Expr, scope: _Scope) -> PgType | None:
        if isinstance(node, exp.Boolean):
            return t.BOOL
        if isinstance(node, exp.JSONExtract | exp.JSONExtractScalar):
            for side in (node.this, node.expression):
                if isinstance(side, exp.Expr):
                    self.type(side, scope)
                    self.want(side, t.TEXT)
            return t.TEXT if isinstance(node, exp.JSONExtractScalar) else t.JSON
        if isinstance(node, exp.HexString):
            return t.BYTEA
        for names, kind in _LEAVES:
            if isinstance(node, names):
                self._children(node, scope)
                return kind
        self._children(node, scope)
        return None

    def _children(self, node: exp.Expr, scope: _Scope) -> None:
        for child in node.iter_expressions():
            if isinstance(child, exp.Query):
                self.query(child, scope)
            elif not isinstance(child, exp.Identifier | exp.DataType | exp.Var):
                self.type(child, scope)

    def _cast(self, node: exp.Cast, scope: _Scope) -> PgType | None:
        name = cast_name(node)
        kind = t.by_sql_name(name) or t.of_declared(name)
        number = parameter(node.this)
        self.want(node.this, kind)
        self.type(node.this, scope)
        if number is not None or self.translated:
            return result_of_cast(kind)
        return cast_affinity(name)

    def _compare(self, node: exp.Expr, scope: _Scope) -> PgType:
        left, right = node.this, node.expression
        found = quantified(right)
        if found is not None:
            self._any(left, found[1], scope)
            return t.BOOL
        if isinstance(left, exp.Tuple) and isinstance(right, exp.Tuple):
            for a, b in zip(left.expressions, right.expressions, strict=False):
                self._pair(a, b, scope)
            return t.BOOL
        self._pair(left, right, scope)
        return t.BOOL

    def _pair(self, left: exp.Expr, right: exp.Expr, scope: _Scope) -> None:
        if parameter(left) is not None:
            self.want(left, self.type(right, scope))
            self.type(left, scope)
            return
        kind = self.type(left, scope)
        self.want(right, kind)
        self.type(right, scope)

    def _any(self, left: exp.Expr, array: exp.Expr, scope: _Scope) -> None:
        kind = self.type(left, scope) or t.TEXT
        inner = array.this if isinstance(array, exp.Paren) else array
        if isinstance(inner, exp.Cast):
            self.type(inner, scope)
        elif parameter(inner) is not None:
            if kind.array_oid:
                self.want(inner, t.array_of(kind))
        elif isinstance(inner, exp.Query):
            self.query(inner, scope)
        elif isinstance(inner, exp.Expr):
            self._children(inner, scope)

    def _in(self, node: exp.In, scope: _Scope) -> PgType:
        kind = self.type(node.this, scope)
        query = node.args.get("query")
        if query is not None:
            columns = self.query(query, scope)
            self.want(node.this, columns[0].type if columns else None)
            return t.BOOL
        kinds = []
        for item in node.expressions:
            self.want(item, kind)
            kinds.append(self.type(item, scope))
        self.want(node.this, unify(kinds))
        return t.BOOL

    def _arithmetic(self, node: exp.Expr, scope: _Scope) -> PgType | None:
        left, right = self.type(node.this, scope), self.type(node.expression, scope)
        if left is None and parameter(node.this) is not None:
            self.want(node.this, right if right in t.NUMBERS else t.NUMERIC)
            left = self.type(node.this, scope)
        if right is None and parameter(node.expression) is not None:
            self.want(node.expression, left if left in t.NUMBERS else t.NUMERIC)
            right = self.type(node.expression, scope)
        kind = unify((left, right))
        if left is None or right is None or kind not in t.NUMBERS:
            return t.NUMERIC  # SQLite computes an integer or a float from anything
        if kind in t.INTEGERS:
            return t.INT8
        return t.FLOAT8 if kind in t.FLOATS else t.NUMERIC

    def _case(self, node: exp.Case, scope: _Scope) -> PgType | None:
        subject = node.this
        kind = self.type(subject, scope) if subject is not None else None
        for branch in node.args["ifs"]:
            if subject is None:
                self.condition(branch.this, scope)
            else:
                self.want(branch.this, kind)
                self.want(subject, self.type(branch.this, scope))
        results = _results(node)
        kind = unify([self.type(r, scope) for r in results])
        for r in results:
            self.want(r, kind)
        return kind

    def _call(self, node: exp.Anonymous, scope: _Scope) -> PgType | None:
        name = node.name.lower()
        arguments = node.expressions
        for argument, kind in zip(arguments, ARGUMENTS.get(name, ()), strict=False):
            self.want(argument, kind)
        types = [None if isinstance(a, exp.Star) else self.type(_bare(a), scope) for a in arguments]
        if name in UNIFIED:
            common = unify(types)
            for argument in arguments:
                self.want(argument, common)
            return common
        if name == "iif" or name == "if":
            self.want(arguments[0] if arguments else None, t.BOOL)
            return unify(types[1:])
        if name == "nullif":
            if len(arguments) == 2:
                self._pair(arguments[0], arguments[1], scope)
            return types[0] if types else None
        if name == "sum":
            return _sum(types[0] if types else None)
        if name in FIRST_ARGUMENT:
            return types[0] if types else None
        if name == "array_agg" and types and types[0] is not None and types[0].array_oid:
            return t.array_of(types[0])
        return RESULTS.get(name)


_LEAVES: tuple[tuple[tuple[type[exp.Expr], ...], PgType], ...] = (
    ((exp.CurrentTimestamp,), t.TIMESTAMPTZ),
    ((exp.Localtimestamp, exp.CurrentDatetime), t.TIMESTAMP),
    ((exp.CurrentDate,), t.DATE),
    ((exp.CurrentTime, exp.Localtime), t.TIME),
    ((exp.CurrentUser, exp.SessionUser, exp.CurrentSchema, exp.CurrentCatalog), t.TEXT),
    ((exp.Trim, exp.Substring, exp.Overlay), t.TEXT),
    ((exp.StrPosition,), t.INT8),
    ((exp.Extract,), t.FLOAT8),
)


def quantified(node: exp.Expr) -> tuple[bool, exp.Expr] | None:
    """(is it ALL, the array) for ``ANY (…)``, ``SOME (…)`` and ``ALL (…)``."""
    if isinstance(node, exp.Any | exp.All):
        return isinstance(node, exp.All), node.this
    if isinstance(node, exp.Anonymous) and len(node.expressions) == 1:
        name = node.name.lower()
        if name in ("any", "some", "all"):
            return name == "all", node.expressions[0]
    return None


def _bare(node: exp.Expr) -> exp.Expr:
    return node.this if isinstance(node, exp.Order) else node


def _results(node: exp.Expr) -> list[exp.Expr]:
    """The expressions that can be the result of a CASE, a coalesce or a wrapper."""
    if isinstance(node, exp.Case):
        out = [branch.args["true"] for branch in node.args["ifs"]]
        if node.args.get("default") is not None:
            out.append(node.args["default"])
        return out
    if isinstance(node, exp.Anonymous):
        return list(node.expressions)
    return [node.this]


def _literal(node: exp.Literal) -> PgType:
    if node.is_string:
        return t.TEXT
    text = str(node.this)
    if text[:2].lower() == "0x" or text.isdigit():
        return t.INT8 if len(text) < 20 else t.FLOAT8
    return t.FLOAT8


def _sum(kind: PgType | None) -> PgType:
    if kind is None or kind not in t.NUMBERS | {t.BOOL}:
        return t.NUMERIC
    if kind in t.FLOATS:
        return t.FLOAT8
    return t.NUMERIC if kind is t.NUMERIC else t.INT8


def _series(types: Sequence[PgType | None]) -> PgType | None:
    """Of generate_series: numbers by numbers, or times by an interval's text."""
    if unify(types[:2]) in t.TIMES | {t.TEXT}:
        return t.TIMESTAMP
    kind = unify(types)
    return t.INT8 if kind in t.INTEGERS else kind


def _renamed(columns: list[_Column], names: Sequence[str]) -> list[_Column]:
    return [
        _Column(names[i] if i < len(names) else c.name, c.type, c.hole)
        for i, c in enumerate(columns)
    ]


def _all(sources: Iterable[list[_Column]]) -> list[_Column]:
    out: list[_Column] = []
    for columns in sources:
        out.extend(columns or [_Column("", None, hole=True)])
    return out


def cast_name(node: exp.Cast) -> str:
    """The name of the type as the client wrote it, as far as sqlglot tells."""
    to = node.args["to"]
    if isinstance(to, exp.DataType) and to.this == exp.DataType.Type.USERDEFINED:
        kind = to.args.get("kind")
        text = kind if isinstance(kind, str) else kind.sql() if kind is not None else ""
    else:
        text = to.sql(dialect="postgres")
    return text.replace('"', "").lower().removeprefix("pg_catalog.")


def cast_affinity(name: str) -> PgType:
    """What SQLite's own CAST answers: https://sqlite.org/lang_expr.html#castexpr."""
    upper = name.upper()
    if "INT" in upper:
        return t.INT8
    if "CHAR" in upper or "CLOB" in upper or "TEXT" in upper:
        return t.TEXT
    if "BLOB" in upper or "BYTEA" in upper:  # sqlglot says bytea for BLOB
        return t.BYTEA
    if "REAL" in upper or "FLOA" in upper or "DOUB" in upper:
        return t.FLOAT8
    return t.NUMERIC


def result_of_cast(kind: PgType) -> PgType:
    """The type reported for a value cast to ``kind``: integers are int8, floats float8."""
    if kind in (t.INT2, t.INT4):
        return t.INT8
    if kind is t.FLOAT4:
        return t.FLOAT8
    if kind in (t.VARCHAR, t.BPCHAR, t.REGCLASS, t.REGTYPE, t.REGPROC, t.REGNAMESPACE):
        return t.TEXT  # a name is shown for a reg… type
    return kind
