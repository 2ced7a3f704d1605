"""What a server of this protocol is told: who may come in, and how much they may ask for."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import StrEnum


class Auth(StrEnum):
    SCRAM = "scram"
    PASSWORD = "password"
    TRUST = "trust"


@dataclass(frozen=True, slots=True)
class Tls:
    """``certificate`` is the server's own in DER, for channel binding."""

    context: ssl.SSLContext
    certificate: bytes | None = None

    @classmethod
    def load(cls, certificate: str, key: str) -> Tls:
        """From PEM files. Raises OSError, ssl.SSLError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["postgresql"])
        with open(certificate, encoding="ascii", errors="replace") as file:
            pem = file.read()
        begin = pem.find(ssl.PEM_HEADER)
        end = pem.find(ssl.PEM_FOOTER, begin) + len(ssl.PEM_FOOTER)
        return cls(context, ssl.PEM_cert_to_DER_cert(pem[begin:end]))


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what clients may use. Sizes in bytes, times in seconds."""

    connections: int = 200
    message: int = 64 * 1024 * 1024
    prepared_statements: int = 5_000
    portals: int = 1_000
    cursor_rows: int = 1_000_000
    """Rows that a scrollable or holdable cursor may keep in memory."""
    login_time: float = 30.0
    failure_delay: float = 0.5
    """Before a wrong password is answered."""
    liveness_interval: float = 1.0
    """How often the clients of long statements are looked after."""


@dataclass(frozen=True, slots=True)
class Config:
    """``cleartext`` lets ``password`` authentication happen without TLS."""

    user: str = "ha"
    password: str = "ha"
    auth: Auth = Auth.SCRAM
    tls: Tls | None = None
    cleartext: bool = False
    limits: Limits = Limits()
