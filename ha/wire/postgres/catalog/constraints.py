"""The constraints that a CREATE TABLE text names: SQLite's pragmas do not tell all of them."""

from __future__ import annotations

from dataclasses import dataclass

from ha.wire.postgres.lexer import Token, significant, unquote


@dataclass(frozen=True, slots=True)
class Written:
    """``kind``: p primary key, u unique, f foreign key, c check. ``name`` None: none given.

    ``columns`` in lower case; ``text`` is the condition of a CHECK, without its parentheses.
    """

    kind: str
    name: str | None
    columns: tuple[str, ...]
    text: str = ""


def read_constraints(sql: str) -> list[Written]:
    """Of a CREATE TABLE text; an empty list where it is of another form."""
    tokens = significant(sql)
    opening = next((i for i, t in enumerate(tokens) if t.text == "("), None)
    if opening is None or any(t.upper == "VIRTUAL" for t in tokens[:opening]):
        return []
    out: list[Written] = []
    for part in _parts(tokens, opening):
        out.extend(_definition(sql, part))
    return out


def _parts(tokens: list[Token], opening: int) -> list[list[Token]]:
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens[opening + 1 :]:
        if token.text == ")" and depth == 0:
            break
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [p for p in parts if p]


def _definition(sql: str, part: list[Token]) -> list[Written]:
    table_wide = part[0].upper in ("CONSTRAINT", "PRIMARY", "UNIQUE", "FOREIGN", "CHECK")
    column = () if table_wide else (unquote(part[0]).lower(),)
    out: list[Written] = []
    name: str | None = None
    i = 0 if table_wide else 1
    while i < len(part):
        word = part[i].upper
        if word == "CONSTRAINT" and i + 1 < len(part):
            name = unquote(part[i + 1])
            i += 2
            continue
        kind = {"PRIMARY": "p", "UNIQUE": "u", "FOREIGN": "f", "CHECK": "c"}.get(word)
        if kind is None and word == "REFERENCES" and not table_wide:
            kind = "f"
        if kind is not None:
            end = _closing(part, i)
            columns = column or _columns(part, i)
            body = ""
            if kind == "c" and end is not None:
                start = next(k for k in range(i, len(part)) if part[k].text == "(")
                body = sql[part[start].end : part[end - 1].start].strip()
            out.append(Written(kind, name, columns if kind != "c" else column, body))
            name = None
            if kind == "c" and end is not None:
                i = end
                continue
        i += 1
    return out


def _closing(part: list[Token], i: int) -> int | None:
    depth = 0
    for k in range(i, len(part)):
        if part[k].text == "(":
            depth += 1
        elif part[k].text == ")":
            depth -= 1
            if depth == 0:
                return k + 1
    return None


def _columns(part: list[Token], i: int) -> tuple[str, ...]:
    out: list[str] = []
    depth = 0
    for token in part[i:]:
        if token.text == "(":
            depth += 1
        elif token.text == ")":
            break
        elif depth == 1 and token.kind in ("word", "quoted") and token.upper not in _ORDER:
            out.append(unquote(token).lower())
    return tuple(out)


_ORDER = frozenset({"ASC", "DESC", "COLLATE", "NOCASE", "BINARY", "RTRIM"})
