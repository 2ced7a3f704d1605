"""The history for people: a few lines of text, and one self-contained page."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path

from tests.jepsen_like.run import Result

_TEMPLATE = Path(__file__).with_name("report.html")
_SHOWN = 50  # anomalies; after so many the rest says nothing new


def text(result: Result) -> str:
    history = result.history
    faults = Counter(one.kind for one in history.faults)
    lines = [
        f"{len(history.operations)} operations: {_counts(history.summary())}",
        f"{len(history.faults)} faults: {_counts(dict(sorted(faults.items())))}",
        *result.notes,
        f"{len(result.anomalies)} anomalies",
        *(f"  {one}" for one in result.anomalies[:_SHOWN]),
    ]
    return "\n".join(lines)


def page(result: Result, title: str) -> str:
    history = result.history
    data = {
        "operations": [
            [one.process, one.node, one.kind, str(one.value), round(one.start, 4),
             None if one.end is None else round(one.end, 4), one.outcome.value, one.code or "",
             one.wire]
            for one in history.operations
        ],
        "faults": [
            [one.kind, one.target, one.start, one.end, one.recovered] for one in history.faults
        ],
        "anomalies": result.anomalies[:_SHOWN],
        "notes": result.notes,
    }  # fmt: skip
    embedded = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    whole = _TEMPLATE.read_text(encoding="utf-8")
    return whole.replace("@TITLE@", html.escape(title)).replace("@DATA@", embedded)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
