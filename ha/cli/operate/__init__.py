"""``ha status``, ``snapshot``, ``restore``, ``history`` and ``undo``: a running node, by URL."""

from __future__ import annotations

from ha.cli.operate.commands import run

__all__ = ["run"]
