"""Names of things in NATS, as existing nodes expect them.

Source: the wire notes in docs/spec.md, "Names in NATS".
"""

from __future__ import annotations

import os
import re

_REPLACED = re.compile(r"[./\s>*]")
NORMAL_LENGTH = 32
DEFAULT_STREAM = "ha_replication"


def normalise(name: str) -> str:
    """``NORM``: one token of a NATS subject, at most 32 bytes long. Two names may collide."""
    flat = _REPLACED.sub("_", name).strip("_")
    return flat.encode()[-NORMAL_LENGTH:].decode(errors="ignore")


def replication_id(filename: str) -> str:
    """The id of a database: the base name of its file (``/x/ha.db`` → ``ha.db``)."""
    return os.path.basename(filename)


def subject_of(stream: str, database_id: str) -> str:
    """``ha_replication.ha_db`` for the database ``ha.db``."""
    return f"{stream}.{normalise(database_id)}"


def durable_name(database_id: str, node: str) -> str:
    """The durable consumer under which a node shows its position."""
    return normalise(f"{database_id}_{node}")


def snapshot_bucket(stream: str) -> str:
    """The bucket of the object store that holds the snapshots."""
    return f"{stream}_SNAPSHOTS"


def object_stream(bucket: str) -> str:
    """The stream in which NATS keeps a bucket of objects."""
    return f"OBJ_{bucket}"


def same_id(a: str, b: str) -> bool:
    """Ids are accepted with and without ``.db``."""
    return a.removesuffix(".db") == b.removesuffix(".db")
