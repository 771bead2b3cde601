"""Unpacking archives, good ones, broken ones and vicious ones."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from cledet.data.download import extract as module
from cledet.data.download.extract import unpack
from cledet.errors import UserError

GOOD = {"images/a.jpg": b"a" * 5000, "images/sub/b.jpg": b"b", "empty.txt": b""}


@contextmanager
def quiet(title: str, total: int) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(set=lambda done, total: None)


def zipped(file: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return file


def tarred(file: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE, link: str = "", mode="w") -> Path:
    with tarfile.open(file, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, link
            archive.addfile(info, io.BytesIO(content))
    return file


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz"])
def test_good_archives(tmp_path, name):
    make = zipped if name == "a.zip" else tarred
    how = {} if name in ("a.zip", "a.tar") else {"mode": "w:" + name.rpartition(".")[2].replace("tgz", "gz")}
    unpack(make(tmp_path / name, GOOD, **how), tmp_path / "out", quiet)
    assert files(tmp_path / "out") == GOOD


def test_folders_of_their_own_and_dots(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (".", "./void", "./void/deep"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("./file"))
    unpack(tmp_path / "a.tar", tmp_path / "out", quiet)
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.mkdir("more") if hasattr(archive, "mkdir") else archive.writestr("more/", "")
    unpack(tmp_path / "b.zip", tmp_path / "out", quiet)
    assert {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*")} == {
        "void", "void/deep", "file", "more",
    }  # fmt: skip


def test_modes_of_the_archive_are_not_taken_over(tmp_path):
    unpack(zipped(tmp_path / "a.zip", {"a": b"x"}, stat.S_IFREG | stat.S_ISUID | 0o777), tmp_path / "out", quiet)
    assert (tmp_path / "out" / "a").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/etc/evil", "is not a relative path"),
        ("//evil", "is not a relative path"),
        ("C:/evil", "is not a relative path"),
        ("a\\..\\..\\evil", "is not a relative path"),
        ("../evil", "leads out of the folder"),
        ("a/../../evil", "leads out of the folder"),
        ("a/..", "leads out of the folder"),
    ],
)
def test_members_outside_the_folder(tmp_path, make, name, words):
    archive = make(tmp_path / ("a.zip" if make is zipped else "a.tar"), {"good": b"1", name: b"2"})
    with pytest.raises(UserError, match=r"a\.(zip|tar) was not unpacked: its member '.*' " + words):
        unpack(archive, tmp_path / "in" / "out", quiet)
    assert files(tmp_path / "in") == {}
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "in"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
@pytest.mark.parametrize("link", ["/etc", "..", "good"])
def test_links_and_devices_in_a_tar(tmp_path, kind, link):
    tarred(tmp_path / "a.tar", {"x": b""}, kind, link)
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("x/evil"))
    with pytest.raises(UserError, match="its member 'x' is a link or a device"):
        unpack(tmp_path / "a.tar", tmp_path / "out", quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_links_in_a_zip(tmp_path):
    zipped(tmp_path / "a.zip", {"x": b"/etc"}, stat.S_IFLNK | 0o777)
    with pytest.raises(UserError, match="its member 'x' is a link or a device"):
        unpack(tmp_path / "a.zip", tmp_path / "out", quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_encrypted_zip(tmp_path):
    file = zipped(tmp_path / "a.zip", {"x": b"1"})
    content = bytearray(file.read_bytes())
    content[6] |= 1  # the flag in the member's own header
    content[content.index(b"PK\x01\x02") + 8] |= 1  # and in the directory
    file.write_bytes(content)
    with pytest.raises(UserError, match="its member 'x' is encrypted"):
        unpack(file, tmp_path / "out", quiet)


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_member_where_a_folder_should_be(tmp_path, make):
    archive = make(tmp_path / ("a.zip" if make is zipped else "a.tar"), {"x": b"1", "x/y": b"2"})
    with pytest.raises(UserError, match="could not be unpacked into"):
        unpack(archive, tmp_path / "out", quiet)


@pytest.mark.parametrize("share", [0, 0.05, 0.5])
@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_a_truncated_archive(tmp_path, name, share):
    how = {} if name in ("a.zip", "a.tar") else {"mode": "w:" + name.rpartition(".")[2]}
    file = (zipped if name == "a.zip" else tarred)(tmp_path / name, GOOD, **how)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(UserError, match=r"^a\.\w.* (is damaged or not supported|could not be unpacked)"):
        unpack(file, tmp_path / "out", quiet)


def test_flipped_bits_in_a_zip(tmp_path):
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", b"picture" * 100)
    file.write_bytes(file.read_bytes().replace(b"picture", b"pucture", 1))
    with pytest.raises(UserError, match=r"a\.zip is damaged.*CRC"):
        unpack(file, tmp_path / "out", quiet)


def test_a_zip_bomb_with_a_false_size_is_refused(tmp_path):
    """A zip member of a megabyte that declares ten bytes: no more than those are written, and it counts as damaged."""
    file = zipped(tmp_path / "a.zip", {"x": b"\0" * 1_000_000})
    content = bytearray(file.read_bytes())
    directory = content.index(b"PK\x01\x02")
    for at in (22, directory + 24):
        content[at : at + 4] = (10).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(UserError, match="damaged"):
        unpack(file, tmp_path / "out", quiet)
    assert (tmp_path / "out" / "x").stat().st_size <= 10


def test_a_member_of_less_than_it_declares(tmp_path):
    file = zipped(tmp_path / "a.zip", {"x": b"\0" * 1000})
    content = bytearray(file.read_bytes())
    at = content.index(b"PK\x01\x02") + 24
    content[at : at + 4] = (2000).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.zip is damaged.*x has 1,000 bytes, expected 2,000"):
        unpack(file, tmp_path / "out", quiet)


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_zip_bomb_with_its_true_size_needs_disk_space(tmp_path, make, monkeypatch):
    archive = make(tmp_path / ("a.zip" if make is zipped else "a.tar"), {"x": b"\0" * 2_000_000})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_999_999))
    with pytest.raises(UserError, match=r"to unpack a\.\w+ takes 2\.0 MB, and .*out has 2\.0 MB free"):
        unpack(archive, tmp_path / "out", quiet)
    assert list((tmp_path / "out").iterdir()) == []


def test_files_of_an_interrupted_extraction_are_overwritten(tmp_path):
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "a.jpg").write_bytes(b"?" * 4000)
    unpack(zipped(tmp_path / "a.zip", GOOD), tmp_path / "out", quiet)
    assert files(tmp_path / "out") == GOOD


def test_progress_ends_at_the_declared_total(tmp_path):
    seen = []
    steps = SimpleNamespace(set=lambda done, total: seen.append((done, total)))
    unpack(zipped(tmp_path / "a.zip", GOOD), tmp_path / "out", lambda title, total: nullcontext(steps))
    assert seen == [(5000, 5001), (5001, 5001), (5001, 5001)]


def test_a_named_pipe_is_refused_at_once(tmp_path):
    for name in ("set.zip", "set.tar"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UserError, match="it is a named pipe, not a file"):
            unpack(tmp_path / name, tmp_path / "out", quiet)


def test_a_member_without_a_name_refuses_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("x", b"1")
    whole = (tmp_path / "set.zip").read_bytes()
    (tmp_path / "set.zip").write_bytes(whole.replace(b"x", b"\0"))
    with pytest.raises(UserError, match="is not a relative path"):
        unpack(tmp_path / "set.zip", tmp_path / "out", quiet)
