"""Reading a command word by word."""

from __future__ import annotations

from ha.wire.postgres.errors import PgError
from ha.wire.postgres.lexer import Token, significant, unquote


class Words:
    """The significant tokens of one statement, read from left to right."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        self.tokens = significant(sql)
        while self.tokens and self.tokens[-1].text == ";":
            self.tokens.pop()
        self.i = 0

    def peek(self, ahead: int = 0) -> str:
        i = self.i + ahead
        return self.tokens[i].upper if i < len(self.tokens) else ""

    def take(self, *words: str) -> bool:
        """Skip ``words`` if they come next, all of them."""
        if all(self.peek(k) == w for k, w in enumerate(words)):
            self.i += len(words)
            return True
        return False

    def one_of(self, *words: str) -> str:
        if self.peek() in words:
            self.i += 1
            return self.tokens[self.i - 1].upper
        return ""

    def next(self, what: str) -> Token:
        if self.i >= len(self.tokens):
            raise self.error(f"expected {what} at end of input")
        self.i += 1
        return self.tokens[self.i - 1]

    def name(self, what: str = "a name") -> str:
        token = self.next(what)
        if token.kind not in ("word", "quoted", "string"):
            self.i -= 1
            raise self.error(f"expected {what}")
        return unquote(token)

    def integer(self) -> int | None:
        sign = -1 if self.peek() == "-" else 1
        skip = 1 if self.peek() in ("-", "+") else 0
        text = self.peek(skip)
        if not text.isdigit():
            return None
        self.i += skip + 1
        return sign * int(text)

    def end(self) -> None:
        if self.i < len(self.tokens):
            raise self.error(f'syntax error at or near "{self.tokens[self.i].text}"')

    def done(self) -> bool:
        return self.i >= len(self.tokens)

    def rest(self) -> str:
        """The text from here to the end."""
        start = self.tokens[self.i].start if self.i < len(self.tokens) else len(self.sql)
        end = self.tokens[-1].end if self.tokens else 0
        return self.sql[start:end]

    def parenthesised(self) -> str:
        """The text inside the parentheses that come next."""
        opening = self.next("'('")
        if opening.text != "(":
            self.i -= 1
            raise self.error("expected '('")
        depth = 1
        while depth:
            token = self.next("')'")
            depth += {"(": 1, ")": -1}.get(token.text, 0)
        return self.sql[opening.end : token.start]

    def error(self, message: str) -> PgError:
        position = self.tokens[self.i].start + 1 if self.i < len(self.tokens) else None
        return PgError("42601", message, position=position)
