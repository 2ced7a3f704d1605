"""Database names and their parameters."""

from __future__ import annotations

from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.core.dsn import DEFAULT_PARAMETERS, Dsn, find_clash, parse_dsn
from ha.core.errors import Code, HaError
from ha.core.naming import normalise, replication_id


def refusal(text: str, db_params: str = "", *, memory: bool = False) -> str:
    with pytest.raises(HaError) as caught:
        parse_dsn(text, db_params, memory=memory)
    assert caught.value.code is Code.BAD_REQUEST
    return caught.value.message


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("ha.db", "ha.db"),
        ("./data/ha.db", "./data/ha.db"),
        ("file:ha.db", "ha.db"),
        ("file:/data/db.sqlite", "/data/db.sqlite"),
        ("file:///data/db.sqlite", "/data/db.sqlite"),
        ("file://localhost/data/db.sqlite", "/data/db.sqlite"),
        ("file:a%20b%3F.db", "a b?.db"),
        ("file:ha.db#fragment", "ha.db"),
        ("what?.db", "what?.db"),
        ("100%25.db", "100%25.db"),
        ("file:ha.db?_journal=WAL&_timeout=5000&_sync=NORMAL", "ha.db"),
        ("ha.db?_sync=FULL", "ha.db"),
    ],
)
def test_the_path_is_what_sqlite_would_open(text: str, path: str) -> None:
    dsn = parse_dsn(text)
    assert dsn.path == path
    assert not dsn.memory
    assert dsn.source is None


def test_the_parameters_of_the_existing_system_become_pragmas() -> None:
    dsn = parse_dsn("file:/data/db.sqlite?_journal=wal&_timeout=5000&_sync=1&_fk=true")
    assert dsn.pragmas == (
        ("journal_mode", "WAL"),
        ("busy_timeout", "5000"),
        ("synchronous", "NORMAL"),
        ("foreign_keys", "ON"),
    )
    assert dsn.uri == ()


def test_the_pragma_form_means_the_same() -> None:
    params = "_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=sync(NORMAL)"
    assert parse_dsn("x.db", params) == parse_dsn("x.db?_timeout=5000&_journal=WAL&_sync=NORMAL")
    assert parse_dsn("x.db?_pragma=cache_size(-2000)").pragmas == (("cache_size", "-2000"),)
    assert parse_dsn("x.db?_pragma=temp_store='memory'").pragmas == (("temp_store", "MEMORY"),)


def test_a_database_overrides_what_db_params_say_and_keeps_the_rest() -> None:
    dsn = parse_dsn("x.db?_timeout=7", DEFAULT_PARAMETERS)
    assert dict(dsn.pragmas) == {"journal_mode": "WAL", "busy_timeout": "7"}
    assert dsn.pragma("busy_timeout") == "7"
    assert dsn.pragma("synchronous") is None


@pytest.mark.parametrize(
    "text",
    [":memory:", "file::memory:", "file::memory:?cache=shared", "file:?mode=memory"],
)
def test_sqlites_nameless_memory_databases_have_the_default_name(text: str) -> None:
    assert parse_dsn(text) == Dsn("ha.db", memory=True)
    assert parse_dsn(text, memory=True) == Dsn("ha.db", memory=True)


@pytest.mark.parametrize("text", ["file:m.db?mode=memory", "file:/m.db?vfs=memdb"])
def test_a_named_memory_database_loads_no_file(text: str) -> None:
    dsn = parse_dsn(text)
    assert (dsn.memory, dsn.source, dsn.database_id, dsn.uri) == (True, None, "m.db", ())


def test_memory_makes_the_name_a_file_to_load() -> None:
    for text in ("data/my.db", "file:data/my.db?mode=rw"):
        dsn = parse_dsn(text, memory=True)
        assert (dsn.memory, dsn.source, dsn.database_id) == (True, "data/my.db", "my.db")
        assert dsn.since is None


@pytest.mark.parametrize(
    ("name", "database_id"),
    [
        ("2026-01-31 12:00:00_ha.db", "ha.db"),
        ("2026-01-31 12:00:00.db", "ha.db"),
        ("2026-01-31 12:00:00", "ha.db"),
        ("2026-01-31 12:00:00_shop", "shop"),
    ],
)
def test_a_dated_copy_in_memory_is_the_database_it_was_copied_from(
    name: str, database_id: str
) -> None:
    dsn = parse_dsn(f"backup/{name}", memory=True)
    assert dsn.since == "2026-01-31 12:00:00"
    assert dsn.database_id == database_id
    on_disk = parse_dsn(f"backup/{name}")
    assert on_disk.since is None
    assert on_disk.database_id == name


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("file:x.db?_foo=1", ("_foo", "_pragma=name(value)")),
        ("file:x.db?_sync=MAYBE", ("_sync=MAYBE", "OFF, NORMAL, FULL, EXTRA")),
        ("file:x.db?_journal=DELETE", ("_journal=DELETE", "WAL")),
        ("file:x.db?_timeout=-1", ("_timeout=-1", "from 0 to", "busy_timeout")),
        ("file:x.db?_timeout=5s", ("_timeout=5s",)),
        ("file:x.db?_fk=maybe", ("_fk=maybe", "on or off")),
        ("file:x.db?_fk", ("_fk", "value")),
        ("file:x.db?_fk=1&_pragma=foreign_keys(0)", ("foreign_keys", "already set to ON")),
        ("file:x.db?_pragma=user_version(3)", ("user_version",)),
        ("file:x.db?_pragma=writable_schema(1)", ("writable_schema",)),
        ("file:x.db?_pragma=synchronous(1);DROP", ("_pragma=synchronous(1);DROP",)),
        ("file:x.db?_pragma=cache_size(1);SELECT(1)", ("cache_size",)),
        ("file:x.db?_pragma=page_size(1000)", ("power of two",)),
        ("file:x.db?mode=ro", ("mode=ro", "cannot be read-only")),
        ("file:x.db?mode=RW", ("mode=RW",)),
        ("file:x.db?immutable=1", ("immutable=1",)),
        ("file:x.db?nolock=1", ("nolock=1",)),
        ("file:x.db?cache=shared", ("cache=shared",)),
        ("file:x.db?mod=rw", ("mod", "mode")),
        ("file://server/x.db", ("server",)),
        ("file:", ("no file name",)),
        ("file:?mode=rw", ("no file name",)),
        ("", ("no file name",)),
        ("data/", ("'data/'",)),
        ("...", ("'...'",)),
        ("file:a%00b.db", ("NUL",)),
    ],
)
def test_what_would_have_no_effect_or_break_a_promise_is_refused_by_name(
    text: str, names: tuple[str, ...]
) -> None:
    message = refusal(text)
    for name in names:
        assert name in message


def test_db_params_are_checked_too() -> None:
    assert "_foo" in refusal("x.db", "_foo=1")


def test_mode_says_whether_the_file_may_be_created() -> None:
    assert parse_dsn("file:x.db").create
    assert parse_dsn("file:x.db?mode=rwc").create
    assert not parse_dsn("file:x.db?mode=rw").create
    assert not parse_dsn("file:x.db", "mode=rw").create


def test_another_vfs_may_have_parameters_of_its_own() -> None:
    assert parse_dsn("file:x.db?vfs=unix-excl&psow=0").uri == (("vfs", "unix-excl"), ("psow", "0"))
    assert parse_dsn("file:x.db?vfs=mine&colour=red").uri == (("vfs", "mine"), ("colour", "red"))


file_names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30
).filter(lambda name: normalise(replication_id(name)) != "" and len(name.encode()) < 200)


@given(name=file_names)
def test_sqlite_opens_the_file_that_the_url_names(name: str) -> None:
    path = f"/nowhere at all/{name}"
    dsn = Dsn(path)
    assert parse_dsn(dsn.uri_text()) == dsn
    with pytest.raises(apsw.CantOpenError):  # the folder is not there, the URL is understood
        apsw.Connection(dsn.uri_text(), flags=apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READONLY)


@pytest.mark.parametrize("name", ["plain.db", "a b?c#d%41&e=f.db", "ä:☃.db", "'quoted\".db"])
def test_sqlite_creates_the_file_under_its_name(tmp_path: Path, name: str) -> None:
    dsn = parse_dsn(Dsn(str(tmp_path / name)).uri_text() + "?mode=rwc&cache=private")
    assert dsn.uri == ()  # else a connection that only reads could not open it
    flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = apsw.Connection(dsn.uri_text(), flags=flags)
    connection.execute("CREATE TABLE t(x)")
    connection.close()
    assert [p.name for p in tmp_path.iterdir()] == [name]


@given(text=st.text(max_size=60), params=st.text(max_size=40), memory=st.booleans())
def test_any_text_is_understood_or_refused(text: str, params: str, memory: bool) -> None:
    try:
        database_id = parse_dsn(text, params, memory=memory).database_id
    except HaError as error:
        refused: HaError | None = error
    else:
        refused = None
    assert normalise(database_id) if refused is None else refused.code is Code.BAD_REQUEST


@pytest.mark.parametrize(
    ("ids", "clash"),
    [
        (["a.db", "b.db", "c"], None),
        (["a.db", "a"], ("a.db", "a")),
        (["x", "a.b", "a_b"], ("a.b", "a_b")),
        (["x" + "y" * 32, "z" + "y" * 32], ("x" + "y" * 32, "z" + "y" * 32)),
        (["a.db", "a.db"], ("a.db", "a.db")),
        ([], None),
    ],
)
def test_ids_that_one_node_cannot_serve_together(
    ids: list[str], clash: tuple[str, str] | None
) -> None:
    assert find_clash(ids) == clash
