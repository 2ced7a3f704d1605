"""What a key-value bucket is in NATS: a stream that keeps one message a key.

The format is that of NATS' own key-value store, so that ``nats kv`` reads it.
Source: ADR-8 (key-value store).
"""

from __future__ import annotations

from ha.log.client import Client
from ha.log.js_api import Api
from ha.log.ordered import OrderedConsumer


def bucket_stream(bucket: str) -> str:
    """The stream's name."""
    return f"KV_{bucket}"


def bucket_config(
    bucket: str, replicas: int, *, direct: bool, max_age: float = 0.0
) -> dict[str, object]:
    """For STREAM.CREATE. ``direct``: followers answer too, who may be behind; ``max_age``: seconds
    after which the server forgets what was not set again, 0 for never."""
    return {
        "name": bucket_stream(bucket),
        "subjects": [f"$KV.{bucket}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "max_age": int(max_age * 1e9),
        "num_replicas": replicas,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": direct,
    }


def bucket_consumer(client: Client, api: Api, bucket: str) -> OrderedConsumer:
    """All that it holds, and each change from then on; to be started by the caller."""
    return OrderedConsumer(
        client,
        api,
        stream=bucket_stream(bucket),
        subject=f"$KV.{bucket}.>",
        after=0,
        check=lambda info, position, floor: None,
    )
