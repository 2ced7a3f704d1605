"""Tab completion: keywords, tables, columns, databases, commands and files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import apsw
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

import ha.dbapi as db
from ha.cli.client.commands import COMMANDS, control_tables
from ha.cli.client.output import Mode

if TYPE_CHECKING:
    from ha.cli.client.shell import Shell

_COLUMNS = """
SELECT m.name, p.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS p
WHERE m.type IN ('table', 'view') AND m.name NOT IN (SELECT value FROM json_each(?))
"""
_OURS = ("DATABASE", "DATABASES", "EXIT", "HISTORY", "SHOW", "UNDO", "UNDOE", "UNDOT", "UNSET")
_WORD = re.compile(r"[\w$]+$")
_QUALIFIED = re.compile(r"""(?:"((?:[^"]|"")+)"|([\w$]+))\.([\w$]*)$""")
_DATABASE = re.compile(r"\b(?:(?:SET|DROP)\s+DATABASE(?:\s+TO|\s*=)?|USE)\s+\S*$", re.IGNORECASE)


class SqlCompleter(Completer):
    """What is known of the database is asked again when the schema may have changed."""

    def __init__(self, shell: Shell) -> None:
        self._shell = shell
        self._keywords = sorted({*apsw.keywords, *_OURS})
        self._tables: dict[str, list[str]] = {}
        self._databases: list[str] = []
        self._paths = PathCompleter(expanduser=True)

    def refresh(self) -> None:
        """Between statements only, and never in a transaction: that would fix its snapshot."""
        shell = self._shell
        if not shell.schema_changed or shell.connection.in_transaction:
            return
        try:
            tables: dict[str, list[str]] = {}
            for table, column in shell.query(_COLUMNS, [control_tables()]):
                tables.setdefault(str(table), []).append(str(column))
            self._tables = tables
            self._databases = [str(row[0]) for row in shell.query("SHOW DATABASES")]
        except db.Error:
            self._tables = {}
        shell.schema_changed = False

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterable[Completion]:
        before = document.text_before_cursor
        if before.startswith("."):
            yield from self._command(before, document, complete_event)
            return
        if _DATABASE.search(before):
            yield from _matching(before.split()[-1] if before[-1:].strip() else "", self._databases)
            return
        qualified = _QUALIFIED.search(before)
        if qualified:
            table = qualified[1] or qualified[2]
            columns = next((c for t, c in self._tables.items() if t.lower() == table.lower()), [])
            yield from _matching(qualified[3], columns, "column")
            return
        match = _WORD.search(before)
        word = match[0] if match else ""
        if not word and not complete_event.completion_requested:
            return
        yield from _matching(word, self._tables, "table")
        mentioned = {w.lower() for w in re.findall(r"[\w$]+", document.text)}
        columns = [
            c for t, names in self._tables.items() if t.lower() in mentioned for c in names
        ] or [c for names in self._tables.values() for c in names]
        yield from _matching(word, dict.fromkeys(columns), "column")
        if word:
            lower = word.islower()
            yield from _matching(word, [k.lower() if lower else k for k in self._keywords])

    def _command(
        self, before: str, document: Document, event: CompleteEvent
    ) -> Iterable[Completion]:
        name, space, rest = before.partition(" ")
        if not space:
            yield from _matching(name, COMMANDS)
        elif name == ".mode":
            yield from _matching(rest, [mode.value for mode in Mode])
        elif name == ".timing":
            yield from _matching(rest, ["on", "off"])
        elif name in (".tables", ".schema") or (name == ".import" and " " in rest.strip(" ")):
            yield from _matching(rest.rpartition(" ")[2], self._tables, "table")
        elif name in (".read", ".import"):
            word = Document(rest, len(rest))
            yield from self._paths.get_completions(word, event)


def _matching(word: str, names: Iterable[str], kind: str = "") -> Iterable[Completion]:
    for name in names:
        if name.lower().startswith(word.lower()) and name != word:
            plain = re.fullmatch(r"[\w$.-]+", name) is not None
            text = name if plain or not kind else '"' + name.replace('"', '""') + '"'
            yield Completion(text, -len(word), display=name, display_meta=kind)


def history_file() -> str:
    """Where what was typed is kept: ``$XDG_STATE_HOME/ha/history``."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(base, "ha", "history")
