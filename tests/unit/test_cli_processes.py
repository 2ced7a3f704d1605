"""The `ha` command as a process: what it says and how it exits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

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
        (["status"], {}, "'ha status' is not built yet"),
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
