"""Regular expressions that cannot take long, for patterns that clients send.

Python's own matcher goes back and tries again, so that a pattern like ``(a+)+$`` can occupy a
node for ever. This one keeps a set of states and looks at each character once (K. Thompson,
"Regular expression search algorithm", CACM 1968). The syntax is the common part of Python's and
Go's (RE2): no back references, no look-around, since these need going back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MOST_STATES = 5_000
_MOST_REPEATS = 1_000
_LONGEST = 1_000

_Test = Callable[[str], bool]
_CLASSES: dict[str, _Test] = {
    "d": lambda c: c.isdecimal(),
    "w": lambda c: c.isalnum() or c == "_",
    "s": lambda c: c.isspace(),
}
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}


class PatternError(ValueError):
    """The pattern is not one of those that are understood; the text says why."""


@dataclass(frozen=True, slots=True)
class _State:
    """``test``: takes a character and goes to ``out``; ``place``: goes there only at a place in
    the text; neither: goes to ``out`` and ``other`` at once. The last state accepts."""

    test: _Test | None = None
    place: str = ""
    out: int = -1
    other: int = -1


class Pattern:
    """``search()`` takes time that is linear in the text. Raises PatternError."""

    def __init__(self, text: str) -> None:
        if len(text) > _LONGEST:
            raise PatternError(f"a pattern has at most {_LONGEST} characters")
        self.text = text
        compiler = _Compiler(text)
        self._start = compiler.compile()
        self._states = compiler.states

    def search(self, text: str) -> bool:
        """Does the pattern match somewhere in ``text``?"""
        states = self._states
        now: set[int] = set()
        for at in range(len(text) + 1):
            if self._follow(now, self._start, text, at):
                return True
            if at == len(text):
                return False
            character = text[at]
            following: set[int] = set()
            for index in now:
                state = states[index]
                if state.test is None or not state.test(character):
                    continue
                if self._follow(following, state.out, text, at + 1):
                    return True
            now = following
        return False

    def _follow(self, into: set[int], start: int, text: str, at: int) -> bool:
        """Add a state and all that are reached from it without a character; True at the end."""
        pending = [start]
        while pending:
            index = pending.pop()
            if index == -1 or index in into:
                continue
            state = self._states[index]
            if state.place and not _is_at(state.place, text, at):
                continue
            into.add(index)
            if state.test is not None:
                continue
            if state.out == -1 and state.other == -1:
                return True
            pending += (state.other, state.out)
        return False


def _is_at(place: str, text: str, at: int) -> bool:
    if place in "^A":
        return at == 0
    if place in "$Zz":
        return at == len(text)
    before = at > 0 and _CLASSES["w"](text[at - 1])
    after = at < len(text) and _CLASSES["w"](text[at])
    return (before != after) == (place == "b")


class _Compiler:
    """A recursive descent over the pattern; builds states from the end to the beginning.

    Each method is given the state that follows, and returns the one to begin with. Since what
    is repeated is built more than once, a part is kept as a function that builds it.
    """

    def __init__(self, text: str) -> None:
        self.states: list[_State] = []
        self._text = text
        self._at = 0

    def compile(self) -> int:
        build = self._alternatives()
        if self._at < len(self._text):
            raise PatternError(f"unmatched ')' at {self._at}")
        return build(self._add(_State()))

    def _add(self, state: _State) -> int:
        if len(self.states) >= MOST_STATES:
            raise PatternError("the pattern is too large: its repetitions multiply")
        self.states.append(state)
        return len(self.states) - 1

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _eat(self, text: str) -> bool:
        if self._text.startswith(text, self._at):
            self._at += len(text)
            return True
        return False

    def _alternatives(self) -> Callable[[int], int]:
        branches = [self._sequence()]
        while self._eat("|"):
            branches.append(self._sequence())
        if len(branches) == 1:
            return branches[0]

        def build(following: int) -> int:
            start = branches[-1](following)
            for branch in reversed(branches[:-1]):
                start = self._add(_State(out=branch(following), other=start))
            return start

        return build

    def _sequence(self) -> Callable[[int], int]:
        parts: list[Callable[[int], int]] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated())

        def build(following: int) -> int:
            for part in reversed(parts):
                following = part(following)
            return following

        return build

    def _repeated(self) -> Callable[[int], int]:
        part = self._atom()
        while True:
            if self._eat("*"):
                least, most = 0, -1
            elif self._eat("+"):
                least, most = 1, -1
            elif self._eat("?"):
                least, most = 0, 1
            else:
                bounds = self._bounds()
                if bounds is None:
                    return part
                least, most = bounds
            self._eat("?")  # lazy or greedy: whether it matches is the same
            part = self._repeat(part, least, most)

    def _bounds(self) -> tuple[int, int] | None:
        """``{2}``, ``{2,}``, ``{2,5}``; anything else is a plain brace."""
        if self._peek() != "{":
            return None
        end = self._text.find("}", self._at)
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if end < 0 or not low.isdecimal() or not (high.isdecimal() or not high):
            return None
        self._at = end + 1
        least = int(low)
        most = least if not comma else int(high) if high else -1
        if max(least, most) > _MOST_REPEATS or -1 < most < least:
            raise PatternError(f"bad repetition {{{low}{comma}{high}}}")
        return least, most

    def _repeat(self, part: Callable[[int], int], least: int, most: int) -> Callable[[int], int]:
        def build(following: int) -> int:
            if most < 0:
                # The loop's own state must be known before what it loops over.
                loop = self._add(_State(out=following, other=following))
                self.states[loop] = _State(out=part(loop), other=following)
                following = loop
            else:
                end = following
                for _ in range(most - least):
                    following = self._add(_State(out=part(following), other=end))
            for _ in range(least):
                following = part(following)
            return following

        return build

    def _atom(self) -> Callable[[int], int]:
        character = self._peek()
        self._at += 1
        if character == "(":
            if self._peek() == "?":
                self._group_options()
            inside = self._alternatives()
            if not self._eat(")"):
                raise PatternError("a '(' is not closed")
            return inside
        if character == "[":
            return self._one(self._set())
        if character == ".":
            return self._one(lambda c: c != "\n")
        if character in "^$":
            return self._place(character)
        if character == "\\":
            return self._escape()
        if character in "*+?":
            raise PatternError(f"nothing to repeat before {character!r}")
        return self._one(self._literal(character))

    def _group_options(self) -> None:
        if self._eat("?:"):
            return
        if self._eat("?i)") or self._eat("?i:"):
            raise PatternError("(?i) is not supported: write [Aa]")
        if (self._eat("?P<") or self._eat("?<")) and self._peek() not in "=!":
            end = self._text.find(">", self._at)
            if end > 0:
                self._at = end + 1
                return
        raise PatternError("look-around and other (?…) groups are not supported")

    def _escape(self) -> Callable[[int], int]:
        character = self._peek()
        self._at += 1
        if character in ("b", "B", "A", "Z", "z"):
            return self._place(character)
        return self._one(self._escaped(character))

    def _escaped(self, character: str) -> _Test:
        if not character:
            raise PatternError("a backslash at the end")
        if character.lower() in _CLASSES:
            test = _CLASSES[character.lower()]
            return test if character.islower() else lambda c: not test(c)
        if character in "123456789":
            raise PatternError("back references are not supported")
        if character in _ESCAPES:
            return self._literal(_ESCAPES[character])
        if character == "x":
            return self._literal(self._hexadecimal())
        if character.isalpha():
            raise PatternError(f"unknown escape \\{character}")
        return self._literal(character)

    def _hexadecimal(self) -> str:
        digits = self._text[self._at : self._at + 2]
        try:
            value = chr(int(digits, 16))
        except ValueError:
            raise PatternError("\\x takes two hexadecimal digits") from None
        self._at += 2
        return value

    def _set(self) -> _Test:
        negated = self._eat("^")
        tests: list[_Test] = []
        first = True
        while first or self._peek() != "]":
            first = False
            if not self._peek():
                raise PatternError("a '[' is not closed")
            tests.append(self._range())
        self._at += 1
        if negated:
            return lambda c: not any(test(c) for test in tests)
        return lambda c: any(test(c) for test in tests)

    def _range(self) -> _Test:
        low = self._set_character()
        if not isinstance(low, str):
            return low
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("", "]"):
            return self._literal(low)
        self._at += 1
        high = self._set_character()
        if not isinstance(high, str) or high < low:
            raise PatternError("bad range in [ ]")
        return lambda c: low <= c <= high

    def _set_character(self) -> str | _Test:
        character = self._peek()
        self._at += 1
        if character != "\\":
            return character
        character = self._peek()
        self._at += 1
        if character in _ESCAPES:
            return _ESCAPES[character]
        if character == "x":
            return self._hexadecimal()
        if character and not character.isalnum():
            return character
        return self._escaped(character)

    def _literal(self, character: str) -> _Test:
        return lambda c: c == character

    def _one(self, test: _Test) -> Callable[[int], int]:
        return lambda following: self._add(_State(test=test, out=following))

    def _place(self, place: str) -> Callable[[int], int]:
        return lambda following: self._add(_State(place=place, out=following))
