"""SCRAM-SHA-256, the server's side: the example of RFC 7677 and everything that must fail."""

from __future__ import annotations

import base64
import hashlib
import ssl
from pathlib import Path

import pytest
from scramp import ScramClient

from ha.wire.postgres.scram import (
    MECHANISM,
    MECHANISM_PLUS,
    ScramError,
    ScramServer,
    Verifier,
    end_point_binding,
    saslprep,
)
from tests.support.certificate import make_certificate

SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
CLIENT_FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
CLIENT_FINAL = (
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
    b"p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
)


def server(password: str = "pencil", **options: object) -> ScramServer:
    arguments = {"mechanism": MECHANISM, **options}
    return ScramServer(Verifier.of(password, SALT), NONCE, **arguments)  # type: ignore[arg-type]


def test_the_example_of_rfc_7677() -> None:
    exchange = server()
    assert exchange.first(CLIENT_FIRST) == (
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    )
    assert exchange.final(CLIENT_FINAL) == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def test_a_wrong_password_is_no_error_but_no_answer() -> None:
    exchange = server("pencils")
    exchange.first(CLIENT_FIRST)
    assert exchange.final(CLIENT_FINAL) is None


def test_an_unknown_user_gets_the_same_salt_at_every_try_and_never_in() -> None:
    one, two = Verifier.mock("eve", b"secret"), Verifier.mock("eve", b"secret")
    assert one == two
    assert one.salt != Verifier.mock("bob", b"secret").salt
    client = ScramClient([MECHANISM], "eve", "anything")
    exchange = ScramServer(one, NONCE, MECHANISM)
    client.set_server_first(exchange.first(client.get_client_first().encode()).decode())
    assert exchange.final(client.get_client_final().encode()) is None


@pytest.mark.parametrize("password", ["ha", "pässwörd", "ﬀ", "a b", "I\u00adX", "\u2168"])
def test_another_implementation_logs_in(password: str) -> None:
    client = ScramClient([MECHANISM], "ha", password)
    exchange = server(password)
    client.set_server_first(exchange.first(client.get_client_first().encode()).decode())
    final = exchange.final(client.get_client_final().encode())
    assert final is not None
    client.set_server_final(final.decode())  # verifies the server's signature


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (b"", "GS2"),
        (b"n,,", "user name"),
        (b"n,,n=u", "user name"),
        (b"n,,n=u,r=", "nonce"),
        (b"n,a=x,n=u,r=1", "authorization identity"),
        (b"p=tls-unique,,n=u,r=1", "channel-binding type"),
        (b"p=tls-server-end-point,,n=u,r=1", "not negotiated"),
        (b"q,,n=u,r=1", "flag"),
        (b"n,,n=\xff,r=1", "UTF-8"),
    ],
)
def test_malformed_first_messages(first: bytes, message: str) -> None:
    with pytest.raises(ScramError, match=message):
        server().first(first)


@pytest.mark.parametrize(
    ("final", "message"),
    [
        (b"", "no proof"),
        (b"c=biws,p=AAAA", "no proof"),
        (b"r=x,c=biws,p=AAAA", "channel binding and nonce"),
        (b"c=AAAA,r=x,p=AAAA", "channel binding"),
        (b"c=biws,r=other,p=AAAA", "nonce"),
        (CLIENT_FINAL[:-4] + b"!!!!", "base64"),
        (b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=AAAA", "wrong length"),
    ],
)
def test_malformed_last_messages(final: bytes, message: str) -> None:
    exchange = server()
    exchange.first(CLIENT_FIRST)
    with pytest.raises(ScramError, match=message):
        exchange.final(final)


def test_channel_binding_is_checked() -> None:
    binding = b"\1" * 32
    for data, good in ((binding, True), (b"\2" * 32, False)):
        client = ScramClient(
            [MECHANISM_PLUS], "ha", "pencil", channel_binding=("tls-server-end-point", data)
        )
        exchange = server(mechanism=MECHANISM_PLUS, binding=binding)
        client.set_server_first(exchange.first(client.get_client_first().encode()).decode())
        if good:
            assert exchange.final(client.get_client_final().encode()) is not None
        else:
            with pytest.raises(ScramError, match="channel binding does not match"):
                exchange.final(client.get_client_final().encode())


def test_a_client_that_was_told_of_no_binding_is_warned() -> None:
    with pytest.raises(ScramError, match="in between"):
        server(binding=b"x").first(b"y,,n=u,r=1")


def test_saslprep_follows_rfc_4013() -> None:
    assert saslprep("I\u00adX") == "IX"
    assert saslprep("\u00aa") == "a"
    assert saslprep("\u2168") == "IX"
    assert saslprep("a\u00a0b") == "a b"
    assert saslprep("\u0627\u0031") == "\u0627\u0031"  # prohibited: used as it is


@pytest.mark.parametrize("digest", ["sha256", "sha384"])
def test_the_hash_of_a_certificate_is_that_of_its_signature(tmp_path: Path, digest: str) -> None:
    certificate, _ = make_certificate(tmp_path, digest)
    der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
    assert end_point_binding(der) == hashlib.new(digest, der).digest()


def test_what_is_no_certificate_has_no_binding() -> None:
    assert end_point_binding(b"\x30\x03\x02\x01\x00") is None
    assert end_point_binding(b"") is None
