"""From the command line, the environment and a config file to a :class:`Config`.

Precedence: flag, then environment (``HA_…``), then file (``--config``), then default. The
table of options is :mod:`ha.config`; this module only reads it.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ha.cli.logs import one_line
from ha.config import OPTIONS, REFUSED, Config, Durability, Option, PgAuth
from ha.core.dsn import Dsn, find_clash, parse_dsn
from ha.core.errors import HaError

__all__ = ["COMMANDS", "Config", "UsageError", "parse"]

COMMANDS = ("status", "snapshot", "restore", "history", "undo", "help", "version")
"""First words that are commands, and so never the name of a database."""

HELP_FLAGS = ("-h", "--help")
VERSION_FLAGS = ("--version",)
VERSION_VARIABLE = "HA_VERSION"


class UsageError(Exception):
    """What the user asked for cannot be done: one line, and exit status 2."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class HelpWanted(Exception):
    """``--help`` stands on the command line."""


class VersionWanted(Exception):
    """``--version`` stands on the command line, or ``HA_VERSION`` is true."""


@dataclass(frozen=True, slots=True)
class _Given:
    """A value as it was written, and where."""

    text: str
    where: str


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Config:
    """The configuration of a node. Reads the config file and looks for the databases named.

    Raises UsageError, HelpWanted or VersionWanted.
    """
    flags, names = _read_arguments(arguments)
    variables = _read_environment(environment)
    file: dict[str, _Given] = {}
    config_given = flags.get("config") or variables.get("config")
    if config_given is not None:
        file = _read_file(config_given.text)
    given = {**file, **variables, **flags}
    values = {o.attribute: _value(o, given[o.flag]) for o in OPTIONS if o.flag in given}
    config = Config(**values)  # type: ignore[arg-type]  # each parser gives its field's type
    _check(config, {flag: g.where for flag, g in given.items()})
    return Config(**values, databases=_databases(config, names))  # type: ignore[arg-type]


def _value(option: Option, given: _Given) -> object:
    try:
        value = option.parse(given.text)
    except ValueError as error:
        shown = "" if option.secret else f" {_clip(given.text)}"
        raise UsageError(f"bad value{shown} for {given.where}: {error}") from None
    if option.flag in REFUSED and value != option.default:
        raise UsageError(f"{given.where} is refused: {REFUSED[option.flag]}")
    if option.missing_feature is not None and value != option.default:
        raise UsageError(f"{given.where} is refused: {option.missing_feature} is not built yet")
    return value


def _clip(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "…")


# --- the command line ----------------------------------------------------------------

_LONG = {o.flag: o for o in OPTIONS}
_SHORT = {o.short: o for o in OPTIONS if o.short}


def _read_arguments(arguments: Sequence[str]) -> tuple[dict[str, _Given], list[str]]:
    """The flags by name, and what stands between them: the databases."""
    flags: dict[str, _Given] = {}
    names: list[str] = []
    waiting = list(reversed(arguments))

    def next_value(where: str) -> str:
        if not waiting or _is_flag(waiting[-1]):
            raise UsageError(f"{where} needs a value")
        return waiting.pop()

    while waiting:
        argument = waiting.pop()
        if argument == "--":
            names.extend(reversed(waiting))
            break
        if argument in HELP_FLAGS:
            raise HelpWanted
        if argument in VERSION_FLAGS:
            raise VersionWanted
        if argument.startswith("--"):
            _read_long(argument, next_value, flags)
        elif argument.startswith("-") and argument != "-":
            _read_short(argument, next_value, flags)
        else:
            names.append(argument)
    return flags, names


def _is_flag(argument: str) -> bool:
    """Whether it can only be a flag, and so no value of the flag before it."""
    name = argument.removeprefix("--").partition("=")[0]
    return argument.startswith("--") and (name in _LONG or name in ("", "help", "version"))


def _read_long(argument: str, next_value: Callable[[str], str], flags: dict[str, _Given]) -> None:
    name, equals, text = argument[2:].partition("=")
    option = _find(name, f"--{name}", prefix="--")
    where = f"--{name}"
    if not equals:
        text = "true" if option.boolean else next_value(where)
    flags[option.flag] = _Given(text, where)


def _read_short(argument: str, next_value: Callable[[str], str], flags: dict[str, _Given]) -> None:
    """``-p 8080``, ``-p8080``, ``-p=8080``, ``-m``, ``-m=false``, ``-mp 8080``."""
    word = argument[1:].partition("=")[0]
    if word in _LONG or word in ("help", "version"):
        raise UsageError(f"unknown flag {_clip(argument)}: write --{word}")
    rest = argument[1:]
    while rest:
        letter, rest = rest[0], rest[1:]
        where = f"-{letter}"
        option = _SHORT.get(letter)
        if option is None:
            raise UsageError(f"unknown flag {where}: ha --help lists them all")
        if option.boolean and not rest.startswith("="):
            flags[option.flag] = _Given("true", where)
            continue
        text = rest.removeprefix("=") if rest else next_value(where)
        flags[option.flag] = _Given(text, where)
        return


def _find(name: str, shown: str, *, prefix: str) -> Option:
    option = _LONG.get(name)
    if option is not None:
        return option
    near = difflib.get_close_matches(name, [*_LONG, "help", "version"], n=1)
    hint = f"did you mean {prefix}{near[0]}?" if near else "ha --help lists them all"
    raise UsageError(f"unknown flag {shown}: {hint}")


# --- the environment and the file ----------------------------------------------------


def _read_environment(environment: Mapping[str, str]) -> dict[str, _Given]:
    """Set but empty is not set. Variables that no option owns are none of our business."""
    version = environment.get(VERSION_VARIABLE, "")
    if version.lower() in ("1", "t", "true"):
        raise VersionWanted
    out: dict[str, _Given] = {}
    for option in OPTIONS:
        text = environment.get(option.environment)
        if text:
            out[option.flag] = _Given(text, f"{option.environment} in the environment")
    return out


def _read_file(name: str) -> dict[str, _Given]:
    try:
        text = Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"the config file {name} is not UTF-8 text") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the config file {name}: {_reason(error)}") from None
    out: dict[str, _Given] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if not content:
            continue
        where = f"line {number} of {name}"
        flag, *rest = content.split(maxsplit=1)
        value = rest[0] if rest else None
        if flag not in _LONG:
            _explain_line(flag, value, where)
        option = _find(flag, f"{_clip(flag)} in {where}", prefix="")
        if option.flag == "config":
            raise UsageError(f"config in {where}: a config file cannot name another one")
        if option.flag in lines:
            raise UsageError(f"{flag} in {where}: it was set already in line {lines[option.flag]}")
        if value is None and not option.boolean:
            raise UsageError(f"{flag} in {where} needs a value")
        lines[option.flag] = number
        out[option.flag] = _Given("true" if value is None else value, f"{flag} in {where}")
    return out


def _explain_line(flag: str, value: str | None, where: str) -> None:
    """Raise UsageError if the line is right but for its punctuation."""
    bare = flag.lstrip("-")
    match = re.fullmatch(r"([a-z][a-z-]*)\s*(?:=|:)\s*(.*)", bare)
    name = match[1] if match else bare
    if name in _LONG and (match or bare != flag):
        raise UsageError(f"bad {where}: write '{name} VALUE', without dashes, '=' or ':'")


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


# --- what only the whole tells -------------------------------------------------------


def _check(config: Config, where: Mapping[str, str]) -> None:
    """``where`` tells for each flag that was given what to call it."""

    def named(flag: str) -> str:
        return where.get(flag, f"--{flag}")

    for one, other in (
        ("pg-cert", "pg-key"),
        ("http-cert", "http-key"),
        ("nats-user", "nats-pass"),
    ):
        for have, need in ((one, other), (other, one)):
            if _get(config, have) is not None and _get(config, need) is None:
                raise UsageError(f"{named(have)} needs --{need} too")
    if config.http_client_ca is not None and config.http_cert is None:
        raise UsageError(f"{named('http-client-ca')} needs --http-cert and --http-key too")
    clear = config.pg_auth is PgAuth.PASSWORD and not config.pg_insecure
    if config.pg_port != 0 and clear and config.pg_cert is None:
        raise UsageError(
            f"{named('pg-auth')} password needs TLS (--pg-cert and --pg-key), or --pg-insecure:"
            " passwords would travel in clear text"
        )
    for flag in ("pg-cert", "pg-key", "http-cert", "http-key", "http-client-ca", "nats-config",
                 "interceptor"):  # fmt: skip
        path = _get(config, flag)
        if isinstance(path, Path):
            _check_file(path, named(flag))
    taken: dict[int, str] = {}
    for flag in ("port", "pg-port", "mysql-port", "nats-port"):
        port = _get(config, flag)
        if isinstance(port, int) and port > 0:
            if port in taken:
                raise UsageError(f"{named(flag)} is {port}, and so is {named(taken[port])}")
            taken[port] = flag
    if config.execute is not None and config.remote is None:
        raise UsageError(f"{named('execute')} needs --remote too")
    _check_leader(config, named)


def _check_leader(config: Config, named: Callable[[str], str]) -> None:
    """Leader mode, as far as one node's flags tell."""
    flags = [f for f in ("leader-addr", "leader-static") if _get(config, f) is not None]
    if not flags or config.remote is not None:
        return
    flag = named(flags[0])
    if config.http_cert is None and not config.grpc_insecure:
        raise UsageError(
            f"{flag} sends writes and the token to the leader: add --http-cert and --http-key, so"
            " that they travel under TLS, or on a trusted network --grpc-insecure"
        )
    if config.async_replication:
        raise UsageError(
            f"{flag} and {named('async-replication')} exclude each other: a leader answers when"
            " the log has the write"
        )
    if config.nats_port == 0 and config.replication_url is None:
        raise UsageError(
            f"{flag} needs NATS, which the nodes share: give --replication-url, or leave out"
            " --nats-port 0"
        )


def _get(config: Config, flag: str) -> object:
    return getattr(config, _LONG[flag].attribute)


def _check_file(path: Path, where: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(f"cannot read {path}, which {where} names: {_reason(error)}") from None


# --- databases -----------------------------------------------------------------------

_COMPANIONS = ("-wal", "-shm", "-journal")


def _databases(config: Config, names: Sequence[str]) -> tuple[Dsn, ...]:
    for name in names:
        if name in COMMANDS:
            raise UsageError(
                f"{name!r} is a command and must come first; "
                f"to serve a file of that name write ./{name}"
            )
    if not names:
        # The default is served under its name; with -m nothing is loaded that nobody named.
        names = [":memory:" if config.memory else "ha.db"]
    databases = []
    for name in names:
        for expanded in _expand(name):
            try:
                dsn = parse_dsn(expanded, config.db_params, memory=config.memory)
            except HaError as error:
                raise UsageError(error.message) from None
            _check_database(dsn, config)
            databases.append(dsn)
    clash = find_clash(d.database_id for d in databases)
    if clash is not None:
        raise UsageError(
            f"the databases {clash[0]!r} and {clash[1]!r} cannot be served together: "
            "one id or one place in the log would mean both; rename one"
        )
    return tuple(databases)


def _expand(name: str) -> list[str]:
    """What a glob pattern matches, in order; anything else as it is."""
    if name.startswith("file:") or not glob.has_magic(name):
        return [name]
    if re.search(r"\?[A-Za-z_]\w*=", name) and not glob.has_magic(name.partition("?")[0]):
        return [name]  # the question mark begins parameters
    if os.path.lexists(name):
        return [name]
    found = [
        path
        for path in sorted(glob.glob(name))
        if os.path.isfile(path) and not path.endswith(_COMPANIONS)
    ]
    if not found:
        raise UsageError(f"no file matches {_clip(name)}")
    return found


def _check_database(dsn: Dsn, config: Config) -> None:
    path = dsn.source if dsn.memory else dsn.path
    if path is not None:
        if os.path.isdir(path):
            raise UsageError(f"the database {_clip(path)} is a folder")
        folder = os.path.dirname(path) or "."
        if not os.path.isdir(folder):
            raise UsageError(f"the database {_clip(path)} lies in a folder that does not exist")
        if not dsn.create and not os.path.exists(path):
            raise UsageError(f"the database {_clip(path)} does not exist, and has mode=rw")
    sync = dsn.pragma("synchronous")
    if config.durability is Durability.FULL and sync in ("OFF", "NORMAL"):
        raise UsageError(
            f"the database {_clip(dsn.path)} has synchronous={sync}, "
            "which --durability full forbids: leave _sync out"
        )
