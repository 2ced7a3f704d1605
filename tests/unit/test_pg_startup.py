"""From the first byte to ReadyForQuery: encryption, authentication, negotiation, limits."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path

import psycopg
import pytest
import trio

from ha.wire.postgres.config import Auth, Config, Limits, Tls
from tests.support.certificate import make_certificate
from tests.support.pg import FAST, RawClient, fields, in_thread, open_pg

SSL_REQUEST = bytes.fromhex("00000008 04d2162f")
GSS_REQUEST = bytes.fromhex("00000008 04d21630")
TRUST = Config(auth=Auth.TRUST, limits=FAST)


def tls_config(folder: Path, **options: object) -> Config:
    certificate, key = make_certificate(folder)
    return Config(tls=Tls.load(str(certificate), str(key)), limits=FAST, **options)  # type: ignore[arg-type]


async def test_scram_lets_in_who_knows_the_password_and_nobody_else() -> None:
    async with open_pg() as server:
        assert await server.psycopg(lambda c: c.execute("SELECT 1").fetchone()) == (1,)
        for wrong in ({"password": "no"}, {"user": "eve"}):

            def attempt(wrong: dict[str, str] = wrong) -> None:
                psycopg.connect(server.dsn, **wrong).close()

            with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
                await in_thread(attempt)


async def test_a_wrong_password_is_answered_late() -> None:
    limits = Limits(failure_delay=0.3)
    async with open_pg(Config(limits=limits)) as server:
        start = trio.current_time()
        with pytest.raises(psycopg.OperationalError):
            await in_thread(lambda: psycopg.connect(server.dsn, password="no"))
        assert trio.current_time() - start >= 0.3


async def test_a_clear_password_needs_tls_or_leave(tmp_path: Path) -> None:
    async with open_pg(Config(auth=Auth.PASSWORD, limits=FAST)) as server:
        with pytest.raises(psycopg.OperationalError, match="needs TLS"):
            await in_thread(server.connect)
    async with open_pg(Config(auth=Auth.PASSWORD, cleartext=True, limits=FAST)) as server:
        await in_thread(server.connect)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            await in_thread(lambda: psycopg.connect(server.dsn, password="no"))
    async with open_pg(tls_config(tmp_path, auth=Auth.PASSWORD)) as server:
        await in_thread(lambda: server.connect(sslmode="require"))


async def test_trust_still_names_the_user() -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw()
        assert [kind for kind, _ in await client.until()] == ["R", "K", "Z"]
        other = await server.raw(user="eve")
        kind, body = await other.receive()
        assert (kind, fields(body)["C"]) == ("E", "28000")


async def test_tls_with_channel_binding(tmp_path: Path) -> None:
    async with open_pg(tls_config(tmp_path)) as server:

        def check() -> tuple[bool, int]:
            with server.connect(
                sslmode="verify-full", sslrootcert=str(tmp_path / "cert.pem"),
                channel_binding="require", host="localhost", hostaddr="127.0.0.1",
            ) as connection:  # fmt: skip
                row = connection.execute("SELECT 1").fetchone()
                return bool(connection.pgconn.ssl_in_use), row[0] if row else 0

        assert await in_thread(check) == (True, 1)
        # Without TLS the same server still answers; a refusal would be pg_hba.conf's.
        assert await server.psycopg(lambda c: c.pgconn.ssl_in_use, sslmode="disable") is False


async def test_tls_from_the_first_byte(tmp_path: Path) -> None:
    async with open_pg(tls_config(tmp_path, auth=Auth.TRUST)) as server:
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        context.set_alpn_protocols(["postgresql"])
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        stream = trio.SSLStream(tcp, context, server_hostname="localhost")
        client = RawClient(stream)  # type: ignore[arg-type]
        await client.send_packet(struct.pack("!i", 3 << 16) + b"user\0ha\0\0")
        assert [kind for kind, _ in await client.until()] == ["R", "K", "Z"]
        await stream.aclose()


async def test_tls_from_the_first_byte_must_name_the_protocol(tmp_path: Path) -> None:
    async with open_pg(tls_config(tmp_path, auth=Auth.TRUST)) as server:
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        client = RawClient(trio.SSLStream(tcp, context, server_hostname="localhost"))  # type: ignore[arg-type]
        await client.send_packet(struct.pack("!i", 3 << 16) + b"user\0ha\0\0")
        kind, body = await client.receive()
        assert kind == "E"
        assert "ALPN" in fields(body)["M"]


async def test_encryption_that_is_not_there_is_refused_and_the_client_goes_on() -> None:
    async with open_pg(TRUST) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        for request in (GSS_REQUEST, SSL_REQUEST):
            await stream.send_all(request)
            assert await stream.receive_some(1) == b"N"
        client = RawClient(stream)
        await client.send_packet(struct.pack("!i", 3 << 16) + b"user\0ha\0\0")
        assert (await client.until())[-1][0] == "Z"


async def test_bytes_before_the_encryption_do_not_count_as_said_inside(tmp_path: Path) -> None:
    async with open_pg(tls_config(tmp_path)) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        await stream.send_all(SSL_REQUEST + b"\0\0\0\x08extra")
        kind, body = await RawClient(stream).receive()
        assert kind == "E"
        assert "unencrypted data" in fields(body)["M"]


async def test_newer_minor_versions_and_options_are_negotiated() -> None:
    async with open_pg(TRUST) as server:
        for minor, key_length in ((0, 4), (2, 32), (9, 32)):
            stream = await trio.open_tcp_stream("127.0.0.1", server.port)
            client = RawClient(stream)
            option = b"_pq_.shiny\0on\0" if minor == 9 else b""
            await client.send_packet(
                struct.pack("!i", (3 << 16) | minor) + b"user\0ha\0" + option + b"\0"
            )
            messages = dict(await client.until())
            assert len(messages["K"]) == 4 + key_length
            if minor == 9:
                assert messages["v"] == struct.pack("!ii", (3 << 16) | 2, 1) + b"_pq_.shiny\0"
            else:
                assert "v" not in messages


async def test_what_the_server_is_stands_in_its_parameters() -> None:
    async with open_pg() as server:

        def read(c: psycopg.Connection[tuple[object, ...]]) -> dict[str, str | None]:
            names = ("server_version", "server_encoding", "client_encoding", "integer_datetimes",
                     "standard_conforming_strings", "TimeZone", "DateStyle", "application_name",
                     "is_superuser", "session_authorization", "in_hot_standby")  # fmt: skip
            return {n: c.info.parameter_status(n) for n in names}

        found = await server.psycopg(read, application_name="test")
        assert found == {
            "server_version": "17.2", "server_encoding": "UTF8", "client_encoding": "UTF8",
            "integer_datetimes": "on", "standard_conforming_strings": "on", "TimeZone": "UTC",
            "DateStyle": "ISO, MDY", "application_name": "test", "is_superuser": "off",
            "session_authorization": "ha", "in_hot_standby": "off",
        }  # fmt: skip


async def test_the_database_is_chosen_by_its_id() -> None:
    async with open_pg() as server:
        for name in ("ha", "ha.db", ""):
            found = await server.psycopg(
                lambda c: c.execute("SELECT current_database()").fetchone(), dbname=name
            )
            assert found == ("ha.db",)
        with pytest.raises(psycopg.OperationalError, match="no database 'nope'"):
            await in_thread(lambda: server.connect(dbname="nope"))


async def test_tools_find_the_databases_that_every_server_has() -> None:
    """psql -l, createdb and monitoring connect to "postgres" or "template1"."""
    async with open_pg() as server:
        for name in ("postgres", "template1"):
            found = await server.psycopg(
                lambda c: c.execute("SELECT current_database()").fetchone(), dbname=name
            )
            assert found == ("ha.db",)
        listed = await server.psql(options=["-l", "-A", "-t"], database=None)
        assert listed.splitlines()[0].split("|")[:3] == ["ha.db", "ha", "UTF8"]


async def test_settings_of_the_start_up_message() -> None:
    async with open_pg() as server:
        options = "-c statement_timeout=5s --TimeZone=Europe/Berlin -c search_path=a\\ b"

        def read(c: psycopg.Connection[tuple[object, ...]]) -> list[object]:
            names = ("statement_timeout", "timezone", "search_path")
            return [c.execute(f"SHOW {n}").fetchone() for n in names]

        found = await server.psycopg(read, options=options)
        assert found == [("5s",), ("Europe/Berlin",), ("a b",)]
        with pytest.raises(psycopg.OperationalError, match="unrecognized configuration parameter"):
            await in_thread(lambda: server.connect(options="-c nonsense=1"))
        with pytest.raises(psycopg.OperationalError, match="UTF8 alone"):
            await in_thread(lambda: server.connect(client_encoding="latin1"))


async def test_too_many_connections() -> None:
    async with open_pg(Config(limits=Limits(connections=2))) as server:

        def check() -> str | None:
            with server.connect(), server.connect():
                try:
                    server.connect().close()
                except psycopg.OperationalError as error:
                    return str(error)
            return None

        assert "too many clients" in str(await in_thread(check))
        await in_thread(server.connect)


async def test_a_client_that_says_nothing_is_cut_off() -> None:
    async with open_pg(Config(limits=Limits(login_time=0.2))) as server:
        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
        with trio.fail_after(5):
            assert await stream.receive_some(1) == b""


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x07abc",
        struct.pack("!ii", 8, 2 << 16),
        struct.pack("!ii", 9, 3 << 16) + b"x",
        struct.pack("!ii", 9, 3 << 16) + b"\0",
    ],
)
async def test_what_is_no_start_up_is_refused(data: bytes) -> None:
    async with open_pg() as server:
        client = RawClient(await trio.open_tcp_stream("127.0.0.1", server.port))
        await client.stream.send_all(data)
        kind, body = await client.receive()
        assert (kind, fields(body)["S"]) == ("E", "FATAL")
        with pytest.raises(EOFError):
            await client.receive()


async def test_a_replication_connection_is_refused() -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw(replication="database")
        kind, body = await client.receive()
        assert (kind, fields(body)["C"]) == ("E", "0A000")


async def test_clients_are_told_of_a_shutdown() -> None:
    async with open_pg(TRUST) as server:
        client = await server.raw()
        await client.until()
    kind, body = await client.receive()
    assert (kind, fields(body)["C"]) == ("E", "57P01")
