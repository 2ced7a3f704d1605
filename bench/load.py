"""A load on an HTTP server, from a process of its own: ``python -m bench.load URL …``.

Keep-alive connections that send one fixed request after the other; prints JSON with the rate.
"""

from __future__ import annotations

import json
import sys
import time

import trio


async def _client(host: str, port: int, request: bytes, until: float, counts: list[int]) -> None:
    stream = await trio.open_tcp_stream(host, port)
    async with stream:
        count = 0
        data = b""
        while time.perf_counter() < until:
            await stream.send_all(request)
            while (end := data.find(b"\r\n\r\n")) < 0:
                data += await _more(stream)
            head = data[:end].lower()
            if not head.startswith(b"http/1.1 200"):
                raise SystemExit(data.decode(errors="replace"))
            at = head.index(b"content-length:") + 15
            stop = head.find(b"\r\n", at)
            length = int(head[at : stop if stop >= 0 else None])
            while len(data) < end + 4 + length:
                data += await _more(stream)
            data = data[end + 4 + length :]
            count += 1
        counts.append(count)


async def _more(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some(65536))
    if not data:
        raise SystemExit("the server closed the connection")
    return data


async def main(
    host: str, port: int, path: str, body: str, connections: int, seconds: float
) -> None:
    payload = body.encode()
    request = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(payload)}\r\n\r\n"
    ).encode() + payload
    counts: list[int] = []
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(_client, host, port, request, began + seconds, counts)
    print(json.dumps({"rate": sum(counts) / (time.perf_counter() - began)}))


if __name__ == "__main__":
    host, port, path, body, connections, seconds = sys.argv[1:]
    trio.run(main, host, int(port), path, body, int(connections), float(seconds))
