"""The configuration file of the embedded server: ours around a user's.

A key that stands twice is taken from its last place, and a block is replaced whole, so ours
sets only what the user's file leaves open. For that :func:`scan` finds which keys it sets;
whether it is right is for nats-server to say.

Source: https://docs.nats.io/running-a-nats-service/configuration (syntax, include).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

_TOKEN = re.compile(
    r"""
      (?P<comment>(?:\#|//)[^\n]*)
    | (?P<string>"(?:\\.|[^"\\])*"|'[^']*'|\(\s*\n.*?\n\s*\))
    | (?P<mark>[{}\[\],;=:])
    | (?P<word>[^\s{}\[\],;=:"'\#]+(?::[^\s{}\[\],;"'\#]+)*)
    """,
    re.VERBOSE | re.DOTALL,
)
_MAX_INCLUDES = 20
_STORE_KEYS = {
    "store_dir",
    "storedir",
    "jetstream.store",
    "jetstream.store_dir",
    "jetstream.storedir",
}


def scan(path: Path) -> dict[str, str]:
    """The keys that a file sets, in lower case with dots (``jetstream.store_dir``), and values.

    A block or list has the value ``""``. Files that it includes are read too. Raises OSError.
    """
    found: dict[str, str] = {}
    _scan_file(path, [], found, _MAX_INCLUDES)
    return found


def _scan_file(path: Path, outer: list[str], found: dict[str, str], depth: int) -> None:
    blocks = list(outer)  # the names of the blocks that we are in
    brackets: list[str] = []
    key: str | None = None
    for match in _TOKEN.finditer(path.read_text(encoding="utf-8", errors="replace")):
        kind, token = match.lastgroup, match[0]
        if token == "[":
            if key is not None:
                found[".".join([*blocks, key])] = ""
            brackets.append("[")
            key = None
        elif token == "{":
            if key is not None:
                blocks.append(key)
                found[".".join(blocks)] = ""
            # Braces without a name stand around a whole JSON file, or an element of a list.
            brackets.append("{" if key is None else "name {")
            key = None
        elif token in ("}", "]"):
            if brackets and brackets.pop() == "name {":
                blocks.pop()
            key = None
        elif token in (",", ";"):
            key = None
        elif kind in ("string", "word") and "[" not in brackets:
            word = token[1:-1] if kind == "string" else token
            if key is None:
                key = word.lower()
            elif key == "include":
                if depth > 0:
                    _scan_file(path.parent / word, blocks, found, depth - 1)
                key = None
            else:
                found[".".join([*blocks, key])] = word
                key = None


@dataclass(frozen=True, slots=True)
class Wrapper:
    """What to write, and what to say on the command line. ``tls``: clients must use it."""

    text: str
    arguments: tuple[str, ...]
    tls: bool


def wrap(
    *,
    user_file: Path | None,
    folder: Path,
    host: str,
    port: int,
    store_dir: Path,
    user: str | None,
    password: str | None,
    max_payload: int,
    sync_always: bool,
) -> Wrapper:
    """The configuration that stands in ``folder`` and includes ``user_file``.

    What the file sets holds: its listen address, limits, users, accounts. If it has a
    ``jetstream`` block that is taken whole, but for a missing ``store_dir``, which is ours.
    Raises ValueError when the file contradicts ``sync_always``, OSError when it is unreadable.
    """
    theirs = scan(user_file) if user_file is not None else {}
    lines: list[str] = []
    arguments: list[str] = []
    if not theirs.keys() & {"listen", "host", "net"}:
        lines.append(f"host: {json.dumps(host)}")
    if not theirs.keys() & {"listen", "port"}:
        lines.append(f"port: {port or -1}")
    lines.append(f"max_payload: {max_payload}")
    if user is not None and not theirs.keys() & {"authorization", "accounts", "operator"}:
        lines.append(
            f"authorization {{ user: {json.dumps(user)}, password: {json.dumps(password or '')} }}"
        )
    names_store = bool(theirs.keys() & _STORE_KEYS)
    if "jetstream" in theirs:
        if not names_store:
            arguments += ["--store_dir", str(store_dir)]
        if sync_always and not _syncs_always(theirs):
            raise ValueError(
                f"durability full needs 'sync_interval: always' in the jetstream block of "
                f"{user_file}"
            )
    else:
        block = ["enabled: true"]
        if not names_store:
            block.append(f"store_dir: {json.dumps(str(store_dir))}")
        if sync_always:
            block.append("sync_interval: always")
        lines.append(f"jetstream {{ {', '.join(block)} }}")
    if user_file is not None:
        # An absolute path would be taken relative to this file's folder, too.
        relative = os.path.relpath(os.path.realpath(user_file), os.path.realpath(folder))
        lines.append(f"include {json.dumps(relative)}")
    # Its log is how we know that it is ready, and why it is not.
    lines += ['log_file: ""', "syslog: false", 'remote_syslog: ""']
    return Wrapper("\n".join(lines) + "\n", tuple(arguments), "tls" in theirs)


def _syncs_always(theirs: dict[str, str]) -> bool:
    values = (theirs.get("jetstream.sync_interval"), theirs.get("jetstream.sync"))
    return any(value is not None and value.lower() == "always" for value in values)
