"""Files as answers: streamed, with their names, and given back whatever becomes of the client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from urllib.parse import quote

import trio
from quart import Response

from ha.engine.api import Download
from ha.wire.http.answers import Answer


class _Body:
    """The chunks of a download, and the end of what they come from."""

    def __init__(self, chunks: AsyncIterator[bytes], stack: AsyncExitStack) -> None:
        self._chunks = chunks
        self._stack = stack

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return await anext(self._chunks)

    async def aclose(self) -> None:
        """Called by quart when the answer is sent, or cannot be."""
        with trio.CancelScope(shield=True):
            await self._stack.aclose()


async def file_answer(
    source: AbstractAsyncContextManager[Download], media_type: str = "application/vnd.sqlite3"
) -> Answer:
    """An answer that streams ``source``. Raises what opening it raises."""
    async with AsyncExitStack() as stack:
        download = await stack.enter_async_context(source)
        response = Response(
            _Body(download.chunks, stack.pop_all()),
            content_type=media_type,
        )
    response.timeout = None  # as long as the client takes
    response.headers["Content-Disposition"] = disposition(download.filename)
    response.headers["X-Sequence"] = str(download.sequence)
    response.headers["ETag"] = f'"{download.etag}"'
    if download.size is not None:
        response.headers["Content-Length"] = str(download.size)
    return response


def disposition(filename: str) -> str:
    """RFC 6266; in ASCII for those who know no better."""
    plain = filename.encode("ascii", "replace").decode().replace("\\", "_").replace('"', "_")
    value = f'attachment; filename="{plain}"'
    if plain != filename:
        value += f"; filename*=UTF-8''{quote(filename, safe='')}"
    return value
