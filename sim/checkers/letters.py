"""Is no message lost that nodes were let pass over?"""

from __future__ import annotations

from collections.abc import Sequence

from sim.checkers.folds import FoldHistory
from sim.history import Probe


def check_letters(
    history: FoldHistory,
    probes: Sequence[Probe],
    entries: Sequence[tuple[int, bytes]],
    first: int,
) -> list[str]:
    """Every file that is beyond a skipped message keeps it among its dead letters, as it came.

    ``first``: the log has let go of what stands before; who came after that may never have met it.
    """
    problems: list[str] = []
    payloads = dict(entries)
    skipped = [s for s, m in history.meanings.items() if m.verdict == "skipped"]
    # A file that became the base in the middle of the log has its own past.
    bases = [s for s, m in history.meanings.items() if m.kind == "base" and m.tables]
    for probe in probes:
        base = max((s for s in bases if s <= probe.sequence), default=0)
        kept = {sequence: (state, message) for sequence, state, message in probe.letters}
        for sequence in skipped:
            if not base < sequence <= probe.sequence:
                continue
            if sequence < first and sequence not in kept:
                continue
            if kept.get(sequence) != ("skipped", payloads[sequence]):
                problems.append(
                    f"at {probe.time:.3f} s the file of {probe.process} was at {probe.sequence} and"
                    f" did not keep the message at {sequence} that it had been let pass over"
                )
    return problems
