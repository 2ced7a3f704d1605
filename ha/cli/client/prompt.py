"""The conversation at a terminal."""

from __future__ import annotations

import os
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from prompt_toolkit.styles import Style
from prompt_toolkit.styles.base import BaseStyle
from pygments.lexers.sql import SqlLexer  # type: ignore[import-untyped]

import ha.dbapi as db
from ha.cli.client.completion import SqlCompleter, history_file
from ha.cli.client.shell import Leave, Refused, Shell
from ha.cli.client.statements import complete, split


def converse(shell: Shell) -> None:
    """Until EXIT or Ctrl-D."""
    shell.interactive = True
    completer = SqlCompleter(shell)
    session: PromptSession[str] = PromptSession(
        history=_history(),
        lexer=PygmentsLexer(SqlLexer),
        style=_style(),
        completer=completer,
        complete_while_typing=False,
        key_bindings=_keys(),
        multiline=True,
        prompt_continuation=_continuation,
        enable_open_in_editor=True,
    )
    connection = shell.connection
    database = connection.database or "no database chosen"
    shell.out.write(
        f"ha {connection.server_version} at {connection.address}, {database}. "
        "Type .help for help, EXIT; or Ctrl-D to leave.\n"
    )
    while True:
        completer.refresh()
        try:
            text = session.prompt(_prompt(connection))
        except KeyboardInterrupt:
            continue  # the line is cleared
        except EOFError:
            break
        if not _run(shell, text):
            break
    if connection.in_transaction:
        shell.err.write("the open transaction is rolled back\n")


def _run(shell: Shell, text: str) -> bool:
    """What was typed; False to leave. The first error ends it."""
    for item in split(text.splitlines(keepends=True)):
        try:
            shell.run(item)
        except Leave:
            return False
        except (db.Error, Refused, OSError) as error:
            shell.complain(error)
            return True
        except KeyboardInterrupt:
            shell.err.write("given up; the connection was dropped\n")
            return True
    return True


def _prompt(connection: db.Connection) -> StyleAndTextTuples:
    name = connection.database.removesuffix(".db") or "ha"
    mark = "*" if connection.in_transaction else ""
    return [("class:prompt", name), ("class:prompt.mark", mark), ("class:prompt", "> ")]


def _continuation(width: int, line: int, wrapped: int) -> StyleAndTextTuples:
    return [("class:prompt", "… ".rjust(width))]


_STYLE = {
    # The terminal's own colours, which its owner can read: on white as well as on black.
    "pygments.keyword": "bold ansiblue",
    "pygments.name.builtin": "noinherit ansiblue",
    "pygments.operator": "noinherit",
    "pygments.literal.string": "ansigreen",
    "pygments.literal.number": "ansimagenta",
    "pygments.comment": "italic ansibrightblack",
    "prompt": "bold ansicyan",
    "prompt.mark": "bold ansiyellow",
}


def _style() -> BaseStyle:
    return Style.from_dict({} if "NO_COLOR" in os.environ else _STYLE)


def _history() -> History:
    """In a file that nobody else reads; in memory where that cannot be."""
    path = Path(history_file())
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()
    return _Discreet(str(path))


class _Discreet(FileHistory):
    def store_string(self, string: str) -> None:
        """A line that begins with a space is not kept, as in shells."""
        if not string.startswith(" "):
            super().store_string(string)


def _keys() -> KeyBindings:
    """Enter runs what is complete, and begins a new line in what is not."""
    keys = KeyBindings()

    @Condition
    def ready() -> bool:
        from prompt_toolkit.application import get_app

        return complete(get_app().current_buffer.text)

    @keys.add("enter", filter=ready)
    def run(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    return keys
