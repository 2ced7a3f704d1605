"""The kernel's FUSE protocol: bytes in, bytes out. What :mod:`tests.jepsen_like.disk` needs of it.

Source: include/uapi/linux/fuse.h of Linux, protocol 7.31. A mount needs root and ``/dev/fuse``,
and no library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

MAX_WRITE = 1 << 20
BUFFER = MAX_WRITE + 4096
KEEP_CACHE = 1 << 1
_MNT_DETACH = 2
_MAJOR, _MINOR = 7, 31
_INIT_FLAGS = 1 << 0 | 1 << 3 | 1 << 5 | 1 << 22  # async read, O_TRUNC, big writes, max_pages

_HEADER = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_ATTR = struct.Struct("<6Q10I")
_libc = ctypes.CDLL(None, use_errno=True)


class Op(IntEnum):
    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    RENAME2 = 45


@dataclass(frozen=True, slots=True)
class Request:
    """``body`` is what follows the header."""

    op: int
    unique: int
    node: int
    body: memoryview

    def names(self, start: int) -> list[bytes]:
        """The strings with a NUL each from ``start`` of the body on."""
        return bytes(self.body[start:]).split(b"\0")[:-1]


def mount(point: Path, name: str) -> int:
    """The device on which the kernel asks. Raises OSError: no FUSE here, or not allowed."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    if _libc.mount(name.encode(), bytes(point), b"fuse." + name.encode(), 0, options.encode()):
        number = ctypes.get_errno()
        os.close(device)
        raise OSError(number, f"mount: {os.strerror(number)}", str(point))
    return device


def unmount(point: Path) -> None:
    """At once for names, later for files that are still open."""
    if _libc.umount2(bytes(point), _MNT_DETACH):
        number = ctypes.get_errno()
        if number != errno.EINVAL:  # not mounted
            raise OSError(number, f"umount: {os.strerror(number)}", str(point))


def request(data: bytes) -> Request:
    _, op, unique, node, *_ = _HEADER.unpack_from(data)
    return Request(op, unique, node, memoryview(data)[_HEADER.size :])


def answer(unique: int, body: bytes = b"", error: int = 0) -> bytes:
    """``error``: an errno, positive."""
    return _OUT.pack(_OUT.size + len(body), -error, unique) + body


def init() -> bytes:
    return struct.pack(
        "<IIIIHHIIHHI28x", _MAJOR, _MINOR, 1 << 17, _INIT_FLAGS, 16, 12, MAX_WRITE, 1,
        MAX_WRITE // 4096, 0, 0,
    )  # fmt: skip


def attributes(node: int, mode: int, size: int, links: int, time_ns: int) -> bytes:
    seconds, ns = divmod(time_ns, 10**9)
    return _ATTR.pack(
        node, size, (size + 511) // 512, seconds, seconds, seconds, ns, ns, ns,
        mode, links, 0, 0, 0, 4096, 0,
    )  # fmt: skip


def entry(node: int, attribute: bytes) -> bytes:
    """The kernel may keep it: nobody else changes what is here."""
    return struct.pack("<QQQQII", node, 0, 3600, 3600, 0, 0) + attribute


def attribute_answer(attribute: bytes) -> bytes:
    return struct.pack("<QII", 3600, 0, 0) + attribute


def opened(handle: int, flags: int = KEEP_CACHE) -> bytes:
    return struct.pack("<QIi", handle, flags, 0)


def directory_entry(node: int, offset: int, kind: int, name: bytes) -> bytes:
    """``offset``: where to read on after it."""
    whole = struct.pack("<QQII", node, offset, len(name), kind) + name
    return whole + bytes(-len(whole) % 8)


def statistics(blocks: int, free: int) -> bytes:
    """In blocks of 4096 bytes."""
    return struct.pack("<5Q4I24x", blocks, free, free, 1 << 20, 1 << 20, 4096, 255, 4096, 0)
