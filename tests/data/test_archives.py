"""Archives are read in place, and refused when they could do harm."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PureWindowsPath

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from orchestrator.data import archives
from orchestrator.data.archives import open_tree, unsafe_name
from orchestrator.errors import UserError
from tests.data.samples import tarred, zipped

PARTS = st.sampled_from(
    ["..", ".", "", "a", "C:", "c:x", "~", "\\\\server", "a\\..\\..", "..\\", "b.tsv", " .. ", "\0"]
)


@given(st.lists(PARTS | st.text(max_size=5), min_size=1, max_size=6).map("/".join))
@example("../x")
@example("a/../../x")
@example("/etc/passwd")
@example("C:/x")
@example("..\\x")
def test_an_accepted_name_stays_below_its_folder_on_every_system(name: str) -> None:
    if unsafe_name(name) is None:
        root = Path("/data/folder")
        assert (root / name).resolve().is_relative_to(root)
        windows = PureWindowsPath("D:/data/folder") / name
        assert windows.is_relative_to(PureWindowsPath("D:/data/folder"))
        assert ".." not in windows.parts


@pytest.mark.parametrize("name", ["en.tsv", "mlama1.1/en/P19.jsonl", "./en.tsv", "a..b/..c", "objects/"])
def test_ordinary_names_are_accepted(name: str) -> None:
    assert unsafe_name(name) is None


def zip_with(path: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def tar_with(path: Path, change: Callable[[tarfile.TarInfo], None]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        info = tarfile.TarInfo("en.tsv")
        info.size = 2
        change(info)
        archive.addfile(info, io.BytesIO(b"hi"))
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught, open_tree(path):
        pass
    return caught.value.problems[0]


@pytest.mark.parametrize("name", ["../evil.txt", "a/../../evil.txt", "/etc/evil.txt", "..\\evil.txt"])
def test_a_zip_that_leaves_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    assert name.encode("unicode_escape").decode() in refused(zip_with(tmp_path / "evil.zip", ("ok", b""), (name, b"x")))


def test_a_tar_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    assert "leaves its folder" in refused(tar_with(tmp_path / "t.tgz", lambda info: setattr(info, "name", "../evil")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_tar_with_links_or_devices_is_refused(tmp_path: Path, kind: bytes) -> None:
    assert "is a link or a device" in refused(tar_with(tmp_path / "t.tgz", lambda info: setattr(info, "type", kind)))


def test_a_zip_with_a_link_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    assert "is a link or a device" in refused(tmp_path / "l.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_appears_twice_is_refused(tmp_path: Path) -> None:
    assert "appears twice" in refused(zip_with(tmp_path / "d.zip", ("a.tsv", b"1"), ("./a.tsv", b"2")))


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    data = bytearray(zip_with(tmp_path / "e.zip", ("a.tsv", b"1")).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(data)
    assert "is encrypted" in refused(tmp_path / "e.zip")


def test_archives_that_swell_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 10_000)
    folder = tmp_path / "zeros"
    folder.mkdir()
    (folder / "zeros.tsv").write_bytes(bytes(2_000_000))
    for path in (zipped(folder, tmp_path / "z.zip"), tarred(folder, tmp_path / "z.tar.xz")):
        assert "times its size" in refused(path)


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("hello")
    assert "neither a zip nor a tar" in refused(tmp_path / "text.zip")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_tar_is_damaged(tmp_path: Path, keep: float) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    (folder / "a.tsv").write_text("".join(map(str, range(5000))))
    data = tarred(folder, tmp_path / "whole.tar.xz").read_bytes()
    (tmp_path / "half.tar.xz").write_bytes(data[: int(len(data) * keep)])
    assert "damaged or incomplete" in refused(tmp_path / "half.tar.xz")


def test_every_packing_shows_the_same_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "en").mkdir(parents=True)
    (folder / "en" / "a.tsv").write_bytes("\ufeffone\r\ntwo".encode())
    (folder / ".DS_Store").write_text("litter")
    packings = {folder: "en/a.tsv", zipped(folder, tmp_path / "d.zip"): "data/en/a.tsv"}
    packings[tarred(folder, tmp_path / "d.tar.xz")] = "data/en/a.tsv"
    for path, name in packings.items():
        with open_tree(path) as tree:
            assert list(tree.members) == [name]
            assert list(tree.lines(name)) == [(1, "one\r\n"), (2, "two")]
            assert tree.where(name, 2) == f"{path}/{name}:2"


def test_a_line_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MOST_LINE_BYTES", 100)
    (tmp_path / "a.tsv").write_text("short\n" + "x" * 200)
    with open_tree(tmp_path) as tree, pytest.raises(UserError, match=r"a\.tsv:2: the line is too long"):
        list(tree.lines("a.tsv"))
