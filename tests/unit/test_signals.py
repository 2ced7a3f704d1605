"""What SIGTERM and SIGINT do to a running node, here a stand-in without databases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence

import pytest

pytestmark = pytest.mark.processes

PROGRAM = """
import os, signal, sys, trio
from ha.cli import signals
from ha.cli.logs import set_up
from ha.config import Config, LogLevel

set_up(LogLevel.INFO)
signals.GRACE, signals.FORCE = GRACE, FORCE

class Node:
    def __init__(self):
        self.shutdown = trio.Event()

def say(text):
    print(text, flush=True)

async def run(config, *, task_status=trio.TASK_STATUS_IGNORED):
    try:
        await BODY(task_status)
    except trio.Cancelled:
        say("cancelled")
        raise

async def polite(task_status):
    node = Node()
    task_status.started(node)
    say("ready")
    await node.shutdown.wait()
    say("finished")

async def deaf(task_status):
    task_status.started(Node())
    say("ready")
    await trio.sleep_forever()

async def starting(task_status):
    say("ready")
    await trio.sleep_forever()

async def stuck(task_status):
    task_status.started(Node())
    say("ready")
    await trio.to_thread.run_sync(lambda: __import__("time").sleep(60))

async def failing(task_status):
    task_status.started(Node())
    raise RuntimeError("broken")

service = signals.Service(run, Config())
trio.run(service.main)
say("left")
"""


def run(
    body: str, numbers: Sequence[signal.Signals], *, grace: float = 60.0, force: float = 60.0
) -> tuple[int, list[str], str]:
    """Exit status, output and log of a node that gets the signals, one after each line it says."""
    program = textwrap.dedent(PROGRAM).replace("BODY", body)
    program = program.replace("GRACE, FORCE\n", f"{grace}, {force}\n")
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = [process.stdout.readline().strip()]
        logged = ""
        for number in numbers:
            process.send_signal(number)
            logged += process.stderr.readline()  # it has seen this one
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said + out.split(), logged + err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_node_finish(number: signal.Signals) -> None:
    status, said, logged = run("polite", [number])
    assert (status, said) == (0, ["ready", "finished", "left"])
    assert f"info stopping signal={number.name}" in logged


def test_the_second_signal_ends_it_at_once() -> None:
    status, said, logged = run("deaf", [signal.SIGTERM, signal.SIGINT])
    assert (status, said) == (0, ["ready", "cancelled", "left"])
    assert "warn stopping at once" in logged


def test_a_node_that_does_not_finish_in_time_is_cancelled() -> None:
    status, said, _ = run("deaf", [signal.SIGTERM], grace=0.1)
    assert (status, said) == (0, ["ready", "cancelled", "left"])


def test_a_signal_while_it_starts_cancels_it() -> None:
    status, said, _ = run("starting", [signal.SIGTERM])
    assert (status, said) == (0, ["ready", "cancelled", "left"])


def test_a_node_that_cannot_be_cancelled_is_ended_by_force() -> None:
    status, said, logged = run("stuck", [signal.SIGTERM], grace=0.1, force=0.1)
    assert (status, said) == (1, ["ready"])
    assert "ended by force" in logged


def test_a_failure_of_the_node_is_raised() -> None:
    process = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM.replace("BODY", "failing").replace("GRACE, FORCE\n", "1, 1\n"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.returncode == 1
    assert "RuntimeError: broken" in process.stderr
