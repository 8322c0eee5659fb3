"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pytest

from orchestrator.data import folder_atomically, write_atomically
from orchestrator.data.prepare import write_stream
from orchestrator.errors import UserError

FULL = Path("/dev/full")
needs_full_device = pytest.mark.skipif(not FULL.is_char_device(), reason="this system has no /dev/full")


def half_then_full(file: BinaryIO) -> None:
    """Writes a part, then meets a really full device."""
    file.write(b"half")
    with FULL.open("wb", buffering=0) as full:
        full.write(b"x")


def test_write_makes_folders_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "result"
    write_atomically(path, lambda file: file.write(b"old"))
    write_atomically(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["result"]
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@needs_full_device
def test_a_full_disk_keeps_the_old_result(tmp_path: Path) -> None:
    path = tmp_path / "result"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=r"The disk is full: .*result"):
        write_atomically(path, half_then_full)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug"), OSError(errno.EIO, "broken disk")])
def test_any_failure_cleans_up_and_passes_unchanged(tmp_path: Path, error: BaseException) -> None:
    def fail(file: BinaryIO) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomically(tmp_path / "result", fail)
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="cannot be written"):
        write_atomically(tmp_path / "file" / "result", lambda file: file.write(b""))


def test_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "shards"
    with folder_atomically(path) as temporary:
        (temporary / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_the_first_of_two_equal_folders_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "shards"
    with folder_atomically(path) as slower:
        (slower / "a").write_text("1")
        with folder_atomically(path) as faster:
            (faster / "a").write_text("1")
        inode = (path / "a").stat().st_ino
    assert (path / "a").stat().st_ino == inode
    assert list(tmp_path.iterdir()) == [path]


@needs_full_device
def test_a_failed_folder_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with folder_atomically(tmp_path / "shards") as temporary, (temporary / "a").open("wb") as file:
            half_then_full(file)

    with pytest.raises(UserError, match="The disk is full"):
        fill()
    assert not list(tmp_path.iterdir())


@needs_full_device
def test_arrow_reports_a_full_disk_with_its_number() -> None:
    table = pa.table({"a": ["x" * 100_000]})
    with pytest.raises(OSError, match="No space left") as caught:
        write_stream(FULL, table)
    assert caught.value.errno == errno.ENOSPC
