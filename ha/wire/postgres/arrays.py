"""Array literals: ``{1,2,NULL,"a b"}``. Source: PostgreSQL documentation, "Arrays" §8.15.6."""

from __future__ import annotations

from collections.abc import Sequence


def parse_array(text: str) -> list[str | None]:
    """The elements of a one-dimensional literal, as texts. Raises ValueError."""
    body = text.strip()
    if body.startswith("[") and "=" in body:  # explicit bounds: [0:2]={…}
        body = body.partition("=")[2]
    if len(body) < 2 or body[0] != "{" or body[-1] != "}":
        raise ValueError("an array literal stands in braces")
    out: list[str | None] = []
    i, end = 1, len(body) - 1
    if not body[1:end].strip():
        return out
    while True:
        while i < end and body[i].isspace():
            i += 1
        if i < end and body[i] == "{":
            raise ValueError("arrays of more than one dimension are not supported")
        if i < end and body[i] == '"':
            i += 1
            parts: list[str] = []
            while i < end and body[i] != '"':
                if body[i] == "\\":
                    i += 1
                parts.append(body[i])
                i += 1
            if i >= end:
                raise ValueError("unterminated quoted element")
            i += 1
            out.append("".join(parts))
            while i < end and body[i].isspace():
                i += 1
        else:
            parts = []
            while i < end and body[i] != ",":
                if body[i] == "\\":
                    i += 1
                parts.append(body[i])
                i += 1
            word = "".join(parts).strip()
            if not word:
                raise ValueError("an element is missing")
            out.append(None if word.upper() == "NULL" else word)
        if i >= end:
            return out
        if body[i] != ",":
            raise ValueError("expected a comma between elements")
        i += 1


def write_array(elements: Sequence[str | None]) -> str:
    return "{" + ",".join(_element(e) for e in elements) + "}"


def _element(element: str | None) -> str:
    if element is None:
        return "NULL"
    plain = element and not any(c in '{}",\\' or c.isspace() for c in element)
    if plain and element.upper() != "NULL":
        return element
    return '"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"'
