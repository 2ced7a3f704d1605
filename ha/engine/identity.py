"""Is this still the log that the file was made from?

A stream can be deleted and made anew, purged, restored from a backup, or lose messages that
it had acknowledged. A file that is ahead of its log, or beside it, is never continued in
silence.
"""

from __future__ import annotations

from ha.log.api import Log, LogState
from ha.store.control import Position, digest_of


class Mismatch(Exception):
    """The file and the log do not belong together (any more); the text says why."""


async def check_identity(log: Log, position: Position) -> LogState:
    """What the log holds. Raises Mismatch, or LogError when the broker does not answer."""
    state = await log.state()
    if position.epoch is None:
        return state
    if state.epoch != position.epoch:
        raise Mismatch("the stream was made anew: it is not the log that this file follows")
    if state.last < position.applied:
        raise Mismatch(
            f"the log ends at {state.last}, the file is at {position.applied}:"
            " the broker has lost or dropped messages that it had acknowledged"
        )
    if position.applied == 0:
        return state
    await check_message(log, position.applied, position.digest)
    return state


async def check_message(log: Log, sequence: int, digest: bytes | None) -> None:
    """Does the message stand there, as far as the log tells? Raises Mismatch, or LogError.

    ``digest``: of its payload, None if that is not known.
    """
    entry = await log.entry(sequence)
    if entry is None:
        # What the log held before we asked may have grown too old meanwhile.
        if 0 < (await log.state()).subject_first < sequence:
            raise Mismatch(f"the message at {sequence} is missing in the middle of the log")
    elif digest is not None and digest_of(entry.payload) != digest:
        raise Mismatch(f"the message at {sequence} is not the one that was applied")
