"""SQL text cut into tokens, and into statements. Knows both SQLite's and PostgreSQL's literals.

Sources: https://sqlite.org/lang.html, https://sqlite.org/c3ref/complete.html (the end of a
CREATE TRIGGER), PostgreSQL documentation, "Lexical Structure".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
    | (?P<estring>[eE]'(?:[^'\\]|\\.|'')*(?:'|\Z))
    | (?P<dollar>(?P<tag>\$(?:[A-Za-z_]\w*)?\$).*?(?:(?P=tag)|\Z))
    | (?P<string>(?:[xXbBnN]|[uU]&)?'(?:[^']|'')*(?:'|\Z))
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*(?:"|\Z)|`(?:[^`]|``)*(?:`|\Z))
    | (?P<param>\$\d+|\?\d*|[@$][A-Za-z_]\w*|(?<!:):[A-Za-z_]\w*)
    | (?P<number>0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    | (?P<word>[A-Za-z_\u0080-\U0010ffff][\w$\u0080-\U0010ffff]*)
    | (?P<op>::|->>|->|\|\||<=|>=|<>|!=|==|<<|>>|.)
    """,
    re.DOTALL | re.VERBOSE,
)


_NAME_START = re.compile(r"[^\d\]\s'\"$?:-]")
"""What a name in brackets starts with; anything else is an array or a subscript."""


@dataclass(frozen=True, slots=True)
class Token:
    """``kind``: space, estring, dollar, string, quoted, param, number, word or op.

    ``upper`` is the text in upper case for words, the text itself for all else.
    """

    kind: str
    text: str
    start: int

    @property
    def upper(self) -> str:
        return self.text.upper() if self.kind == "word" else self.text

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def tokenize(sql: str) -> Iterator[Token]:
    """All tokens, white space and comments too; their texts joined are ``sql``."""
    position = 0
    subscript = False  # a bracket here is PostgreSQL's subscript or array, not SQLite's name
    while position < len(sql):
        if sql[position] == "[" and not subscript:
            end = sql.find("]", position)
            if end > 0 and _NAME_START.match(sql, position + 1):
                token = Token("quoted", sql[position : end + 1], position)
                position = token.end
                yield token
                continue
        match = _TOKEN.match(sql, position)
        assert match is not None  # ``op`` takes any character
        kind = match.lastgroup or "op"
        if kind == "tag":
            kind = "dollar"
        token = Token(kind, match[0], position)
        position = match.end()
        if kind == "word":
            subscript = (position < len(sql) and sql[position] == "[") or token.upper == "ARRAY"
        elif kind != "space":
            subscript = token.text in (")", "]", "[") or kind == "quoted"
        yield token


def significant(sql: str) -> list[Token]:
    """The tokens without white space and comments."""
    return [t for t in tokenize(sql) if t.kind != "space"]


def split(sql: str) -> list[str]:
    """The statements of ``sql`` without their semicolons; empty ones are left out."""
    return [text for _, text in split_with_offsets(sql)]


def split_with_offsets(sql: str) -> list[tuple[int, str]]:
    """As :func:`split`, each with where it starts in ``sql`` (in characters)."""
    if ";" not in sql:
        return [(0, sql)] if _has_content(sql) else []
    out: list[tuple[int, str]] = []
    start = 0
    words: list[str] = []
    content = False
    last = ""
    before_last = ""
    for token in tokenize(sql):
        if token.kind == "space":
            continue
        if token.text == ";" and token.kind == "op":
            inside = _is_trigger(words) and not (last == "END" and before_last == ";")
            if not inside:
                if content:
                    out.append((start, sql[start : token.start]))
                start = token.end
                words, content, last, before_last = [], False, "", ""
                continue
        content = True
        if len(words) < 4:
            words.append(token.upper)
        before_last, last = last, token.upper
    if content:
        out.append((start, sql[start:]))
    return out


def _has_content(sql: str) -> bool:
    return any(t.kind != "space" for t in tokenize(sql))


def _is_trigger(words: list[str]) -> bool:
    if not words or words[0] != "CREATE":
        return False
    rest = words[1:]
    if rest and rest[0] in ("TEMP", "TEMPORARY"):
        rest = rest[1:]
    return bool(rest) and rest[0] == "TRIGGER"


def unquote(token: Token) -> str:
    """The name or the text that a token stands for. PostgreSQL's names fold to lower case."""
    text = token.text
    if token.kind == "word":
        return text.lower()
    if token.kind == "quoted":
        if text[0] == "[":
            return text[1:-1]
        if text[0] in "uU":
            text = text[2:]
        return text[1:-1].replace(text[0] * 2, text[0])
    if token.kind == "string":
        return text[text.index("'") + 1 : -1].replace("''", "'")
    if token.kind == "estring":
        return unescape(text[2:-1])
    if token.kind == "dollar":
        size = text.index("$", 1) + 1
        return text[size:-size]
    return text


_ESCAPE = re.compile(
    r"\\(?:(?P<octal>[0-7]{1,3})|x(?P<hex>[0-9a-fA-F]{1,2})|u(?P<u4>[0-9a-fA-F]{4})"
    r"|U(?P<u8>[0-9a-fA-F]{8})|(?P<char>.))|''",
    re.DOTALL,
)
_PLAIN = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def unescape(body: str) -> str:
    """The text of an ``E'…'`` literal's body."""

    def one(match: re.Match[str]) -> str:
        if match[0] == "''":
            return "'"
        if match["octal"]:
            return chr(int(match["octal"], 8) & 0xFF)
        for group in ("hex", "u4", "u8"):
            if match[group]:
                return chr(int(match[group], 16))
        return _PLAIN.get(match["char"], match["char"])

    return _ESCAPE.sub(one, body)


def number_parameters(sql: str) -> tuple[str, int]:
    """``$n`` as ``?n``, which SQLite binds by position, and the highest n.

    The texts have the same length, so SQLite's error offsets stay true.
    """
    if "$" not in sql:
        return sql, 0
    parts: list[str] = []
    highest = 0
    for token in tokenize(sql):
        if token.kind == "param" and token.text[0] == "$" and token.text[1:].isdigit():
            highest = max(highest, int(token.text[1:]))
            parts.append("?" + token.text[1:])
        else:
            parts.append(token.text)
    return "".join(parts), highest
