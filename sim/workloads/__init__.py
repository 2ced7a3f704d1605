"""What clients do in a run. Each workload has tables of its own, and looks at one thing."""

from __future__ import annotations

from sim.workloads.base import Watch, Workload
from sim.workloads.past import Undoing
from sim.workloads.rows import Bank, Counters, Lists, Registers, Users
from sim.workloads.shapes import Big, Family, Odd, Schema, Search
from sim.workloads.trouble import Failing

ALL: dict[str, type[Workload]] = {
    "registers": Registers,
    "counters": Counters,
    "lists": Lists,
    "bank": Bank,
    "users": Users,
    "family": Family,
    "odd": Odd,
    "schema": Schema,
    "big": Big,
    "search": Search,
    "failing": Failing,
    "undo": Undoing,
}

__all__ = ["ALL", "Watch", "Workload"]
