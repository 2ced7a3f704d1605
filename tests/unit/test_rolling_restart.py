"""Three nodes are restarted one after the other under load: no write fails for good."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path

import httpx

from tests.support.leader_cluster import LeaderNode, three_servers, wait_leader

RETRIED = {"no_leader", "not_leader", "not_written", "unavailable", "busy", "stale"}
"""After these nothing was written, and the same may be sent again."""


class Client(threading.Thread):
    """Writes one row after the other, to one node after the other."""

    def __init__(self, nodes: list[LeaderNode]) -> None:
        super().__init__(daemon=True)
        self.urls = [node.url for node in nodes]
        self.written = 0
        self._progress = threading.Condition()
        self.seen: Counter[str] = Counter()
        self.failure: str | None = None
        self.longest = 0.0
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set() and self.failure is None:
            began = time.monotonic()
            self._write(self.written + 1, began + 60)
            self.longest = max(self.longest, time.monotonic() - began)

    def goes_on(self, rows: int) -> bool:
        """Wait until that many more are written; False if they are not in a minute."""
        with self._progress:
            wanted = self.written + rows
            return self._progress.wait_for(lambda: self.written >= wanted, 60)

    def _write(self, number: int, deadline: float) -> None:
        attempt = number
        while time.monotonic() < deadline:
            attempt += 1
            outcome = self._try(self.urls[attempt % len(self.urls)], number)
            self.seen[outcome] += 1
            if outcome in ("ok", "unique_violation after doubt"):
                with self._progress:
                    self.written = number
                    self._progress.notify_all()
                return
            if outcome not in RETRIED and outcome not in ("gone", "outcome_unknown"):
                break
            time.sleep(0.02)
        self.failure = f"{number}: {outcome}"

    def _try(self, url: str, number: int) -> str:
        try:
            answer = httpx.post(
                url + "/query", json={"sql": f"INSERT INTO t VALUES ({number})"}, timeout=30
            )
        except httpx.HTTPError:
            return "gone"
        if answer.status_code == 200:
            return "ok"
        code = str(answer.json()["error"]["code"])
        if code == "unique_violation" and self.seen["gone"] + self.seen["outcome_unknown"]:
            return "unique_violation after doubt"  # the first try was written
        return code


def test_a_rolling_restart_under_load(tmp_path: Path) -> None:
    with three_servers(tmp_path) as nodes:
        wait_leader(nodes, timeout=60).query({"sql": "CREATE TABLE t (id INTEGER PRIMARY KEY)"})
        client = Client(list(nodes.values()))
        client.start()
        for node in nodes.values():
            assert client.goes_on(5), (client.failure, client.seen)
            assert node.stop(60) == 0
            node.start()
            node.wait_ready()
        assert client.goes_on(5), (client.failure, client.seen)
        client.stop.set()
        client.join(90)
        assert client.failure is None, (client.failure, client.seen)
        expected = [[n] for n in range(1, client.written + 1)]
        for node in nodes.values():
            node.wait_rows("SELECT id FROM t ORDER BY id", expected)
        print(client.written, client.seen, f"longest {client.longest:.2f} s")
