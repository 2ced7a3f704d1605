"""Cutting SQL text: statements, literals of both kinds, parameters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ha.wire.postgres.lexer import number_parameters, significant, split, tokenize, unquote


@pytest.mark.parametrize(
    ("sql", "statements"),
    [
        ("", []),
        (" ; -- nothing\n ;/* ; */", []),
        ("select 1", ["select 1"]),
        ("select 1; select ';'; ", ["select 1", " select ';'"]),
        (
            'select "a;b"; select [a;b]; select `;`',
            ['select "a;b"', " select [a;b]", " select `;`"],
        ),
        ("select $$a;b$$; select $q$;$q$", ["select $$a;b$$", " select $q$;$q$"]),
        (r"select E'a\';b'; select 1", [r"select E'a\';b'", " select 1"]),
        ("select 'a\\'; select 1", ["select 'a\\'", " select 1"]),
        ("select array['x;y'][1]; select 2", ["select array['x;y'][1]", " select 2"]),
        (
            "create trigger a after insert on t begin select 1; select 2; end; select 3",
            ["create trigger a after insert on t begin select 1; select 2; end", " select 3"],
        ),
        ("create temp trigger a begin x; end", ["create temp trigger a begin x; end"]),
        ("select 'open; ", ["select 'open; "]),
    ],
)
def test_statements_are_cut_at_semicolons_that_are_ones(sql: str, statements: list[str]) -> None:
    assert split(sql) == statements


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("'it''s'", "it's"),
        (r"E'a\nb\\\x41\u00e9\101'", "a\nb\\AéA"),
        ("$$x'y$$", "x'y"),
        ("$t$x$$y$t$", "x$$y"),
        ('"A""b"', 'A"b'),
        ("[a b]", "a b"),
        ("Name", "name"),
    ],
)
def test_literals_mean_their_value(literal: str, value: str) -> None:
    (token,) = significant(literal)
    assert unquote(token) == value


def test_parameters_keep_their_place() -> None:
    sql = "select $1, '$2', $10 -- $3"
    assert number_parameters(sql) == ("select ?1, '$2', ?10 -- $3", 10)
    assert number_parameters("select $$ $1 $$") == ("select $$ $1 $$", 0)


@given(st.text(alphabet="ab$1?:'\"[]`;-/*\\E(),. \n\x00é", max_size=60))
def test_tokens_are_the_text(sql: str) -> None:
    assert "".join(t.text for t in tokenize(sql)) == sql
    assert len(number_parameters(sql)[0]) == len(sql)
