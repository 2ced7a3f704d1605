"""The `ha` command as a process: what it says and how it exits."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import ha

pytestmark = pytest.mark.processes


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Ours without anything that would configure a node."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HA_")}
    return {**clean, "PYTHONPATH": os.pathsep.join(sys.path), **(extra or {})}


def ha_command(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ha", *arguments],
        cwd=cwd,
        env=environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["-m", "--help"]])
def test_help_goes_to_standard_output(tmp_path: Path, arguments: Sequence[str]) -> None:
    done = ha_command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "usage: ha" in done.stdout
    assert "--replication-url" in done.stdout
    assert "HA_REPLICATION_URL" in done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_version(tmp_path: Path, arguments: Sequence[str]) -> None:
    done = ha_command(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ha {ha.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (["--prot", "1"], {}, "unknown flag --prot: did you mean --port?"),
        (["--port", "eighty"], {}, "--port"),
        ([], {"HA_PORT": "eighty"}, "HA_PORT in the environment"),
        (["--mysql-port", "3306"], {}, "--mysql-port is refused"),
        ([], {"HA_MYSQL_PORT": "3306"}, "HA_MYSQL_PORT in the environment is refused"),
        (["--config", "none.conf"], {}, "none.conf"),
        (["--config", "wrong.conf"], {}, "port in line 2 of wrong.conf"),
        (["nowhere/x.db"], {}, "nowhere/x.db"),
        (["*.sqlite"], {}, "no file matches '*.sqlite'"),
        (["file:x.db?_nope=1"], {}, "_nope"),
        (["--pg-cert", "a.pem", "--pg-key", "b.pem"], {}, "a.pem"),
        (["two\nlines/x.db"], {}, "two\\nlines"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    tmp_path: Path, arguments: Sequence[str], env: Mapping[str, str], words: str
) -> None:
    (tmp_path / "wrong.conf").write_text("memory\nport eighty\n")
    done = ha_command(*arguments, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert done.stderr.startswith("ha: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert [p.name for p in tmp_path.iterdir()] == ["wrong.conf"]  # nothing was begun


# --- with a node ---------------------------------------------------------------------

STOP_BOUND = 20.0  # seconds; nothing is in flight in these tests


@contextmanager
def running_node(*arguments: str, cwd: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A node that serves already, and what it has logged until then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ha", *arguments],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        logged = []
        for line in process.stderr:
            logged.append(line)
            if " serving " in line:
                break
        yield process, logged
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def field(logged: Sequence[str], message: str, name: str) -> str:
    (line,) = [x for x in logged if f" info {message} " in x]
    match = re.search(rf" {name}=(\S+)", line)
    assert match is not None, line
    return match[1]


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As ``ha --help | head -1`` does; the text is longer than what a pipe keeps."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ha", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    _, told = process.communicate(timeout=60)
    assert told == b""
    assert process.returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("flag", ["--port", "--pg-port", "--nats-port"])
def test_a_port_in_use_is_one_line_and_status_2(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--port": "0", "--nats-port": "0", flag: str(port)}
        arguments = [word for pair in ports.items() for word in pair]
        done = ha_command("-m", "--log-level", "warn", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("ha: ")
    assert str(port) in done.stderr
    assert "in use" in done.stderr.lower()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_node_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ["-m", "-n", "me", "--port", "0", "--pg-port", "-1", "--nats-port", "-1"]
    with running_node(*arguments, cwd=tmp_path) as (process, logged):
        assert field(logged, "serving", "node") == "me"
        url = f"http://localhost:{field(logged, 'http', 'port')}"
        assert httpx.get(f"{url}/healthz").status_code == 200
        process.send_signal(number)
        assert process.wait(STOP_BOUND) == 0


def test_a_database_on_disk_is_there_again_after_a_stop(tmp_path: Path) -> None:
    statements = [
        [{"sql": "CREATE TABLE t (x)"}, {"sql": "INSERT INTO t VALUES (41), (42)"}],
        {"sql": "SELECT sum(x) AS total FROM t"},
    ]
    answers = []
    for statement in statements:
        with running_node("--port", "0", "--nats-port", "-1", cwd=tmp_path) as (process, logged):
            url = f"http://localhost:{field(logged, 'http', 'port')}"
            answers.append(httpx.post(url, json=statement).raise_for_status().json())
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_BOUND) == 0
    assert answers[1] == {"columns": ["total"], "rows": [[83]]}
