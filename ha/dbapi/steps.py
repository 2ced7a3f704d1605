"""What the core asks of whoever drives it: steps of I/O, yielded by its generators.

The core is written once, as generators that yield a :data:`Step` and are sent what came of it;
``ha.dbapi.sync`` carries the steps out with sockets, ``ha.dbapi.aio`` with anyio.
"""

from __future__ import annotations

import ssl
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from ha.dbapi.address import Address

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Open:
    """Connect, within ``timeout`` seconds, TLS included; then it is where bytes go."""

    address: Address
    tls: ssl.SSLContext | None
    timeout: float


@dataclass(frozen=True, slots=True)
class Send:
    data: bytes


@dataclass(frozen=True, slots=True)
class Receive:
    """At least one byte; none at the end. TimeoutError after ``timeout`` seconds."""

    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """Has something come? One byte if so, none if not; waits for nothing."""


@dataclass(frozen=True, slots=True)
class Close:
    """Close at once what is open."""


Step: TypeAlias = Open | Send | Receive | Check | Close
Steps: TypeAlias = Generator[Step, bytes, T]
"""Sent the bytes of a Receive, else empty bytes. OSError and TimeoutError are thrown in."""
