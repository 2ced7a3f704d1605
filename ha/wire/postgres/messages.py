"""The messages of the frontend, as values.

Source: PostgreSQL documentation, "Message Formats" (protocol 3.0 and 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class SSLRequest:
    pass


@dataclass(frozen=True, slots=True)
class GSSENCRequest:
    pass


@dataclass(frozen=True, slots=True)
class CancelRequest:
    process_id: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class StartupMessage:
    """``minor`` is the minor version of protocol 3 that the client asks for."""

    minor: int
    parameters: dict[str, str]


@dataclass(frozen=True, slots=True)
class PasswordMessage:
    """Any message of type ``p``: a password, a SASLInitialResponse or a SASLResponse."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Query:
    sql: str


@dataclass(frozen=True, slots=True)
class Parse:
    name: str
    sql: str
    parameter_oids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Bind:
    """``formats`` as sent: none (all text), one for all, or one for each."""

    portal: str
    statement: str
    parameter_formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Describe:
    """``kind`` is ``S`` for a statement, ``P`` for a portal; so in :class:`Close`."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Execute:
    """``max_rows`` 0: all."""

    portal: str
    max_rows: int


@dataclass(frozen=True, slots=True)
class Close:
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Sync:
    pass


@dataclass(frozen=True, slots=True)
class Flush:
    pass


@dataclass(frozen=True, slots=True)
class Terminate:
    pass


@dataclass(frozen=True, slots=True)
class CopyData:
    data: bytes


@dataclass(frozen=True, slots=True)
class CopyDone:
    pass


@dataclass(frozen=True, slots=True)
class CopyFail:
    reason: str


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """The fast-path call: understood so that it can be refused."""


Startup: TypeAlias = SSLRequest | GSSENCRequest | CancelRequest | StartupMessage
Message: TypeAlias = (
    PasswordMessage
    | Query
    | Parse
    | Bind
    | Describe
    | Execute
    | Close
    | Sync
    | Flush
    | Terminate
    | CopyData
    | CopyDone
    | CopyFail
    | FunctionCall
)
