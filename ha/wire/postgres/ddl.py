"""CREATE, ALTER and DROP of PostgreSQL as SQLite takes them, edited token by token.

The file and the log hold the edited text, which plain ``sqlite3`` opens: so no function of this
wire may stay in it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ha.wire.postgres.dialect import read
from ha.wire.postgres.errors import PgError, unsupported
from ha.wire.postgres.functions import OURS
from ha.wire.postgres.lexer import Token, tokenize, unquote
from ha.wire.postgres.rewrite import rewrite

_SERIAL = frozenset({"SERIAL", "BIGSERIAL", "SMALLSERIAL", "SERIAL2", "SERIAL4", "SERIAL8"})
_NOW = frozenset(
    {"NOW", "TRANSACTION_TIMESTAMP", "STATEMENT_TIMESTAMP", "CLOCK_TIMESTAMP", "LOCALTIMESTAMP"}
)
_INTEGER_TYPES = frozenset({"INT", "INTEGER", "BIGINT", "SMALLINT", "INT2", "INT4", "INT8"})
_UUID_FUNCTIONS = frozenset({"GEN_RANDOM_UUID", "UUID_GENERATE_V4", "UUIDV4"})
_UUID_V4 = (
    "(lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || "
    "substr(hex(randomblob(2)), 2) || '-' || substr('89AB', 1 + (random() & 3), 1) || "
    "substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6))))"
)


def must_translate_ddl(sql: str) -> bool:
    """SERIAL is any name to SQLite, and ``DEFAULT (now())`` an unknown function at the insert."""
    words = [t.upper for t in tokenize(sql) if t.kind == "word"]
    if not words or words[0] not in ("CREATE", "ALTER"):
        return False
    return any(w in _SERIAL or w in _NOW or w in _UUID_FUNCTIONS for w in words)


def translate_ddl(sql: str) -> str:
    """Raises PgError 42601, 0A000."""
    return _plain_sqlite(_translate(sql))


def _plain_sqlite(sql: str) -> str:
    """What the file keeps must mean the same to ``sqlite3``."""
    last = ""
    for token in tokenize(sql):
        if token.text == "(" and last in OURS:
            raise unsupported(
                f"{last}() cannot be used in a schema: it is a function of this protocol alone",
                "the file must open in plain SQLite",
            )
        if token.kind != "space":
            last = token.text.lower()
    return sql


def _translate(sql: str) -> str:
    edit = _Edit(sql)
    kind = edit.kind()
    if kind == "VIEW":
        return _view(sql, edit)
    if kind == "TABLE" and edit.word(0) == "CREATE":
        edit.create_table()
    elif kind == "INDEX" and edit.word(0) == "CREATE":
        edit.create_index()
    elif edit.word(0) == "ALTER":
        edit.alter_table()
    elif edit.word(0) == "DROP":
        edit.drop()
    edit.strip_schema()
    return edit.text()


class _Edit:
    """The tokens of one statement; ``tokens`` has None where one was taken out."""

    def __init__(self, sql: str) -> None:
        self.all: list[Token | None] = list(tokenize(sql))
        self.at = [i for i, t in enumerate(self.all) if t is not None and t.kind != "space"]

    def text(self) -> str:
        return "".join(t.text for t in self.all if t is not None).strip()

    # positions below count significant tokens

    def __len__(self) -> int:
        return len(self.at)

    def token(self, i: int) -> Token | None:
        return self.all[self.at[i]] if 0 <= i < len(self.at) else None

    def word(self, i: int) -> str:
        token = self.token(i)
        return token.upper if token is not None else ""

    def put(self, i: int, text: str) -> None:
        token = self.token(i)
        assert token is not None
        self.all[self.at[i]] = Token("word", text, token.start)

    def drop_range(self, first: int, end: int) -> None:
        """Take tokens out, with one blank where there were two; positions stay, as empty words."""
        end = min(end, len(self.at))
        if first >= end:
            return
        start, stop = self.at[first], self.at[end - 1] + 1
        self.all[start:stop] = [None] * (stop - start)
        kept = [t for t in self.all[:start] if t is not None]
        blank = not kept or kept[-1].text.isspace()
        following = next(((i, t) for i, t in enumerate(self.all[stop:], stop) if t), None)
        if blank and following is not None and following[1].text.isspace():
            self.all[following[0]] = None

    def closing(self, i: int) -> int:
        """The position after the parenthesis that opens at ``i``."""
        depth = 0
        while i < len(self):
            depth += {"(": 1, ")": -1}.get(self.word(i), 0)
            i += 1
            if depth == 0:
                return i
        raise PgError("42601", "syntax error: a parenthesis is not closed")

    def find(self, *words: str, start: int = 0) -> int:
        """Where ``words`` stand one after the other, -1 if nowhere."""
        for i in range(start, len(self)):
            if all(self.word(i + k) == w for k, w in enumerate(words)):
                return i
        return -1

    def kind(self) -> str:
        for i in range(min(8, len(self))):
            if self.word(i) in ("TABLE", "INDEX", "VIEW", "TRIGGER"):
                return self.word(i)
        return ""

    # --- what all have -----------------------------------------------------------------

    def strip_schema(self) -> None:
        for i in range(len(self) - 2):
            token = self.token(i)
            if token is None or self.word(i + 1) != "." or token.kind not in ("word", "quoted"):
                continue
            if unquote(token).lower() == "public" and self.word(i - 1) != ".":
                self.drop_range(i, i + 2)

    def create_table(self) -> None:
        i = self.find("UNLOGGED")
        if 0 < i < 3:
            self.drop_range(i, i + 1)
        for word in ("INHERITS", "PARTITION"):
            if self.find(word) > 3:
                raise unsupported(f"{word} is not supported", "SQLite's tables stand alone")
        opening = self.find("(")
        if opening < 0:
            return
        closing = self.closing(opening)
        self._columns(opening + 1, closing - 1)
        self._table_options(closing)

    def _table_options(self, i: int) -> None:
        """Storage parameters, tablespace, USING, ON COMMIT: nothing that SQLite has."""
        while i < len(self):
            word = self.word(i)
            if word == "WITH" and self.word(i + 1) == "(":
                end = self.closing(i + 1)
                self.drop_range(i, end)
                i = end
            elif word in ("TABLESPACE", "USING"):
                self.drop_range(i, i + 2)
                i += 2
            elif word == "ON" and self.word(i + 1) == "COMMIT":
                if self.word(i + 2) != "PRESERVE":
                    raise unsupported(
                        "ON COMMIT is not supported", "temporary tables live as long as the session"
                    )
                self.drop_range(i, i + 4)
                i += 4
            else:
                i += 1

    def _columns(self, start: int, end: int) -> None:
        first = start
        i = start
        while i <= end:
            if i == end or self.word(i) == ",":
                self._column(first, i)
                first = i + 1
                i += 1
            elif self.word(i) == "(":
                i = self.closing(i)
            else:
                i += 1

    def _column(self, first: int, end: int) -> None:
        """One column definition or table constraint, from ``first`` up to ``end``."""
        if self.word(first) in ("EXCLUDE", "LIKE"):
            raise unsupported(f"{self.word(first)} is not supported in CREATE TABLE")
        self._type(first + 1, end)
        i = first
        while i < end:
            word = self.word(i)
            if word == "DEFAULT":
                self._default(i + 1, end)
            elif word == "GENERATED":
                self._generated(first, i, end)
            elif word == "COLLATE":
                self._collate(i)
            elif word == "CHECK" and self.word(i + 1) == "(":
                self._expression(i + 1, self.closing(i + 1))
            elif word == "NULLS" and self.word(i + 1) == "NOT":
                raise unsupported("NULLS NOT DISTINCT is not supported")
            i = self.closing(i) if word == "(" else i + 1

    def _type(self, i: int, end: int) -> None:
        if self.word(i) in _SERIAL:
            self._require_key(i, end)
            self.put(i, "INTEGER")
        k = i
        while k < end and self.word(k) not in ("DEFAULT", "CHECK", "REFERENCES", ","):
            if self.word(k) == "[":
                raise unsupported("array columns are not supported", "keep a JSON array in TEXT")
            if (
                self.word(k) in ("TIMESTAMP", "TIME", "INTERVAL", "BIT")
                and self.word(k + 1) == "("
                and self.word(k + 4) in ("WITH", "WITHOUT")
            ):
                self.drop_range(k + 1, k + 4)
            if self.word(k) == "PG_CATALOG" and self.word(k + 1) == ".":
                self.drop_range(k, k + 2)
            k += 1

    def _require_key(self, i: int, end: int) -> None:
        """Only the primary key generates its values in SQLite."""
        inside = any(self.word(k) == "PRIMARY" for k in range(i, end))
        name = self.token(i - 1)
        column = unquote(name) if name is not None else ""
        if inside or self.word(0) == "ALTER" or self._table_key() == [column.lower()]:
            return
        raise unsupported(
            f'column "{column}" is SERIAL but not the primary key',
            "SQLite generates values for an INTEGER PRIMARY KEY alone",
        )

    def _table_key(self) -> list[str]:
        """The columns of a PRIMARY KEY (…) clause, in lower case."""
        i = self.find("PRIMARY", "KEY", "(")
        if i < 0:
            return []
        out = []
        for k in range(i + 3, self.closing(i + 2) - 1):
            token = self.token(k)
            if token is not None and token.kind in ("word", "quoted"):
                out.append(unquote(token).lower())
        return out

    def _default(self, i: int, end: int) -> None:
        """SQLite takes a literal, CURRENT_TIMESTAMP, or an expression in parentheses."""
        if self.word(i) == "(":
            inner_end = self.closing(i)
            if self.word(i + 1) in _NOW and inner_end - i <= 6:
                self._replace(i, inner_end, "CURRENT_TIMESTAMP")
            elif self.word(i + 1) in _UUID_FUNCTIONS:
                self._replace(i, inner_end, _UUID_V4)
            else:
                self._expression(i, inner_end)
            return
        stop = i
        depth = 0
        while stop < end:
            word = self.word(stop)
            if depth == 0 and stop > i and word in _AFTER_DEFAULT:
                break
            depth += {"(": 1, ")": -1}.get(word, 0)
            stop += 1
        if self.word(i) == "PG_CATALOG":
            i += 2
        if self.word(i) in _NOW or self.word(i) == "CURRENT_TIMESTAMP":
            self._replace(i, stop, "CURRENT_TIMESTAMP")
        elif self.word(i) in _UUID_FUNCTIONS:
            self._replace(i, stop, _UUID_V4)
        elif self.word(i) == "NEXTVAL":
            raise unsupported(
                "sequences are not supported", "an INTEGER PRIMARY KEY generates its values"
            )
        elif stop - i > 1 and not (self.word(i) in ("-", "+") and stop - i == 2):
            self._replace(i, stop, f"({_expression(self._slice(i, stop))})")

    def _generated(self, first: int, i: int, end: int) -> None:
        k = i + 1
        if self.word(k) == "ALWAYS":
            k += 1
        elif self.word(k) == "BY":
            k += 2
        if self.word(k) != "AS":
            return
        if self.word(k + 1) == "IDENTITY":
            stop = k + 2
            if self.word(stop) == "(":
                stop = self.closing(stop)
            self._require_key(first + 1, end)
            if self.word(first + 1) in _INTEGER_TYPES:
                self.put(first + 1, "INTEGER")
            self.drop_range(i, stop)
        elif self.word(k + 1) == "(":
            self._expression(k + 1, self.closing(k + 1))

    def _collate(self, i: int) -> None:
        k = i + 1
        while k < len(self) and not self.word(k):
            k += 1
        if self.word(k) in ("PG_CATALOG", '"pg_catalog"') and self.word(k + 1) == ".":
            k += 2
        token = self.token(k)
        if token is not None and unquote(token).lower() in ("default", "c", "posix", "ucs_basic"):
            self.drop_range(i, k + 1)

    def _expression(self, i: int, end: int) -> None:
        """The expression in the parentheses from ``i`` up to ``end``."""
        body = self._slice(i + 1, end - 1)
        if any(mark in body for mark in ("::", "~", "ANY", "any", "ILIKE", "ilike", "ARRAY", "E'")):
            self._replace(i, end, f"({_expression(body)})")

    def _slice(self, i: int, end: int) -> str:
        tokens = self.all[self.at[i] : self.at[end - 1] + 1] if end > i else []
        return "".join(t.text for t in tokens if t is not None)

    def _replace(self, i: int, end: int, text: str) -> None:
        start, stop = self.at[i] + 1, self.at[end - 1] + 1
        self.all[start:stop] = [None] * (stop - start)
        token = self.all[self.at[i]]
        self.all[self.at[i]] = Token("word", text, token.start if token else 0)

    # --- the other statements -------------------------------------------------------------

    def create_index(self) -> None:
        i = self.find("CONCURRENTLY")
        if 0 < i < 4:
            self.drop_range(i, i + 1)
        on = self.find("ON")
        if on < 0:
            return
        if self.word(on + 1) == "ONLY":
            self.drop_range(on + 1, on + 2)
        using = self.find("USING", start=on)
        if using > 0:
            if self.word(using + 1) not in ("BTREE", "HASH"):
                raise unsupported(
                    f"indexes of type {self.word(using + 1).lower()} are not supported",
                    "SQLite has B-trees, and FTS5 and R-tree as virtual tables",
                )
            self.drop_range(using, using + 2)
        opening = self.find("(", start=on)
        if opening < 0:
            return
        closing = self.closing(opening)
        self._index_columns(opening + 1, closing - 1)
        if all(
            self.word(k) in ("CREATE", "UNIQUE", "INDEX", "IF", "NOT", "EXISTS", "")
            for k in range(on)
        ):
            self._name_index(on, opening, closing)
        if self.word(closing) == "INCLUDE":
            self.drop_range(closing, self.closing(closing + 1))
        self._table_options(closing)

    def _index_columns(self, i: int, end: int) -> None:
        while i < end:
            word = self.word(i)
            if word == "NULLS":
                self.drop_range(i, i + 2)
            elif word.endswith("_OPS"):
                self.drop_range(i, i + 1)
            elif word == "COLLATE":
                self._collate(i)
            elif word == "(":
                self._expression(i, self.closing(i))
            i += 1

    def _name_index(self, on: int, opening: int, closing: int) -> None:
        """PostgreSQL makes a name up; SQLite needs one."""
        names = [
            unquote(t)
            for t in (self.token(k) for k in range(on + 1, closing - 1))
            if t is not None and t.kind in ("word", "quoted") and unquote(t).lower() != "public"
        ]
        token = self.token(on)
        assert token is not None
        name = "_".join([*names, "idx"]).replace('"', "")
        self.all[self.at[on]] = Token("word", f'"{name}" ON', token.start)

    def alter_table(self) -> None:
        if self.word(1) != "TABLE":
            raise unsupported(
                f"ALTER {self.word(1)} is not supported", "SQLite alters tables: ALTER TABLE …"
            )
        i = 2
        if self.word(i) == "IF":
            self.drop_range(i, i + 2)
            i += 2
        if self.word(i) == "ONLY":
            self.drop_range(i, i + 1)
            i += 1
        i += 1
        while self.word(i) == ".":
            i += 2
        self._no_second_action(i)
        action = (self.word(i), self.word(i + 1))
        if action[0] == "ADD" and action[1] in _CONSTRAINT_WORDS:
            raise unsupported(
                "constraints cannot be added to a table that exists",
                "SQLite takes them in CREATE TABLE: make a new table and copy",
            )
        if action[0] == "ADD":
            i += 2 if action[1] == "COLUMN" else 1
            if self.word(i) == "IF":
                raise unsupported("ADD COLUMN IF NOT EXISTS is not supported")
            self._column(i, len(self))
        elif action[0] == "ALTER":
            raise unsupported(
                "a column cannot be altered",
                "SQLite adds, renames and drops columns; for more make a new table and copy",
            )
        elif action[0] == "DROP" and action[1] == "CONSTRAINT":
            raise unsupported(
                "constraints cannot be dropped", "make a new table without it and copy"
            )
        elif action[0] in ("OWNER", "SET", "ENABLE", "DISABLE", "VALIDATE", "CLUSTER"):
            raise unsupported(f"ALTER TABLE … {action[0]} is not supported")
        last = len(self) - 1
        if action[0] == "DROP" and self.word(last) in ("CASCADE", "RESTRICT"):
            self.drop_range(last, last + 1)

    def _no_second_action(self, i: int) -> None:
        while i < len(self):
            if self.word(i) == ",":
                raise unsupported(
                    "one ALTER TABLE makes one change in SQLite", "write one statement for each"
                )
            i = self.closing(i) if self.word(i) == "(" else i + 1

    def drop(self) -> None:
        if any(self.word(i) == "," for i in range(len(self))):
            raise unsupported("one DROP drops one thing in SQLite", "write one statement for each")
        last = len(self) - 1
        while last > 0 and self.word(last) in (";", ""):
            last -= 1
        if self.word(last) in ("CASCADE", "RESTRICT"):
            self.drop_range(last, last + 1)
        i = self.find("CONCURRENTLY")
        if i > 0:
            self.drop_range(i, i + 1)


_AFTER_DEFAULT = frozenset(
    {"NOT", "NULL", "PRIMARY", "UNIQUE", "CHECK", "REFERENCES", "COLLATE", "CONSTRAINT",
     "GENERATED", "DEFERRABLE", "INITIALLY"}
)  # fmt: skip
_CONSTRAINT_WORDS = frozenset({"CONSTRAINT", "PRIMARY", "FOREIGN", "UNIQUE", "CHECK", "EXCLUDE"})


def _expression(text: str) -> str:
    tree = read("SELECT " + text)
    if tree is None:
        raise PgError("42601", f"syntax error in {text!r}")
    return rewrite(tree, named=False).removeprefix("SELECT ")


def _view(sql: str, edit: _Edit) -> str:
    """CREATE [TEMP] VIEW name [(columns)] AS query"""
    if edit.word(0) == "DROP":
        edit.drop()
        edit.strip_schema()
        return edit.text()
    if edit.word(1) == "OR":
        raise unsupported("CREATE OR REPLACE VIEW is not supported", "DROP VIEW IF EXISTS first")
    position = edit.find("AS")
    body_token = edit.token(position + 1) if position > 0 else None
    if body_token is None:
        raise PgError("42601", "syntax error in CREATE VIEW")
    edit_head = _Edit(sql[: body_token.start])
    edit_head.strip_schema()
    tree = read(sql[body_token.start :])
    if tree is None:
        raise PgError("42601", "syntax error in the query of the view")
    return f"{edit_head.text()} {rewrite(tree)}"


__all__: Sequence[str] = ["must_translate_ddl", "translate_ddl"]
