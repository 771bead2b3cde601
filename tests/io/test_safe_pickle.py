"""Pickles of arrays equal numpy's reading, and no code in them is run."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from cledet.errors import UserError
from cledet.io.safe_pickle import KNOWN, is_pickle, read_arrays
from cledet.io.weight_files import DamagedFile, read_file, read_weights

ARRAYS = {
    "float32": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "sliced": np.arange(10, dtype=np.int64)[::3],
    "swapped": np.arange(4, dtype=">f4"),
    "half": np.ones((1, 2), np.float16),
    "scalar": np.array(7, dtype=np.int64),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 4), np.float32),
}


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_come_back(tmp_path, protocol):
    document = {"model": OrderedDict(ARRAYS), "__author__": "who", "list": [1, 2.5, None, (True, "a")]}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(document, protocol=protocol))
    found = read_file(tmp_path / "a.pkl")
    assert found["__author__"] == "who"
    assert found["list"] == [1, 2.5, None, [True, "a"]]
    assert found["model"].keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert torch.equal(found["model"][name], torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))), name
    assert read_weights(tmp_path / "a.pkl").keys() == ARRAYS.keys()


def test_arrays_of_python_2_and_older_numpy_come_back(tmp_path):
    """As Detectron2's oldest files have them: names of before numpy 2, bytes as a string."""
    data = np.array([1.5, 2.5], np.float32).tobytes()
    text = (
        b"\x80\x02}U\x05modelq\x01}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U" + bytes([len(data)]) + data + b"tbss."
    )
    (tmp_path / "a.pkl").write_bytes(text)
    assert read_weights(tmp_path / "a.pkl")["w"].tolist() == [1.5, 2.5]


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("where", ["alone", "inside", "in an array"])
def test_code_is_refused_and_not_run(tmp_path, where):
    attack = Attack(tmp_path / "pwned")
    content = {"alone": attack, "inside": {"model": {"w": attack}}, "in an array": np.array([attack], dtype=object)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content[where], protocol=4))
    with pytest.raises(
        UserError, match=r"a\.pkl contains code or objects other than arrays and plain data \((posix|nt)\.mkdir"
    ):
        read_file(tmp_path / "a.pkl")
    assert not (tmp_path / "pwned").exists()
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert (tmp_path / "pwned").exists()  # so it would have been run


@pytest.mark.parametrize(
    ("code", "sentence"),
    [(b"\x80\x04cbuiltins\neval\n.", r"builtins\.eval"),
     (b"\x80\x04cnumpy\nload\n.", r"numpy\.load"),
     (b"\x80\x04cnumpy.core.multiarray\nscalar\n.", r"numpy\.core\.multiarray\.scalar"),
     (b"\x80\x04Vx\nQ.", "references to external objects"),
     (b"\x80\x04c_codecs\nencode\n(Vx\nVrot13\ntR.", r"_codecs\.encode to rot13"),
     (b"\x80\x04ccollections\nOrderedDict\n.", "type"),
     (pickle.dumps({"model": np.array(["a"])}), "numpy's type <U1"),
     (pickle.dumps({"model": {1, 2}}), r"\(set\)")],
)  # fmt: skip
def test_other_objects_are_refused(tmp_path, code, sentence):
    (tmp_path / "a.pkl").write_bytes(code)
    with pytest.raises(UserError, match=sentence):
        read_arrays(tmp_path / "a.pkl")


@pytest.mark.parametrize("end", [1, 20, -1])
def test_a_pickle_cut_off_is_damaged(tmp_path, end):
    data = pickle.dumps({"model": ARRAYS}, protocol=4)
    (tmp_path / "a.pkl").write_bytes(data[:end])
    with pytest.raises(DamagedFile, match=r"a\.pkl is damaged or no checkpoint"):
        read_file(tmp_path / "a.pkl")


@pytest.mark.parametrize("name", KNOWN, ids=".".join)
def test_replacements_refuse_state_that_changes_them(tmp_path, name):
    """The opcode BUILD may set attributes of a function permanently; the replacements refuse it."""
    before = dict(vars(KNOWN[name]))
    code = f"c{name[0]}\n{name[1]}\n".encode() + b"N}V__init__\nK\x01s\x86b."
    (tmp_path / "a.pkl").write_bytes(b"\x80\x04" + code)
    with pytest.raises(UserError):
        read_file(tmp_path / "a.pkl")
    assert dict(vars(KNOWN[name])) == before


def test_torch_files_are_distinguished_from_pickles(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"w": torch.ones(2)}, tmp_path / "new.pth")
    for name in ("old.pth", "new.pth"):
        assert not is_pickle((tmp_path / name).read_bytes()[:4])
        assert read_weights(tmp_path / name)["w"].tolist() == [1, 1]
