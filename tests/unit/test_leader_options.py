"""The flags of leader mode: what they take, and what they refuse with the line to add."""

from __future__ import annotations

from pathlib import Path

import pytest

from ha.cli.options import UsageError, parse
from ha.config import Config


def configure(*arguments: str) -> Config:
    return parse(list(arguments), {})


def refusal(*arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        configure(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "address",
    ["node1:8080", "127.0.0.1:8080", "[::1]:8080", "http://node1:8080", "https://node1.example"],
)
def test_addresses(address: str) -> None:
    config = configure("--leader-addr", address, "--grpc-insecure")
    assert config.leader_addr == address
    assert config.leader_lease == 2.0
    assert configure("--leader-static", address, "--grpc-insecure").leader_static == address


@pytest.mark.parametrize(
    "address",
    ["node1", "node1:x", "node1:99999", "nats://node1:8080", "http://", "http://a/b", ":8080",
     "http://user:pass@node1:8080", "node1:8080/x", "node 1:8080"],
)  # fmt: skip
def test_what_is_no_address(address: str) -> None:
    message = refusal("--leader-addr", address, "--grpc-insecure")
    assert "--leader-addr" in message
    assert "must" in message


@pytest.mark.parametrize("flag", ["--leader-addr", "--leader-static"])
def test_writes_travel_under_tls_or_by_consent(flag: str, tmp_path: Path) -> None:
    message = refusal(flag, "node1:8080")
    assert "--http-cert" in message
    assert "--grpc-insecure" in message
    for name in ("cert", "key"):
        (tmp_path / name).write_text("")
    tls = ("--http-cert", str(tmp_path / "cert"), "--http-key", str(tmp_path / "key"))
    configure(flag, "node1:8080", *tls)


def test_what_a_leader_excludes() -> None:
    leader = ("--leader-addr", "node1:8080", "--grpc-insecure")
    assert "--async-replication" in refusal(*leader, "--async-replication")
    assert "--replication-url" in refusal(*leader, "--nats-port", "0")
    configure(*leader, "--nats-port", "0", "--replication-url", "nats://localhost:4222")


def test_a_client_of_a_node_needs_none_of_this() -> None:
    configure("--leader-addr", "node1:8080", "-r", "http://localhost:8080")
