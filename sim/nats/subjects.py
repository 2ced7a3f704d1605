"""Subjects of NATS, and patterns of them: ``*`` is one token, ``>`` all that follow."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def matches(pattern: str, subject: str) -> bool:
    """Whether a subject without wildcards is meant by a pattern."""
    if pattern in (subject, ">"):
        return True
    if not is_pattern(pattern):
        return False
    wanted, tokens = pattern.split("."), subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > place
        if place >= len(tokens) or token not in ("*", tokens[place]):
            return False
    return len(wanted) == len(tokens)


def overlap(one: str, other: str) -> bool:
    """Whether some subject is meant by both."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)


def is_pattern(subject: str) -> bool:
    return "*" in subject or subject.endswith(">")


def is_valid(subject: str) -> bool:
    tokens = subject.split(".")
    return all(tokens) and " " not in subject and ">" not in tokens[:-1]
