"""The ``ha`` command."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from ha import __version__
from ha.cli.logs import leaves, one_line, set_up
from ha.cli.options import COMMANDS, HelpWanted, UsageError, VersionWanted, parse
from ha.config import Config
from ha.core.errors import HaError

log = logging.getLogger(__name__)

OK = 0
FAILED = 1  # the node stopped by itself, after it had started
USAGE = 2  # what was asked for cannot be done, or the node could not start


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status. ``argv`` is without the command's name."""
    try:
        status = _main(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read our output has gone, as `head` does: there is nobody to tell. What is still
        # buffered must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    return status


def _main(argv: Sequence[str] | None) -> int:
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if arguments and arguments[0] in COMMANDS:
            return _command(arguments)
        config = parse(arguments, os.environ)
    except HelpWanted:
        return _command(["help"])
    except VersionWanted:
        return _command(["version"])
    except UsageError as error:
        return _refuse(str(error))
    if config.remote is not None:
        from ha.cli.client import run

        return run(config)
    return _serve(config)


def _command(arguments: Sequence[str]) -> int:
    name = arguments[0]
    if name == "version":
        print(f"ha {__version__}")
    elif name == "help":
        from ha.cli.help import help_text

        print(help_text())
    else:
        from ha.cli.operate import run

        return run(arguments)
    return OK


def _refuse(message: str) -> int:
    print(f"ha: {one_line(message)}", file=sys.stderr)
    return USAGE


def _serve(config: Config) -> int:
    set_up(config.log_level, config.secrets())
    # Here, not above: `ha --help` needs none of what a node is made of.
    import trio

    from ha import node
    from ha.cli.garbage import collect_seldom
    from ha.cli.signals import Service

    collect_seldom()
    service = Service(node.run, config)
    try:
        trio.run(service.main)
    except BaseException as error:
        causes = leaves(error)
        if service.started:
            log.error("the node failed", exc_info=error)
            return FAILED
        for cause in causes:
            if isinstance(cause, HaError):
                return _refuse(cause.message if cause.hint is None else _with_hint(cause))
            if isinstance(cause, OSError):
                return _refuse(str(cause))
        if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
            return 128 + 2
        log.error("the node could not start", exc_info=error)
        return FAILED
    return OK


def _with_hint(error: HaError) -> str:
    return f"{error.message} ({error.hint})"
