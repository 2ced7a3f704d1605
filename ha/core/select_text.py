"""The text of a SELECT, cut by its tokens: clauses, expressions, what may be a column or a call.

Pure, and never writes SQL anew: pieces are copied as they stand.
Sources: https://sqlite.org/lang_select.html, https://sqlite.org/lang_keywords.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ha.core.errors import Code, HaError
from ha.core.tokens import fold_case, tokenize

_MOST_PARAMETERS = 32_766
_RESERVED = frozenset(
    re.findall(
        r"\w+",
        "ADD ALL ALTER AND AS AUTOINCREMENT BETWEEN CASE CHECK COLLATE COMMIT CONSTRAINT CREATE"
        " CURRENT_DATE CURRENT_TIME CURRENT_TIMESTAMP DEFAULT DEFERRABLE DELETE DISTINCT DROP ELSE"
        " END ESCAPE EXCEPT EXISTS FOREIGN FROM GLOB GROUP HAVING IN INDEX INSERT INTERSECT INTO IS"
        " ISNULL JOIN LIKE LIMIT MATCH NOT NOTHING NOTNULL NULL ON OR ORDER PRIMARY REFERENCES"
        " REGEXP RETURNING SELECT SET TABLE THEN TO TRANSACTION UNION UNIQUE UPDATE USING VALUES"
        " WHEN WHERE",
    )
)


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens from ``start`` to before ``end``."""

    start: int
    end: int

    def __bool__(self) -> bool:
        return self.end > self.start


@dataclass(frozen=True, slots=True)
class Ref:
    """What may be a column: ``name``, ``t.name``; ``text`` is how it is written."""

    span: Span
    text: str
    folded: str
    qualified: bool


@dataclass(frozen=True, slots=True)
class Call:
    """A function call. ``span`` ends after its FILTER clause; ``arguments`` are their tokens."""

    name: str
    span: Span
    arguments: tuple[Span, ...]
    star: bool
    plain: bool  # without DISTINCT, ORDER BY and FILTER


@dataclass(frozen=True, slots=True)
class Item:
    """A result column. ``star``: ``*`` or ``t.*``; ``expression`` is without its alias."""

    expression: Span
    alias: str | None = None
    star: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """A term of ORDER BY: ``whole`` with ASC, DESC, NULLS FIRST, NULLS LAST."""

    expression: Span
    whole: Span


class SelectText:
    """The tokens of one statement, and what can be read off them."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = tokenize(sql)
        self.depths: list[int] = []
        depth = 0
        for token in self.tokens:
            if token.text == ")":
                depth -= 1
            self.depths.append(depth)
            if token.text == "(":
                depth += 1

    def word(self, at: int, *words: str) -> bool:
        return 0 <= at < len(self.tokens) and self.tokens[at].is_word(*words)

    def text(self, at: int) -> str:
        return self.tokens[at].text if 0 <= at < len(self.tokens) else ""

    def close(self, at: int) -> int:
        """The token that closes the parenthesis at ``at``."""
        depth = self.depths[at]
        for index in range(at + 1, len(self.tokens)):
            if self.depths[index] == depth and self.text(index) == ")":
                return index
        return len(self.tokens)

    def source(self, span: Span, put: Mapping[int, tuple[int, str]] | None = None) -> str:
        """The text of ``span``; ``put`` replaces tokens from a place to before another one."""
        if not span:
            return ""
        out: list[str] = []
        at = span.start
        place = self.tokens[span.start].start
        while at < span.end:
            replaced = put.get(at) if put else None
            if replaced is None:
                at += 1
                continue
            end, text = replaced
            out.append(self.sql[place : self.tokens[at].start])
            out.append(text)
            place = self.tokens[end - 1].end
            at = end
        out.append(self.sql[place : self.tokens[span.end - 1].end])
        # A comment to the end of a line must not swallow what follows.
        return "".join(out)

    def split(self, span: Span, separator: str = ",") -> list[Span]:
        """Cut at separators of the span's own depth."""
        if not span:
            return []
        depth = self.depths[span.start]
        if self.text(span.start) == ")":
            return []
        parts: list[Span] = []
        begin = span.start
        for at in range(span.start, span.end):
            if self.depths[at] == depth and self.text(at) == separator:
                parts.append(Span(begin, at))
                begin = at + 1
        parts.append(Span(begin, span.end))
        return parts

    # --- expressions -----------------------------------------------------------------

    def is_name(self, at: int) -> bool:
        token = self.tokens[at]
        if token.kind == "quoted":
            return True
        return token.kind == "word" and token.text.upper() not in _RESERVED

    def refs(self, span: Span) -> Iterator[Ref]:
        """What may be columns. Keywords that are no reserved words may be among them."""
        at = span.start
        types: list[int] = []  # where the parentheses of CAST close, innermost last
        while at < span.end:
            while types and at >= types[-1]:
                types.pop()
            token = self.tokens[at]
            if token.is_word("CAST") and self.text(at + 1) == "(":
                types.append(self.close(at + 1))
            elif token.is_word("AS") and types:
                at = types[-1]
                continue
            elif token.is_word("COLLATE"):
                at += 2
                continue
            elif self._is_syntax(at) or not self.is_name(at) or self.text(at + 1) == "(":
                pass
            else:
                end = at + 1
                while self.text(end) == "." and end + 1 < span.end:
                    end += 2
                name = self.tokens[end - 1].name or ""
                parts = [self.tokens[i].name or "" for i in range(at, end, 2)]
                yield Ref(
                    Span(at, end),
                    self.source(Span(at, end)),
                    ".".join(map(fold_case, parts)) if name else "",
                    end - at > 1,
                )
                at = end
                continue
            at += 1

    def _is_syntax(self, at: int) -> bool:
        """Words that are no reserved ones, where they mean something."""
        if self.word(at, "NULLS"):
            return self.word(at + 1, "FIRST", "LAST")
        if self.word(at, "FIRST", "LAST"):
            return self.word(at - 1, "NULLS")
        if self.word(at, "FILTER"):
            return self.text(at - 1) == ")" and self.text(at + 1) == "("
        if self.word(at, "BY"):
            return self.word(at - 1, "ORDER", "GROUP")
        return self.word(at, "ASC", "DESC")

    def calls(self, span: Span) -> Iterator[Call]:
        for at in range(span.start, span.end - 1):
            token = self.tokens[at]
            if token.kind not in ("word", "quoted") or self.text(at + 1) != "(":
                continue
            if not self.is_name(at) and not self.word(at, "LIKE", "GLOB", "REGEXP", "MATCH"):
                continue
            if self.word(at, "FILTER") and self.text(at - 1) == ")":
                continue
            close = self.close(at + 1)
            inside = Span(at + 2, close)
            end = close + 1
            plain = not self.word(at + 2, "DISTINCT", "ALL")
            if any(self.word(i, "ORDER") for i in range(inside.start, inside.end)):
                plain = False
            if self.word(end, "FILTER") and self.text(end + 1) == "(":
                end = self.close(end + 1) + 1
                plain = False
            star = self.text(at + 2) == "*" and close == at + 3
            arguments = tuple(self.split(inside)) if inside and not star else ()
            yield Call(fold_case(token.name or ""), Span(at, end), arguments, star, plain)


def number_parameters(sql: str) -> tuple[str, tuple[str | None, ...]]:
    """Each parameter as ``?N``, and the names in SQLite's order, None where there is none.

    Source: https://sqlite.org/lang_expr.html#parameters.
    """
    tokens = tokenize(sql)
    out: list[str] = []
    names: list[str | None] = []
    known: dict[str, int] = {}
    place = 0
    at = 0
    while at < len(tokens):
        token = tokens[at]
        follows = tokens[at + 1] if at + 1 < len(tokens) else None
        adjacent = follows is not None and follows.start == token.end
        number = 0
        end = token.end
        if token.text == "?":
            if adjacent and follows is not None and follows.text.isdigit():
                number, end = int(follows.text), follows.end
                at += 1
            else:
                number = len(names) + 1
        elif (
            token.text in (":", "@", "$")
            and adjacent
            and follows is not None
            and follows.kind in ("word", "number")
        ):
            name = token.text + follows.text
            number = known.setdefault(name, len(names) + 1)
            end = follows.end
            at += 1
        if number:
            if number > _MOST_PARAMETERS:
                raise HaError(Code.SYNTAX_ERROR, f"the parameter ?{number} has too large a number")
            while len(names) < number:
                names.append(None)
            if token.text != "?" and names[number - 1] is None:
                names[number - 1] = sql[token.start + 1 : end]
            out.append(sql[place : token.start])
            out.append(f"?{number}")
            place = end
        at += 1
    out.append(sql[place:])
    return "".join(out), tuple(names)
