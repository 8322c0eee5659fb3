"""Safe reading of data that comes as a folder, a zip or a tar: files are read in place and never unpacked.

An archive is refused as a whole when one of its members would leave its folder, is a link or a device, appears twice or
is encrypted, or when the archive would swell to an absurd size. Damage is reported with the file and line it hits.
"""

from __future__ import annotations

import gzip
import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, BinaryIO, cast

from orchestrator.data.atomic import explained
from orchestrator.errors import UserError

BOMB_BYTES = 256 * 2**20
BOMB_RATIO = 200
"""An archive that unpacks to more than both limits (bytes; times its own size) is taken for a zip bomb. Text packs 3 to
20 times."""

MOST_LINE_BYTES = 16 * 2**20

DAMAGE = (zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError)
"""What the archive readers raise when bytes are missing or wrong."""

_PACKED: Mapping[str, Callable[[Any], Any]] = {"xz": lzma.open, "gz": gzip.open}
_DECOMPRESSORS: Mapping[bytes, Callable[[BinaryIO], Any]] = {b"\xfd7zXZ\x00": lzma.open, b"\x1f\x8b": gzip.open}


@dataclass(frozen=True)
class FileTree:
    """The readable files of a folder or archive. `members` maps a relative "/" path to a function that opens it."""

    path: Path
    members: Mapping[str, Callable[[], IO[bytes]]]

    def where(self, name: str, line: int | None = None) -> str:
        """How messages name a member: ``data.zip/en/P19.jsonl:12``."""
        return f"{self.path}/{name}" + (f":{line}" if line is not None else "")

    def lines(self, name: str) -> Iterator[tuple[int, str]]:
        """Line numbers from 1 and lines with their line ends.

        Raises:
            UserError: the file is damaged, is not UTF-8, or has a line of more than MOST_LINE_BYTES.
        """
        with self._reading(name) as file:
            for number, raw in enumerate(iter(partial(file.readline, MOST_LINE_BYTES), b""), start=1):
                if len(raw) == MOST_LINE_BYTES:
                    raise UserError(f"{self.where(name, number)}: the line is too long to be text. Get the file again.")
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{self.where(name, number)}: the line is not UTF-8 text ({error.reason} at byte "
                        f"{error.start}). Convert the file to UTF-8 or get it again."
                    ) from error
                yield number, line

    def read(self, name: str) -> bytes:
        """All bytes of a member. Raises UserError if it is damaged."""
        with self._reading(name) as file:
            return file.read()

    @contextmanager
    def _reading(self, name: str) -> Iterator[BinaryIO]:
        try:
            with self.members[name]() as file, BufferedReader(cast("RawIOBase", file)) as buffered:
                yield buffered
        except (*DAMAGE, NotImplementedError) as error:
            raise UserError(_damaged(self.where(name), error)) from error


@contextmanager
def open_tree(path: Path) -> Iterator[FileTree]:
    """Opens a folder, zip or tar (plain, xz or gz) for reading.

    Raises:
        UserError: nothing is there, it is no archive, it is damaged, or a member makes it unsafe to read.
    """
    if path.is_dir():
        yield FileTree(path, _folder_members(path))
        return
    if not path.is_file():
        raise UserError(
            f"{path} does not exist, so there is nothing to read. Check the path (it may be relative to another "
            "folder)."
        )
    with ExitStack() as stack:
        try:
            members = _archive_members(path, stack)
        except DAMAGE as error:
            raise UserError(_damaged(str(path), error)) from error
        yield FileTree(path, members)


def unpacked(tree: FileTree) -> FileTree:
    """The same files; those that end in .xz or .gz lose that ending and are unpacked while they are read.

    Raises:
        UserError: a file is there twice, packed and unpacked. While reading: a file swells absurdly.
    """
    members: dict[str, Callable[[], IO[bytes]]] = {}
    for name, opener in tree.members.items():
        stem, _, ending = name.rpartition(".")
        decompress = _PACKED.get(ending) if stem else None
        plain = name if decompress is None else stem
        if plain in members:
            raise UserError(
                f"{tree.where(plain)} is there packed and unpacked, so it is not clear which is meant. Keep one."
            )
        if decompress is not None:
            opener = cast("Callable[[], IO[bytes]]", partial(_Unpacked, tree.where(name), opener, decompress))
        members[plain] = opener
    return FileTree(tree.path, members)


class _Unpacked(RawIOBase):
    """A packed file as the bytes in it; refuses to go on where they are absurdly many."""

    def __init__(self, where: str, opener: Callable[[], IO[bytes]], decompress: Callable[[Any], Any]) -> None:
        self._where, self._packed, self._read = where, opener(), 0
        self._bytes = decompress(self._packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block: bytes = self._bytes.read(len(buffer))
        self._read += len(block)
        if self._read > max(BOMB_BYTES, BOMB_RATIO * self._packed.tell()):
            raise UserError(_bomb(Path(self._where)))
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        if not self.closed:
            self._bytes.close()
            self._packed.close()
        super().close()


def unsafe_name(name: str) -> str | None:
    """Why a member's name is refused ("leaves its folder"), or None if it stays below the folder on every system."""
    windows = PureWindowsPath(name)
    if not name or "\0" in name:
        return "is no file name"
    if name.startswith("/") or windows.drive or windows.root:
        return "is an absolute path"
    if ".." in windows.parts or ".." in PurePosixPath(name).parts:
        return "leaves its folder"
    if "\\" in name:
        return "has a backslash in its name"
    return None


def _folder_members(folder: Path) -> dict[str, Callable[[], IO[bytes]]]:
    files = ((file.relative_to(folder), file) for file in sorted(folder.rglob("*")) if file.is_file())
    return {name.as_posix(): _path_opener(file) for name, file in files if not _is_hidden(name.as_posix())}


def _path_opener(file: Path) -> Callable[[], IO[bytes]]:
    return lambda: file.open("rb")


def _archive_members(path: Path, stack: ExitStack) -> dict[str, Callable[[], IO[bytes]]]:
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK"):
        return _zip_members(path, stack.enter_context(zipfile.ZipFile(path)))
    for magic, decompress in _DECOMPRESSORS.items():
        if start.startswith(magic):
            unpacked = stack.enter_context(_decompressed(path, decompress))
            return _tar_members(path, stack.enter_context(tarfile.open(fileobj=unpacked, mode="r:")))
    if tarfile.is_tarfile(path):
        return _tar_members(path, stack.enter_context(tarfile.open(path, mode="r:")))
    raise UserError(
        f"{path} is neither a zip nor a tar archive (nor a folder), or its beginning is damaged. Get the file again."
    )


def _zip_members(path: Path, archive: zipfile.ZipFile) -> dict[str, Callable[[], IO[bytes]]]:
    members = _Members(path)
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.flag_bits & 0x1:
            members.refuse(info.filename, "is encrypted")
        members.add(
            info.orig_filename,
            is_folder=info.is_dir(),
            is_plain=kind in (0, stat.S_IFREG, stat.S_IFDIR),
            size=info.file_size,
            opener=_zip_opener(archive, info),
        )
    return members.found


def _zip_opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(info)


def _tar_members(path: Path, archive: tarfile.TarFile) -> dict[str, Callable[[], IO[bytes]]]:
    members = _Members(path)
    for info in archive:
        members.add(
            info.name,
            is_folder=info.isdir(),
            is_plain=info.isreg() or info.isdir(),
            size=info.size,
            opener=_tar_opener(archive, info),
        )
    return members.found


def _tar_opener(archive: tarfile.TarFile, info: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    return lambda: cast("IO[bytes]", archive.extractfile(info))


class _Members:
    """Collects an archive's members and their unpacked sizes, and refuses the archive at the first unsafe one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.limit = _bomb_limit(path)
        self.bytes = 0
        self.found: dict[str, Callable[[], IO[bytes]]] = {}

    def refuse(self, name: str, why: str) -> None:
        raise UserError(
            f"{self.path}: the member {name!r} {why}. Such an archive is not read at all; get it from a source you "
            "trust or pack it again."
        )

    def add(self, name: str, *, is_folder: bool, is_plain: bool, size: int, opener: Callable[[], IO[bytes]]) -> None:
        why = unsafe_name(name)
        if why is None and not is_plain:
            why = "is a link or a device"
        plain_name = PurePosixPath(name).as_posix()
        if why is None and not is_folder and plain_name in self.found:
            why = "appears twice"
        if why is not None:
            self.refuse(name, why)
        self.bytes += size
        if self.bytes > self.limit:
            raise UserError(_bomb(self.path))
        if not is_folder and not _is_hidden(plain_name):
            self.found[plain_name] = opener


@contextmanager
def _decompressed(path: Path, decompress: Callable[[BinaryIO], Any]) -> Iterator[BinaryIO]:
    """The tar inside, as a nameless temporary file: a compressed tar can only be read from front to back."""
    limit = _bomb_limit(path)
    with tempfile.TemporaryFile() as unpacked:
        with explained(Path(tempfile.gettempdir())), path.open("rb") as packed, decompress(packed) as stream:
            while block := stream.read(1 << 20):
                unpacked.write(block)
                if unpacked.tell() > limit:
                    raise UserError(_bomb(path))
        unpacked.seek(0)
        yield cast("BinaryIO", unpacked)


def _bomb_limit(path: Path) -> int:
    return max(BOMB_BYTES, BOMB_RATIO * path.stat().st_size)


def _is_hidden(name: str) -> bool:
    """Files that file managers leave behind, such as ``.DS_Store`` and ``__MACOSX/``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def _damaged(where: str, error: Exception) -> str:
    return (
        f"{where} is damaged or incomplete ({error or type(error).__name__}), so it cannot be used. Get the file again."
    )


def _bomb(path: Path) -> str:
    return (
        f"{path} would unpack to more than {BOMB_RATIO} times its size, which no text does. It is not read; get it "
        "from a source you trust."
    )
