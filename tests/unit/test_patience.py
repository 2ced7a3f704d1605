"""The bounds of tests with real nodes are on standing still, not on taking long."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.patience import Patience
from tests.support.processes import HaProcess


def test_who_stands_still_has_the_time_that_was_given() -> None:
    now = [100.0]
    patience = Patience(10, lambda: None, clock=lambda: now[0])
    now[0] = 109.0
    assert not patience.is_over()
    now[0] = 110.5
    assert patience.is_over()


def test_who_comes_further_has_it_anew() -> None:
    now, position = [0.0], [1]
    patience = Patience(10, lambda: position[0], clock=lambda: now[0])
    for _ in range(20):
        now[0] += 9
        position[0] += 1
        assert not patience.is_over()
    now[0] += 9
    assert not patience.is_over()
    now[0] += 9
    assert patience.is_over(), "it stood still for 18 seconds"


def test_who_stops_to_tell_how_far_it_is_has_the_time_that_is_left() -> None:
    now, position = [0.0], [1, None]
    patience = Patience(10, lambda: position[0], clock=lambda: now[0])
    assert not patience.is_over()
    position[0] = None  # it has caught up, and yet takes no write
    now[0] = 10.5
    assert patience.is_over()


def test_there_is_an_end_to_coming_further() -> None:
    now = [0.0]
    patience = Patience(10, lambda: int(now[0]), longest=50, clock=lambda: now[0])
    now[0] = 49
    assert not patience.is_over()
    now[0] = 51
    assert patience.is_over()


def command(tmp_path: Path, script: str) -> HaProcess:
    """A stand-in for a node: ``script`` in its place."""
    return HaProcess([], tmp_path, prefix=["sh", "-c", script])


def test_a_node_that_tells_of_its_start_may_take_long(tmp_path: Path) -> None:
    node = command(
        tmp_path,
        "for i in 1 2 3 4 5 6 7 8; do echo restored $i >&2; sleep 0.25; done;"
        " echo '  http port=1' >&2; echo ' serving ' >&2; exec sleep 60",
    )
    began = time.monotonic()
    try:
        node.start(silence=1.0)
        assert time.monotonic() - began > 1.0
    finally:
        node.kill()


def test_a_node_that_starts_in_silence_is_given_up(tmp_path: Path) -> None:
    node = command(tmp_path, "echo one word >&2; exec sleep 60")
    with pytest.raises(AssertionError, match="one word"):
        node.start(silence=0.5)
    assert node.process.poll() is not None
