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
    entry = await log.entry(position.applied)
    if entry is not None:
        if position.digest is not None and digest_of(entry.payload) != position.digest:
            raise Mismatch(f"the message at {position.applied} is not the one that was applied")
    elif state.subject_first and state.subject_first < position.applied:
        raise Mismatch(f"the message at {position.applied} is missing in the middle of the log")
    return state
