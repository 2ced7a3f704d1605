"""The embedded NATS server: starting, options, supervision, and dying with the node."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from ha.log import guard
from ha.log.api import LogError, Outgoing
from ha.log.jetstream import JetStreamBroker, JetStreamLog, JetStreamOptions
from ha.log.nats_config import scan
from ha.log.private_folder import Lock, PrivateFolder
from ha.log.server import Durability, NatsServer, ServerOptions, ServerStartError
from tests.jepsen_like.disks import Mount, Tmpfs

pytestmark = pytest.mark.processes

HOST = "127.0.0.1"


def server_info(port: int) -> dict[str, object]:
    """The INFO line that a NATS server sends first."""
    with socket.create_connection((HOST, port), timeout=5) as connection:
        line = connection.makefile("rb").readline()
    info = json.loads(line.removeprefix(b"INFO "))
    assert isinstance(info, dict)
    return info


def is_alive(pid: int) -> bool:
    """Not gone, and not a zombie that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_gone(pid: int) -> None:
    deadline = time.monotonic() + 5
    while is_alive(pid):
        assert time.monotonic() < deadline, f"{pid} lives on"
        time.sleep(0.005)


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")


async def test_is_ready_when_entered_and_gone_after() -> None:
    async with NatsServer(ServerOptions(host=HOST, port=0)) as server:
        info = server_info(server.port)
        assert info["jetstream"] is True
        assert info["max_payload"] == 8 * 1024 * 1024
        assert server.url == f"nats://{HOST}:{server.port}"
        pid = server.pid
    assert not is_alive(pid)


async def is_taken(log: JetStreamLog) -> bool:
    try:
        await log.publish_one(Outgoing("", bytes(5000)), 1)
    except LogError:
        return False
    return True


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Mount]:
    (tmp_path / "disk").mkdir()
    try:
        disk = Tmpfs(tmp_path / "disk", 64)
    except OSError as error:
        pytest.skip(f"no file system of our own can be mounted here: {error}")
    yield disk
    disk.close()


async def test_a_disk_that_was_full_is_written_again_when_there_is_room(
    small_disk: Mount, tmp_path: Path
) -> None:
    """nats-server itself takes nothing more for a stream after its first failed write."""
    async with NatsServer(
        ServerOptions(host=HOST, port=0, store_dir=tmp_path / "disk" / "store")
    ) as server:
        options = JetStreamOptions(urls=server.url, node="a", timeout=1.0)
        async with JetStreamBroker(options, rng=random.Random(1)) as broker:
            log = await broker.log("ha.db")
            await log.publish_one(Outgoing("before", b"x"), 10)
            small_disk.fill()
            with trio.fail_after(30):
                while await is_taken(log):
                    pass  # there may be some room left behind the end of a file
                small_disk.make_room()
                while not await is_taken(log):  # noqa: ASYNC110
                    await trio.sleep(0.1)
    assert server.restarts


async def test_listens_on_all_interfaces_by_default_and_names_a_local_url() -> None:
    async with NatsServer(ServerOptions(port=0)) as server:
        assert server.url == f"nats://{HOST}:{server.port}"
        assert server_info(server.port)["host"] == "0.0.0.0"


async def test_secrets_stand_in_no_command_line_and_in_a_private_file() -> None:
    options = ServerOptions(host=HOST, port=0, user="ann", password='s3"cret /@')
    async with NatsServer(options) as server:
        assert server.url == f"nats://ann:s3%22cret%20%2F%40@{HOST}:{server.port}"
        assert server_info(server.port)["auth_required"] is True
        command = command_line(server.pid)
        assert not any("s3" in word for word in command)
        config = command[command.index("-c") + 1]
        assert os.stat(config).st_mode & 0o777 == 0o600
        assert os.stat(os.path.dirname(config)).st_mode & 0o777 == 0o700
    with pytest.raises(FileNotFoundError):
        os.stat(os.path.dirname(config))


async def test_dies_and_comes_back_on_the_same_port(tmp_path: Path) -> None:
    async with NatsServer(ServerOptions(host=HOST, port=0, store_dir=tmp_path)) as server:
        port, first = server.port, server.pid
        os.kill(first, signal.SIGKILL)
        with trio.fail_after(10):
            while server.restarts == 0:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert server.running
        assert server.port == port
        assert server.pid != first
        assert server_info(port)["jetstream"] is True


async def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ServerStartError, match=f"{port}.*address already in use"):
            async with NatsServer(ServerOptions(host=HOST, port=port)):
                pass


async def test_a_bad_configuration_is_told_in_nats_servers_words(tmp_path: Path) -> None:
    config = tmp_path / "bad.conf"
    config.write_text('server_name: "x"\nno_such_option: 3\n')
    with pytest.raises(ServerStartError, match=r"bad\.conf:2.*no_such_option"):
        async with NatsServer(ServerOptions(host=HOST, port=0, config=config)):
            pass


async def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"none\.conf"):
        async with NatsServer(ServerOptions(host=HOST, port=0, config=tmp_path / "none.conf")):
            pass


async def test_a_configuration_that_turns_jetstream_off_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "off.conf"
    config.write_text("jetstream: disabled\n")
    with pytest.raises(ServerStartError, match="without JetStream"):
        async with NatsServer(ServerOptions(host=HOST, port=0, config=config)):
            pass


async def test_what_the_users_file_sets_holds_and_the_rest_is_ours(tmp_path: Path) -> None:
    store = tmp_path / "store"
    config = tmp_path / "user.conf"
    config.write_text(
        f'server_name: "from-file"\nmax_payload: 2MB\njetstream {{ domain: hub }}\n'
        f'log_file: "{tmp_path}/nats.log"\n'
    )
    options = ServerOptions(host=HOST, port=0, config=config, store_dir=store)
    async with NatsServer(options) as server:
        info = server_info(server.port)
        assert info["server_name"] == "from-file"
        assert info["max_payload"] == 2 * 1024 * 1024
        assert info["domain"] == "hub"
        assert (store / "jetstream").is_dir()


async def test_the_users_file_may_choose_the_port(tmp_path: Path) -> None:
    config = tmp_path / "user.conf"
    config.write_text(f'listen: "{HOST}:-1"\n')
    async with NatsServer(ServerOptions(port=1, config=config)) as server:
        assert server.port > 1
        assert server_info(server.port)["host"] == HOST


@pytest.mark.parametrize(
    ("durability", "file", "expected"),
    [
        (Durability.NORMAL, "", False),
        (Durability.FULL, "", True),
        (Durability.FULL, "jetstream { sync_interval: always }\n", True),
    ],
)
async def test_full_durability_syncs_each_write(
    tmp_path: Path, durability: Durability, file: str, expected: bool
) -> None:
    config = tmp_path / "user.conf"
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        monitor = probe.getsockname()[1]
    config.write_text(f'http: "{HOST}:{monitor}"\n{file}')
    options = ServerOptions(host=HOST, port=0, config=config, durability=durability)
    async with NatsServer(options):
        with socket.create_connection((HOST, monitor), timeout=5) as connection:
            connection.sendall(b"GET /varz HTTP/1.0\r\n\r\n")
            body = connection.makefile("rb").read().partition(b"\r\n\r\n")[2]
    assert json.loads(body)["jetstream"]["config"].get("sync_always", False) is expected


async def test_full_durability_refuses_a_file_that_does_not_sync(tmp_path: Path) -> None:
    config = tmp_path / "user.conf"
    config.write_text("jetstream { max_file: 1G }\n")
    options = ServerOptions(host=HOST, port=0, config=config, durability=Durability.FULL)
    with pytest.raises(ServerStartError, match="sync_interval: always"):
        async with NatsServer(options):
            pass


async def test_two_servers_never_share_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ha.log.server._STORE_TIMEOUT", 0.1)
    options = ServerOptions(host=HOST, port=0, store_dir=tmp_path)
    async with NatsServer(options):
        with pytest.raises(ServerStartError, match="in use by another process"):
            async with NatsServer(options):
                pass


async def test_an_error_inside_goes_on_as_it_is() -> None:
    server = NatsServer(ServerOptions(host=HOST, port=0))

    async def fail() -> None:
        async with server:
            raise KeyError("of the node")

    with pytest.raises(KeyError, match="of the node"):
        await fail()
    assert not server.running


_NODE = """
import sys, trio
from pathlib import Path
from ha.log.server import NatsServer, ServerOptions

async def main():
    options = ServerOptions(host="127.0.0.1", port=0, store_dir=Path(sys.argv[1]))
    async with NatsServer(options) as server:
        print(server.pid, server.port, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_never_outlives_a_killed_node(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(guard.__file__).parents[2])}
    for _ in range(2):  # the second finds the store, and its lock, free
        node = subprocess.Popen(
            [sys.executable, "-c", _NODE, str(tmp_path)], stdout=subprocess.PIPE, env=environment
        )
        assert node.stdout is not None
        pid, port = map(int, node.stdout.readline().split())
        assert server_info(port)["jetstream"] is True
        node.kill()
        until_gone(pid)
        node.wait()
        node.stdout.close()


def test_the_watching_guard_ends_its_command_with_the_pipe() -> None:
    guarded = subprocess.Popen(
        [
            *(sys.executable, "-I", "-S", guard.__file__, "0", "watch"),
            *(sys.executable, "-c", "import os,time; print(os.getpid(), flush=1); time.sleep(99)"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert guarded.stdin is not None
    assert guarded.stdout is not None
    pid = int(guarded.stdout.readline())
    assert is_alive(pid)
    guarded.stdin.close()
    until_gone(pid)
    assert guarded.wait(5) != 0
    guarded.stdout.close()


def test_the_guard_refuses_when_its_parent_is_gone_already() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", guard.__file__, "1", "exec", "/bin/true"],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert done.returncode != 0
    assert b"parent is gone" in done.stderr


def test_scan_reads_the_syntax_of_nats_server(tmp_path: Path) -> None:
    (tmp_path / "more.conf").write_text('{"max_payload": 1024, "tls": {"cert_file": "x"}}')
    config = tmp_path / "user.conf"
    config.write_text(
        "# a comment { port: 1 }\n"
        "listen: 127.0.0.1:4222 // jetstream: enabled\n"
        "jetstream {\n  store_dir = '/data/x', Sync_Interval: always; domain hub\n}\n"
        "cluster { name: C1, routes: [ nats://a:6222\n nats://b:6222 ] }\n"
        "accounts: { A: { users: [ {user: a, password: b} ] } }\n"
        "include more.conf\n"
    )
    assert scan(config) == {
        "listen": "127.0.0.1:4222",
        "jetstream": "",
        "jetstream.store_dir": "/data/x",
        "jetstream.sync_interval": "always",
        "jetstream.domain": "hub",
        "cluster": "",
        "cluster.name": "C1",
        "cluster.routes": "",
        "accounts": "",
        "accounts.a": "",
        "accounts.a.users": "",
        "max_payload": "1024",
        "tls": "",
        "tls.cert_file": "x",
    }


def test_a_folder_that_a_killed_process_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "ha-x-left"
    left.mkdir()
    Lock(left / "lock").close()
    without_lock = tmp_path / "ha-x-new"
    without_lock.mkdir()
    with PrivateFolder("ha-x-") as held:
        assert not left.exists()
        assert without_lock.exists()
        with PrivateFolder("ha-x-"):
            assert held.path.exists()
    assert not held.path.exists()
