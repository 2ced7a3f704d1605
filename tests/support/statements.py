"""Random schemas and random statements: hypothesis strategies for SQL text.

Tables share the names of their columns and the values are few, so that most statements mean
something and many of them clash. Some fail, as statements of clients do.
"""

from __future__ import annotations

from hypothesis import strategies as st

TABLES = ("t", "u", "order", 'a"b', "sch.ema", "naïve £", "sqlit")
VIEW = "seen"
FTS = "words"
RTREE = "boxes"
COLUMNS = ("id", "a", "b", "c")

_DEFINITIONS = (
    "(id INTEGER PRIMARY KEY, a, b, c)",
    "(id INTEGER PRIMARY KEY AUTOINCREMENT, a UNIQUE, b, c)",
    "(id INTEGER PRIMARY KEY AUTOINCREMENT, a, b, c DEFAULT (abs(-4)))",
    "(id INTEGER PRIMARY KEY DESC, a, b CHECK (b IS NOT 5), c)",
    "(id TEXT PRIMARY KEY, a UNIQUE, b NOT NULL DEFAULT 7, c)",
    "(id INT PRIMARY KEY, a COLLATE NOCASE UNIQUE, b REAL, c TEXT)",
    "(id TEXT COLLATE NOCASE, a, b, c, PRIMARY KEY (id COLLATE BINARY, a))",
    "(id TEXT, a NUMERIC, b INTEGER, c BLOB, PRIMARY KEY (id COLLATE NOCASE))",
    "(id, a, b, c)",
    "(id, a, b, c, UNIQUE (a), UNIQUE (b, c) ON CONFLICT REPLACE)",
    "(id, a, b, c, PRIMARY KEY (a, b)) WITHOUT ROWID",
    "(id TEXT COLLATE NOCASE PRIMARY KEY, a UNIQUE, b, c) WITHOUT ROWID",
    "(id INTEGER PRIMARY KEY, a, b, c AS (a || b) VIRTUAL UNIQUE)",
    "(id, a PRIMARY KEY, v AS (b) STORED, b, c)",
    "(id, v AS (a) VIRTUAL, a, b, c)",
    "(id, a, v AS (a) VIRTUAL, b, c, PRIMARY KEY (id, a)) WITHOUT ROWID",
    "(id, a, v AS (c) STORED, b, c, PRIMARY KEY (b)) WITHOUT ROWID",
    "(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c REAL) STRICT",
    "(id ANY PRIMARY KEY, a BLOB, b ANY, c INT) STRICT",
    "(id INTEGER PRIMARY KEY ON CONFLICT REPLACE, a UNIQUE ON CONFLICT IGNORE,"
    " b UNIQUE ON CONFLICT FAIL, c NOT NULL ON CONFLICT REPLACE DEFAULT 3)",
    "(id INTEGER PRIMARY KEY, a REFERENCES {other} ON DELETE CASCADE ON UPDATE CASCADE, b, c)",
    "(id, a, b REFERENCES {other}(a) ON DELETE SET NULL ON UPDATE SET DEFAULT, c)",
    "(id INTEGER PRIMARY KEY, a, b,"
    " c REFERENCES {other} ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED)",
    "(id, a, b, c, rowid)",
    "(id, a, b, c, rowid, oid, _rowid_ INTEGER PRIMARY KEY)",
)

_VALUES = (
    "NULL", "0", "1", "2", "3", "4", "5", "-1", "9223372036854775807", "9007199254740993",
    "1.0", "2.5", "-0.0", "1e300", "9e999", "-9e999", "''", "'a'", "'A'", "'b'", "'1'", "'2.0'",
    "'a' || char(0) || 'b'", "'ü𝄞'", "x''", "x'61'", "x'00ff'", "CAST(x'ff61' AS TEXT)",
    "CAST(x'eda080' AS TEXT)", "CURRENT_TIMESTAMP", "randomblob(3)", "random()",
)  # fmt: skip


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


tables = st.sampled_from(TABLES[:3] * 15 + TABLES[3:]).map(quoted)
columns = st.sampled_from(COLUMNS)
values = st.sampled_from(_VALUES) | st.integers(0, 6).map(str)
small = st.integers(0, 6).map(str)
_insertable = st.sampled_from((*TABLES[:3] * 15, *TABLES[3:], VIEW, VIEW)).map(quoted)
conflict = st.sampled_from(
    ("", "", "", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ABORT", "OR REPLACE", "OR ROLLBACK")
)
_maybe_column = columns | st.sampled_from(("rowid", "a", "id"))


@st.composite
def conditions(draw: st.DrawFn) -> str:
    form = draw(st.integers(0, 5))
    if form == 0:
        return ""
    column = draw(columns)
    if form == 1:
        return f"WHERE {column} IS {draw(values)}"
    if form == 2:
        return f"WHERE {column} > {draw(values)}"
    if form == 3:
        return f"WHERE {column} IN ({draw(small)}, {draw(small)}, {draw(small)})"
    if form == 4:
        return f"WHERE {column} IS NOT {draw(values)}"
    return f"WHERE typeof({column}) = 'integer'"


@st.composite
def expressions(draw: st.DrawFn) -> str:
    form = draw(st.integers(0, 4))
    if form <= 1:
        return draw(values)
    column = draw(columns)
    if form == 2:
        return f"{column} + {draw(small)}"
    if form == 3:
        return column
    return f"{column} || 'x'"


@st.composite
def inserts(draw: st.DrawFn) -> str:
    table = draw(_insertable)
    names = draw(st.lists(columns, min_size=1, max_size=4, unique=True))
    if draw(st.integers(0, 9)) == 0:
        names.append("rowid")
    head = f"INSERT {draw(conflict)} INTO {table} ({', '.join(names)})"
    form = draw(st.integers(0, 5))
    if form == 0:
        other = draw(tables)
        taken = ", ".join(draw(expressions()) for _ in names)
        return f"{head} SELECT {taken} FROM {other} {draw(conditions())}"
    rows = ", ".join(
        "(" + ", ".join(draw(values) for _ in names) + ")" for _ in range(draw(st.integers(1, 4)))
    )
    tail = ""
    if form == 1:
        tail = " ON CONFLICT DO NOTHING"
    elif form == 2:
        sets = ", ".join(f"{c} = {draw(expressions())}" for c in draw(st.sets(columns, min_size=1)))
        tail = f" ON CONFLICT DO UPDATE SET {sets}"
    elif form == 3:
        tail = " RETURNING *"
    return f"{head} VALUES {rows}{tail}"


@st.composite
def updates(draw: st.DrawFn) -> str:
    names = draw(st.lists(_maybe_column, min_size=1, max_size=3, unique=True))
    sets = ", ".join(f"{c} = {draw(expressions())}" for c in names)
    return f"UPDATE {draw(conflict)} {draw(tables)} SET {sets} {draw(conditions())}"


@st.composite
def deletes(draw: st.DrawFn) -> str:
    return f"DELETE FROM {draw(tables)} {draw(conditions())}"


dml = st.one_of(inserts(), inserts(), inserts(), updates(), updates(), deletes())


@st.composite
def openings(draw: st.DrawFn) -> list[str]:
    """A schema to begin with: the three usual tables, maybe others, maybe virtual ones."""
    out = [
        f"CREATE TABLE {quoted(table)}"
        + draw(st.sampled_from(_DEFINITIONS)).format(other=draw(tables))
        for table in TABLES[:3]
    ]
    out += draw(st.lists(st.one_of(creates(), indexes(), triggers()), max_size=3))
    if draw(st.booleans()):
        out.append(f"CREATE VIRTUAL TABLE {FTS} USING fts5(a, b)")
        out.append(f"CREATE VIRTUAL TABLE {RTREE} USING rtree(id, x0, x1, +label)")
    return out


@st.composite
def creates(draw: st.DrawFn) -> str:
    definition = draw(st.sampled_from(_DEFINITIONS)).format(other=draw(tables))
    maybe = draw(st.sampled_from(("", "", "IF NOT EXISTS", "/* c */")))
    schema = draw(st.sampled_from(("", "", "main.")))
    return f"CREATE TABLE {maybe} {schema}{draw(tables)}{definition}"


@st.composite
def creates_as(draw: st.DrawFn) -> str:
    maybe = draw(st.sampled_from(("", "IF NOT EXISTS")))
    taken = ", ".join(f"{draw(expressions())} AS {c}" for c in COLUMNS)
    order = draw(st.sampled_from(("", "ORDER BY 2 DESC")))
    return (
        f"CREATE TABLE {maybe} {draw(tables)} AS SELECT {taken} FROM {draw(tables)}"
        f" {draw(conditions())} {order}"
    )


@st.composite
def drops(draw: st.DrawFn) -> str:
    maybe = draw(st.sampled_from(("", "IF EXISTS")))
    kind, name = draw(
        st.one_of(
            st.tuples(st.just("TABLE"), tables),
            st.tuples(st.just("TABLE"), st.sampled_from((FTS, RTREE, "sqlite_stat1"))),
            st.tuples(st.just("INDEX"), st.sampled_from(("i1", "i2", "i3"))),
            st.tuples(st.just("TRIGGER"), st.sampled_from(("r1", "r2", "r3"))),
            st.tuples(st.just("VIEW"), st.just(VIEW)),
        )
    )
    return f"DROP {kind} {maybe} {name}"


@st.composite
def alters(draw: st.DrawFn) -> str:
    column, name = draw(columns), draw(st.sampled_from(("d", "e", "a", "q ü")))
    form = draw(
        st.sampled_from(
            (
                f"RENAME TO {draw(tables)}",
                f"RENAME COLUMN {column} TO {quoted(name)}",
                f"RENAME {quoted(name)} TO {column}",
                f"ADD COLUMN {quoted(name)}",
                f"ADD {quoted(name)} INT NOT NULL DEFAULT {draw(small)}",
                f"ADD COLUMN {quoted(name)} TEXT DEFAULT 'x' COLLATE NOCASE",
                f"ADD COLUMN {quoted(name)} AS (a) VIRTUAL",
                f"ADD COLUMN {quoted(name)} REFERENCES {draw(tables)}",
                f"ADD COLUMN {quoted(name)} CHECK ({quoted(name)} IS NOT 5)",
                f"DROP COLUMN {column}",
                f"DROP {quoted(name)}",
                f"ADD CONSTRAINT k CHECK ({column} IS NOT 99)",
                f"ADD CHECK ({column} IS NOT 98)",
                "DROP CONSTRAINT k",
                f"ALTER COLUMN {column} SET NOT NULL",
                f"ALTER {column} DROP NOT NULL",
            )
        )
    )
    return f"ALTER TABLE {draw(tables)} {form}"


@st.composite
def indexes(draw: st.DrawFn) -> str:
    unique = draw(st.sampled_from(("", "UNIQUE")))
    on = draw(
        st.sampled_from(
            (
                "(a)",
                "(b, c)",
                "(a) WHERE b > 1",
                "(abs(b))",
                "(lower(c))",
                "(a COLLATE NOCASE)",
                "(a || b) WHERE c IS NOT NULL",
                "(json_extract(a, '$'))",
            )
        )
    )
    name = draw(st.sampled_from(("i1", "i2", "i3")))
    return f"CREATE {unique} INDEX {name} ON {draw(tables)} {on}"


@st.composite
def triggers(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(("r1", "r2", "r3")))
    table, other = draw(tables), draw(tables)
    form = draw(st.integers(0, 8))
    if form == 0:
        body = f"AFTER INSERT ON {table} BEGIN INSERT INTO {other}(a, b) VALUES (new.b, new.a); END"
    elif form == 1:
        body = f"BEFORE INSERT ON {table} BEGIN DELETE FROM {other} WHERE a IS new.a; END"
    elif form == 2:
        body = (
            f"AFTER UPDATE ON {table} WHEN new.a IS NOT old.a BEGIN"
            f" INSERT OR REPLACE INTO {other}(id, a) VALUES (old.id, new.a);"
            f" UPDATE {other} SET c = new.b; END"
        )
    elif form == 3:
        body = f"BEFORE UPDATE OF a ON {table} BEGIN UPDATE {other} SET b = old.a; END"
    elif form == 4:
        body = f"AFTER DELETE ON {table} BEGIN INSERT INTO {other}(a) VALUES (old.a); END"
    elif form == 5:
        body = (
            f"INSTEAD OF INSERT ON {VIEW} BEGIN INSERT OR IGNORE INTO {table}(a, b)"
            f" VALUES (new.a, new.b); DELETE FROM {other} WHERE a = new.b; END"
        )
    else:
        action = draw(
            st.sampled_from(
                (
                    "RAISE(IGNORE)",
                    "RAISE(FAIL, 'no')",
                    "RAISE(ABORT, 'no')",
                    "RAISE(ROLLBACK, 'no')",
                )
            )
        )
        when = draw(st.sampled_from(("BEFORE", "AFTER")))
        what = draw(st.sampled_from(("INSERT", "UPDATE", "DELETE")))
        row = "old" if what == "DELETE" else "new"
        body = f"{when} {what} ON {table} WHEN {row}.a IS {draw(small)} BEGIN SELECT {action}; END"
    return f"CREATE TRIGGER {name} {body}"


@st.composite
def virtual(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(("'one two'", "'two three'", "NULL", "'ünï cödé'", "x'6f6e65'")))
    number = draw(small)
    form = draw(st.integers(0, 14))
    if form == 0:
        options = draw(
            st.sampled_from(
                ("", ", detail=none", ", prefix='2 3'", ", content=''", ", columnsize=0")
            )
        )
        return f"CREATE VIRTUAL TABLE {FTS} USING fts5(a, b{options})"
    if form == 1:
        return f"CREATE VIRTUAL TABLE {RTREE} USING rtree(id, x0, x1, +label)"
    if form == 2:
        return f"CREATE VIRTUAL TABLE IF NOT EXISTS {FTS} USING fts4(a, b)"
    if form <= 5:
        return f"INSERT INTO {FTS}(rowid, a, b) VALUES ({number}, {text}, {text})"
    if form == 6:
        return f"UPDATE {FTS} SET a = {text} WHERE rowid = {number}"
    if form == 7:
        return f"DELETE FROM {FTS} WHERE rowid = {number}"
    if form == 8:
        command = draw(st.sampled_from(("optimize", "rebuild", "delete-all")))
        return f"INSERT INTO {FTS}({FTS}) VALUES ('{command}')"
    if form <= 10:
        return f"INSERT INTO {RTREE} VALUES ({number}, {number}, {number} + 1, {text})"
    if form == 11:
        return f"UPDATE {RTREE} SET x1 = x1 + {number} WHERE id = {number}"
    if form == 12:
        return f"DELETE FROM {RTREE} WHERE x0 < {number}"
    if form == 13:
        old, new = draw(st.permutations((FTS, RTREE)))
        return f"ALTER TABLE {old} RENAME TO {new}"
    return f"INSERT OR REPLACE INTO {RTREE} SELECT id, 1, 2, a FROM {draw(tables)}"


@st.composite
def others(draw: st.DrawFn) -> str:
    return draw(
        st.sampled_from(
            (
                "ANALYZE",
                f"ANALYZE {draw(tables)}",
                "REINDEX",
                f"PRAGMA user_version = {draw(st.integers(-9, 9))}",
                f"PRAGMA main.application_id({draw(st.integers(0, 9))})",
                "PRAGMA foreign_key_check",
                f"CREATE VIEW {VIEW} AS SELECT a, b FROM {draw(tables)}",
                f"CREATE VIEW IF NOT EXISTS {VIEW}(a, b) AS SELECT 1, 2",
                f"UPDATE sqlite_sequence SET seq = seq + {draw(st.integers(-2, 3))}",
                "DELETE FROM sqlite_sequence",
                f"INSERT INTO sqlite_stat1 VALUES ('t', NULL, '{draw(small)}')",
                f"CREATE TEMP TABLE hidden AS SELECT * FROM {draw(tables)}",
                f"INSERT INTO hidden SELECT * FROM {draw(tables)}",
                f"INSERT INTO {draw(tables)} SELECT * FROM hidden",
                f"CREATE TEMP TRIGGER rt AFTER INSERT ON {draw(tables)} BEGIN"
                f" UPDATE {draw(tables)} SET c = 1; END",
                "DROP TABLE IF EXISTS hidden",
                "DROP TRIGGER IF EXISTS rt",
            )
        )
    )


@st.composite
def savepoints(draw: st.DrawFn) -> str:
    return draw(
        st.sampled_from(
            (
                "SAVEPOINT x",
                "SAVEPOINT x",
                "SAVEPOINT y",
                "RELEASE x",
                "RELEASE y",
                "ROLLBACK TO x",
                "ROLLBACK TO y",
                "ROLLBACK TO x",
            )
        )
    )


ddl = st.one_of(creates(), creates_as(), drops(), alters(), alters(), indexes(), triggers())
statements = st.one_of(dml, dml, dml, dml, dml, dml, ddl, ddl, virtual(), others(), savepoints())
