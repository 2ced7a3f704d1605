"""The remote client's parts without a node: statements, tables, and what importing reads."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.cli.client.output import Mode, Screen, clip, fit, width_of, write
from ha.cli.client.statements import Item, blank, complete, split

# --- statements ----------------------------------------------------------------------

TRIGGER = "CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; SELECT ';'; END;"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT 1;", [("SELECT 1;", 1)]),
        ("SELECT 1", [("SELECT 1", 1)]),
        (
            "SELECT 1; SELECT 2;\nSELECT\n3;",
            [("SELECT 1;", 1), ("SELECT 2;", 1), ("SELECT\n3;", 2)],
        ),
        ("SELECT ';';SELECT 2", [("SELECT ';';", 1), ("SELECT 2", 1)]),
        ("\n\n-- a; b\nSELECT 1;", [("-- a; b\nSELECT 1;", 4)]),
        ("/* ; */ SELECT 1;", [("/* ; */ SELECT 1;", 1)]),
        (f"{TRIGGER} SELECT 2;", [(TRIGGER, 1), ("SELECT 2;", 1)]),
        (TRIGGER.replace(" ", "\n"), [(TRIGGER.replace(" ", "\n"), 1)]),
        (".tables\n.mode csv\nSELECT 1;", [(".tables", 1), (".mode csv", 2), ("SELECT 1;", 3)]),
        ("SELECT 1\n.5;", [("SELECT 1\n.5;", 1)]),
        ("exit\nSELECT 1;", [("exit", 1), ("SELECT 1;", 2)]),
        ('SELECT "a;b", [c;d], `e;f`;', [('SELECT "a;b", [c;d], `e;f`;', 1)]),
        ("SELECT 'it''s; fine';", [("SELECT 'it''s; fine';", 1)]),
        (";;  ; -- nothing", []),
        ("", []),
    ],
)
def test_a_text_is_split_into_its_statements(text: str, expected: list[tuple[str, int]]) -> None:
    items = [(item.text, item.line) for item in split(text.splitlines(keepends=True))]
    assert [(t.removeprefix("-- a; b\n"), n) for t, n in items] == [
        (t.removeprefix("-- a; b\n"), n) for t, n in expected
    ]


@given(st.lists(st.sampled_from(["SELECT 1;", "SELECT ';';", TRIGGER, "-- x;\n", " ", "\n"])))
def test_each_statement_comes_once_in_order(parts: list[str]) -> None:
    text = "".join(parts)
    items = [item.text for item in split(text.splitlines(keepends=True))]
    wanted = [part for part in parts if part.strip() and not part.startswith("--")]
    assert [item.rpartition("-- x;\n")[2].strip() for item in items] == wanted


@pytest.mark.parametrize(
    "text", ["", "  ", "SELECT 1;", ".help", "exit", "QUIT ;", "-- x", TRIGGER]
)
def test_what_may_run(text: str) -> None:
    assert complete(text)


@pytest.mark.parametrize(
    "text", ["SELECT 1", "SELECT ';", "/* x", TRIGGER[:-5], "SELECT 1; SELECT"]
)
def test_what_needs_more(text: str) -> None:
    assert not complete(text)


def test_leaving() -> None:
    assert Item("Exit;", 1).leaves
    assert Item("quit", 1).leaves
    assert not Item("SELECT 'exit'", 1).leaves
    assert blank(" ; -- x")


# --- output --------------------------------------------------------------------------


def shown(mode: Mode, columns: list[str], rows: list[tuple[object, ...]], width: int | None) -> str:
    out = io.StringIO()
    assert write(mode, out, columns, rows, Screen(width)) == len(rows)  # type: ignore[arg-type]
    return out.getvalue()


def test_a_table_aligns_numbers_to_the_right_and_shows_nulls() -> None:
    rows = [(1, "tea", 1.5), (22, "käse", None), (333, "日本", float("inf"))]
    assert shown(Mode.TABLE, ["id", "name", "price"], rows, None).splitlines() == [
        "  id │ name │ price",
        "─────┼──────┼───────",
        "   1 │ tea  │   1.5",
        "  22 │ käse │  NULL",
        " 333 │ 日本 │   Inf",
    ]


def test_an_empty_table_has_its_head() -> None:
    assert shown(Mode.TABLE, ["a"], [], None).splitlines() == [" a", "───"]


CELLS = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(), st.binary())


@given(st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=5), st.integers(20, 120))
def test_nothing_is_wider_than_the_terminal(rows: list[tuple[object, ...]], width: int) -> None:
    text = shown(Mode.TABLE, ["a", "a long name of a column", "c"], rows, width)
    if "│" in text:
        assert all(width_of(line) <= width for line in text.splitlines())
    assert text.isprintable() or set(text) - {"\n"} == {c for c in text if c.isprintable()}


def test_too_many_columns_for_a_terminal_are_shown_one_a_line() -> None:
    columns = [f"column{n}" for n in range(20)]
    text = shown(Mode.TABLE, columns, [tuple(range(20)), tuple("x" * 20)], 60)
    assert "column19 = 19" in text
    assert "│" not in text


def test_long_values_are_cut_for_a_terminal_only() -> None:
    rows = [("x" * 500, bytes(100))]
    wide = shown(Mode.TABLE, ["a", "b"], rows, None)
    assert "x" * 500 in wide
    assert "00" * 100 in wide
    narrow = shown(Mode.TABLE, ["a", "b"], rows, 80)
    assert "…" in narrow
    assert "x" * 100 not in narrow


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.integers(10, 200))
def test_widths_are_cut_evenly(widths: list[int], total: int) -> None:
    fitted = fit(widths, total)
    if fitted is None:
        return
    assert sum(fitted) + 3 * len(fitted) - 1 <= total
    assert all(f <= w for f, w in zip(fitted, widths, strict=True))
    cut = [f for f, w in zip(fitted, widths, strict=True) if f < w]
    assert len(set(cut)) <= 1


@given(st.text(), st.integers(1, 20))
def test_a_clipped_text_fits(text: str, width: int) -> None:
    printable = "".join(c for c in text if c.isprintable())
    assert width_of(clip(printable, width)) <= width


TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@given(st.lists(st.tuples(st.one_of(st.none(), TEXTS), st.integers()), min_size=1))
def test_csv_is_read_by_others(rows: list[tuple[object, ...]]) -> None:
    text = shown(Mode.CSV, ["a", 'b"'], rows, None)
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["a", 'b"'], *([("" if a is None else a), str(b)] for a, b in rows)]


@given(st.lists(st.tuples(CELLS, CELLS)))
def test_json_is_read_by_others(rows: list[tuple[object, ...]]) -> None:
    rows = [tuple(0.0 if v != v else v for v in row) for row in rows]
    text = shown(Mode.JSON, ["x", "x"], rows, None)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    read = json.loads(text, parse_constant=refuse)
    assert [list(d) for d in read] == [["x", "x:2"]] * len(rows)
    for document, row in zip(read, rows, strict=True):
        for found, value in zip(document.values(), row, strict=True):
            if isinstance(value, bytes):
                assert set(found) == {"base64"}
            elif isinstance(value, float) and math.isinf(value):
                assert set(found) == {"real"}
            else:
                assert found == value


def test_lines() -> None:
    assert shown(Mode.LINE, ["a", "long"], [(1, None), ("x\ny", b"\x00")], None) == (
        "   a = 1\nlong = NULL\n\n   a = x\\ny\nlong = x'00'\n"
    )
