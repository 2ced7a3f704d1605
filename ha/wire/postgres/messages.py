"""The messages of the frontend, as values.

Source: PostgreSQL documentation, "Message Formats" (protocol 3.0 and 3.2). Nobody changes them;
they are not frozen, since that triples the cost of making one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(slots=True)
class SSLRequest:
    pass


@dataclass(slots=True)
class GSSENCRequest:
    pass


@dataclass(slots=True)
class CancelRequest:
    process_id: int
    secret: bytes


@dataclass(slots=True)
class StartupMessage:
    """``minor`` is the minor version of protocol 3 that the client asks for."""

    minor: int
    parameters: dict[str, str]


@dataclass(slots=True)
class PasswordMessage:
    """Any message of type ``p``: a password, a SASLInitialResponse or a SASLResponse."""

    data: bytes


@dataclass(slots=True)
class Query:
    sql: str


@dataclass(slots=True)
class Parse:
    name: str
    sql: str
    parameter_oids: tuple[int, ...]


@dataclass(slots=True)
class Bind:
    """``formats`` as sent: none (all text), one for all, or one for each."""

    portal: str
    statement: str
    parameter_formats: tuple[int, ...]
    values: tuple[bytes | None, ...]
    result_formats: tuple[int, ...]


@dataclass(slots=True)
class Describe:
    """``kind`` is ``S`` for a statement, ``P`` for a portal; so in :class:`Close`."""

    kind: str
    name: str


@dataclass(slots=True)
class Execute:
    """``max_rows`` 0: all."""

    portal: str
    max_rows: int


@dataclass(slots=True)
class Close:
    kind: str
    name: str


@dataclass(slots=True)
class Sync:
    pass


@dataclass(slots=True)
class Flush:
    pass


@dataclass(slots=True)
class Terminate:
    pass


@dataclass(slots=True)
class CopyData:
    data: bytes


@dataclass(slots=True)
class CopyDone:
    pass


@dataclass(slots=True)
class CopyFail:
    reason: str


@dataclass(slots=True)
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
