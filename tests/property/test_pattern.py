"""Patterns mean what Python's re says, and never take long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ha.core.pattern import Pattern, PatternError

atom = st.sampled_from(
    [
        "a",
        "b",
        "c",
        ".",
        "[ab]",
        "[^a]",
        "[a-c]",
        r"\d",
        r"\w",
        r"\W",
        r"\.",
        "_",
        "1",
        "[b-]",
        r"[\w.]",
    ]
)
place = st.sampled_from(["^", "$", r"\b", r"\B"])


def repeated(part: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    again = st.sampled_from(["*", "+", "?", "*?", "+?", "{2}", "{1,2}", "{0,}", "{2,}"])
    return st.one_of(
        st.builds("(?:{}){}".format, part, again),
        st.builds("({}|{})".format, part, part),
        st.builds("{}{}".format, part, part),
    )


pattern = st.recursive(st.one_of(atom, place), repeated, max_leaves=8)


@settings(max_examples=2_000, deadline=None)
@given(pattern, st.text("abc1_.-\n ", min_size=1, max_size=8))
def test_it_finds_what_re_finds(text: str, subject: str) -> None:
    # In Python $ also matches before a line feed at the end; here, as in Go, only at the end.
    assert Pattern(text).search(subject) is (
        re.search(text.replace("$", r"\Z"), subject) is not None
    )


def test_a_pattern_that_keeps_re_busy_for_ever_takes_no_time() -> None:
    begun = time.perf_counter()
    for text in (r"(a+)+$", r"^(a|aa)*$", r"(.*)*(.*)*x", r"((a?){30}){30}b"):
        assert Pattern(text).search("a" * 200 + "!") is False
    assert time.perf_counter() - begun < 5


@pytest.mark.parametrize(
    "text",
    ["(", ")", "[a", "*", "a**b(", r"\1", "(?=a)", "(?!a)", "(?<=a)", "(?i)a", "\\", "a{3,2}",
     "(a{1000}){1000}", r"\q", "x" * 2000],
)  # fmt: skip
def test_what_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(PatternError):
        Pattern(text)


def test_what_ids_of_databases_are_matched_with() -> None:
    assert Pattern(".*").search("")
    assert Pattern("users_.*").search("users_1.db")
    assert not Pattern("^users_[0-9]+\\.db$").search("my_users_1.db")
    assert Pattern("a|b{").search("xb{")
    assert Pattern("(?P<n>a)b").search("ab")
