"""The client's own commands: .tables, .schema, .mode, .read, .import …"""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ha.cli.client import importing
from ha.cli.client.output import Mode

if TYPE_CHECKING:
    from ha.cli.client.shell import Shell


_HELP_WIDTH = 90


@dataclass(frozen=True, slots=True)
class Command:
    """``usage``: its arguments; ``least`` and ``most`` of them."""

    run: Callable[[Shell, Sequence[str]], None]
    usage: str
    help: str
    least: int = 0
    most: int = 0


def run(shell: Shell, text: str) -> None:
    """Carry out a line that begins with a point. Raises Refused."""
    from ha.cli.client.shell import Refused

    try:
        name, *arguments = shlex.split(text.rstrip().rstrip(";"))
    except ValueError as error:
        raise Refused(f"{text.split()[0]}: {error}") from None
    command = COMMANDS.get(name.lower())
    if command is None:
        raise Refused(f"there is no command {name}: .help lists them all")
    if not command.least <= len(arguments) <= command.most:
        raise Refused(f"usage: {name.lower()} {command.usage}".rstrip())
    command.run(shell, arguments)


_TABLES = """
SELECT name, type FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%'
ESCAPE '\\' AND name NOT IN (SELECT value FROM json_each(?1)) AND name LIKE ?2 ORDER BY name
"""
_SCHEMA = """
SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL AND tbl_name NOT IN
(SELECT value FROM json_each(?1)) AND (?2 = '%' OR tbl_name LIKE ?2 OR name LIKE ?2)
ORDER BY tbl_name, type = 'table' DESC, name
"""


def control_tables() -> str:
    """The tables that a node keeps for itself, as a JSON list."""
    import json

    from ha.store.parse import CONTROL_TABLES

    return json.dumps(sorted(CONTROL_TABLES))


def _tables(shell: Shell, arguments: Sequence[str]) -> None:
    rows = shell.query(_TABLES, [control_tables(), arguments[0] if arguments else "%"])
    shell.show(["name", "type"], rows)


def _schema(shell: Shell, arguments: Sequence[str]) -> None:
    for (sql,) in shell.query(_SCHEMA, [control_tables(), arguments[0] if arguments else "%"]):
        shell.out.write(f"{sql!s};\n")


def _mode(shell: Shell, arguments: Sequence[str]) -> None:
    from ha.cli.client.shell import Refused

    if not arguments:
        shell.out.write(f"{shell.mode.value}\n")
        return
    try:
        shell.mode = Mode(arguments[0].lower())
    except ValueError:
        modes = ", ".join(mode.value for mode in Mode)
        raise Refused(f"there is no mode {arguments[0]!r}: it is one of {modes}") from None


def _read(shell: Shell, arguments: Sequence[str]) -> None:
    from ha.cli.client.shell import Refused
    from ha.cli.client.statements import split

    (name,) = arguments
    try:
        with open(name, encoding="utf-8") as file:
            items = list(split(file))
    except (OSError, UnicodeDecodeError) as error:
        raise Refused(f"cannot read {name}: {error}") from None
    for item in items:
        if item.leaves:
            return
        try:
            if item.command:
                run(shell, item.text)
            else:
                shell.execute(item.text)
        except Exception as error:
            error.add_note(f"{name}, line {item.line}")
            raise


def _import(shell: Shell, arguments: Sequence[str]) -> None:
    importing.import_file(shell, *arguments)


def _timing(shell: Shell, arguments: Sequence[str]) -> None:
    from ha.cli.client.shell import Refused

    word = arguments[0].lower()
    if word not in ("on", "off"):
        raise Refused("usage: .timing on|off")
    shell.timing = word == "on"


def _status(shell: Shell, arguments: Sequence[str]) -> None:
    connection = shell.connection
    rows: list[tuple[str, str | int]] = [
        ("node", str(connection.address or "not connected")),
        ("version", connection.server_version),
        ("database", connection.database or "none chosen"),
        ("transaction", "open" if connection.in_transaction else "none"),
        ("txseq", connection.txseq),
    ]
    shell.show(["", ""], rows)


def _quit(shell: Shell, arguments: Sequence[str]) -> None:
    from ha.cli.client.shell import Leave

    raise Leave


_SPECIAL = (
    ("SHOW DATABASES;", "The databases of the node."),
    ("SET DATABASE TO id;", "Work with one of them; UNSET DATABASE; back to the default."),
    ("CREATE DATABASE 'dsn';", "A new one; DROP DATABASE id; removes it."),
    ("HISTORY 100;", "Transactions from a sequence on, or HISTORY '5m'; of the last five minutes."),
    ("UNDO 150;", "Take back from a sequence on; UNDO '10m'; UNDOE and UNDOT by entity."),
    ("EXIT;", "Leave; Ctrl-D does too."),
)


def _help(shell: Shell, arguments: Sequence[str]) -> None:
    shell.out.write("SQL ends with a semicolon and may take several lines. Beside it:\n\n")
    entries = [*_SPECIAL, *((f"{n} {c.usage}".rstrip(), c.help) for n, c in COMMANDS.items())]
    width = max(len(head) for head, _ in entries)
    for head, text in entries:
        first, *rest = textwrap.wrap(text, max(_HELP_WIDTH - width, 30))
        shell.out.write(f"  {head:<{width}}  {first}\n")
        shell.out.writelines(f"  {'':<{width}}  {line}\n" for line in rest)
    shell.out.write(
        "\nCtrl-C cancels the statement that runs, or clears the line. Tab completes.\n"
    )


COMMANDS = {
    ".tables": Command(_tables, "[PATTERN]", "Tables and views, by a LIKE pattern.", 0, 1),
    ".schema": Command(_schema, "[PATTERN]", "The statements that made them.", 0, 1),
    ".mode": Command(
        _mode, "table|csv|json|line", "How results are written; without a word, which it is.", 0, 1
    ),
    ".read": Command(_read, "FILE", "Run the statements of a file, up to the first error.", 1, 1),
    ".import": Command(
        _import,
        "FILE TABLE",
        "Insert the rows of a .csv, .tsv, .json or .jsonl file. Names of columns come from it; "
        "a table that is not there is made. Empty fields of CSV are NULL.",
        2,
        2,
    ),
    ".timing": Command(_timing, "on|off", "Say how long a statement took.", 1, 1),
    ".status": Command(_status, "", "The node, the database, the transaction."),
    ".help": Command(_help, "", "This text."),
    ".quit": Command(_quit, "", "Leave."),
}
