"""The API's description: true of the server, and complete. Schemathesis is the judge."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import MagicMock

import httpx
import pytest
import schemathesis
import trio
import yaml
from hypothesis import HealthCheck, settings
from schemathesis.checks import CHECKS
from schemathesis.specs.openapi.checks import positive_data_acceptance

import ha
from ha.core.errors import Code
from ha.engine.operations import NodeOperations
from ha.log.memory import MemoryBroker, MemoryStream
from ha.metrics import Metrics
from ha.wire.http.app import OPEN_PATHS, create_app, query_target
from ha.wire.http.description import docs_page, openapi_yaml
from ha.wire.http.errors import STATUS
from ha.wire.http.server import serve
from tests.support.cluster import open_node

DESCRIPTION: Any = yaml.safe_load(openapi_yaml())
TABLE = "CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT)"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A node in a thread of its own, for schemathesis blocks."""
    ready = threading.Event()
    found: list[Any] = []

    async def node() -> None:
        stop = trio.Event()
        async with (
            MemoryBroker(MemoryStream(epoch="test"), node="n1") as broker,
            open_node("n1", broker) as opened,
            trio.open_nursery() as nursery,
        ):
            await opened.run(TABLE)
            app = create_app(
                opened.databases,
                operations=NodeOperations(opened.databases),
                metrics=Metrics(opened.databases, "n1").render,
            )
            start = partial(
                serve, app, host="127.0.0.1", port=0, shutdown_trigger=stop.wait, grace=1
            )
            (address,) = await nursery.start(start)
            found.extend((address.port, stop, trio.lowlevel.current_trio_token()))
            ready.set()

    thread = threading.Thread(target=trio.run, args=(node,))
    thread.start()
    assert ready.wait(30)
    port, stop, token = found
    yield f"http://127.0.0.1:{port}"
    token.run_sync_soon(stop.set)
    thread.join(30)
    assert not thread.is_alive()


# A client that tries everything

schema = schemathesis.openapi.from_dict(DESCRIPTION)
# No schema can say which strings are SQL that this database takes.
CHECKS_OF_QUERIES = [check for check in CHECKS.get_all() if check is not positive_data_acceptance]


@schema.include(method="GET").parametrize()
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_node_is_as_described(case: Any, url: str) -> None:
    case.call_and_validate(base_url=url)


@schema.include(method="POST").parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_queries_are_as_described(case: Any, url: str) -> None:
    for where, name in ((case.headers, "X-Txseq"), (case.cookies, "_txseq")):
        value = str((where or {}).get(name, ""))
        if value.isdigit() and int(value) < 2**63:
            where[name] = "0"  # a later one is waited for, in vain: 503
    case.call_and_validate(base_url=url, checks=CHECKS_OF_QUERIES)


def test_every_operation_was_tried() -> None:
    methods = {method for item in DESCRIPTION["paths"].values() for method in item}
    # What deletes is tested by hand: what it takes away the other cases need.
    assert methods <= {"get", "post", "delete", "parameters"}


def test_the_examples_work(url: str) -> None:
    body = DESCRIPTION["components"]["requestBodies"]["Query"]
    for name, example in body["content"]["application/json"]["examples"].items():
        response = httpx.post(url, json=example["value"])
        assert response.status_code == 200, (name, response.text)
        assert ("results" in response.json()) is (name == "transaction")


# Completeness


async def test_every_route_is_described_and_nothing_else() -> None:
    described = set(DESCRIPTION["paths"])
    nobody: Any = None  # asks it
    app: Any = create_app(nobody, operations=MagicMock(), metrics=MagicMock())
    rules = [rule.rule for rule in app.inner.url_map.iter_rules()]
    assert described == {re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule) for rule in rules}
    queries = {p for p, item in DESCRIPTION["paths"].items() if "queries" in _tags(item)}
    assert queries == {path for path in described if query_target(path.replace("{id}", "x"))}


def _tags(item: dict[str, Any]) -> list[str]:
    return [tag for operation in item.values() if "tags" in operation for tag in operation["tags"]]


def test_every_code_and_status_is_described() -> None:
    components = DESCRIPTION["components"]
    assert components["schemas"]["Code"]["enum"] == [code.value for code in Code]
    described = {int(status) for status in DESCRIPTION["paths"]["/"]["post"]["responses"]}
    assert described == {200, 307, 408, *STATUS.values()}


def test_what_is_open_says_so() -> None:
    paths = DESCRIPTION["paths"].items()
    assert {path for path, item in paths if item.get("get", {}).get("security") == []} == OPEN_PATHS


def test_the_version_is_that_of_the_package() -> None:
    assert DESCRIPTION["info"]["version"] == ha.__version__


# The page


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = docs_page()
    assert "{{" not in page
    assert "listDatabases" in page
    assert re.findall(r"""(?:src|href)=["']?((?:https?:)?//[^"' >]*)""", page) == []
    # The description lies in a script element, which it must not end.
    assert page.count("</script>") == 2


async def test_the_page_is_served_with_a_strict_policy(url: str) -> None:
    async with httpx.AsyncClient() as client:
        response = await client.get(f"{url}/docs")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
