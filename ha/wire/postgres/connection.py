"""One conversation from ReadyForQuery to its end."""

from __future__ import annotations

import re
from collections.abc import Callable

import trio

from ha.core.errors import Code, HaError
from ha.engine.api import SessionApi, Sessions
from ha.wire.postgres import backend
from ha.wire.postgres.catalog import Identity
from ha.wire.postgres.codec import ProtocolError
from ha.wire.postgres.config import Config
from ha.wire.postgres.conversation import Conversation
from ha.wire.postgres.errors import Fatal, PgError
from ha.wire.postgres.extended import Extended
from ha.wire.postgres.forwarded import Prepare
from ha.wire.postgres.messages import (
    CopyData,
    CopyDone,
    CopyFail,
    Flush,
    FunctionCall,
    PasswordMessage,
    Query,
    Sync,
    Terminate,
)
from ha.wire.postgres.plan import PlanCache, Planner
from ha.wire.postgres.settings import REPORTED, Settings
from ha.wire.postgres.simple import simple_query
from ha.wire.postgres.startup import Login

_LAST_WORDS = 1.0
"""Seconds that a client which leaves may take to read what it had asked for."""
_EVERYWHERE = ("postgres", "template1")
"""Databases that every PostgreSQL server has: tools go there to ask for the others (psql -l)."""


def open_conversation(
    login: Login, sessions: Sessions, config: Config, plans: PlanCache, process_id: int
) -> Conversation:
    """Choose the database, take the settings of the start-up message. Raises HaError, Fatal."""
    settings = Settings()
    settings.values["session_authorization"] = login.user
    settings.defaults["session_authorization"] = login.user
    _apply(settings, login)
    ids = sessions.database_ids()
    wanted = login.parameters.get("database", "") or login.user
    identity = Identity(user=login.user, process_id=process_id, settings=settings)
    session = _session(sessions, wanted, login.user, identity)
    identity.database = lambda: session.database_id
    identity.databases = sessions.database_ids
    planner = Planner(session, plans)
    return Conversation(login.channel, session, settings, config.limits, planner, ids, process_id)


def _session(sessions: Sessions, wanted: str, user: str, identity: Identity) -> SessionApi:
    prepare = Prepare(identity)
    open_session: Callable[..., SessionApi] = sessions.session
    try:
        return open_session(wanted, protocol="postgres", prepare_connection=prepare)
    except HaError as error:
        if error.code is not Code.NOT_FOUND or wanted not in (user, *_EVERYWHERE):
            raise
        return open_session(None, protocol="postgres", prepare_connection=prepare)


def _words(options: str) -> list[str]:
    """Cut at white space; a backslash keeps the next character."""
    marked = re.sub(r"\\(.)", lambda m: f"\0{ord(m[1])}\0", options, flags=re.DOTALL)
    return [re.sub(r"\0(\d+)\0", lambda m: chr(int(m[1])), word) for word in marked.split()]


def _apply(settings: Settings, login: Login) -> None:
    """Start-up parameters, and those inside ``options`` (-c name=value, --name=value)."""
    values: list[tuple[str, str]] = []
    options = login.parameters.get("options", "")
    words = _words(options)
    i = 0
    while i < len(words):
        word = words[i]
        if word == "-c" and i + 1 < len(words):
            i += 1
            word = words[i]
        elif word.startswith("-c"):
            word = word[2:]
        elif word.startswith("--"):
            word = word[2:].replace("-", "_")
        else:
            raise Fatal("22023", f"invalid command-line argument for server process: {word}")
        name, separator, value = word.partition("=")
        if not separator:
            raise Fatal("22023", f"-c {word} requires a value")
        values.append((name, value))
        i += 1
    for name, value in login.parameters.items():
        if name not in ("user", "database", "options", "replication") and name[:5] != "_pq_.":
            values.append((name, value))
    for name, value in values:
        try:
            settings.set(name, value, start=True)
        except PgError as error:
            raise Fatal(error.sqlstate, error.message, hint=error.hint) from error


async def converse(conversation: Conversation) -> None:
    """Until the client ends it. Raises Closed, ProtocolError, Fatal."""
    channel, settings = conversation.channel, conversation.settings
    settings.changed.clear()
    for key, name in REPORTED.items():
        channel.write(backend.parameter_status(name, settings.values[key]))
    conversation.write_ready()
    extended = Extended(conversation)
    buffered = channel.decoder.next
    handlers = extended.handlers
    while True:
        message = buffered()
        while message is None:
            await _more(conversation)
            message = buffered()
        handle = handlers.get(type(message))
        if handle is not None:
            if extended.skipping:
                continue
            try:
                rest = handle(message)
                if rest is not None:
                    await rest
            except (HaError, PgError) as error:
                await extended.failed(error, message)
        elif isinstance(message, Query):
            extended.skipping = False
            await simple_query(conversation, message.sql)
        elif isinstance(message, Sync):
            await extended.sync()
        elif isinstance(message, Flush):
            await channel.flush()
        elif isinstance(message, Terminate):
            with trio.move_on_after(_LAST_WORDS):
                await channel.flush()  # it may have come together with what it ends
            return
        elif isinstance(message, CopyData | CopyDone | CopyFail):
            continue  # of a COPY that failed: the client did not know yet
        elif isinstance(message, FunctionCall):
            await _refuse_call(conversation)
        elif isinstance(message, PasswordMessage):
            raise ProtocolError("unexpected password message")
        if conversation.vanished:
            return


async def _more(conversation: Conversation) -> None:
    """Send what waits, and receive something, within idle_in_transaction_session_timeout or
    idle_session_timeout."""
    channel = conversation.channel
    await channel.flush()
    idle = conversation.transactions.status == "I"
    name = "idle_session_timeout" if idle else "idle_in_transaction_session_timeout"
    milliseconds = conversation.settings.values[name]
    if milliseconds == "0":
        await channel.more()
        return
    with trio.move_on_after(int(milliseconds) / 1000):
        await channel.more()
        return
    if idle:
        raise Fatal("57P05", "terminating connection due to idle-session timeout")
    raise Fatal("25P03", "terminating connection due to idle-in-transaction timeout")


async def _refuse_call(conversation: Conversation) -> None:
    await conversation.report(
        PgError("0A000", "the function call protocol is not supported", hint="use SELECT")
    )
    conversation.write_ready()
