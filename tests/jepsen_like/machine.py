"""What this machine lets a test do. What it does not is skipped by name, with the reason."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.jepsen_like import clock
from tests.jepsen_like.disks import FuseDisk, Mount, Tmpfs
from tests.jepsen_like.network import Loopback, Namespaces, Network

DISK_MIB = 1024  # memory is taken as it is filled

_LOSS_KINDS = ("power_loss",)


@dataclass(frozen=True, slots=True)
class Machine:
    """``network`` makes one for the nodes of these names; ``disk`` mounts one, where that can be
    done; ``faketime`` is the library. ``skipped``: kinds of faults, with the reason."""

    network: Callable[[list[str]], Network]
    disk: Callable[[Path, int], Mount] | None
    faketime: str | None
    kinds: tuple[str, ...]
    words: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        lines = list(self.words)
        lines += [f"skipped {kind}: {reason}" for kind, reason in self.skipped.items()]
        return "\n".join(lines)


def look(network: str = "auto", disks: str = "auto") -> Machine:
    """``network``: auto, namespaces or loopback; ``disks``: auto, fuse, tmpfs or plain.

    Raises OSError when something that is asked for by name cannot be had.
    """
    words: list[str] = []
    skipped: dict[str, str] = {}
    kinds: list[str] = []
    make_network: Callable[[list[str]], Network] = Namespaces
    try:
        if network == "loopback":
            raise OSError("not asked for")
        Namespaces(["a", "b"]).close()
        kinds += Namespaces.kinds
        words.append("network: a namespace for each node, with TCP proxies inside")
    except OSError as error:
        if network == "namespaces":
            raise
        make_network = lambda names: Loopback()  # noqa: E731
        words.append("network: loopback, with TCP proxies")
        skipped |= dict.fromkeys(Namespaces.kinds, str(error))
    make_disk, reasons = _find_disk(disks)
    have = () if make_disk is None else make_disk.kinds
    kinds += have
    words.append(f"disks: {'the folder of the test' if make_disk is None else make_disk.__name__}")
    for kind in FuseDisk.kinds:
        if kind not in have:
            skipped[kind] = "; ".join(reasons) or "not asked for"
    faketime = clock.library()
    if faketime is None:
        skipped["clock_skew"] = "no libfaketime that works: install the package libfaketime"
    else:
        kinds.append("clock_skew")
        words.append("clocks: libfaketime for nodes; nats-server keeps the true time")
    return Machine(make_network, make_disk, faketime, tuple(kinds), words, skipped)


def _find_disk(wanted: str) -> tuple[type[FuseDisk] | type[Tmpfs] | None, list[str]]:
    reasons: list[str] = []
    candidates: dict[str, type[FuseDisk] | type[Tmpfs]] = {"fuse": FuseDisk, "tmpfs": Tmpfs}
    if wanted in candidates:
        candidates = {wanted: candidates[wanted]}
    elif wanted == "plain":
        return None, reasons
    for name, kind in candidates.items():
        with tempfile.TemporaryDirectory(prefix=f"ha-jepsen-{os.getpid()}-") as folder:
            try:
                kind(Path(folder), 1).close()
            except OSError as error:
                reasons.append(f"{name}: {error}")
            else:
                return kind, reasons
    if wanted != "auto":
        raise OSError("; ".join(reasons))
    return None, reasons
