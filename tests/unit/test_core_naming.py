"""Names in NATS, as existing nodes make them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.core.naming import durable_name, normalise, replication_id, same_id, subject_of


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("ha.db", "ha_db"),
        ("a/b c>d*e\tf", "a_b_c_d_e_f"),
        (".ha.db.", "ha_db"),
        ("__x__", "x"),
        ("", ""),
        ("...", ""),
        ("a" * 40, "a" * 32),
        # cut, and not stripped again
        ("x." + "a" * 31, "_" + "a" * 31),
        ("Ünï", "Ünï"),
    ],
)
def test_normalise(name: str, normal: str) -> None:
    assert normalise(name) == normal


@given(st.text(max_size=60))
def test_a_normal_name_is_one_token_of_at_most_32_bytes(name: str) -> None:
    normal = normalise(name)
    assert len(normal.encode("utf-8", "surrogatepass")) <= 32
    assert not set(normal) & set("./ >*\t\r\n")


def test_subjects_and_consumers() -> None:
    assert replication_id("/var/lib/ha/ha.db") == "ha.db"
    assert subject_of("ha_replication", "ha.db") == "ha_replication.ha_db"
    assert durable_name("ha.db", "node1") == "ha_db_node1"
    assert durable_name("a" * 30 + ".db", "node1") == ("a" * 30 + "_db_node1")[-32:]


def test_ids_with_and_without_ending() -> None:
    assert same_id("ha", "ha.db")
    assert same_id("ha.db", "ha.db")
    assert not same_id("ha", "hb.db")
