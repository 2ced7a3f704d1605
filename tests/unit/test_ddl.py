"""Statements cut into tokens, and the heads of DDL."""

from __future__ import annotations

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.core.values import RawText
from ha.store.ddl import read_ddl
from ha.store.schema import TableInfo, bindings, load_table, read_rows
from ha.store.tokens import fold_case, quote, shape, tokenize


def words(sql: str) -> list[str]:
    return [t.text for t in tokenize(sql)]


def test_tokens() -> None:
    sql = "SELECT a.b,'x''y' -- c\n/* d */ FROM [t u]\"v\"\"w\"`z``` WHERE x'0f'<>1.5e-3;"
    assert words(sql) == [
        "SELECT", "a", ".", "b", ",", "'x''y'", "FROM", "[t u]", '"v""w"', "`z```", "WHERE",
        "x'0f'", "<>", "1.5e-3", ";",
    ]  # fmt: skip
    assert words("a->>b||c /* open") == ["a", "->>", "b", "||", "c"]
    assert [t.kind for t in tokenize("é1 0xff .5 ?1 $x")] == [
        "word", "number", "number", "other", "number", "other", "word",
    ]  # fmt: skip


@given(st.text(max_size=40))
def test_nothing_but_space_and_comments_is_lost(sql: str) -> None:
    end = 0
    for token in tokenize(sql):
        gap = sql[end : token.start]
        assert not tokenize(gap)
        assert token.text == sql[token.start : token.end]
        end = token.end


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a", "a"),
        ('"a""b"', 'a"b'),
        ("[a b]", "a b"),
        ("`a``b`", "a`b"),
        ("'a''b'", "a'b"),
        ('""', ""),
    ],
)
def test_names(text: str, name: str) -> None:
    assert tokenize(text)[0].name == name


def test_what_is_no_name() -> None:
    assert [t.name for t in tokenize("1 ( x'00'")] == [None, None, None]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))
def test_a_quoted_name_is_that_name_for_sqlite(name: str) -> None:
    db = apsw.Connection(":memory:")
    db.execute(f"CREATE TABLE t({quote(name)})")
    assert db.execute("SELECT name FROM pragma_table_info('t')").get == name
    (token,) = tokenize(quote(name))
    assert token.name == name


def test_shapes() -> None:
    one = shape(tokenize("CREATE TABLE \"T\" ( a -- x\n TEXT DEFAULT 'X')"))
    assert one == shape(tokenize("create table t(A text default 'X')"))
    assert one != shape(tokenize("create table t(A text default 'x')"))


def test_case_as_sqlite_folds_it() -> None:
    assert fold_case("ABCé") == "abcé"
    assert fold_case("É") == "É"


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("CREATE TABLE t(a)", ("CREATE", "table", "t", "", False)),
        (
            "create temp table if not exists main . [a b](x)",
            ("CREATE", "table", "a b", "main", True),
        ),
        ("CREATE TABLE if(a)", ("CREATE", "table", "if", "", False)),
        ("CREATE UNIQUE INDEX i ON t(a)", ("CREATE", "index", "i", "", False)),
        (
            "CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT 1; END",
            ("CREATE", "trigger", "r", "", False),
        ),
        ("CREATE VIRTUAL TABLE v USING fts5(a)", ("CREATE", "table", "v", "", False)),
        ("/* x */ DROP VIEW IF EXISTS 'v';", ("DROP", "view", "v", "", True)),
        (";;ALTER TABLE main.t RENAME TO u;", ("ALTER", "table", "t", "main", False)),
        ("ANALYZE", ("ANALYZE", "", "", "", False)),
        ("ANALYZE main.t", ("ANALYZE", "", "t", "main", False)),
        ("REINDEX", ("REINDEX", "", "", "", False)),
        ("PRAGMA user_version = 5", ("PRAGMA", "", "user_version", "", False)),
    ],
)
def test_heads(sql: str, expected: tuple[object, ...]) -> None:
    ddl = read_ddl(sql)
    assert ddl is not None
    assert (ddl.verb, ddl.object, ddl.name, ddl.schema, ddl.conditional) == expected


def test_flags() -> None:
    ddl = read_ddl("CREATE TEMPORARY TABLE t AS SELECT 1")
    assert ddl is not None
    assert (ddl.temp, ddl.as_select, ddl.virtual, ddl.unique) == (True, True, False, False)
    ddl = read_ddl('CREATE TABLE "AS"(a)')
    assert ddl is not None
    assert not ddl.as_select
    ddl = read_ddl("CREATE UNIQUE INDEX i ON t(a)")
    assert ddl is not None
    assert ddl.unique
    ddl = read_ddl("ALTER TABLE t RENAME TO [x y]")
    assert ddl is not None
    assert ddl.new_name == "x y"
    ddl = read_ddl("ALTER TABLE t RENAME a TO b")
    assert ddl is not None
    assert ddl.new_name == ""


@pytest.mark.parametrize(
    "sql",
    [
        "",
        ";",
        "SELECT 1",
        "CREATE",
        "CREATE TABLE",
        "CREATE TABLE a.",
        "CREATE FOO x",
        "DROP",
        "DROP TABLE",
        "ALTER",
        "ALTER TABLE",
        "ALTER INDEX x",
        "CREATE TABLE t(a); DROP TABLE t",
        "VACUUM",
    ],
)
def test_what_is_no_ddl(sql: str) -> None:
    assert read_ddl(sql) is None


# --- tables --------------------------------------------------------------------------


def test_tables_as_they_are() -> None:
    db = apsw.Connection(":memory:")
    for sql in (
        "CREATE TABLE k(a, b TEXT COLLATE NOCASE, id INTEGER PRIMARY KEY)",
        "CREATE TABLE c(b, v AS (a), a, PRIMARY KEY (a COLLATE NOCASE, b))",
        "CREATE TABLE w(b, s AS (a) STORED, a, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "CREATE TABLE d(id INTEGER PRIMARY KEY DESC)",
        "CREATE TABLE h(rowid, oid)",
        "CREATE TABLE a(rowid, oid, _rowid_)",
        "CREATE VIEW v AS SELECT 1 AS one",
        "CREATE VIRTUAL TABLE f_t USING fts5(x)",
    ):
        db.execute(sql)

    def table(name: str) -> TableInfo:
        info = load_table(db, name)
        assert info is not None
        return info

    k, c, w, d = table("K"), table("c"), table("w"), table("d")
    h, a, v, f = table("h"), table("a"), table("v"), table("f_t_data")
    assert (k.name, k.pk_columns, k.integer_key, k.rowid, k.tree) == (
        "k", ("id",), "id", "id", "NOT INDEXED",
    )  # fmt: skip
    assert (c.columns, c.pk_columns, c.sent_key, c.pk_collations, c.integer_key) == (
        ("b", "a"), ("a", "b"), ("b", "a"), ("NOCASE", "BINARY"), None,
    )  # fmt: skip
    assert (c.rowid, c.has_virtual_columns, c.generated) == ("rowid", True, {"v"})
    assert c.pick is not None
    assert c.pick((1, 2, 3)) == (1, 3)
    assert (w.rowid, w.without_rowid, w.has_virtual_columns) == (None, True, False)
    assert w.tree == 'INDEXED BY "sqlite_autoindex_w_1"'
    assert (d.integer_key, d.rowid) == (None, "rowid")
    assert (h.rowid, a.rowid) == ("_rowid_", None)
    assert (v.kind, v.ordinary) == ("view", False)
    assert (f.kind, f.owner, f.ordinary) == ("shadow", "f_t", True)
    assert load_table(db, "missing") is None
    assert load_table(db, "sqlite_temp_schema") is None


def test_rows_exactly() -> None:
    db = apsw.Connection(":memory:")
    db.execute("CREATE TABLE t(a, b)")
    db.execute("INSERT INTO t VALUES (1.0, CAST(x'ff' AS TEXT)), ('ü', x'ff'), (NULL, 7)")
    info = load_table(db, "t")
    assert info is not None
    assert repr(read_rows(db, info)) == repr([(1.0, RawText(b"\xff")), ("ü", b"\xff"), (None, 7)])
    assert read_rows(db, info, "WHERE b = ?", (7,)) == [(None, 7)]


def test_what_is_bound_for_text_that_sqlite_cannot_be_given() -> None:
    assert bindings((1, "x")) == ((1, "x"), None)
    assert bindings((RawText(b"\xff"), 1, "\ud800")) == (
        (b"\xff", 1, b"\xed\xa0\x80"),
        (True, False, True),
    )
