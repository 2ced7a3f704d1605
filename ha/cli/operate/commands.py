"""The commands that operate a running node, and what they print."""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from typing import Any, NoReturn

from ha.cli.logs import one_line
from ha.cli.operate.remote import Remote, RemoteError

DEFAULT_URL = "http://localhost:8080"
OK, FAILED, USAGE = 0, 1, 2
_CHUNK = 1 << 18


class _Usage(Exception):
    """One line, and exit status 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise _Usage(message)


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit status: 0, 1 if the node refused, 2 if it is written wrongly."""
    parser = _parser()
    try:
        given = parser.parse_args(arguments)
        remote = Remote(given.remote, given.token or None, given.database, given.timeout)
        answer = given.work(remote, given)
        text = json.dumps(answer, ensure_ascii=False) if given.json else given.show(answer)
        if text:
            print(text)
    except _Usage as error:
        print(f"ha: {one_line(str(error))} (see ha {arguments[0]} --help)", file=sys.stderr)
        return USAGE
    except RemoteError as error:
        if given.json and error.body is not None:
            print(json.dumps(error.body, ensure_ascii=False))
        print(f"ha: {one_line(str(error))}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Who read us has seen enough.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument(
        "-r",
        "--remote",
        metavar="URL",
        default=os.environ.get("HA_REMOTE") or DEFAULT_URL,
        help=f"the node [HA_REMOTE={DEFAULT_URL}]",
    )
    common.add_argument(
        "--token", default=os.environ.get("HA_TOKEN"), help="the node's token [HA_TOKEN]"
    )
    common.add_argument("-d", "--database", metavar="ID", help="the database; without, the default")
    common.add_argument("--json", action="store_true", help="print the node's answer as JSON")
    common.add_argument(
        "--timeout", type=float, default=60.0, metavar="SECONDS", help="without any progress [60]"
    )
    parser = _Parser(prog="ha", description="Operate a running node.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)

    def add(name: str, help: str, work: Work, show: Show) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=[common], help=help, description=help)
        command.set_defaults(work=work, show=show)
        return command

    add("status", "Who leads, and how nodes and databases stand.", _status, _show_status)
    add("snapshot", "Put a copy of a database into the object store.", _snapshot, _show_snapshot)
    restore = add(
        "restore",
        "Fetch a database into a file, whole or not at all: a node that starts with it goes on"
        " from there.",
        _restore,
        _show_restore,
    )
    restore.add_argument("file", help="where to; an existing file is replaced at the end")
    restore.add_argument(
        "--from",
        dest="source",
        choices=("snapshot", "now"),
        default="snapshot",
        help="the newest snapshot, or a fresh copy [snapshot]",
    )
    restore.add_argument("--force", action="store_true", help="replace an existing file")
    history = add("history", "What was written.", _history, _show_history)
    history.add_argument("since", nargs="?", default="0", help="a sequence, or 5m, 1h30m")
    history.add_argument("--limit", type=int, metavar="N", help="at most N transactions")
    undo = add("undo", "Revert transactions, by a new one.", _undo, _show_undo)
    undo.add_argument("since", nargs="?", default="0", help="a sequence, or 5m, 1h30m")
    what = undo.add_mutually_exclusive_group()
    what.add_argument(
        "--entities", action="store_true", help="only the rows that it touched (UNDOE)"
    )
    what.add_argument(
        "--transactions",
        action="store_true",
        help="only transactions that touched rows that it touched (UNDOT)",
    )
    undo.add_argument("--where", metavar="ROWS", help="only these rows: 'users(1, 2)'")
    undo.add_argument("--dry-run", action="store_true", help="only tell what it would do")
    return parser


Work = Callable[[Remote, argparse.Namespace], Any]
Show = Callable[[Any], str]


# --- status --------------------------------------------------------------------------


def _status(remote: Remote, given: argparse.Namespace) -> Any:
    answer = remote.get("/status")
    cluster = remote.get("/cluster")
    answer["cluster"] = cluster
    if given.database is not None:
        wanted = given.database.removesuffix(".db")
        found = [d for d in answer["databases"] if d["id"].removesuffix(".db") == wanted]
        if not found:
            raise RemoteError(f"the node has no database {given.database!r}")
        answer["databases"] = found
    return answer


def _show_status(answer: Any) -> str:
    rows = [("DATABASE", "POSITION", "LAG", "SNAPSHOT", "PEERS", "LEADER", "STATE")]
    for d in answer["databases"]:
        peers = ", ".join(f"{name} {position}" for name, position in sorted(d["peers"].items()))
        rows.append(
            (
                d["id"] + ("*" if d["default"] else ""),
                str(d["position"]),
                "?" if d["lag"] is None else str(d["lag"]),
                "-" if d["snapshot"] is None else str(d["snapshot"]),
                peers or "-",
                d["leader"] or "-",
                d["problem"] or "ready",
            )
        )
    return f"{_show_cluster(answer['cluster'])}\n\n{_table(rows)}\n* the default database"


def _show_cluster(cluster: Any) -> str:
    leader, left = cluster["leader"], cluster["lease_left"]
    if cluster["mode"] == "leaderless":
        head = "every node takes writes"
    elif leader is None:
        head = f"nobody leads; term {cluster['term']}"
    else:
        lease = "" if left is None else f", lease for {left:.1f} s"
        head = f"{leader['name']} at {leader['address']} leads; term {cluster['term']}{lease}"
    rows = [("NODE", "ROLE", "SEEN", "POSITIONS", "LAG", "ADDRESS")]
    for node in cluster["nodes"]:
        known = node["databases"]
        seen = node["last_seen"]
        rows.append(
            (
                node["name"],
                node["role"],
                "-" if seen is None else "here" if seen == 0 else f"{seen:.0f} s ago",
                ", ".join(f"{d['id']} {d['position']}" for d in known) or "-",
                ", ".join("?" if d["lag"] is None else str(d["lag"]) for d in known) or "-",
                node["address"] or "-",
            )
        )
    return f"{_table(rows)}\n{head}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]) - 1)]
    return "\n".join(
        "  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[-1]]).rstrip()
        for r in rows
    )


# --- snapshots -----------------------------------------------------------------------


def _snapshot(remote: Remote, given: argparse.Namespace) -> Any:
    return remote.post(remote.of_database("/snapshot"))


def _show_snapshot(answer: Any) -> str:
    if answer["sequence"]:
        return f"snapshot at {answer['sequence']}"
    return "nothing new: the newest snapshot holds all there is"


def _restore(remote: Remote, given: argparse.Namespace) -> Any:
    target = given.file
    if os.path.exists(target) and not given.force:
        raise RemoteError(f"{target} is there already: give --force to replace it")
    for suffix in ("-wal", "-journal"):
        # Not even with --force: they may be a running node's, or hold what the file lacks.
        if os.path.exists(target + suffix) and os.path.getsize(target + suffix):
            raise RemoteError(f"{target}{suffix} is there: is a node running with this file?")
    path = "/snapshot" if given.source == "snapshot" else "/download"
    if remote.database is not None:
        path = remote.of_database("/snapshot" if given.source == "snapshot" else "")
    incoming = f"{target}.incoming"
    try:
        with open(incoming, "wb") as file, remote.file(path) as response:
            sequence = int(response.headers.get("X-Sequence") or 0)
            while chunk := response.read(_CHUNK):
                try:
                    file.write(chunk)
                except OSError as error:  # not the node's fault
                    raise RemoteError(f"{target}: {error}") from error
            file.flush()
            os.fsync(file.fileno())
        _check(incoming)
        os.replace(incoming, target)
        _sync_folder(target)
    except OSError as error:
        raise RemoteError(f"{target}: {error}") from error
    finally:
        with suppress(FileNotFoundError):
            os.remove(incoming)
    return {"file": target, "sequence": sequence, "bytes": os.path.getsize(target)}


def _check(path: str) -> None:
    """Raises RemoteError when the file is no whole database."""
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
            found = [row[0] for row in db.execute("PRAGMA quick_check")]
    except sqlite3.Error as error:
        raise RemoteError(f"what the node sent is not a database: {error}") from error
    if found != ["ok"]:
        raise RemoteError(f"what the node sent is damaged: {found[0]}")


def _sync_folder(path: str) -> None:
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _show_restore(answer: Any) -> str:
    return f"{answer['file']}: {answer['bytes']} bytes, at {answer['sequence']}"


# --- history and undo ----------------------------------------------------------------


def _history(remote: Remote, given: argparse.Namespace) -> Any:
    query = {} if given.limit is None else {"limit": str(given.limit)}
    return remote.get(remote.of_database(f"/history/{_place(given.since)}"), query)


def _place(since: str) -> str:
    text = since.strip().strip("'\"")
    if not text or "/" in text:
        raise _Usage(f"{since!r} is neither a sequence nor a duration like 5m")
    return text


def _show_history(answer: Any) -> str:
    out: list[str] = []
    for item in answer["history"]:
        moment = datetime.fromtimestamp(item["timestamp_ns"] // 10**9, UTC)
        out.append(f"{item['seq']}  {moment:%Y-%m-%d %H:%M:%S}  {item['node']}")
        out += [f"    {statement};" for statement in item["sql"]]
        if item.get("more"):
            out.append("    …")
    return "\n".join(out)


def _undo(remote: Remote, given: argparse.Namespace) -> Any:
    word = "undoe" if given.entities else "undot" if given.transactions else "undo"
    query: dict[str, str] = {}
    if given.where is not None:
        query["where"] = given.where
    if given.dry_run:
        query["dry_run"] = "true"
    return remote.post(remote.of_database(f"/{word}/{_place(given.since)}"), query)


def _show_undo(answer: Any) -> str:
    if not answer["transactions"]:
        return "there is nothing to revert"
    count = answer["transactions"]
    what = f"{count} transaction{'s' if count != 1 else ''}"
    if answer["first"] != answer["last"]:
        what += f" from {answer['first']} to {answer['last']}"
    else:
        what += f" at {answer['first']}"
    rows = f"{answer['rows']} row{'s' if answer['rows'] != 1 else ''}"
    if answer.get("dry_run"):
        would = "would revert" if not answer["obstacles"] else "would be refused to revert"
        out = [f"{would} {what}" + ("" if answer["obstacles"] else f" ({rows})")]
        out += [f"    obstacle: {o['message']}" for o in answer["obstacles"]]
        out += [f"    {statement};" for statement in answer["statements"]]
    elif answer["sequence"]:
        out = [f"reverted {what} ({rows}), by the one at {answer['sequence']}"]
    else:
        out = [f"{what}: nothing differs from what it was"]
    out += [f"    stays: {text}" for text in answer["schema"]]
    return "\n".join(out)
