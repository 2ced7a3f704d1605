"""From the first byte to the first ReadyForQuery: TLS, negotiation, authentication.

Source: PostgreSQL documentation, "Message Flow": "Start-up", "SSL Session Encryption",
"Cancelling Requests in Progress"; "SASL Authentication".
"""

from __future__ import annotations

import base64
import hmac
import secrets
import ssl
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import trio

from ha.wire.postgres import backend
from ha.wire.postgres.channel import Channel, Closed, PlainChannel
from ha.wire.postgres.codec import FrontendDecoder, ProtocolError
from ha.wire.postgres.config import Auth, Config
from ha.wire.postgres.errors import Fatal
from ha.wire.postgres.farewell import linger, say_farewell
from ha.wire.postgres.messages import (
    CancelRequest,
    GSSENCRequest,
    PasswordMessage,
    SSLRequest,
    StartupMessage,
)
from ha.wire.postgres.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ScramError,
    ScramServer,
    Verifier,
    end_point_binding,
)

NEWEST_MINOR = 2
_MOCK_SECRET = secrets.token_bytes(32)
_TLS_CLIENT_HELLO = 0x16


@dataclass(frozen=True, slots=True)
class Login:
    """Who came in. ``channel`` is the encrypted one where TLS was asked for."""

    channel: Channel
    user: str
    minor: int
    parameters: Mapping[str, str]
    secure: bool


class _Opening:
    """Which channel an error must be written to, and which one goes on."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.channel: Channel = PlainChannel(stream, FrontendDecoder())
        self.plain = self.channel
        self.kept = False

    def close_unused(self) -> None:
        if not self.kept or self.plain is not self.channel:
            self.plain.close()


async def start(stream: trio.SocketStream, config: Config) -> Login | CancelRequest:
    """Everything before the user is known, and then that. Raises Closed, after a refusal too."""
    opening = _Opening(stream)
    try:
        found = await _start(opening, config)
        opening.kept = isinstance(found, Login)
        return found
    except (Fatal, ProtocolError) as error:
        notice = backend.Notice(
            "FATAL", error.sqlstate, error.message, hint=getattr(error, "hint", None)
        )
        await say_farewell(opening.channel, notice)
        await linger(stream)
        raise Closed from error
    finally:
        opening.close_unused()


async def _start(opening: _Opening, config: Config) -> Login | CancelRequest:
    stream, channel = opening.stream, opening.channel
    secure = False
    first = await stream.socket.recv(1, trio.socket.MSG_PEEK)
    if not first:
        raise Closed
    if first[0] == _TLS_CLIENT_HELLO:
        if config.tls is None:
            raise Closed
        channel = opening.channel = await _encrypt(stream, config.tls.context)
        secure = True
        if channel.stream.selected_alpn_protocol() != "postgresql":  # type: ignore[attr-defined]
            raise ProtocolError(
                "received direct SSL connection request without ALPN protocol negotiation extension"
            )
    while True:
        packet = await channel.startup()
        if isinstance(packet, CancelRequest):
            return packet
        if isinstance(packet, StartupMessage):
            break
        if channel.decoder.buffered:
            # Bytes that somebody put before the encryption must not count as said inside it.
            raise ProtocolError("received unencrypted data after an encryption request")
        if isinstance(packet, SSLRequest) and config.tls is not None and not secure:
            channel.write(backend.SSL_YES)
            await channel.flush()
            channel = opening.channel = await _encrypt(stream, config.tls.context)
            secure = True
        else:
            assert isinstance(packet, SSLRequest | GSSENCRequest)
            channel.write(backend.SSL_NO)
            await channel.flush()
    return await _login(channel, packet, config, secure)


async def _encrypt(stream: trio.SocketStream, context: ssl.SSLContext) -> Channel:
    encrypted = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        await encrypted.do_handshake()
    except (trio.BrokenResourceError, ssl.SSLError) as error:
        raise Closed from error
    return Channel(encrypted, FrontendDecoder())


async def _login(channel: Channel, packet: StartupMessage, config: Config, secure: bool) -> Login:
    options = [name for name in packet.parameters if name.startswith("_pq_.")]
    if packet.minor > NEWEST_MINOR or options:
        channel.write(backend.negotiate_protocol_version(min(packet.minor, NEWEST_MINOR), options))
    user = packet.parameters.get("user", "")
    if not user:
        raise Fatal("28000", "no PostgreSQL user name specified in startup packet")
    if packet.parameters.get("replication", "false").lower() not in ("false", "off", "no", "0"):
        raise Fatal("0A000", "this server has no replication protocol: its log is in NATS")
    await _authenticate(channel, user, config, secure)
    channel.write(backend.AUTHENTICATION_OK)
    channel.decoder.limit = config.limits.message
    minor = min(packet.minor, NEWEST_MINOR)
    return Login(channel, user, minor, packet.parameters, secure)


async def _authenticate(channel: Channel, user: str, config: Config, secure: bool) -> None:
    if config.auth is Auth.TRUST:
        if not _same(user, config.user):
            raise Fatal("28000", f'role "{user}" does not exist')
        return
    if config.auth is Auth.PASSWORD:
        if not secure and not config.cleartext:
            raise Fatal(
                "28000",
                "a password in clear text needs TLS",
                hint="connect with sslmode=require, or start the server with --pg-auth scram"
                " or --pg-insecure",
            )
        passed = await _cleartext(channel, user, config)
    else:
        passed = await _scram(channel, user, config, secure)
    if not passed:
        await trio.sleep(config.limits.failure_delay)
        raise Fatal("28P01", f'password authentication failed for user "{user}"')


def _same(a: str, b: str) -> bool:
    return hmac.compare_digest(a.encode("utf-8", "surrogatepass"), b.encode("utf-8"))


async def _cleartext(channel: Channel, user: str, config: Config) -> bool:
    channel.write(backend.AUTHENTICATION_CLEARTEXT)
    given = (await _password(channel)).removesuffix(b"\0")
    right_password = hmac.compare_digest(given, config.password.encode())
    return _same(user, config.user) & right_password


async def _scram(channel: Channel, user: str, config: Config, secure: bool) -> bool:
    """RFC 5802 over SASL messages. An unknown user takes the same way, and fails at its end."""
    binding = None
    if secure and config.tls is not None and config.tls.certificate is not None:
        binding = end_point_binding(config.tls.certificate)
    mechanisms = [MECHANISM_PLUS, MECHANISM] if binding is not None else [MECHANISM]
    channel.write(backend.authentication_sasl(mechanisms))
    known = _same(user, config.user)
    mock = Verifier.mock(user, _MOCK_SECRET)
    real = _verifier(config.password)
    verifier = real if known else mock
    try:
        mechanism, data = _initial_response(await _password(channel))
        if mechanism not in mechanisms:
            raise ScramError(f"the client selected an invalid SASL mechanism: {mechanism}")
        nonce = base64.b64encode(secrets.token_bytes(18)).decode()
        exchange = ScramServer(verifier, nonce, mechanism, binding)
        channel.write(backend.authentication_sasl_continue(exchange.first(data)))
        final = exchange.final(await _password(channel))
    except ScramError as error:
        raise ProtocolError(f"malformed SCRAM message: {error}") from error
    if final is None:
        return False
    channel.write(backend.authentication_sasl_final(final))
    return known


_verifiers: dict[str, Verifier] = {}


def _verifier(password: str) -> Verifier:
    """Made once a password: its iterations take milliseconds."""
    found = _verifiers.get(password)
    if found is None:
        found = _verifiers[password] = Verifier.of(password, secrets.token_bytes(16))
    return found


async def _password(channel: Channel) -> bytes:
    message = await channel.message()
    if not isinstance(message, PasswordMessage):
        raise ProtocolError("expected a password response")
    return message.data


def _initial_response(data: bytes) -> tuple[str, bytes]:
    mechanism, separator, rest = data.partition(b"\0")
    if not separator or len(rest) < 4:
        raise ScramError("incomplete SASLInitialResponse")
    (length,) = struct.unpack_from("!i", rest)
    if length != len(rest) - 4:
        raise ScramError("wrong length in SASLInitialResponse")
    return mechanism.decode("ascii", "replace"), rest[4:]
