"""The server's side of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS. No I/O.

Sources: RFC 5802, RFC 7677 (SHA-256), RFC 5929 (tls-server-end-point), RFC 4013 (SASLprep),
PostgreSQL documentation, "SASL Authentication" (the name in the first message is ignored:
the user is the one of the start-up message).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import stringprep
import unicodedata
from dataclasses import dataclass

ITERATIONS = 4096
MECHANISM = "SCRAM-SHA-256"
MECHANISM_PLUS = "SCRAM-SHA-256-PLUS"


class ScramError(Exception):
    """The exchange is malformed (not: the password is wrong)."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What a server keeps instead of a password."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes

    @classmethod
    def of(cls, password: str, salt: bytes, iterations: int = ITERATIONS) -> Verifier:
        salted = hashlib.pbkdf2_hmac("sha256", saslprep(password).encode(), salt, iterations)
        client_key = _hmac(salted, b"Client Key")
        return cls(
            salt, iterations, hashlib.sha256(client_key).digest(), _hmac(salted, b"Server Key")
        )

    @classmethod
    def mock(cls, user: str, secret: bytes) -> Verifier:
        """For a user that does not exist: the same salt at every try, and no password fits."""
        seed = _hmac(secret, user.encode())
        return cls(seed[:16], ITERATIONS, _hmac(secret, b"stored" + seed), seed)


def saslprep(password: str) -> str:
    """RFC 4013; a password that it prohibits is used as it is, as PostgreSQL does."""
    if password.isascii():
        return password
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c)
    )
    normal = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if not normal:
        return password
    prohibited = (
        stringprep.in_table_a1,
        stringprep.in_table_c12,
        stringprep.in_table_c21_c22,
        stringprep.in_table_c3,
        stringprep.in_table_c4,
        stringprep.in_table_c5,
        stringprep.in_table_c6,
        stringprep.in_table_c7,
        stringprep.in_table_c8,
        stringprep.in_table_c9,
    )
    if any(test(c) for c in normal for test in prohibited):
        return password
    right_to_left = [stringprep.in_table_d1(c) for c in normal]
    if any(right_to_left) and (
        any(stringprep.in_table_d2(c) for c in normal)
        or not (right_to_left[0] and right_to_left[-1])
    ):
        return password
    return normal


class ScramServer:
    """One exchange: :meth:`first` answers the client's first message, :meth:`final` the last.

    ``nonce`` is the server's part, printable and fresh. ``binding`` is the data of
    tls-server-end-point, None where channel binding is not offered.
    """

    def __init__(
        self, verifier: Verifier, nonce: str, mechanism: str, binding: bytes | None = None
    ) -> None:
        self._verifier = verifier
        self._nonce = nonce
        self._mechanism = mechanism
        self._binding = binding
        self._client_first_bare = ""
        self._server_first = ""
        self._gs2 = b""

    def first(self, data: bytes) -> bytes:
        """The server's first message. Raises ScramError."""
        message = _ascii(data)
        flag, comma, rest = message.partition(",")
        authzid, comma2, bare = rest.partition(",")
        if not comma or not comma2:
            raise ScramError("the first message has no GS2 header")
        if authzid:
            raise ScramError("an authorization identity is not supported")
        if flag == "p=tls-server-end-point":
            if self._mechanism != MECHANISM_PLUS or self._binding is None:
                raise ScramError("channel binding was not negotiated")
        elif flag.startswith("p="):
            raise ScramError(f"unknown channel-binding type {flag[2:]!r}")
        elif flag == "y":
            if self._binding is not None:
                raise ScramError(
                    "the client thinks that this server has no channel binding, but it has: "
                    "somebody may be in between"
                )
        elif flag != "n":
            raise ScramError("bad channel-binding flag")
        if self._mechanism == MECHANISM_PLUS and not flag.startswith("p="):
            raise ScramError(f"{MECHANISM_PLUS} was chosen without channel binding")
        self._gs2 = f"{flag},{authzid},".encode()
        fields = bare.split(",")
        if len(fields) < 2 or not fields[0].startswith("n=") or not fields[1].startswith("r="):
            raise ScramError("the first message needs a user name and a nonce")
        client_nonce = fields[1][2:]
        if not client_nonce:
            raise ScramError("the nonce of the client is empty")
        self._client_first_bare = bare
        self._nonce = client_nonce + self._nonce
        salt = base64.b64encode(self._verifier.salt).decode()
        self._server_first = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        return self._server_first.encode()

    def final(self, data: bytes) -> bytes | None:
        """The server's last message; None: the password is wrong. Raises ScramError."""
        message = _ascii(data)
        without_proof, separator, proof_text = message.rpartition(",p=")
        fields = without_proof.split(",")
        if not separator or len(fields) < 2:
            raise ScramError("the last message has no proof")
        if not fields[0].startswith("c=") or not fields[1].startswith("r="):
            raise ScramError("the last message needs channel binding and nonce")
        expected = self._gs2
        if self._gs2.startswith(b"p=") and self._binding is not None:
            expected += self._binding
        bound = hmac.compare_digest(_base64(fields[0][2:]), expected)
        fresh = hmac.compare_digest(fields[1][2:].encode(), self._nonce.encode())
        if not bound:
            raise ScramError("the channel binding does not match")
        if not fresh:
            raise ScramError("the nonce does not match")
        proof = _base64(proof_text)
        if len(proof) != 32:
            raise ScramError("the proof has a wrong length")
        auth_message = f"{self._client_first_bare},{self._server_first},{without_proof}".encode()
        signature = _hmac(self._verifier.stored_key, auth_message)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        stored = hashlib.sha256(client_key).digest()
        if not hmac.compare_digest(stored, self._verifier.stored_key):
            return None
        server_signature = _hmac(self._verifier.server_key, auth_message)
        return b"v=" + base64.b64encode(server_signature)


def end_point_binding(certificate: bytes) -> bytes | None:
    """The tls-server-end-point data of a DER certificate (RFC 5929 §4.1).

    The hash is that of the certificate's signature; MD5 and SHA-1 become SHA-256. None where
    the signature names no single hash (RSA-PSS, Ed25519).
    """
    try:
        oid = _signature_oid(certificate)
    except IndexError:
        return None
    name = _SIGNATURE_HASHES.get(oid)
    return None if name is None else hashlib.new(name, certificate).digest()


_SIGNATURE_HASHES = {
    bytes.fromhex("2a864886f70d010104"): "sha256",  # md5WithRSA
    bytes.fromhex("2a864886f70d010105"): "sha256",  # sha1WithRSA
    bytes.fromhex("2a864886f70d01010b"): "sha256",
    bytes.fromhex("2a864886f70d01010c"): "sha384",
    bytes.fromhex("2a864886f70d01010d"): "sha512",
    bytes.fromhex("2a864886f70d01010e"): "sha224",
    bytes.fromhex("2a8648ce3d0401"): "sha256",  # ecdsa-with-SHA1
    bytes.fromhex("2a8648ce3d040301"): "sha224",
    bytes.fromhex("2a8648ce3d040302"): "sha256",
    bytes.fromhex("2a8648ce3d040303"): "sha384",
    bytes.fromhex("2a8648ce3d040304"): "sha512",
}


def _signature_oid(der: bytes) -> bytes:
    """Certificate ::= SEQUENCE { tbs, SEQUENCE { OID, … }, signature }"""
    start, _ = _der(der, 0)
    _, after_tbs = _der(der, start)
    algorithm, _ = _der(der, after_tbs)
    oid, end = _der(der, algorithm)
    return der[oid:end]


def _der(data: bytes, position: int) -> tuple[int, int]:
    """Where the content of the DER element at ``position`` starts and ends."""
    length = data[position + 1]
    start = position + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[start : start + size], "big")
        start += size
    return start, start + length


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _ascii(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ScramError("the message is not UTF-8") from error


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ScramError("bad base64") from error
