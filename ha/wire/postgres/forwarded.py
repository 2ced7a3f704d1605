"""This wire's functions and catalogue on the leader, for statements that a follower forwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ha.wire.postgres.catalog import Identity, install
from ha.wire.postgres.settings import Settings

_SETTING = "setting."


class Prepare:
    """Makes a connection ready for the statements of one session."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    def __call__(self, connection: Any) -> None:
        install(connection, self._identity)

    def context(self) -> Mapping[str, str]:
        """What :func:`prepare_for` needs to do the same on another node."""
        identity = self._identity
        settings = identity.settings
        changed = {
            _SETTING + name: value
            for name, value in settings.values.items()
            if settings.defaults.get(name) != value
        }
        return {
            "user": identity.user,
            "process_id": str(identity.process_id),
            "database": identity.database(),
            **changed,
        }


def prepare_for(context: Mapping[str, str]) -> Callable[[Any], None]:
    settings = Settings()
    for name, value in context.items():
        if name.startswith(_SETTING):
            settings.values[name.removeprefix(_SETTING)] = value
    process_id = context.get("process_id", "0")
    identity = Identity(
        user=context.get("user", ""),
        process_id=int(process_id) if process_id.isdecimal() else 0,
        settings=settings,
    )
    identity.database = lambda: context.get("database", "")
    return Prepare(identity)
