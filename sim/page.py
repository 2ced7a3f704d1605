"""The story of a run as one HTML page: lanes for the nodes and the log, no other file needed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sim.run import Outcome
from sim.timeline import problems_of, tell

_TEMPLATE = Path(__file__).with_name("page.html")
_PLACE = "/*RUN*/null"


def page(outcome: Outcome, command: str) -> str:
    """``outcome``: of a run that kept its trace; ``command``: that runs it again."""
    story = asdict(tell(outcome))
    story["title"] = f"Seed {outcome.plan.seed}: {'ok' if outcome.ok else 'a promise is broken'}"
    story["line"] = outcome.line()
    story["command"] = command
    story["problems"] = [p[:2000] for p in problems_of(outcome)[:3]]
    # In a script element only "</" and "<!--" would end the data.
    data = json.dumps(story, default=repr, ensure_ascii=True).replace("<", "\\u003c")
    return _TEMPLATE.read_text("utf-8").replace(_PLACE, data)
