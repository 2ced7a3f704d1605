"""The trio server: accepts, limits, cancels, and serves one conversation a connection."""

from __future__ import annotations

import hmac
import logging
import secrets
import select
from dataclasses import dataclass, field
from functools import partial

import trio

from ha.core.errors import HaError
from ha.engine.api import Sessions
from ha.wire.postgres import backend
from ha.wire.postgres.channel import Closed
from ha.wire.postgres.codec import ProtocolError
from ha.wire.postgres.config import Config
from ha.wire.postgres.connection import converse, open_conversation
from ha.wire.postgres.conversation import Conversation
from ha.wire.postgres.errors import Fatal, from_ha
from ha.wire.postgres.farewell import linger, say_farewell
from ha.wire.postgres.messages import CancelRequest
from ha.wire.postgres.plan import PlanCache
from ha.wire.postgres.startup import Login, start

logger = logging.getLogger(__name__)

_SHUTDOWN = backend.Notice("FATAL", "57P01", "terminating connection due to administrator command")
_RDHUP = getattr(select, "POLLRDHUP", 0)


@dataclass(slots=True)
class _Client:
    """``socket`` is the TCP socket below any TLS."""

    secret: bytes
    conversation: Conversation
    socket: trio.socket.SocketType
    seen: int = -1
    """The statement that ran when it was looked after."""


@dataclass(slots=True)
class Server:
    """All connections of one listener."""

    sessions: Sessions
    config: Config
    plans: PlanCache = field(default_factory=PlanCache)
    clients: dict[int, _Client] = field(default_factory=dict)
    count: int = 0
    next_process_id: int = 1

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, from its first byte to its last. Never raises but Cancelled."""
        if self.count >= 2 * self.config.limits.connections + 10:
            await stream.aclose()  # too many to be told so
            return
        self.count += 1
        try:
            async with stream:
                await self._handle(stream)
        except Closed:
            pass
        except OSError as error:
            logger.debug("a PostgreSQL client went away: %s", error)
        except Exception:
            logger.exception("a PostgreSQL connection ended by a bug")
        finally:
            self.count -= 1

    async def _handle(self, stream: trio.SocketStream) -> None:
        stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, True)
        with trio.move_on_after(self.config.limits.login_time) as scope:
            login = await start(stream, self.config)
        if scope.cancelled_caught:
            return
        if isinstance(login, CancelRequest):
            self._cancel(login)
            return
        try:
            await self._enter(stream, login)
        finally:
            if login.channel.parting:
                await linger(stream)  # last: all that the session held is free by now
            login.channel.close()

    async def _enter(self, stream: trio.SocketStream, login: Login) -> None:
        try:
            if self.count > self.config.limits.connections:
                raise Fatal(
                    "53300",
                    "sorry, too many clients already",
                    hint=f"at most {self.config.limits.connections} are served at once",
                )
            conversation = open_conversation(
                login, self.sessions, self.config, self.plans, self._process_id()
            )
        except Fatal as error:
            await say_farewell(login.channel, error.notice("FATAL"))
            return
        except HaError as error:
            await say_farewell(login.channel, _as_fatal(from_ha(error)))
            return
        await self._serve(stream, login, conversation)

    async def _serve(
        self, stream: trio.SocketStream, login: Login, conversation: Conversation
    ) -> None:
        secret = secrets.token_bytes(32 if login.minor >= 2 else 4)
        process_id = conversation.process_id
        self.clients[process_id] = _Client(secret, conversation, stream.socket)
        try:
            login.channel.write(backend.backend_key_data(process_id, secret))
            await converse(conversation)
        except (ProtocolError, Fatal) as error:
            notice = backend.Notice(
                "FATAL", error.sqlstate, error.message, hint=getattr(error, "hint", None)
            )
            await say_farewell(login.channel, notice)
        except Closed:
            raise
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await say_farewell(login.channel, _SHUTDOWN)
            raise
        except Exception:
            logger.exception("a PostgreSQL session ended by a bug")
            await say_farewell(login.channel, backend.Notice("FATAL", "XX000", "internal error"))
        finally:
            del self.clients[process_id]
            await conversation.aclose()

    def _process_id(self) -> int:
        while self.next_process_id in self.clients:
            self.next_process_id = self.next_process_id % (2**31 - 1) + 1
        process_id = self.next_process_id
        self.next_process_id = self.next_process_id % (2**31 - 1) + 1
        return process_id

    def _cancel(self, request: CancelRequest) -> None:
        client = self.clients.get(request.process_id)
        if client is not None and hmac.compare_digest(client.secret, request.secret):
            client.conversation.cancel()

    async def watch(self) -> None:
        """Interrupt statements whose client has gone: nobody reads the socket meanwhile."""
        while True:
            await trio.sleep(self.config.limits.liveness_interval)
            for client in list(self.clients.values()):
                conversation = client.conversation
                if not conversation.busy:
                    continue
                if client.seen == conversation.runs and _hung_up(client.socket):
                    conversation.vanished = True
                    conversation.cancel("connection to client lost")
                client.seen = conversation.runs


def _hung_up(socket: trio.socket.SocketType) -> bool:
    poll = select.poll()
    try:
        poll.register(socket.fileno(), _RDHUP)
    except (ValueError, OSError):
        return True
    return bool(poll.poll(0))


def _as_fatal(notice: backend.Notice) -> backend.Notice:
    return backend.Notice("FATAL", notice.sqlstate, notice.message, hint=notice.hint)


async def serve(
    sessions: Sessions,
    *,
    host: str | None = None,
    port: int = 5432,
    config: Config | None = None,
    task_status: trio.TaskStatus[list[tuple[str, int]]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. ``port`` 0 takes a free one.

    ``task_status`` is started with the addresses that are listened on. Raises OSError when
    the port cannot be had.
    """
    config = config or Config()
    server = Server(sessions, config)
    listeners = await trio.open_tcp_listeners(port, host=host)
    addresses = [listener.socket.getsockname()[:2] for listener in listeners]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.watch)
        start_serving = partial(trio.serve_listeners, server.handle, listeners)
        await nursery.start(start_serving)
        task_status.started(addresses)
