"""gRPC, TLS and their options on a node as users start it."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import grpc
import httpx
import pytest
import trustme

import ha.dbapi as db
from tests.conftest import NatsProcess
from tests.support.grpc_client import Stream, channel, services
from tests.support.processes import running_node

pytestmark = pytest.mark.processes


def test_grpc_stands_on_the_port_of_http_with_its_options(tmp_path: Path) -> None:
    options = ["--token", "secret", "--max-result", "4KiB"]
    with (
        running_node("n1", *options, cwd=tmp_path, nats=False) as node,
        channel(f"127.0.0.1:{node.ports['http']}") as connection,
    ):
        stub = services.DatabaseServiceStub(connection)
        stream = Stream(stub, timeout=30, metadata=[("authorization", "secret")])
        stream.ask("CREATE TABLE t(x)")
        stream.ask("BEGIN")
        stream.ask("INSERT INTO t VALUES (?)", 7)
        assert stream.ask("COMMIT").txseq > 0
        assert stream.rows("SELECT x FROM t") == [(7,)]
        assert "larger than 4KiB" in stream.ask("SELECT zeroblob(5000)").error
        bearer = {"authorization": "Bearer secret"}
        answer = httpx.post(f"{node.url}/query", json={"sql": "SELECT x FROM t"}, headers=bearer)
        assert answer.json()["rows"] == [[7]]
        assert node.stop() == 0
        with pytest.raises(grpc.RpcError) as info:
            stream.receive()
        assert info.value.code() is grpc.StatusCode.UNAVAILABLE


def test_tls_for_http_and_grpc(tmp_path: Path) -> None:
    authority = trustme.CA()
    server, client = authority.issue_cert("localhost"), authority.issue_cert("client")
    server.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    server.private_key_pem.write_to_path(tmp_path / "key.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    options = ["--http-cert", "cert.pem", "--http-key", "key.pem", "--http-client-ca", "ca.pem"]
    with running_node("n1", *options, cwd=tmp_path, nats=False) as node:
        port = node.ports["http"]
        context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"https://localhost:{port}/healthz", verify=context)
        client.configure_cert(context)
        assert httpx.get(f"https://localhost:{port}/healthz", verify=context).status_code == 200
        credentials = grpc.ssl_channel_credentials(
            authority.cert_pem.bytes(),
            client.private_key_pem.bytes(),
            client.cert_chain_pems[0].bytes(),
        )
        with channel(f"localhost:{port}", credentials) as connection:
            stream = Stream(services.DatabaseServiceStub(connection), timeout=30)
            assert stream.rows("SELECT 1") == [(1,)]
            stream.close()


def test_a_certificate_that_is_none_is_named(tmp_path: Path) -> None:
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("nonsense")
    done = subprocess.run(
        [sys.executable, "-m", "ha", "-m", "--port", "0", "--nats-port", "0",
         "--http-cert", "cert.pem", "--http-key", "key.pem"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert "--http-cert cert.pem" in last
    assert "PEM" in last


def test_the_driver_reads_its_writes_from_the_other_node_when_its_own_is_killed(
    tmp_path: Path, nats_server: NatsProcess
) -> None:
    at = ["--replication-url", nats_server.url]
    with (
        running_node("n1", *at, cwd=tmp_path, nats=False) as one,
        running_node("n2", *at, cwd=tmp_path, nats=False) as two,
    ):
        one.wait_ready()
        two.wait_ready()
        ports = {one.ports["http"]: one, two.ports["http"]: two}
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        connection = db.connect(f"ha://{addresses}", autocommit=True)
        connection.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, x)")
        assert connection.address is not None
        for n in range(100):
            connection.execute("INSERT INTO t(x) VALUES (?)", (n,))
        first = ports[connection.address.port]
        first.kill()
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (100,)
        assert ports[connection.address.port] is not first
        connection.execute("INSERT INTO t(x) VALUES (100)")
        connection.close()
