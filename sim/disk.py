"""A node's disk: what survives a crash, what does not, and what goes wrong before.

Files are real ones in a temporary folder, since SQLite's shared memory cannot be implemented
in Python; a VFS on top of SQLite's own sees every write. A crash never touches the folder of
the process that died: what survives is copied to a new folder, in which the next process
finds it, and the dead one's last calls go nowhere. See docs/decisions/simulated-disk.md.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import apsw

from sim.trace import Trace
from sim.world import julian_ms

SECTOR = 512


@dataclass(slots=True)
class DiskFaults:
    """What is wrong with a disk at present. Rates are chances a call."""

    full: bool = False
    read_errors: float = 0.0
    write_errors: float = 0.0
    sync_errors: float = 0.0
    delay: float = 0.0
    """Seconds that a write takes, at the mean."""

    def clear(self) -> None:
        self.full = False
        self.read_errors = self.write_errors = self.sync_errors = self.delay = 0.0


@dataclass(slots=True)
class _File:
    """``durable``: what a power failure leaves for certain (None: the file may be missing).
    ``pending``: writes since the last sync, (offset, data); (size, None) is a truncation."""

    durable: bytearray | None = None
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)
    deleted: bool = False
    inode: int = 0

    def settle(self) -> None:
        """A sync: all of it is durable now."""
        image = self.durable if self.durable is not None else bytearray()
        for offset, data in self.pending:
            _patch(image, offset, data)
        self.pending.clear()
        self.durable = image


def _patch(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        return
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


class Disk:
    """Outlives the processes of its node. ``mount()`` it for each."""

    def __init__(self, name: str, chance: random.Random, trace: Trace) -> None:
        self.name = name
        self.faults = DiskFaults()
        self.trace = trace
        self.chance = chance
        self._base = tempfile.mkdtemp(prefix=f"sim-{name}-", dir=memory_folder())
        self._mounts = 0
        self._folder = self._new_folder()
        self._files: dict[str, _File] = {}

    def _new_folder(self) -> str:
        self._mounts += 1
        folder = os.path.join(self._base, str(self._mounts))
        os.mkdir(folder)
        return folder

    def mount(self, now_ns: Callable[[], int]) -> Mount:
        mount = Mount(self, self._folder, self._mounts, now_ns)
        mount.files = self._files
        return mount

    def replace(self, folder: str, files: dict[str, _File]) -> None:
        self._folder = folder
        self._files = files

    def half_written(self, name: str, data: bytes, offset: int) -> None:
        """Some of the write in whose middle the process died."""
        size = self.chance.randrange(len(data) + 1) // SECTOR * SECTOR
        if not size:
            return
        state = self._files.setdefault(name, _File())
        state.pending.append((offset, data[:size]))
        path = os.path.join(self._folder, name)
        with open(path, "r+b" if os.path.exists(path) else "w+b") as file:
            file.seek(offset)
            file.write(data[:size])

    def wipe(self) -> None:
        """Another disk, empty, in its place."""
        self.replace(self._new_folder(), {})

    def destroy(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)


class Mount:
    """A disk as one process sees it. ``frozen``: the process is dead, nothing counts any more.

    ``on_write`` is called before each call that changes something; it may freeze the mount,
    and then a write is torn or lost with it. ``cost``: seconds that writes have taken and
    nobody has waited for yet.
    """

    def __init__(self, disk: Disk, folder: str, number: int, now_ns: Callable[[], int]) -> None:
        self.disk = disk
        self.folder = folder
        self.now_ns = now_ns
        self.frozen = False
        self.torn = False
        """Did it die so that a write under way may have reached the disk in part?"""
        self.files: dict[str, _File] = {}
        self.on_write: Callable[[str], None] | None = None
        self.writes = 0
        self.cost = 0.0
        self.vfs_name = f"sim-{disk.name}-{number}-{id(self)}"
        self._vfs = _Vfs(self)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def close(self) -> None:
        """The process has ended; its files stay."""
        self._vfs.unregister()

    # --- crashes ---------------------------------------------------------------------

    def freeze(self, *, power: bool, lost: bool = False) -> None:
        """The process dies now; with ``power`` unsynced writes are lost or torn as well, with
        ``lost`` everything is (a database in memory)."""
        if self.frozen:
            return
        self.frozen = True
        disk = self.disk
        if lost:
            disk.wipe()
            return
        self.torn = True
        folder = disk._new_folder()
        files: dict[str, _File] = {}
        names = sorted(set(os.listdir(self.folder)) | set(self.files))
        for name in names:
            if name.endswith("-shm"):
                continue
            data = self._survivor(name, power)
            if data is None:
                continue
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
            if power or name not in self.files:
                files[name] = _File(bytearray(data))
            else:
                old = self.files[name]
                files[name] = _File(old.durable and bytearray(old.durable), list(old.pending))
        disk.replace(folder, files)

    def _survivor(self, name: str, power: bool) -> bytes | None:
        state = self.files.get(name)
        if not power or state is None:
            try:
                with open(os.path.join(self.folder, name), "rb") as file:
                    return file.read()
            except FileNotFoundError:
                return None
        chance = self.disk.chance
        if state.deleted and chance.random() < 0.5:
            return None
        if state.durable is None and (not state.pending or chance.random() < 0.3):
            return None
        image = bytearray(state.durable or b"")
        keep = chance.choice((0.0, 0.5, 0.9, 1.0))
        for offset, data in state.pending:
            if chance.random() < keep:
                _patch(image, offset, data)
            elif data is not None and chance.random() < 0.3:
                _tear(image, offset, data, chance)
        return bytes(image)

    # --- for the VFS -----------------------------------------------------------------

    def changing(self, what: str) -> None:
        """Before a call that changes something."""
        self.writes += 1
        if self.on_write is not None and not self.frozen:
            self.on_write(what)

    def file(self, path: str) -> _File:
        name = os.path.basename(path)
        state = self.files.get(name)
        if state is None:
            state = self.files[name] = _File()
        return state


def _tear(image: bytearray, offset: int, data: bytes, chance: random.Random) -> None:
    """Some sectors of a write reach the disk."""
    for start in range(0, len(data), SECTOR):
        if chance.random() < 0.5:
            _patch(image, offset + start, data[start : start + SECTOR])


def memory_folder() -> str | None:
    """Where files cost no real disk; None: the system's folder for temporary ones."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def _error(kind: int) -> apsw.Error:
    return _as_result(apsw.IOError("a fault of the simulated disk"), kind)


def _as_result(error: apsw.Error, kind: int) -> apsw.Error:
    """APSW hands these to SQLite, though its type hints do not know them on every class."""
    vars(error).update(extendedresult=kind, result=kind & 0xFF)
    return error


class _Vfs(apsw.VFS):
    def __init__(self, mount: Mount) -> None:
        self._mount = mount
        super().__init__(mount.vfs_name, "unix")

    def excepthook(self, etype: object, evalue: object, etraceback: object) -> None:  # type: ignore[override]
        """Faults are raised on purpose; SQLite has their code."""

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        if path is None or path.endswith("-shm"):
            return apsw.VFSFile("unix", name, flags)
        return _VfsFile(self._mount, str(path), name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        mount = self._mount
        mount.changing("delete")
        state = mount.file(filename)
        state.deleted = True
        if syncdir or state.durable is None:
            mount.files.pop(os.path.basename(filename), None)
        super().xDelete(filename, syncdir)

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802
        return self._mount.disk.chance.randbytes(numbytes)

    def xCurrentTimeInt64(self) -> int:  # noqa: N802
        return julian_ms(self._mount.now_ns())

    def xSleep(self, microseconds: int) -> int:  # noqa: N802
        """A busy handler waits: in one thread nobody can let go meanwhile."""
        self._mount.disk.trace.event(self._mount.disk.name, "busy", f"{microseconds} µs")
        return microseconds


class _VfsFile(apsw.VFSFile):
    def __init__(self, mount: Mount, path: str, name: Any, flags: list[int]) -> None:
        self._mount = mount
        self._disk = mount.disk
        self._name = os.path.basename(path)
        self._state = mount.file(path)
        self._fresh(path)
        super().__init__("unix", name, flags)

    def _fresh(self, path: str) -> None:
        """A file that came by another way (a restored copy, renamed) is durable as it is."""
        state = self._state
        if state.deleted:
            # Its name is taken again before the deletion was durable: the old content counts
            # until the first sync of the new one.
            state.deleted = False
            state.pending.append((0, None))
            state.inode = 0
            return
        try:
            inode = os.stat(path).st_ino
        except FileNotFoundError:
            return
        if not state.inode and (state.durable is not None or state.pending):
            state.inode = inode
        if inode != state.inode:
            state.inode = inode
            state.pending.clear()
            with open(path, "rb") as file:
                state.durable = bytearray(file.read())

    def excepthook(self, etype: object, evalue: object, etraceback: object) -> None:  # type: ignore[override]
        """As above."""

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        faults = self._disk.faults
        if faults.read_errors and self._fails(faults.read_errors):
            raise _error(apsw.SQLITE_IOERR_READ)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        mount = self._mount
        disk = self._disk
        if not mount.frozen:
            mount.changing("write")
            if mount.frozen:  # it has just died: a part of this write may survive
                if mount.torn:
                    disk.half_written(self._name, data, offset)
                return super().xWrite(data, offset)
            faults = disk.faults
            if faults.full and offset + len(data) > super().xFileSize():
                raise _as_result(apsw.FullError("the simulated disk is full"), apsw.SQLITE_FULL)
            if faults.write_errors and self._fails(faults.write_errors):
                raise _error(apsw.SQLITE_IOERR_WRITE)
            if faults.delay:
                mount.cost += disk.chance.expovariate(1 / faults.delay)
            disk.trace.add(f"{disk.name} {self._name} {offset} {zlib.crc32(data)}")
            self._state.pending.append((offset, bytes(data)))
        return super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        if not self._mount.frozen:
            self._mount.changing("truncate")
            self._state.pending.append((newsize, None))
            self._disk.trace.add(f"{self._disk.name} {self._name} truncate {newsize}")
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if not self._mount.frozen:
            self._mount.changing("sync")
            if self._mount.frozen:
                return
            faults = self._disk.faults
            if faults.sync_errors and self._fails(faults.sync_errors):
                raise _error(apsw.SQLITE_IOERR_FSYNC)
            if faults.delay:
                self._mount.cost += self._disk.chance.expovariate(1 / faults.delay)
            self._state.settle()
            # A journalled file system has the names that went before on the disk by now, too.
            gone = [n for n, f in self._mount.files.items() if f.deleted and f is not self._state]
            for name in gone:
                del self._mount.files[name]
            self._disk.trace.add(f"{self._disk.name} {self._name} sync")

    def xFileControl(self, op: int, ptr: int) -> bool:  # noqa: N802
        return super().xFileControl(op, ptr)

    def _fails(self, rate: float) -> bool:
        return not self._mount.frozen and self._disk.chance.random() < rate
