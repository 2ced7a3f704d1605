"""The node's HTTP API, for commands: JSON, files, and errors as the node says them."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

_PORTS = {"http": 80, "https": 443}


class RemoteError(Exception):
    """The node refused, or is not in reach. ``body``: its answer, if there was one."""

    def __init__(self, message: str, body: Any = None) -> None:
        super().__init__(message)
        self.body = body


@dataclass(frozen=True, slots=True)
class Remote:
    """``url``: of the node, ``http://host:port``; ``database``: its id, None for the default
    one; ``timeout``: seconds without any progress."""

    url: str
    token: str | None = None
    database: str | None = None
    timeout: float = 60.0

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        return self._json("GET", path, query)

    def post(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        return self._json("POST", path, query)

    def _json(self, method: str, path: str, query: Mapping[str, str] | None) -> Any:
        with self._request(method, path, query) as response:
            return _decode(response.read())

    @contextmanager
    def file(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """The answer, to be read piece by piece."""
        with self._request("GET", path, None) as response:
            yield response

    def of_database(self, path: str) -> str:
        """The path for the database that is meant."""
        if self.database is None:
            return path
        return f"/databases/{quote(self.database, safe='')}{path}"

    @contextmanager
    def _request(
        self, method: str, path: str, query: Mapping[str, str] | None
    ) -> Iterator[http.client.HTTPResponse]:
        connection = self._connect()
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        target = f"{path}?{urlencode(query)}" if query else path
        try:
            try:
                connection.request(method, target, headers=headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                raise RemoteError(f"{self.url} is not in reach: {error}") from error
            if response.status >= 300:
                raise _refusal(response)
            try:
                yield response
            except (OSError, http.client.HTTPException) as error:
                raise RemoteError(f"{self.url} broke off: {error}") from error
        finally:
            connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.url if "://" in self.url else f"http://{self.url}")
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in _PORTS or not parts.hostname or port == -1:
            raise RemoteError(f"{self.url!r} is not a URL like http://localhost:8080")
        host, port = parts.hostname, port or _PORTS[parts.scheme]
        if parts.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=self.timeout, context=context)
        return http.client.HTTPConnection(host, port, timeout=self.timeout)


def _decode(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise RemoteError("the answer is not JSON: is this a node of ha?") from error


def _refusal(response: http.client.HTTPResponse) -> RemoteError:
    data = response.read()
    try:
        body = json.loads(data)
        error = body["error"]
        message = str(error["message"])
        if error.get("hint"):
            message += f" ({error['hint']})"
    except (ValueError, KeyError, TypeError):
        return RemoteError(f"HTTP {response.status} {response.reason}")
    return RemoteError(message, body)
