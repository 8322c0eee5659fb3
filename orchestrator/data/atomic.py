"""Files and folders that are either whole or absent: written beside their place, then renamed onto it."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from orchestrator.errors import UserError


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns the mistakes a user can mend while writing `path` (full disk, no permission, a file where a folder must be)
    into UserError; every other error passes unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"The disk is full: {path} could not be written. Nothing was changed there and what was half-written "
                "is removed. Free some space or choose another folder, then run the same command again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
            raise UserError(
                f"{path} cannot be written ({error.strerror}), so there is no place for the results. Choose a folder "
                "that you may write to."
            ) from error
        raise


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes `path` so that readers see the old file or the new one, never a part of it.

    `write` gets an open binary file in the same folder; it is flushed to disk and renamed onto `path` afterwards. If
    anything fails, the temporary file is removed and the old `path` stays as it was. Missing folders are made.

    Raises:
        UserError: the disk is full, or the folder may not be written to.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_name(path)
        try:
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)


@contextmanager
def folder_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` when the block ends well, and is removed when it does not.

    `path` must be content-addressed: when another process has put it in place meanwhile, theirs is kept and ours is
    removed, since both hold the same.

    Raises:
        UserError: the disk is full, or the folder may not be written to.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_name(path)
        temporary.mkdir()
        try:
            yield temporary
            for file in (*temporary.rglob("*"), temporary):
                _sync(file)
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _sync(path.parent)


def _temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that no other process uses."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def _sync(path: Path) -> None:
    """Makes the content of a file, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
