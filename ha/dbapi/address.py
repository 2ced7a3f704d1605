"""Where to connect, and how: ``ha://host:8080,other:8080/db?token=…``."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from ha.dbapi.errors import InterfaceError

DEFAULT_PORT = 8080
_SCHEMES = {"ha": False, "http": False, "https": True}
_BOOLEANS = {"true": True, "1": True, "on": True, "yes": True,
             "false": False, "0": False, "off": False, "no": False}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Options:
    """``database``: an id, empty for the only one. Times in seconds; ``timeout``: how long a
    statement may take, None for ever. ``txseq``: a sequence not to read behind, such as another
    connection's; ``consistency``: ``linearizable``, or empty for ``local``."""

    addresses: tuple[Address, ...]
    database: str = ""
    token: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    connect_timeout: float = 10.0
    timeout: float | None = None
    txseq: int = 0
    consistency: str = ""


def parse(
    dsn: str,
    *,
    database: str | None = None,
    token: str | None = None,
    tls: ssl.SSLContext | bool | None = None,
    connect_timeout: float | None = None,
    timeout: float | None = None,
    txseq: int = 0,
    consistency: str | None = None,
) -> Options:
    """Read a URL; what is given beside it wins over what stands in it.

    ``ha://`` and ``http://`` speak plain text unless ``tls=true`` stands in the query,
    ``https://`` TLS. In the query: ``token``, ``tls``, ``ca`` (PEM file that signed the nodes'
    certificates), ``cert`` and ``key`` (PEM files of ours), ``connect_timeout``, ``timeout``,
    ``consistency`` (``local`` or ``linearizable``), ``address`` (one more, any number of times).
    Raises InterfaceError.
    """
    url = urlsplit(dsn)
    if url.scheme not in _SCHEMES:
        raise InterfaceError(
            f"cannot connect to {url.scheme or dsn!r}: write ha://host:port/database"
        )
    credentials, _, hosts = url.netloc.rpartition("@")
    names = [part for part in hosts.split(",") if part]
    query: dict[str, str] = {}
    for name, value in parse_qsl(url.query, keep_blank_values=True):
        if name == "address":
            names += [part for part in value.split(",") if part]
        elif name in query:
            raise InterfaceError(f"{name} stands twice in the address")
        else:
            query[name] = value
    secure = _boolean(query.pop("tls", None), _SCHEMES[url.scheme])
    if tls is None or isinstance(tls, bool):
        tls = _context(secure if tls is None else tls, query)
    options = Options(
        addresses=tuple(map(_address, names or ["localhost"])),
        database=unquote(url.path.strip("/")) if database is None else database,
        token=token or query.get("token") or unquote(credentials) or None,
        tls=tls,
        connect_timeout=_seconds(query, "connect_timeout", connect_timeout) or 10.0,
        timeout=_seconds(query, "timeout", timeout),
        txseq=txseq,
        consistency=_consistency(query.pop("consistency", None), consistency),
    )
    for name in query:
        if name not in ("token", "ca", "cert", "key"):
            raise InterfaceError(f"unknown option {name!r} in the address")
    if options.tls is not None:
        options.tls.set_alpn_protocols(["h2"])
    return options


def _address(text: str) -> Address:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InterfaceError(f"{text!r} is no address: {error}") from error
    if not host:
        raise InterfaceError(f"{text!r} is no address: write host:port")
    return Address(host, DEFAULT_PORT if port is None else port)


def _context(secure: bool, query: dict[str, str]) -> ssl.SSLContext | None:
    files = {name: query.get(name) for name in ("ca", "cert", "key")}
    if not secure:
        if any(files.values()):
            raise InterfaceError("ca, cert and key are for TLS: add tls=true")
        return None
    try:
        context = ssl.create_default_context(cafile=files["ca"])
        if files["cert"]:
            context.load_cert_chain(files["cert"], files["key"])
    except (OSError, ValueError) as error:
        raise InterfaceError(f"the TLS files of the address cannot be used: {error}") from error
    return context


def _consistency(text: str | None, given: str | None) -> str:
    word = given if given is not None else text or "local"
    if word not in ("local", "linearizable"):
        raise InterfaceError(f"consistency must be local or linearizable, not {word!r}")
    return "" if word == "local" else word


def _boolean(text: str | None, default: bool) -> bool:
    if text is None:
        return default
    if text.lower() not in _BOOLEANS:
        raise InterfaceError(f"tls must be true or false, not {text!r}")
    return _BOOLEANS[text.lower()]


def _seconds(query: dict[str, str], name: str, given: float | None) -> float | None:
    text = query.pop(name, None)
    if given is not None:
        return given
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InterfaceError(f"{name} must be a number of seconds, not {text!r}")
    return seconds
