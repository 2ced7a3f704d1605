"""The disk of the tests: what a power failure leaves of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jepsen_like.disk import Disk, DiskError, File, Folder
from tests.jepsen_like.disks import FuseDisk

ROOT = 1


def make(disk: Disk, name: bytes) -> int:
    return disk.make(ROOT, name, File(stat.S_IFREG | 0o644))


def write(disk: Disk, number: int, offset: int, data: bytes, *, synced: bool = False) -> None:
    disk.write(number, offset, memoryview(data), synced=synced)


def test_what_was_not_synced_is_lost() -> None:
    disk = Disk(1 << 20)
    number = make(disk, b"f")
    write(disk, number, 0, b"kept")
    disk.sync(number)
    write(disk, number, 2, b"LOST and more")
    disk.lose_power(0)
    assert bytes(disk.file(number).data) == b"kept"


def test_a_synced_write_is_kept_alone() -> None:
    disk = Disk(1 << 20)
    number = make(disk, b"f")
    write(disk, number, 0, b"lost")
    write(disk, number, 4, b"kept", synced=True)
    disk.lose_power(0)
    assert bytes(disk.file(number).data) == b"\0\0\0\0kept"


def test_a_file_cut_short_is_long_again_until_that_was_synced() -> None:
    disk = Disk(1 << 20)
    number = make(disk, b"f")
    write(disk, number, 0, b"0123456789")
    disk.sync(number)
    disk.truncate(number, 3)
    disk.lose_power(0)
    assert bytes(disk.file(number).data) == b"0123456789"
    disk.truncate(number, 3)
    write(disk, number, 5, b"x")
    disk.sync(number)
    disk.lose_power(0)
    assert bytes(disk.file(number).data) == b"012\0\0x"


def test_names_are_kept_up_to_the_last_sync_of_anything() -> None:
    disk = Disk(1 << 20)
    first, other = make(disk, b"a"), make(disk, b"b")
    disk.rename(ROOT, b"a", ROOT, b"c")
    disk.sync(other)
    disk.unlink(ROOT, b"c")
    disk.make(ROOT, b"new", Folder(stat.S_IFDIR | 0o755))
    disk.lose_power(0)
    assert disk.lookup(ROOT, b"c") == first
    for gone in (b"a", b"new"):
        with pytest.raises(DiskError):
            disk.lookup(ROOT, gone)


def test_with_a_seed_some_pages_survive() -> None:
    left = set()
    for seed in range(1, 30):
        disk = Disk(1 << 20)
        number = make(disk, b"f")
        disk.sync(number)
        for page in range(4):
            write(disk, number, page * 4096, bytes([page + 1]) * 4096)
        disk.lose_power(seed)
        left.add(bytes(disk.file(number).data[::4096]))
    assert b"" in {data.strip(b"\0") for data in left}
    assert any(0 in data.strip(b"\0") for data in left)  # a later page without an earlier one


def test_a_full_disk_takes_what_does_not_grow() -> None:
    disk = Disk(1 << 20)
    number = make(disk, b"f")
    write(disk, number, 0, b"0123")
    disk.full = True
    write(disk, number, 1, b"xy")
    with pytest.raises(DiskError) as refused:
        write(disk, number, 3, b"zz")
    assert refused.value.number == errno.ENOSPC
    assert bytes(disk.file(number).data) == b"0xy3"


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[FuseDisk, Path]]:
    try:
        disk = FuseDisk(tmp_path, 16)
    except OSError as error:
        pytest.skip(f"nothing can be mounted over FUSE here: {error}")
    yield disk, tmp_path
    disk.close()
    assert list(tmp_path.iterdir()) == []


def test_through_the_kernel(mounted: tuple[FuseDisk, Path]) -> None:
    disk, folder = mounted
    (folder / "d").mkdir()
    (folder / "d" / "f").write_bytes(b"x" * 300_000)
    with (folder / "d" / "f").open("r+b") as file:
        os.fsync(file.fileno())
        file.seek(100_000)
        file.write(b"y" * 10)
    with open(folder / "d" / "o", "wb", opener=_synced) as file:
        file.write(b"at once")
    (folder / "d" / "f").rename(folder / "g")
    assert sorted(one.name for one in folder.iterdir()) == ["d", "g"]
    disk.lose(0)
    assert (folder / "d" / "f").read_bytes() == b"x" * 300_000
    assert (folder / "d" / "o").read_bytes() == b"at once"
    disk.fill()
    with pytest.raises(OSError, match="No space left"):
        (folder / "more").write_bytes(b"x")
    disk.make_room()
    (folder / "more").write_bytes(b"x")


def _synced(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_SYNC, 0o644)
