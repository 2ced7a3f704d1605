"""What a client sends to a NATS server, cut into commands.

Source: the NATS client protocol (PUB, HPUB, SUB, UNSUB).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pub:
    subject: str
    reply: str
    headers: bytes
    payload: bytes


@dataclass(frozen=True, slots=True)
class Subscribe:
    subject: str
    sid: int
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """``after``: so many messages, 0 for at once."""

    sid: int
    after: int = 0


Command = Pub | Subscribe | Unsubscribe


class TooLarge(ValueError):
    """A message is announced that the server does not take."""


def cut(data: bytes, most: int) -> Iterator[Command]:
    """Of whole commands, as :mod:`ha.log.nats_wire` makes them. Raises ValueError, and TooLarge
    for a message of more than ``most`` bytes."""
    start = 0
    while start < len(data):
        end = data.index(b"\r\n", start)
        fields = data[start:end].decode().split()
        body = end + 2
        match fields:
            case ["PUB" | "HPUB", *_, size] if int(size) > most:
                raise TooLarge(size)
            case ["PUB", subject, *reply, size]:
                start = body + int(size)
                yield Pub(subject, "".join(reply), b"", data[body:start])
                start += 2
            case ["HPUB", subject, *reply, head, size]:
                start = body + int(size)
                middle = body + int(head)
                yield Pub(subject, "".join(reply), data[body:middle], data[middle:start])
                start += 2
            case ["SUB", subject, *queue, sid]:
                yield Subscribe(subject, int(sid), "".join(queue))
                start = body
            case ["UNSUB", sid, *after]:
                yield Unsubscribe(int(sid), int("".join(after) or 0))
                start = body
            case _:
                raise ValueError(f"no command of NATS: {fields}")
