"""A world without chance of its own: virtual time, seeded scheduling, seeded SQLite.

Everything in a run happens in one thread, on a clock that moves only when nothing else can,
in an order that the seed gives. Two runs of one seed are the same, step by step.
"""

from __future__ import annotations

import contextvars
import gc
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import apsw
import trio
from trio._core import _run as trio_run

from sim.trace import Trace

T = TypeVar("T")

EPOCH_NS = 1_700_000_000 * 10**9
"""The wall clock at virtual time 0, in Unix nanoseconds."""

actor: contextvars.ContextVar[str] = contextvars.ContextVar("actor", default="sim")
"""Whose code is running: a node's name, or a client's."""


_PATIENCE = 300
_LIVELOCK = 300_000


class VirtualClock(trio.abc.Clock):
    """Jumps to the next deadline as soon as no task can run. Trio's MockClock is not used
    since it asks the real clock the time, thousands of times a second."""

    def __init__(self) -> None:
        self.now = 0.0
        self._idle = 0
        self._asked = 0
        self.abort: str | None = None
        """Set it to end the run at once, whatever its tasks shield themselves from."""

    def start_clock(self) -> None:
        """It stands at 0."""

    def current_time(self) -> float:
        self._asked += 1
        if self.abort is not None:
            raise Deadlock(self.abort)
        if self._asked > _LIVELOCK:
            raise Deadlock("tasks run and run, and no time passes")
        return self.now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Trio asks this when no task can run: it is time for time to pass."""
        if deadline > self.now:
            if deadline == float("inf"):
                # At the end of a run trio waits for a wake-up of its own, through a socket.
                self._idle += 1
                if self._idle > _PATIENCE:
                    raise Deadlock("every task waits, and no time-out is set: nothing will happen")
                return 0.01
            self.now = deadline
            self._asked = 0
        self._idle = 0
        return 0.0


class Deadlock(Exception):
    """The whole world has come to a stop."""


class _Steps(trio.abc.Instrument):
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._base: int | None = None

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        trace = self._trace
        trace.steps += 1
        counter: int = task._counter  # the order of creation, process-wide
        if self._base is None:
            self._base = counter
        trace.add(str(counter - self._base))
        if trace.on_step is not None:
            trace.on_step(trace.steps)


class _SeededVfs(apsw.VFS):
    """The default file system of a run, which is where SQLite gets its randomness from."""

    def __init__(self, chance: random.Random, clock: VirtualClock) -> None:
        self._chance = chance
        self._clock = clock
        super().__init__("sim-default", "unix", makedefault=True)

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802
        return self._chance.randbytes(numbytes)

    def xCurrentTimeInt64(self) -> int:  # noqa: N802
        return julian_ms(EPOCH_NS + int(self._clock.now * 1e9))

    def xSleep(self, microseconds: int) -> int:  # noqa: N802
        return microseconds


def julian_ms(unix_ns: int) -> int:
    """Milliseconds since the Julian epoch, as SQLite counts time."""
    return unix_ns // 10**6 + 210_866_760_000_000


class World:
    """The clock, the trace, and the streams of chance of one run."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        self.trace = Trace(keep_trace, lambda: self.clock.now)

    def chance(self, name: str) -> random.Random:
        """A stream of its own for each purpose, so that one does not shift the other."""
        return random.Random(f"{self.seed}/{name}")

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        """Run ``main`` to its end. Raises Deadlock when nothing can happen any more."""
        with _determinism(self):
            return trio.run(
                main,
                clock=self.clock,
                instruments=[_Steps(self.trace)],
                strict_exception_groups=True,
            )


@contextmanager
def _determinism(world: World) -> Iterator[None]:
    before = trio_run._ALLOW_DETERMINISTIC_SCHEDULING, trio_run._r
    module: Any = trio_run
    module._ALLOW_DETERMINISTIC_SCHEDULING = True
    module._r = world.chance("scheduler")
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # finalizers run when the last reference goes, not when the collector likes
    apsw.Connection(":memory:").close()  # SQLite notices the process id at its first file
    vfs = _SeededVfs(world.chance("sqlite"), world.clock)
    apsw.randomness(0)
    try:
        yield
    finally:
        vfs.unregister()
        apsw.randomness(0)
        module._ALLOW_DETERMINISTIC_SCHEDULING, module._r = before
        if collecting:
            gc.enable()
