"""Judges of a run. They know the log, what clients were told, and what the files held; nothing
of ``ha/`` is used here."""

from __future__ import annotations

from sim.checkers.answers import check_answers
from sim.checkers.folds import FoldHistory, check_probes, fold_log
from sim.checkers.invariants import check_invariant
from sim.checkers.letters import check_letters
from sim.checkers.races import may_race
from sim.checkers.reads import check_reads, with_latest
from sim.checkers.registers import check_registers
from sim.checkers.undos import check_undos
from sim.checkers.updates import lost_updates

__all__ = [
    "FoldHistory",
    "check_answers",
    "check_invariant",
    "check_letters",
    "check_probes",
    "check_reads",
    "check_registers",
    "check_undos",
    "fold_log",
    "lost_updates",
    "may_race",
    "with_latest",
]
