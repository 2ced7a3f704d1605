"""stub"""

from __future__ import annotations

from ha.wire.postgres.commands import Copy
from ha.wire.postgres.conversation import Conversation
from ha.wire.postgres.errors import unsupported


async def run_copy(conversation: Conversation, command: Copy, *, more_follows: bool) -> None:
    raise unsupported("COPY later")
