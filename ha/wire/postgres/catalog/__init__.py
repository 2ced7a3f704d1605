"""What PostgreSQL clients expect a server to know about itself, over SQLite's schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import apsw

from ha.wire.postgres.settings import Settings


@dataclass(slots=True)
class Identity:
    """Whose session a connection serves."""

    user: str
    process_id: int
    settings: Settings
    database: Callable[[], str] = lambda: ""
    databases: Callable[[], Sequence[str]] = lambda: ()


def install(connection: apsw.Connection, identity: Identity) -> None:
    """Make functions and catalogue known on ``connection``."""
