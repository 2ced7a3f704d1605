"""``ha -r URL``: a client of a node, at a terminal or in a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ha.config import Config

if TYPE_CHECKING:
    from ha.cli.client.shell import Shell

OK = 0
FAILED = 1  # a statement failed
USAGE = 2  # it could not start


def run(config: Config) -> int:
    """Talk to the node at ``config.remote``; returns the exit status."""
    import ha.dbapi as db
    from ha.cli.client.shell import Shell

    assert config.remote is not None
    try:
        connection = db.connect(config.remote, token=config.token, autocommit=True)
    except db.Error as error:
        print(f"ha: {error}", file=sys.stderr)
        return USAGE
    try:
        return _talk(config, Shell(connection, sys.stdout, sys.stderr))
    finally:
        connection.close()  # what is open is rolled back


def _talk(config: Config, shell: Shell) -> int:
    if config.execute is not None:
        return _status(shell.run_script(config.execute, "-e"))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _status(shell.run_script(sys.stdin, "standard input"))
    from ha.cli.client.prompt import converse

    converse(shell)
    return OK


def _status(succeeded: bool) -> int:
    return OK if succeeded else FAILED
