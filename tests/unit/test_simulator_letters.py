"""The simulated operator, before a message that no rule takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from sim import letters
from sim.cluster import Cluster, Process

SEQUENCE = 5


def standing(label: str) -> SimpleNamespace:
    """A process that stands before the message."""
    committer = SimpleNamespace(applied=SEQUENCE - 1, severed=None, halted_at=SEQUENCE)
    return SimpleNamespace(label=label, serving=True, database=SimpleNamespace(committer=committer))


async def test_a_process_that_ends_while_another_is_asked_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = standing("n1#1"), standing("n2#1")
    entries: list[Any] = [SimpleNamespace(message_id="poison-1")]
    asked: list[str] = []

    async def ask(process: Process, sequence: int) -> bool:
        asked.append(process.label)
        second.serving = False
        entries.clear()  # a second look finds nothing more to do
        return False

    monkeypatch.setattr(letters, "_ask", ask)
    monkeypatch.setattr(letters, "_LOOK", 0.0)
    server = SimpleNamespace(
        name="stream", up=True, entry=lambda *_: entries[0] if entries else None
    )
    cluster = SimpleNamespace(server=server, serving=lambda: [first, second])
    await letters.let_pass(cast(Cluster, cluster), SEQUENCE)
    assert asked == ["n1#1"]
