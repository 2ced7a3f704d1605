"""COPY's text, CSV and binary forms, without a server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.wire.postgres.command_parser import parse_command
from ha.wire.postgres.commands import Copy, CopyOptions
from ha.wire.postgres.copy_read import Field, copy_reader
from ha.wire.postgres.copy_write import BINARY_TRAILER, header, line_writer
from ha.wire.postgres.errors import PgError
from tests.support.pg import sqlstate_of


def options(words: str = "") -> CopyOptions:
    command = parse_command(f"COPY t FROM STDIN {words}")
    assert isinstance(command, Copy)
    return command.options


def read(data: bytes, words: str = "", step: int = 0) -> list[list[Field]]:
    reader = copy_reader(options(words), 1 << 20)
    step = step or len(data) or 1
    rows: list[list[Field]] = []
    for i in range(0, len(data), step):
        rows += reader.feed(data[i : i + step])
    return rows + reader.finish()


TEXT = [
    (b"", []),
    (b"1\ta\n2\t\\N\n", [[b"1", b"a"], [b"2", None]]),
    (b"1\ta", [[b"1", b"a"]]),
    (b"a\\tb\\n\\\\\t\\x41\\101\\q\n", [[b"a\tb\n\\", b"AAq"]]),
    (b"a\\\tb\tc\n", [[b"a\tb", b"c"]]),
    (b"1\r\n2\r\n", [[b"1"], [b"2"]]),
    (b"1\n\\.\n2\n", [[b"1"]]),
    (b"\n", [[b""]]),
]


@pytest.mark.parametrize(("data", "rows"), TEXT)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_text(data: bytes, rows: list[list[Field]], step: int) -> None:
    assert read(data, step=step) == rows


CSV = [
    (b"", "(FORMAT csv)", []),
    (b'1,"a,""b",\n', "(FORMAT csv)", [[b"1", b'a,"b', None]]),
    (b'"",x\n', "(FORMAT csv)", [[b"", b"x"]]),
    (b'"a\nb",c\nd,e\n', "(FORMAT csv)", [[b"a\nb", b"c"], [b"d", b"e"]]),
    (b"h1,h2\n1,2\n", "(FORMAT csv, HEADER)", [[b"1", b"2"]]),
    (b"h1;h2\r\nNULL;2\r\n", "CSV HEADER DELIMITER ';' NULL 'NULL'", [[None, b"2"]]),
    (b"'it\\'s',2\n", "(FORMAT csv, QUOTE '''', ESCAPE '\\')", [[b"it's", b"2"]]),
    (b'a"b,c"d,e\n', "(FORMAT csv)", [[b"ab,cd", b"e"]]),
]


@pytest.mark.parametrize(("data", "words", "rows"), CSV)
@pytest.mark.parametrize("step", [0, 1, 5])
def test_csv(data: bytes, words: str, rows: list[list[Field]], step: int) -> None:
    assert read(data, words, step) == rows


def test_broken_data() -> None:
    for data, words in (
        (b'"open', "(FORMAT csv)"),
        (b"nonsense that is long enough", "(FORMAT binary)"),
        (b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0\0\1\0\0", "(FORMAT binary)"),
        (b"PGCOPY\n\xff\r\n\0\0\1\0\0\0\0\0\0", "(FORMAT binary)"),
    ):
        with pytest.raises(PgError) as info:
            read(data, words)
        assert info.value.sqlstate == "22P04"


def test_a_row_without_an_end_is_not_kept_for_ever() -> None:
    reader = copy_reader(options(), 100)
    with pytest.raises(PgError, match="longer than 100 bytes"):
        reader.feed(b"x" * 200)


FIELDS = st.none() | st.text(alphabet='ab\t\n\r,;"\\N.é\x08', max_size=6).map(str.encode)


@given(
    st.lists(st.lists(FIELDS, min_size=2, max_size=2), max_size=4),
    st.sampled_from(
        ["", "(FORMAT csv)", "(FORMAT csv, HEADER, DELIMITER ';')", "(FORMAT binary)",
         "(FORMAT csv, FORCE_QUOTE *, QUOTE '''', ESCAPE '\\')", "(DELIMITER '|', NULL 'none')"]
    ),
    st.integers(1, 40),
)  # fmt: skip
def test_what_is_written_is_read_again(rows: list[list[Field]], words: str, step: int) -> None:
    chosen = options(words)
    line = line_writer(chosen, ["a", "b"])
    data = header(chosen, ["a", "b"]) + b"".join(line(r) for r in rows)
    if chosen.format == "binary":
        data += BINARY_TRAILER
    assert read(data, words, step) == rows


@given(st.binary(max_size=80), st.sampled_from(["", "(FORMAT csv)", "(FORMAT binary)"]))
def test_any_bytes_are_rows_or_an_error(data: bytes, words: str) -> None:
    state = sqlstate_of(lambda: read(data, words, 7))
    assert state in (None, "22P04")


@pytest.mark.parametrize(
    ("sql", "sqlstate"),
    [
        ("COPY t FROM '/etc/passwd'", "42501"),
        ("COPY t TO PROGRAM 'x'", "42501"),
        ("COPY (SELECT 1) FROM STDIN", "42601"),
        ("COPY t FROM STDIN (FORMAT xml)", "22023"),
        ("COPY t FROM STDIN (NONSENSE)", "42601"),
        ("COPY t FROM STDIN (DELIMITER 'ab')", "0A000"),
        ("COPY t FROM STDIN (ENCODING latin1)", "0A000"),
        ("COPY t", "42601"),
    ],
)
def test_malformed_commands(sql: str, sqlstate: str) -> None:
    with pytest.raises(PgError) as info:
        parse_command(sql)
    assert info.value.sqlstate == sqlstate
