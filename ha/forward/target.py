"""The address of a leader, as ``--leader-addr`` and ``--leader-static`` give it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ha.core.errors import Code, HaError
from ha.dbapi.address import Address

DEFAULT_PORT = 8080
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Target:
    """``secure``: it speaks TLS."""

    address: Address
    secure: bool

    @property
    def url(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.address}"


def parse_target(text: str, *, insecure: bool) -> Target:
    """``host:port``, or an http or https URL without a path.

    ``insecure``: --grpc-insecure, without which ``host:port`` means TLS. Raises HaError
    (BAD_REQUEST).
    """
    if "://" not in text:
        host, port = _split(text, f"//{text}")
        return Target(Address(host, DEFAULT_PORT if port is None else port), secure=not insecure)
    host, port = _split(text, text)
    url = urlsplit(text)
    if url.scheme not in _PORTS or url.path not in ("", "/") or url.query or url.fragment:
        raise _bad(text)
    if url.username is not None or url.password is not None:
        raise HaError(Code.BAD_REQUEST, "a leader's address holds no password: see --token")
    return Target(
        Address(host, _PORTS[url.scheme] if port is None else port), secure=url.scheme == "https"
    )


def _split(text: str, url: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _bad(text) from error
    if not host or any(c.isspace() for c in text) or ("://" not in text and "/" in text):
        raise _bad(text)
    return host, port


def _bad(text: str) -> HaError:
    return HaError(
        Code.BAD_REQUEST,
        f"{text!r} is no address of a leader: write host:port, http://host:port or"
        " https://host:port",
    )


def client_context(
    *,
    insecure: bool,
    ca: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
) -> ssl.SSLContext:
    """TLS towards the leader, verified unless ``insecure``; ``ca``: who signs the nodes'
    certificates, None for those that the system trusts; ``certificate`` and ``key`` of this node.

    Raises OSError or ssl.SSLError for files that cannot be used.
    """
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2"])
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context
