"""Weight files: no code is run, and damaged files are distinguished from refused ones."""

from __future__ import annotations

import ast
import os
import pickle
import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cledet.errors import UserError
from cledet.io.weight_files import DamagedFile, read_file, read_weights
from cledet.models.backbones.build import BACKBONES
from cledet.models.backbones.weights import load_imagenet
from cledet.models.checkpoint import load_checkpoint
from cledet.models.network import Architecture, build_network

PACKAGE = Path(__file__).resolve().parents[2] / "cledet"


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def attacks(folder):
    """Write files whose code creates a folder."""
    content = {"format": "cledet 1", "model": Attack(folder / "pwned")}
    (folder / "pickle.pt").write_bytes(pickle.dumps(content))
    torch.save(content, folder / "zip.pt")
    torch.save(content, folder / "legacy.pt", _use_new_zipfile_serialization=False)
    return ("pickle.pt", "zip.pt", "legacy.pt")


@pytest.mark.parametrize("read", [load_checkpoint, read_weights])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, read):
    for name in attacks(tmp_path):
        with pytest.raises(UserError, match=r"damaged or no checkpoint|contains code or objects"):
            read(tmp_path / name)
        assert not (tmp_path / "pwned").exists()
    torch.load(tmp_path / "zip.pt", weights_only=False)
    assert (tmp_path / "pwned").exists()  # so it would have been run


def saved(kind, path):
    """A small file of weights: as torch.save writes it now, as it did, or a pickle of arrays."""
    weights = {"a.weight": torch.arange(40) * 1.5, "b": torch.tensor(3)}
    if kind == "arrays":
        path.write_bytes(pickle.dumps({name: value.numpy() for name, value in weights.items()}))
    else:
        torch.save({"model": weights, "step": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["zip", "older", "arrays"])
def test_damaged_files_are_errors(kind, tmp_path):
    """Cut short, or some bits turned; of a zip no number comes out that did not go in."""
    path, rng, raised = tmp_path / "a.pt", random.Random(0), 0
    whole = saved(kind, path)
    wanted = read_file(path)
    for case in range(300):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged[: rng.randrange(len(damaged))] if case % 4 == 0 else damaged)
        try:
            found = read_file(path)
        except UserError:
            raised += 1
        else:
            assert kind != "zip" or torch.equal(found["model"]["a.weight"], wanted["model"]["a.weight"])
    assert raised > 200


def test_code_in_a_whole_file_is_no_damage(tmp_path):
    attacks(tmp_path)
    with pytest.raises(UserError, match=r"zip\.pt contains code or objects other than tensors") as error:
        read_file(tmp_path / "zip.pt")
    assert not isinstance(error.value, DamagedFile)


def test_code_in_torch_hubs_cache_is_refused_and_not_run(tmp_path, monkeypatch):
    """The user puts such a file there without a network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    torch.save(
        {"conv1.weight": Attack(tmp_path / "pwned")}, tmp_path / "checkpoints" / BACKBONES["r18"].url.split("/")[-1]
    )
    network = build_network(Architecture(backbone="r18", classes=1, fpn_channels=8))
    monkeypatch.setattr("cledet.models.backbones.weights.check_hash", lambda path: None)  # as if its hash were right
    with pytest.raises(UserError, match=r"\.pth contains code or objects other than tensors and plain data"):
        load_imagenet(network, "r18", "auto", print)
    assert not (tmp_path / "pwned").exists()


RUNS_CODE = {"cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal", "pandas"}
"""Modules that read what is code in disguise, and that nothing here needs."""
MAY_READ = {
    ("json", "load"), ("json", "loads"), ("yaml", "safe_load"), ("onnx", "load"), ("self", "load"),
    ("DetectionIndex", "load"), ("image", "load"), ("np", "load"),
    ("torch", "load"), ("torch.export", "load"),
    ("ArrayUnpickler(io.BytesIO(path.read_bytes()), encoding='latin1')", "load"),
}  # fmt: skip
"""Allowed calls that read, by owner and name. torch.load must have weights_only, and np.load no allow_pickle.
ArrayUnpickler runs no code. torch.export.load, in one place, opens only files that the same process wrote."""


def calls(tree):
    """Yield (owner, name, keywords) of every call of a method or a function of a module, as source text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            words = {word.arg: ast.unparse(word.value) for word in node.keywords}
            yield ast.unparse(node.func.value), node.func.attr, words


def modules(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.name for alias in node.names)
            yield getattr(node, "module", "")


def test_nothing_in_the_package_reads_pickles_but_torch_load_without_code():
    unsafe = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        allowed = {"pandas"} if path.name == "results.py" else set()  # it builds a DataFrame
        assert not set(modules(tree)) & RUNS_CODE - allowed, path
        for owner, name, words in calls(tree):
            assert words.get("allow_pickle", "False") == "False", path
            if name in ("load", "loads", "safe_load", "Unpickler", "get_state_dict", "load_state_dict_from_url"):
                assert (owner, name) in MAY_READ, f"{path}: {owner}.{name}"
            if (owner, name) in (("torch", "load"), ("torch.export", "load")):
                unsafe.append((path.name, words.get("weights_only")))
    assert sorted(unsafe) == [("backends.py", None), ("weight_files.py", "True")]


def test_safetensors_are_weights_too(tmp_path):
    tensors = {"conv1.weight": torch.rand(4, 3, 3, 3), "bn1.num_batches_tracked": torch.tensor(3)}
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    (tmp_path / "a.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())
    for name in ("a.safetensors", "a.bin"):
        found = read_weights(tmp_path / name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], value) for key, value in tensors.items())
    (tmp_path / "a.safetensors").write_bytes((tmp_path / "a.bin").read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"a\.safetensors is damaged or no safetensors file"):
        read_weights(tmp_path / "a.safetensors")


def test_an_unreadable_file_is_an_error(tmp_path, monkeypatch):
    torch.save({}, tmp_path / "a.pt")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"a\.pt could not be read: Permission denied"):
        read_file(tmp_path / "a.pt")
