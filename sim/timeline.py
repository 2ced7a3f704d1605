"""The story of a run, for people: what each node did, what the log took, what went wrong when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sim.history import GONE, OK, Call
from sim.run import Outcome

LOG = "log"
_OPEN = {GONE, "outcome_unknown", ""}
_QUIET = {"publish", "ack", "deliver", "stored", "lost"}
"""Kinds of events that are told as messages."""


@dataclass(slots=True)
class Message:
    """Times in virtual seconds. ``sequence``: 0 if the log never took it; ``gone``: it took it,
    and lost it; ``fate``: what else became of it, in a word."""

    id: str
    node: str
    sent: float
    sequence: int = 0
    stored: float | None = None
    fate: str = ""
    gone: bool = False
    text: str = ""
    detail: str = ""
    arrived: list[tuple[str, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Operation:
    """``state``: ``ok``, ``open`` (nobody knows) or ``refused``; ``blamed``: a broken promise
    names it."""

    node: str
    client: str
    begun: float
    ended: float
    what: str
    state: str
    detail: str
    reads: bool
    blamed: bool


@dataclass(frozen=True, slots=True)
class Band:
    """Something that was wrong with ``lane`` for a while."""

    lane: str
    begun: float
    ended: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    lane: str
    time: float
    kind: str
    text: str


@dataclass(slots=True)
class Story:
    """``lanes``: nodes, with the log in their middle."""

    lanes: list[str]
    messages: list[Message] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    bands: list[Band] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)


def tell(outcome: Outcome) -> Story:
    """``outcome``: of a run that kept its trace."""
    names = outcome.plan.names
    middle = (len(names) + 1) // 2
    story = Story([*names[:middle], LOG, *names[middle:]])
    story.messages = _messages(outcome)
    story.operations = [_operation(c, outcome.problems) for c in outcome.calls]
    story.bands = [*_bands(outcome), *_down(outcome)]
    lanes = set(story.lanes)
    for event in outcome.trace.events:
        if event.lane in lanes and event.kind not in _QUIET and not event.key:
            story.marks.append(Mark(event.lane, event.time, event.kind, event.text))
    return story


def text_of(outcome: Outcome) -> Iterator[str]:
    """A time line for each node and for the log, in lines."""
    story = tell(outcome)
    yield from ("# " + line for line in problems_of(outcome))
    for lane in [*outcome.plan.names, LOG]:
        yield ""
        yield f"== {lane} " + "=" * 60
        for time, text in sorted(_lines(story, lane), key=lambda line: line[0]):
            yield f"{time:10.4f}  {text}"


def problems_of(outcome: Outcome) -> list[str]:
    return list(dict.fromkeys(outcome.problems))


def history_of(outcome: Outcome, limit: int = 60) -> Iterator[str]:
    """What clients did and what went wrong, in the order of time, in lines."""
    lines = [(c.begun, f"{c.process:5} {c.client}: {_said(c)}") for c in outcome.calls]
    lines += [(b.begun, f"{b.lane:5} {b.text}") for b in _bands(outcome)]
    for event in outcome.trace.events:
        if event.kind in ("crashed", "serves", "repairs", "lost") and event.lane != "faults":
            lines.append((event.time, f"{event.lane:5} {event.kind}: {event.text}".rstrip(": ")))
    lines.sort(key=lambda line: line[0])
    if len(lines) > limit:
        yield f"… {len(lines) - limit} lines before"
    for time, text in lines[-limit:]:
        yield f"{time:10.4f}  {text}"


def _lines(story: Story, lane: str) -> Iterator[tuple[float, str]]:
    for op in story.operations:
        if op.node == lane:
            blamed = "  <-- see above" if op.blamed else ""
            yield op.begun, f"{op.client} asks: {op.what}"
            yield op.ended, f"{op.client} is told: {op.detail}{blamed}"
    for message in story.messages:
        name = f"message {message.sequence}" if message.sequence else f"message {message.id}"
        if lane == LOG:
            if message.stored is not None:
                lost = ", and lost it later" if message.gone else ""
                yield (
                    message.stored,
                    f"took {message.sequence} of {message.node}: {message.text}{lost}",
                )
            elif message.fate:
                yield message.sent, f"{message.fate}: {message.id}"
        elif lane == message.node and message.id:
            fate = f" ({message.fate})" if message.fate else ""
            yield message.sent, f"    sends {name} {message.text}{fate}".rstrip()
        for node, time in message.arrived:
            if node == lane:
                yield time, f"    receives {name}"
    for band in story.bands:
        if band.lane == lane:
            yield band.begun, f"!! {band.text}, until {band.ended:.4f}"
    for mark in story.marks:
        if mark.lane == lane:
            yield mark.time, f"** {mark.kind} {mark.text}".rstrip()


# --- from the trace --------------------------------------------------------------------


def _messages(outcome: Outcome) -> list[Message]:
    by_id: dict[str, Message] = {}
    by_sequence: dict[int, Message] = {}
    out: list[Message] = []
    payloads = dict(outcome.log)
    lost = dict(outcome.lost)
    last = 0
    for event in outcome.trace.events:
        if event.kind == "publish" and event.key:
            if event.key not in by_id or by_id[event.key].stored is not None:
                message = Message(event.key, event.lane, event.time)
                by_id[event.key] = message
                out.append(message)
        elif event.lane == LOG and event.kind == "stored":
            sequence = int(event.text.split()[0])
            message = by_id.get(event.key) or Message(event.key, "?", event.time)
            if message.stored is not None or event.key not in by_id:
                message = Message(event.key, message.node, event.time, fate="sent again")
                out.append(message)
            message.sequence, message.stored = sequence, event.time
            by_sequence[sequence] = message
            last = sequence
        elif event.lane == LOG and event.kind in ("dropped", "refused", "duplicate"):
            if event.key in by_id:
                by_id[event.key].fate = event.kind
        elif event.lane == LOG and event.kind == "ack lost":
            if event.text in by_id:
                by_id[event.text].fate = event.kind
        elif event.lane == LOG and event.kind == "lost":
            kept = int(event.text.rsplit(" ", 1)[-1])
            for sequence in range(kept + 1, last + 1):
                if sequence in by_sequence:
                    by_sequence[sequence].gone = True
        elif event.kind == "deliver":
            arrived = by_sequence.get(int(event.text.split()[0]))
            if arrived is not None:
                arrived.arrived.append((event.lane, event.time))
    for message in out:
        payload = (lost if message.gone else payloads).get(message.sequence)
        if payload is not None:
            message.text, message.detail = summary_of(payload)
    return out


def _operation(call: Call, problems: Iterable[str]) -> Operation:
    state = "ok" if call.outcome in (OK, "abandoned") else "refused"
    if call.outcome in _OPEN:
        state = "open"
    what = f"{call.what} {call.token}".strip()
    name = str(call)
    return Operation(
        call.process.partition("#")[0],
        call.client,
        call.begun,
        max(call.ended, call.begun),
        what,
        state,
        _said(call),
        bool(call.watch),
        any(name in p for p in problems),
    )


def _said(call: Call) -> str:
    parts = [call.what, call.token, "->", call.outcome or "no answer"]
    if call.sequence:
        parts.append(f"at {call.sequence}")
    if call.message:
        parts.append(f"({call.message})")
    if call.rows:
        parts.append(repr(call.rows)[:300])
    return " ".join(p for p in parts if p)


def _bands(outcome: Outcome) -> Iterator[Band]:
    """Faults, from when they struck; the log's own have its lane."""
    known = {str(f): f for f in outcome.plan.faults}
    lanes = set(outcome.plan.names)
    for event in outcome.trace.events:
        fault = known.get(event.text) if event.lane == "faults" else None
        if fault is not None:
            lane = fault.target if fault.target in lanes and _is_of_node(fault.kind) else LOG
            _, _, words = str(fault).partition(" ")
            yield Band(lane, event.time, event.time + fault.duration, words)


def _is_of_node(kind: str) -> bool:
    return not kind.startswith("broker") and kind not in ("leader", "storm", "loss")


def _down(outcome: Outcome) -> Iterator[Band]:
    """Between a process's end and the next one's service."""
    since: dict[str, float] = {}
    for event in outcome.trace.events:
        if event.kind in ("crashed", "stopped", "ended") and event.lane in outcome.plan.names:
            since.setdefault(event.lane, event.time)
        elif event.kind == "serves" and event.lane in since:
            yield Band(event.lane, since.pop(event.lane), event.time, "down")
    for lane, time in since.items():
        yield Band(lane, time, outcome.virtual, "down")


def summary_of(payload: bytes) -> tuple[str, str]:
    """What a message says, in a few words and in a few lines."""
    try:
        message: dict[str, Any] = json.loads(payload)
    except ValueError:
        return "not JSON", repr(payload[:200])
    ours = message.get("ha") or {}
    if ours.get("kind"):
        return str(ours["kind"]), json.dumps(ours)
    lines: list[str] = []
    for change in message.get("changes") or ():
        if change.get("operation") == "SQL":
            lines.append(str(change.get("command")))
        else:
            values = change.get("new_values") or change.get("old_values")
            lines.append(f"{change['operation']} {change['table']} {json.dumps(values)}")
    if "part" in ours:
        lines.insert(0, f"part {ours['part']} of a big transaction")
    more = f" (+{len(lines) - 1})" if len(lines) > 1 else ""
    first = lines[0] if lines else "nothing"
    return first[:60] + more, "\n".join(x[:160] for x in lines[:8])
