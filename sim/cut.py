"""What is left of a plan: a seed's own plan with parts taken out, in words for a command line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from sim.plan import Plan

Act = tuple[int, int]
"""A client's number, and the number of its operation."""

_LINK_RATES = ("spike_rate", "late")
_BROKER_RATES = ("refuse", "drop", "lose_ack", "late_ack", "stall", "repeat", "replay")
RATES = (*_LINK_RATES, *_BROKER_RATES)


@dataclass(frozen=True, slots=True)
class Cut:
    """``None`` means all of it. ``faults``: places in the plan's list; ``acts``: operations;
    ``workloads``: those that have tables; ``off``: rates of chance faults that become 0."""

    nodes: int | None = None
    faults: tuple[int, ...] | None = None
    workloads: tuple[str, ...] | None = None
    off: tuple[str, ...] | None = None
    acts: tuple[Act, ...] | None = None

    def of(self, plan: Plan) -> Plan:
        """The plan without what is cut away."""
        out = plan
        if self.nodes is not None:
            out = replace(out, nodes=min(self.nodes, plan.nodes))
        names = set(out.names)
        kept = range(len(plan.faults)) if self.faults is None else self.faults
        chosen = [plan.faults[i] for i in kept if i < len(plan.faults)]
        out = replace(out, faults=tuple(f for f in chosen if not f.target or f.target in names))
        if self.workloads is not None:
            out = replace(out, mute=frozenset(plan.workloads) - set(self.workloads))
        if self.off:
            link: dict[str, Any] = {r: 0.0 for r in self.off if r in _LINK_RATES}
            broker: dict[str, Any] = {r: 0.0 for r in self.off if r in _BROKER_RATES}
            out = replace(
                out, link=replace(plan.link, **link), broker=replace(plan.broker, **broker)
            )
        if self.acts is not None:
            out = replace(out, acts=frozenset(self.acts))
        return out

    def __str__(self) -> str:
        """As arguments of ``--cut``; see :func:`parse`."""
        words: list[str] = []
        if self.nodes is not None:
            words.append(f"nodes={self.nodes}")
        if self.faults is not None:
            words.append(f"faults={_ranges(self.faults) or 'none'}")
        if self.workloads is not None:
            words.append(f"workloads={','.join(self.workloads)}")
        if self.off is not None:
            words.append(f"off={'all' if set(self.off) == set(RATES) else ','.join(self.off)}")
        if self.acts is not None:
            clients = sorted({client for client, _ in self.acts})
            parts = [f"{c}:{_ranges(s for x, s in self.acts if x == c)}" for c in clients]
            words.append(f"acts={'+'.join(parts)}")
        return " ".join(words)


def parse(words: Sequence[str]) -> Cut:
    """``nodes=2``, ``faults=0,4-6``, ``workloads=bank``, ``off=drop`` (or ``all``),
    ``acts=1:0-4,9+3:7`` (client 1's operations 0 to 4 and 9, client 3's operation 7).

    Raises ValueError.
    """
    cut = Cut()
    names = {f.name for f in fields(Cut)}
    for word in words:
        name, _, text = word.partition("=")
        if name not in names:
            raise ValueError(f"{word!r}: it must begin with one of {', '.join(sorted(names))}=")
        value: Any
        if name == "nodes":
            value = int(text)
        elif name == "faults":
            value = _numbers(text)
        elif name == "acts":
            value = _acts(text)
        elif name == "off" and text == "all":
            value = RATES
        else:
            value = tuple(t for t in text.split(",") if t)
        cut = replace(cut, **{name: value})
    return cut


def _acts(text: str) -> tuple[Act, ...]:
    out: list[Act] = []
    for part in filter(None, text.split("+")):
        client, _, steps = part.partition(":")
        out += [(int(client), step) for step in _numbers(steps)]
    return tuple(out)


def _ranges(numbers: Iterable[int]) -> str:
    """1, 2, 3, 7 as ``1-3,7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _numbers(text: str) -> tuple[int, ...]:
    out: list[int] = []
    for part in filter(None, text.removeprefix("none").split(",")):
        first, _, last = part.partition("-")
        out += range(int(first), int(last or first) + 1)
    return tuple(out)
