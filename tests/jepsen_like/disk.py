"""A disk in memory that can lose what was not synced, be full, and be slow.

``python -m tests.jepsen_like.disk FOLDER MIB`` mounts it and obeys lines on its input, one
answer each, until that ends; then the mount is gone. It is a process of its own, so that
whoever uses the mount cannot wait for itself.

What a power failure leaves, as on ext4 with ordered data: of each file the ranges that were
synced (fsync, or written with O_SYNC or O_DSYNC), and names, renames and removals up to the
last sync of any file or folder. With a seed some unsynced pages survive too, any of them.

========  ========================================================================
full      nothing may grow any more; ``room`` ends it
slow S    each write and each sync takes S seconds more; ``slow 0`` ends it
lose N    power failure: the mount is made anew from what was synced; N is the seed, 0: no page
          survives that was not. Nobody may use the mount meanwhile.
========  ========================================================================
"""

from __future__ import annotations

import errno
import os
import random
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.jepsen_like import fuse
from tests.jepsen_like.fuse import Op

_PAGE = 4096
_ROOT = 1
_SYNC_FLAGS = os.O_SYNC | os.O_DSYNC
_FATTR_MODE, _FATTR_SIZE = 1, 8
_RENAME_NOREPLACE = 1


class DiskError(Exception):
    def __init__(self, number: int) -> None:
        super().__init__(os.strerror(number))
        self.number = number


class File:
    """``data`` as it is; ``kept`` as a power failure would leave it; ``dirty`` what differs."""

    def __init__(self, mode: int, data: bytes = b"") -> None:
        self.mode = mode
        self.data = bytearray(data)
        self.kept = bytearray()
        self.dirty: list[tuple[int, int]] = [(0, len(data))] if data else []
        self.links = 1
        self.changed = time.time_ns()

    def write(self, offset: int, piece: memoryview) -> None:
        data = self.data
        end = offset + len(piece)
        begin = min(offset, len(data))
        if offset > len(data):
            data.extend(bytes(offset - len(data)))
        data[offset:end] = piece
        last = self.dirty[-1] if self.dirty else (-1, -1)
        if last[1] == begin:  # an append, mostly
            self.dirty[-1] = (last[0], end)
        else:
            self.dirty.append((begin, end))
        self.changed = time.time_ns()

    def write_through(self, offset: int, piece: memoryview) -> None:
        """Only this piece is safe, whatever else is dirty."""
        self.write(offset, piece)
        end = offset + len(piece)
        if len(self.kept) < end:
            self.kept.extend(bytes(end - len(self.kept)))
        self.kept[offset:end] = piece

    def truncate(self, size: int) -> None:
        data = self.data
        self.dirty.append((min(size, len(data)), max(size, len(data))))
        if size < len(data):
            del data[size:]
        else:
            data.extend(bytes(size - len(data)))
        self.changed = time.time_ns()

    def sync(self) -> None:
        self._keep(self.dirty)
        self.dirty = []

    def _keep(self, ranges: list[tuple[int, int]]) -> None:
        size = len(self.data)
        del self.kept[size:]
        self.kept.extend(bytes(size - len(self.kept)))
        for begin, end in ranges:
            self.kept[begin:end] = self.data[begin : min(end, size)] if begin < size else b""

    def lose(self, rng: random.Random | None) -> None:
        if rng is not None and self.dirty and rng.random() < 0.5:
            pages = {p for b, e in self.dirty for p in range(b // _PAGE, -(-e // _PAGE))}
            survivors = sorted(page for page in pages if rng.random() < 0.5)
            self._keep([(page * _PAGE, (page + 1) * _PAGE) for page in survivors])
        self.data = bytearray(self.kept)
        self.dirty = []


class Folder:
    """``names`` as they are, ``kept`` as a power failure would leave them."""

    def __init__(self, mode: int) -> None:
        self.mode = mode
        self.names: dict[bytes, int] = {}
        self.kept: dict[bytes, int] = {}
        self.changed = time.time_ns()


class Disk:
    """What is stored, and the rules of loss; :class:`Server` speaks with the kernel."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.full = False
        self.delay = 0.0
        self._files: dict[int, File] = {}
        self._folders: dict[int, Folder] = {_ROOT: Folder(stat.S_IFDIR | 0o777)}
        self._moved: set[int] = set()  # folders whose names are not kept yet
        self._next = _ROOT

    # --- for the nemesis ---

    def lose_power(self, seed: int) -> None:
        rng = random.Random(seed) if seed else None
        for folder in self._folders.values():
            folder.names = dict(folder.kept)
        self._moved.clear()
        for number in self._files:
            self._files[number].lose(rng)
        reachable = {_ROOT}
        for folder in self._folders.values():
            reachable.update(folder.names.values())
        self._files = {n: f for n, f in self._files.items() if n in reachable}
        self._folders = {n: f for n, f in self._folders.items() if n in reachable}
        for number, file in self._files.items():
            file.links = sum(list(f.names.values()).count(number) for f in self._folders.values())

    @property
    def used(self) -> int:
        return sum(len(file.data) for file in self._files.values())

    # --- for the kernel ---

    def file(self, number: int) -> File:
        found = self._files.get(number)
        if found is None:
            raise DiskError(errno.EISDIR if number in self._folders else errno.ESTALE)
        return found

    def folder(self, number: int) -> Folder:
        found = self._folders.get(number)
        if found is None:
            raise DiskError(errno.ENOTDIR if number in self._files else errno.ESTALE)
        return found

    def attributes(self, number: int) -> bytes:
        folder = self._folders.get(number)
        if folder is not None:
            return fuse.attributes(number, folder.mode, _PAGE, 2, folder.changed)
        file = self.file(number)
        return fuse.attributes(number, file.mode, len(file.data), file.links, file.changed)

    def lookup(self, parent: int, name: bytes) -> int:
        found = self.folder(parent).names.get(name)
        if found is None:
            raise DiskError(errno.ENOENT)
        return found

    def change_mode(self, number: int, mode: int) -> None:
        node = self._folders.get(number) or self.file(number)
        node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)

    def make(self, parent: int, name: bytes, node: File | Folder) -> int:
        names = self.folder(parent).names
        if name in names:
            raise DiskError(errno.EEXIST)
        if self.full:
            raise DiskError(errno.ENOSPC)
        self._next += 1
        if isinstance(node, File):
            self._files[self._next] = node
        else:
            self._folders[self._next] = node
        self._name(parent, name, self._next)
        return self._next

    def link(self, number: int, parent: int, name: bytes) -> None:
        if name in self.folder(parent).names:
            raise DiskError(errno.EEXIST)
        self.file(number).links += 1
        self._name(parent, name, number)

    def unlink(self, parent: int, name: bytes) -> None:
        self.file(self.lookup(parent, name)).links -= 1
        del self.folder(parent).names[name]
        self._moved.add(parent)

    def remove_folder(self, parent: int, name: bytes) -> None:
        if self.folder(self.lookup(parent, name)).names:
            raise DiskError(errno.ENOTEMPTY)
        del self.folder(parent).names[name]
        self._moved.add(parent)

    def rename(self, parent: int, name: bytes, to: int, new: bytes, flags: int = 0) -> None:
        number = self.lookup(parent, name)
        over = self.folder(to).names.get(new)
        if over is not None and flags & _RENAME_NOREPLACE:
            raise DiskError(errno.EEXIST)
        if flags & ~_RENAME_NOREPLACE:
            raise DiskError(errno.EINVAL)
        if over == number:
            return
        if over in self._folders:
            self.remove_folder(to, new)
        elif over is not None:
            self.unlink(to, new)
        del self.folder(parent).names[name]
        self._moved.add(parent)
        self._name(to, new, number)

    def _name(self, parent: int, name: bytes, number: int) -> None:
        folder = self.folder(parent)
        folder.names[name] = number
        folder.changed = time.time_ns()
        self._moved.add(parent)

    def write(self, number: int, offset: int, piece: memoryview, *, synced: bool) -> None:
        file = self.file(number)
        if self.full and offset + len(piece) > len(file.data):
            raise DiskError(errno.ENOSPC)
        if self.delay:
            time.sleep(self.delay)
        if synced:
            file.write_through(offset, piece)
            self._keep_names()
        else:
            file.write(offset, piece)

    def truncate(self, number: int, size: int) -> None:
        file = self.file(number)
        if self.full and size > len(file.data):
            raise DiskError(errno.ENOSPC)
        file.truncate(size)

    def sync(self, number: int) -> None:
        if self.delay:
            time.sleep(self.delay)
        if number in self._files:
            self._files[number].sync()
        self._keep_names()

    def _keep_names(self) -> None:
        for number in self._moved:
            folder = self._folders.get(number)
            if folder is not None:
                folder.kept = dict(folder.names)
        self._moved.clear()


class Server:
    """Answers the kernel, in a thread, until the mount is gone."""

    def __init__(self, point: Path, disk: Disk) -> None:
        self._point = point
        self._disk = disk
        self._lock = threading.Lock()
        self._operations: dict[int, Callable[[fuse.Request], bytes]] = {
            Op.LOOKUP: self._lookup,
            Op.GETATTR: self._getattr,
            Op.SETATTR: self._setattr,
            Op.READLINK: lambda r: bytes(disk.file(r.node).data),
            Op.SYMLINK: self._symlink,
            Op.MKNOD: self._mknod,
            Op.MKDIR: self._mkdir,
            Op.UNLINK: self._unlink,
            Op.RMDIR: self._rmdir,
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename2,
            Op.LINK: self._link,
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.STATFS: self._statfs,
            Op.RELEASE: lambda r: b"",
            Op.FLUSH: lambda r: b"",
            Op.FSYNC: self._fsync,
            Op.FSYNCDIR: self._fsync,
            Op.INIT: lambda r: fuse.init(),
            Op.OPENDIR: lambda r: fuse.opened(0),
            Op.READDIR: self._readdir,
            Op.RELEASEDIR: lambda r: b"",
            Op.ACCESS: lambda r: b"",
            Op.CREATE: self._create,
        }

    def mount(self) -> None:
        self._device = fuse.mount(self._point, f"ha-disk-{os.getpid()}")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def unmount(self) -> None:
        fuse.unmount(self._point)
        self._thread.join(5)

    def lose_power(self, seed: int) -> None:
        self.unmount()
        with self._lock:
            self._disk.lose_power(seed)
        self.mount()

    def _run(self) -> None:
        device = self._device
        try:
            while True:
                try:
                    data = os.read(device, fuse.BUFFER)
                except InterruptedError:
                    continue
                except OSError as error:
                    if error.errno == errno.ENOENT:  # interrupted before it came to us
                        continue
                    return  # ENODEV: not mounted any more
                self._serve(device, fuse.request(data))
        finally:
            os.close(device)

    def _serve(self, device: int, request: fuse.Request) -> None:
        if request.op in (Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT):
            return
        operation = self._operations.get(request.op)
        try:
            if operation is None:
                raise DiskError(errno.ENOSYS)
            with self._lock:
                answer = fuse.answer(request.unique, operation(request))
        except DiskError as error:
            answer = fuse.answer(request.unique, error=error.number)
        try:
            os.write(device, answer)
        except OSError as error:
            if error.errno != errno.ENOENT:  # who asked has been killed
                raise

    def _entry(self, number: int) -> bytes:
        return fuse.entry(number, self._disk.attributes(number))

    def _lookup(self, request: fuse.Request) -> bytes:
        return self._entry(self._disk.lookup(request.node, *request.names(0)))

    def _getattr(self, request: fuse.Request) -> bytes:
        return fuse.attribute_answer(self._disk.attributes(request.node))

    def _setattr(self, request: fuse.Request) -> bytes:
        (valid,) = struct.unpack_from("<I", request.body)
        if valid & _FATTR_SIZE:
            self._disk.truncate(request.node, *struct.unpack_from("<Q", request.body, 16))
        if valid & _FATTR_MODE:
            self._disk.change_mode(request.node, *struct.unpack_from("<I", request.body, 68))
        return fuse.attribute_answer(self._disk.attributes(request.node))

    def _symlink(self, request: fuse.Request) -> bytes:
        name, target = request.names(0)
        return self._entry(self._disk.make(request.node, name, File(stat.S_IFLNK | 0o777, target)))

    def _mknod(self, request: fuse.Request) -> bytes:
        (mode,) = struct.unpack_from("<I", request.body)
        return self._entry(self._disk.make(request.node, request.names(16)[0], File(mode)))

    def _mkdir(self, request: fuse.Request) -> bytes:
        (mode,) = struct.unpack_from("<I", request.body)
        folder = Folder(stat.S_IFDIR | stat.S_IMODE(mode))
        return self._entry(self._disk.make(request.node, request.names(8)[0], folder))

    def _unlink(self, request: fuse.Request) -> bytes:
        self._disk.unlink(request.node, *request.names(0))
        return b""

    def _rmdir(self, request: fuse.Request) -> bytes:
        self._disk.remove_folder(request.node, *request.names(0))
        return b""

    def _fsync(self, request: fuse.Request) -> bytes:
        self._disk.sync(request.node)
        return b""

    def _rename(self, request: fuse.Request) -> bytes:
        (to,) = struct.unpack_from("<Q", request.body)
        old, new = request.names(8)
        self._disk.rename(request.node, old, to, new)
        return b""

    def _rename2(self, request: fuse.Request) -> bytes:
        to, flags = struct.unpack_from("<QI", request.body)
        old, new = request.names(16)
        self._disk.rename(request.node, old, to, new, flags)
        return b""

    def _link(self, request: fuse.Request) -> bytes:
        (number,) = struct.unpack_from("<Q", request.body)
        self._disk.link(number, request.node, request.names(8)[0])
        return self._entry(number)

    def _open(self, request: fuse.Request) -> bytes:
        (flags,) = struct.unpack_from("<I", request.body)
        if flags & os.O_TRUNC:
            self._disk.truncate(request.node, 0)
        return fuse.opened(request.node)

    def _create(self, request: fuse.Request) -> bytes:
        _, mode = struct.unpack_from("<II", request.body)
        number = self._disk.make(request.node, request.names(16)[0], File(mode))
        return self._entry(number) + fuse.opened(number)

    def _read(self, request: fuse.Request) -> bytes:
        offset, size = struct.unpack_from("<QI", request.body, 8)
        return bytes(self._disk.file(request.node).data[offset : offset + size])

    def _write(self, request: fuse.Request) -> bytes:
        offset, size, _, _, flags = struct.unpack_from("<QIIQI", request.body, 8)
        piece = request.body[40 : 40 + size]
        self._disk.write(request.node, offset, piece, synced=bool(flags & _SYNC_FLAGS))
        return struct.pack("<II", size, 0)

    def _readdir(self, request: fuse.Request) -> bytes:
        offset, size = struct.unpack_from("<QI", request.body, 8)
        names = list(self._disk.folder(request.node).names.items())
        whole = b""
        for place, (name, number) in enumerate(names[offset:], offset + 1):
            kind = stat.S_IFDIR if number in self._disk._folders else self._disk.file(number).mode
            one = fuse.directory_entry(number, place, stat.S_IFMT(kind) >> 12, name)
            if len(whole) + len(one) > size:
                break
            whole += one
        return whole

    def _statfs(self, request: fuse.Request) -> bytes:
        blocks = self._disk.capacity // _PAGE
        free = 0 if self._disk.full else max(0, blocks - self._disk.used // _PAGE)
        return fuse.statistics(blocks, free)


def main() -> int:
    point, mib = Path(sys.argv[1]), int(sys.argv[2])
    disk = Disk(mib << 20)
    server = Server(point, disk)
    try:
        server.mount()
    except OSError as error:
        print(f"cannot be mounted: {error.strerror}", flush=True)
        return 1
    try:
        print("ok", flush=True)
        for line in sys.stdin:
            match line.split():
                case ["full"]:
                    disk.full = True
                case ["room"]:
                    disk.full = False
                case ["slow", seconds]:
                    disk.delay = float(seconds)
                case ["lose", seed]:
                    server.lose_power(int(seed))
                case _:
                    print(f"error what is {line.strip()!r}?", flush=True)
                    continue
            print("ok", flush=True)
    finally:
        server.unmount()
    return 0


if __name__ == "__main__":
    sys.exit(main())
