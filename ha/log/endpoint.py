"""The addresses of NATS servers, as users write them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from ha.core.errors import Code, HaError


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server. ``str()`` of it is safe to log."""

    host: str
    port: int
    tls: bool = False
    user: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"

    def login(self) -> dict[str, str]:
        """As nats-py takes it. A name without a password is a token."""
        if self.user is None:
            return {}
        if self.password is None:
            return {"token": self.user}
        return {"user": self.user, "password": self.password}


def parse_urls(text: str) -> list[Endpoint]:
    """``nats://[user:password@|token@]host[:port]`` or ``tls://…``, several with commas.

    Raises HaError (BAD_REQUEST), without the secrets of the URL.
    """
    endpoints = [_parse_url(part.strip()) for part in text.split(",") if part.strip()]
    if not endpoints:
        raise HaError(Code.BAD_REQUEST, "no NATS URL: write nats://host:4222")
    return endpoints


def _parse_url(text: str) -> Endpoint:
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        port = parts.port or 4222
    except ValueError:
        raise HaError(Code.BAD_REQUEST, "bad port in a NATS URL: write nats://host:4222") from None
    if parts.scheme not in ("nats", "tls") or not parts.hostname:
        raise HaError(
            Code.BAD_REQUEST,
            f"bad NATS URL {parts.scheme}://{parts.hostname or ''}: "
            "write nats://host:4222 or tls://host:4222",
        )
    return Endpoint(
        host=parts.hostname,
        port=port,
        tls=parts.scheme == "tls",
        user=None if parts.username is None else unquote(parts.username),
        password=None if parts.password is None else unquote(parts.password),
    )
