"""The token of the node: who may ask."""

from __future__ import annotations

import hashlib
import hmac

from ha.core.errors import Code, HaError


class Guard:
    """Compares what a client presents with the node's token, in a time that tells nothing.

    Digests are compared, for they are of one length whatever was presented. Without a token
    everybody may ask.
    """

    def __init__(self, token: str | None) -> None:
        self._digest = _digest(token.encode()) if token else None

    def check(self, authorization: bytes | None) -> HaError | None:
        """``authorization``: the header's value, ``TOKEN`` or ``Bearer TOKEN``. None: it fits."""
        if self._digest is None:
            return None
        if authorization is None:
            return HaError(
                Code.UNAUTHORIZED,
                "a token is needed: send the header Authorization: Bearer TOKEN",
            )
        presented = authorization.strip()
        # Both are always compared: a token may itself begin with "Bearer ".
        whole = hmac.compare_digest(_digest(presented), self._digest)
        scheme, _, rest = presented.partition(b" ")
        bare = hmac.compare_digest(_digest(rest.strip()), self._digest)
        if whole or (bare and scheme.lower() == b"bearer"):
            return None
        return HaError(Code.UNAUTHORIZED, "the token is wrong")


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
