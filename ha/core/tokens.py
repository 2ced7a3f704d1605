"""SQL cut into tokens, as SQLite's tokenizer cuts it. Source: https://sqlite.org/lang.html.

Used where a statement's text must be compared or its head be read; what a statement means is
always left to SQLite's own parser.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<space>[\s\ufeff]+ | --[^\n]* | /\*.*?(?:\*/|\Z))
    | (?P<blob>[xX]'[0-9a-fA-F]*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<quoted>"(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
    | (?P<number>0[xX][0-9a-fA-F]+ | (?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[^\W\d][\w$]*)
    | (?P<other>\|\||<<|>>|<=|>=|<>|!=|==|->>|->|.)
    """,
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    """``start`` and ``end`` are positions in the text; ``kind`` a group name of the pattern."""

    kind: str
    text: str
    start: int
    end: int

    def is_word(self, *words: str) -> bool:
        """Is it one of these keywords (given in upper case)?"""
        return self.kind == "word" and self.text.upper() in words

    @property
    def name(self) -> str | None:
        """The identifier that it spells, unquoted; None if it cannot be one."""
        if self.kind == "word":
            return self.text
        if self.kind == "string" or (self.kind == "quoted" and self.text[0] != "["):
            quote = self.text[0]
            return self.text[1:-1].replace(quote * 2, quote)
        if self.kind == "quoted":
            return self.text[1:-1]
        return None


def tokenize(sql: str) -> list[Token]:
    """All tokens but white space and comments."""
    out: list[Token] = []
    for match in _TOKEN.finditer(sql):
        kind = match.lastgroup
        if kind is not None and kind != "space":
            out.append(Token(kind, match[0], match.start(), match.end()))
    return out


def shape(tokens: list[Token]) -> tuple[str, ...]:
    """What two texts have in common that differ in space, comments, case and quotes only."""
    return tuple(_shape_of(t) for t in tokens)


def _shape_of(token: Token) -> str:
    if token.kind == "word":
        return fold_case(token.text)
    if token.kind == "quoted":
        return fold_case(token.name or "")
    return token.text


def fold_case(name: str) -> str:
    """Names equal under SQLite's rules (only ASCII letters lose their case) fold alike."""
    return name.lower() if name.isascii() else name.translate(_ASCII_LOWER)


_ASCII_LOWER = {c: c + 32 for c in range(ord("A"), ord("Z") + 1)}


def quote(name: str) -> str:
    """An identifier in double quotes, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
