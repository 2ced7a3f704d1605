"""The history for people: a few lines of text, and one self-contained page."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path

from tests.jepsen_like.run import Result

_TEMPLATE = Path(__file__).with_name("report.html")


def text(result: Result) -> str:
    history = result.history
    faults = Counter(one.kind for one in history.faults)
    lines = [
        f"{len(history.operations)} operations: {_counts(history.summary())}",
        f"{len(history.faults)} faults: {_counts(dict(sorted(faults.items())))}",
        *result.notes,
        f"{len(result.anomalies)} anomalies",
        *(f"  {one}" for one in result.anomalies[:50]),
    ]
    return "\n".join(lines)


def page(result: Result, title: str) -> str:
    history = result.history
    data = {
        "operations": [
            [one.process, one.node, one.kind, str(one.value), round(one.start, 4),
             None if one.end is None else round(one.end, 4), one.outcome.value, one.code or ""]
            for one in history.operations
        ],
        "faults": [[one.kind, one.target, one.start, one.end] for one in history.faults],
    }  # fmt: skip
    embedded = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    whole = _TEMPLATE.read_text(encoding="utf-8")
    head = f"{title}\n{text(result)}"
    return whole.replace("@SUMMARY@", html.escape(head)).replace("@DATA@", embedded)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
