"""Commands and headers of the NATS client protocol, as bytes.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol, and ADR-4 (headers).
"""

from __future__ import annotations

CRLF = b"\r\n"
HEADER_START = b"NATS/1.0"

# --- commands --------------------------------------------------------------------------


def subscribe(subject: str, sid: int) -> bytes:
    return f"SUB {subject} {sid}\r\n".encode()


def unsubscribe(sid: int) -> bytes:
    return b"UNSUB %d\r\n" % sid


def publish(subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> bytes:
    """``headers`` as :func:`encode_headers` gives them, or empty; ``reply`` may be empty."""
    if reply:
        reply += b" "
    if not headers:
        return b"PUB %b %b%d\r\n%b\r\n" % (subject, reply, len(payload), payload)
    size = len(headers)
    return b"HPUB %b %b%d %d\r\n%b%b\r\n" % (
        subject,
        reply,
        size,
        size + len(payload),
        headers,
        payload,
    )


# --- headers ---------------------------------------------------------------------------


def encode_headers(headers: dict[str, str]) -> bytes:
    """Raises ValueError when a name or value would break the frame."""
    lines = [HEADER_START]
    for name, value in headers.items():
        if "\r" in value or "\n" in value or not name.isprintable() or ":" in name or " " in name:
            raise ValueError(f"not a message header: {name!r}: {value!r}")
        lines.append(f"{name}: {value}".encode())
    lines += (b"", b"")
    return CRLF.join(lines)


def decode_headers(raw: bytes) -> dict[str, str]:
    """The headers of a message; a name that stands twice has its first value."""
    headers: dict[str, str] = {}
    for line in raw.split(CRLF)[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.setdefault(
                name.decode(errors="replace").strip(), value.decode(errors="replace").strip()
            )
    return headers


def status(raw: bytes) -> int:
    """The status on the first header line (``NATS/1.0 503``), 0 if there is none."""
    code = raw[len(HEADER_START) + 1 : len(HEADER_START) + 4]
    return int(code) if code.isdigit() else 0


def description(raw: bytes) -> str:
    """The words after the status, e.g. ``Idle Heartbeat``."""
    return raw.split(CRLF, 1)[0][len(HEADER_START) + 4 :].decode(errors="replace").strip()
