"""What nodes say of databases in the catalogue: which there are, and which are gone.

A word is JSON: ``{"id": "shop.db", "state": "created" | "dropped", "uuid": …, "parameters":
"_fk=on", "node": …, "dropped": [uuids of earlier databases of this name], "requests": [ids of
requests of followers that were carried out]}``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

logger = logging.getLogger(__name__)
_MOST_DROPPED = 100
_MOST_REQUESTS = 100


@dataclass(frozen=True, slots=True)
class Announced:
    """The last word on a name."""

    database_id: str
    exists: bool
    uuid: str | None = None
    parameters: str = ""
    node: str = ""
    dropped: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()

    def asked_by(self, request_id: str) -> Announced:
        """What is said here carries out a request of a follower. Later words remember it, so that
        one whose answer was lost is not carried out again."""
        if not request_id:
            return self
        return replace(self, requests=(*self.requests, request_id)[-_MOST_REQUESTS:])

    def is_gone(self, uuid: str | None) -> bool:
        """Was the database with this identity dropped?"""
        return uuid is not None and uuid in self.dropped

    def without(self, uuid: str | None, node: str) -> Announced:
        """The database was dropped by ``node``."""
        dropped = self.dropped if uuid is None else (*self.dropped, uuid)[-_MOST_DROPPED:]
        return replace(self, exists=False, uuid=None, node=node, dropped=dropped)

    def to_bytes(self) -> bytes:
        return json.dumps(
            {
                "id": self.database_id,
                "state": "created" if self.exists else "dropped",
                "uuid": self.uuid,
                "parameters": self.parameters,
                "node": self.node,
                "dropped": list(self.dropped),
                "requests": list(self.requests),
            }
        ).encode()


def read_announced(words: Iterable[bytes]) -> list[Announced]:
    """Words that cannot be read are passed over: they may be a newer node's."""
    out: list[Announced] = []
    for word in words:
        try:
            raw = json.loads(word)
            if raw["state"] not in ("created", "dropped"):
                continue
            out.append(
                Announced(
                    database_id=str(raw["id"]),
                    exists=raw["state"] == "created",
                    uuid=raw.get("uuid"),
                    parameters=str(raw.get("parameters") or ""),
                    node=str(raw.get("node") or ""),
                    dropped=tuple(map(str, raw.get("dropped") or ())),
                    requests=tuple(map(str, raw.get("requests") or ())),
                )
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("a word of the catalogue cannot be read: %s", error)
    return out
