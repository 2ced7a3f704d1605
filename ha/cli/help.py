"""The text of ``ha --help``, made from the table of options."""

from __future__ import annotations

import textwrap

from ha import __version__
from ha.config import NOT_BUILT, OPTIONS, Group, Option

WIDTH = 100
_COLUMN = 34

_INTRODUCTION = """\
ha {version}: a highly available SQLite. Any node takes writes, every node converges.

usage: ha [FLAG…] [DATABASE…]     serve databases
       ha -r URL [-e SQL]         be a client of a node
       ha status | snapshot | restore | history | undo [FLAG…]
                                  operate a running node; each has --help and --json
       ha help | version          say what this is

DATABASE is a file (made if it is not there), a file: URL with SQLite's parameters, or a pattern
such as 'shop*.db'; without one, ha.db. Its file name is its id in the cluster.
{commands}

Each option is a flag, a variable or a line 'flag value' of the file that --config names; the
first of these wins. In brackets: the variable and the default.
"""

_EXAMPLES = """\
Examples
  ha -m --pg-port 5432
      A node in memory, for HTTP on port 8080 and PostgreSQL clients (user ha, password ha).
  ha -n node2 -m --port 8081 --pg-port 5433 --nats-port 0 \\
      --replication-url nats://localhost:4222
      A second node beside it, with the same data.
  ha -n node1 --durability full 'file:shop.db?_fk=on'
      A database on disk. Acknowledged writes survive a power failure.
  HA_TOKEN=secret ha -c ha.conf shop.db staff.db
      Two databases, a secret from the environment, all else from a file.
"""


def help_text() -> str:
    """The whole text, at most WIDTH columns wide, without a trailing newline."""
    reserved = (
        "The words status, snapshot, restore, history, undo, help and version are commands; "
        "write ./status to serve a file of that name."
    )
    parts = [_INTRODUCTION.format(version=__version__, commands=textwrap.fill(reserved, WIDTH))]
    for group in Group:
        options = [o for o in OPTIONS if o.group is group and o.built]
        if options:
            parts.append("\n".join([group.value, *(_describe(o) for o in options)]) + "\n")
    general = [
        _entry("  -h, --help", "Print this and exit."),
        _entry("      --version", "Print the version and exit. [HA_VERSION=false]"),
    ]
    parts.append("\n".join(["General", *general]) + "\n")
    if NOT_BUILT:
        parts.append(_planned() + "\n")
    parts.append(_EXAMPLES)
    return "\n".join(parts).rstrip("\n")


def _describe(option: Option) -> str:
    short = f"-{option.short}, " if option.short else "    "
    head = f"  {short}--{option.flag} {option.metavar}".rstrip()
    bracket = f"[{option.environment}={option.default_text}]"
    return _entry(head, option.help, bracket)


def _entry(head: str, text: str, bracket: str = "") -> str:
    """``bracket`` is kept in one piece, on the last line or on one of its own."""
    lines = textwrap.wrap(text, WIDTH - _COLUMN, break_on_hyphens=False)
    if bracket:
        if len(lines[-1]) + 1 + len(bracket) <= WIDTH - _COLUMN:
            lines[-1] += " " + bracket
        else:
            lines.append(bracket)
    if len(head) > _COLUMN - 2:
        lines.insert(0, "")
    first, *rest = lines
    return "\n".join([f"{head:<{_COLUMN}}{first}".rstrip(), *(" " * _COLUMN + r for r in rest)])


def _planned() -> str:
    lines = ["Planned: understood, and refused until they work"]
    for feature, flags in NOT_BUILT.items():
        text = f"{feature}: " + ", ".join(f"--{flag}" for flag in flags)
        lines += textwrap.wrap(
            text, WIDTH, initial_indent="  ", subsequent_indent="      ", break_on_hyphens=False
        )
    return "\n".join(lines)
