"""Small files with large content are refused before it is built; weights pass."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import pytest
import torch

from cledet.errors import UserError
from cledet.io import pickle_limits
from cledet.io.pickle_limits import TooLarge, check_content, check_opcodes
from cledet.io.weight_files import read_file


def laughs() -> bytes:
    """Lists of ten of the same list, eight deep: 10^8 entries."""
    value: list[object] = ["ha"]
    for _ in range(8):
        value = [value] * 10
    return pickle.dumps({"model": value}, 2)


PICKLES = {
    "lists of lists": laughs(),
    "a place in the memo": b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",  # 16 GB of pointers
    "a tuple to hash": b"\x80\x02})" + b"2\x86" * 60 + b"K\x01s.",  # which visits 2^60
    "a list in itself": b"\x80\x02}(X\x01\x00\x00\x00a]q\x01h\x01au.",
    "deep": b"\x80\x02}(X\x01\x00\x00\x00a" + b"](" * 500 + b"e" * 500 + b"u.",
}


@pytest.mark.parametrize("name", PICKLES)
@pytest.mark.parametrize("kind", ["pickle", "zip"])
def test_small_pickles_with_large_content_are_refused(tmp_path, name, kind):
    path = tmp_path / "a.pt"
    path.write_bytes(PICKLES[name])
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", PICKLES[name])
            archive.writestr("a/version", "3\n")
    with pytest.raises(UserError, match=r"a\.pt needs more memory or time than weights do, and is refused"):
        read_file(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_of_more_numbers_than_bytes_is_refused(tmp_path, zipped):
    for value in (torch.zeros(1).expand(10**6, 10**6), torch.empty(10**6, 10**6, device="meta")):
        torch.save({"w": value}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match="needs more memory or time"):
            read_file(tmp_path / "a.pt")


def test_a_zip_that_unpacks_to_many_times_its_size_is_refused(tmp_path, monkeypatch):
    torch.save({"w": torch.zeros(10**6)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive, zipfile.ZipFile(tmp_path / "b.pt", "w", 8) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    assert (tmp_path / "b.pt").stat().st_size < 10_000
    monkeypatch.setattr(zipfile.ZipFile, "testzip", pytest.fail)
    with pytest.raises(UserError, match=r"b\.pt needs more memory or time"):
        read_file(tmp_path / "b.pt")


def test_many_opcodes_are_too_many(monkeypatch):
    monkeypatch.setattr(pickle_limits, "OPCODES", 100)
    check_opcodes(io.BytesIO(pickle.dumps([1] * 90)))
    with pytest.raises(TooLarge):
        check_opcodes(io.BytesIO(pickle.dumps([1] * 100)))


@pytest.mark.parametrize("protocol", range(6))
def test_harmless_pickles_with_every_opcode_pass(protocol):
    shared = ["a", b"b", 1.5, None, True, 2**70, (), (1, 2, 3, 4), {"k": {1}}, frozenset((2,)), bytearray(b"x"), {}]
    value = {"a": shared, "b": shared, "c": (shared, 1, 2), "d": complex(1, 2), ("k", 1): [[]]}
    file = io.BytesIO(pickle.dumps(value, protocol) * 2)
    check_opcodes(file)
    assert pickle.load(file) == value  # the second begins where the first ends


def test_as_much_as_a_training_state_passes():
    names = [f"layer{i}" for i in range(3000)]
    state = {
        "model": dict.fromkeys(names, torch.zeros(2)),
        "view": torch.zeros(4, 4)[:, :2],
        "turned": torch.zeros(2, 3).t(),
    }
    per_class = {f"class {i}": dict.fromkeys("abcdefghijkl", 0.5) for i in range(1203)}
    check_content({**state, "per_class": per_class, "ids": list(range(100_000))})
