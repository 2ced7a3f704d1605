"""Command tags. Source: PostgreSQL documentation, "Message Formats", CommandComplete."""

from __future__ import annotations

from functools import lru_cache

from ha.engine.api import Kind, Prepared
from ha.wire.postgres import backend
from ha.wire.postgres.lexer import significant

_NOISE = frozenset({"TEMP", "TEMPORARY", "UNIQUE", "VIRTUAL", "OR", "REPLACE"})
_COUNTED = frozenset({"INSERT", "UPDATE", "DELETE", "SELECT", "FETCH", "MOVE", "COPY"})


def command_tag(sql: str, prepared: Prepared) -> str:
    """Without the count: ``INSERT``, ``SELECT``, ``CREATE TABLE``…"""
    if prepared.kind is Kind.READ and prepared.verb in ("SELECT", "VALUES", "WITH", "PRAGMA", ""):
        return "SELECT"
    if prepared.kind is Kind.WRITE:
        return _main_verb(sql)
    if prepared.kind is Kind.DDL:
        words = [w.upper for w in significant(sql)[:6] if w.kind == "word"]
        if len(words) > 1:
            return f"{words[0]} {next((w for w in words[1:] if w not in _NOISE), '')}".strip()
        return words[0] if words else prepared.verb
    if prepared.kind is Kind.COMMAND:
        words = [w.upper for w in significant(sql)[:2] if w.kind == "word"]
        if words[:1] in (["CREATE"], ["DROP"]):
            return " ".join(words)
        return words[0] if words else prepared.verb
    return prepared.verb


def _main_verb(sql: str) -> str:
    """INSERT, UPDATE or DELETE, also behind WITH …"""
    depth = 0
    for token in significant(sql):
        if token.text == "(":
            depth += 1
        elif token.text == ")":
            depth -= 1
        elif depth == 0 and token.kind == "word":
            if token.upper in ("INSERT", "UPDATE", "DELETE"):
                return token.upper
            if token.upper == "REPLACE":
                return "INSERT"
    return "INSERT"


def complete(tag: str, count: int) -> str:
    if tag == "INSERT":
        return f"INSERT 0 {count}"
    if tag in _COUNTED:
        return f"{tag} {count}"
    return tag


def completed(tag: str, count: int) -> bytes:
    """The CommandComplete message."""
    return _of_few(tag, count) if count < 16 else backend.command_complete(complete(tag, count))


@lru_cache(maxsize=1024)
def _of_few(tag: str, count: int) -> bytes:
    return backend.command_complete(complete(tag, count))
