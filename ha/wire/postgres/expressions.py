"""The types of expressions, and of the parameters that stand in them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlglot import exp

from ha.wire.postgres import oids as t
from ha.wire.postgres.casts import cast_affinity, cast_name, result_of_cast
from ha.wire.postgres.dialect import parameter
from ha.wire.postgres.functions import ARGUMENTS, FIRST_ARGUMENT, RESULTS, UNIFIED
from ha.wire.postgres.oids import PgType
from ha.wire.postgres.scopes import Column, Scope, unify

MAX_DEPTH = 40
"""Of queries in queries; expressions may nest twenty times as deep."""

_COMPARISONS = (
    exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ,
)  # fmt: skip
_PATTERNS = (exp.Like, exp.ILike, exp.Glob, exp.RegexpLike, exp.RegexpILike, exp.SimilarTo)
_LOGIC = (exp.And, exp.Or, exp.Xor)
_ARITHMETIC = (exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod, exp.IntDiv)
_BITS = (exp.BitwiseAnd, exp.BitwiseOr, exp.BitwiseLeftShift, exp.BitwiseRightShift)


class Expressions:
    """``parameters`` are the types known so far. What a query answers is for a subclass to say."""

    def __init__(self, parameters: list[PgType | None], translated: bool) -> None:
        self.parameters = parameters
        self.translated = translated
        self._depth = 0

    def query(self, tree: exp.Expr, parent: Scope | None) -> list[Column]:
        raise NotImplementedError

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

    def condition(self, node: exp.Expr, scope: Scope) -> None:
        self.want(node, t.BOOL)
        self.type(node, scope)

    # --- expressions ---------------------------------------------------------------------

    def type(self, node: exp.Expr, scope: Scope) -> PgType | None:
        """The type of an expression, giving types to the parameters inside."""
        self._depth += 1
        if self._depth > 20 * MAX_DEPTH:
            raise RecursionError
        try:
            return self._type(node, scope)
        finally:
            self._depth -= 1

    def _type(self, node: exp.Expr, scope: Scope) -> PgType | None:
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

    def _other(self, node: exp.Expr, scope: Scope) -> PgType | None:
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

    def _wrapped(self, node: exp.Expr, scope: Scope) -> PgType | None:
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

    def _leaf(self, node: exp.Expr, scope: Scope) -> PgType | None:
        if isinstance(node, exp.Boolean):
            return t.BOOL
        if isinstance(node, _JSON):
            for side in (node.this, node.expression):
                if isinstance(side, exp.Expr):
                    self.type(side, scope)
                    self.want(side, t.TEXT)
            scalar = isinstance(node, exp.JSONExtractScalar | exp.JSONBExtractScalar)
            return t.TEXT if scalar else t.JSON
        if isinstance(node, exp.HexString):
            return t.BYTEA
        for names, kind in _LEAVES:
            if isinstance(node, names):
                self._children(node, scope)
                return kind
        self._children(node, scope)
        return None

    def _children(self, node: exp.Expr, scope: Scope) -> None:
        for child in node.iter_expressions():
            if isinstance(child, exp.Query):
                self.query(child, scope)
            elif not isinstance(child, exp.Identifier | exp.DataType | exp.Var):
                self.type(child, scope)

    def _cast(self, node: exp.Cast, scope: Scope) -> PgType | None:
        name = cast_name(node)
        kind = t.by_sql_name(name) or t.of_declared(name)
        number = parameter(node.this)
        self.want(node.this, kind)
        self.type(node.this, scope)
        if number is not None or self.translated:
            return result_of_cast(kind)
        return cast_affinity(name)

    def _compare(self, node: exp.Expr, scope: Scope) -> PgType:
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

    def _pair(self, left: exp.Expr, right: exp.Expr, scope: Scope) -> None:
        if parameter(left) is not None:
            self.want(left, self.type(right, scope))
            self.type(left, scope)
            return
        kind = self.type(left, scope)
        self.want(right, kind)
        self.type(right, scope)

    def _any(self, left: exp.Expr, array: exp.Expr, scope: Scope) -> None:
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

    def _in(self, node: exp.In, scope: Scope) -> PgType:
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

    def _arithmetic(self, node: exp.Expr, scope: Scope) -> PgType | None:
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

    def _case(self, node: exp.Case, scope: Scope) -> PgType | None:
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

    def _call(self, node: exp.Anonymous, scope: Scope) -> PgType | None:
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


_JSON = (exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar)

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


def series_type(types: Sequence[PgType | None]) -> PgType | None:
    """Of generate_series: numbers by numbers, or times by an interval's text."""
    if unify(types[:2]) in t.TIMES | {t.TEXT}:
        return t.TIMESTAMP
    kind = unify(types)
    return t.INT8 if kind in t.INTEGERS else kind
