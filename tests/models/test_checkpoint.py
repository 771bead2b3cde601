"""Checkpoints: atomic writes, verification, the previous file as a fallback, and content."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from cledet import Detector
from cledet.errors import UserError
from cledet.io.atomic import previous
from cledet.io.weight_files import read_weights
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.network import Architecture, build_network
from cledet.models.safetensors import pack


def same(a, b):
    """Compare two checkpoints, with tensors bit by bit."""
    plain = [name for name in a.__dataclass_fields__ if name not in ("model", "training")]
    return (
        all(getattr(a, name) == getattr(b, name) for name in plain)
        and a.model.keys() == b.model.keys()
        and all(
            torch.equal(a.model[key], value) and a.model[key].dtype == value.dtype for key, value in b.model.items()
        )
    )


@pytest.mark.slow
def test_any_changed_byte_is_noticed_or_changes_nothing(small, tmp_path):
    """0x10 makes an entry of a zip a folder, whose tensor torch leaves as it finds the memory; no CRC notices."""
    path = tmp_path / "a.pt"
    small(1).save(path)
    data, undamaged = path.read_bytes(), load_checkpoint(path)
    noticed = 0
    names = data.index(b"PK\1\2")  # the directory of the zip, which no checksum covers
    for position in (*range(0, names, 3), *range(names, len(data))):
        for change in (0x10, 0xFF) if position >= names else (0xFF,):
            path.write_bytes(data[:position] + bytes([data[position] ^ change]) + data[position + 1 :])
            try:
                assert same(load_checkpoint(path), undamaged), (position, change)
            except UserError:
                noticed += 1
    assert noticed > len(data) / 5


def test_any_truncation_is_noticed(small, tmp_path):
    path = tmp_path / "a.pt"
    small(1).save(path)
    data = path.read_bytes()
    for length in (*range(0, len(data) - 200, 13), *range(len(data) - 200, len(data))):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match="damaged or no checkpoint"):
            load_checkpoint(path)


@pytest.mark.parametrize("part", ["begin", "weights", "directory"])
def test_a_block_of_zeros_is_noticed(small, tmp_path, part):
    """Zeros as after a power failure."""
    path = tmp_path / "a.pt"
    small(1, values=2000).save(path)
    data = path.read_bytes()
    at = {"begin": 0, "weights": data.index(small(1, values=2000).model["a.weight"].numpy().tobytes())}
    start = at.get(part, data.index(b"PK\1\2"))
    path.write_bytes(data[:start] + bytes(64) + data[start + 64 :])
    with pytest.raises(UserError, match="damaged or no checkpoint"):
        load_checkpoint(path)


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1  # in the weights
    path.write_bytes(data)


@pytest.fixture
def pair(small, tmp_path):
    """last.pt of step 2 and last.previous.pt of step 1."""
    path = tmp_path / "last.pt"
    for step in (1, 2):
        small(step, values=2000).save(path)
    return path


def test_the_previous_one_is_kept(pair, small):
    assert (load_checkpoint(pair).step, load_checkpoint(previous(pair)).step) == (2, 1)
    small(3).save(pair)
    assert (load_checkpoint(pair).step, load_checkpoint(previous(pair)).step) == (3, 2)
    assert sorted(entry.name for entry in pair.parent.iterdir()) == ["last.previous.pt", "last.pt"]


def test_the_previous_checkpoint_replaces_a_damaged_one(pair, capsys):
    damage(pair)
    assert load_checkpoint(pair).step == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"warning: {pair} is damaged or no checkpoint: last/data/0 does not match its checksum; "
        f"{previous(pair)} of step 1 is used in its place"
    ).replace("last/data/0", "archive/data/0")


def test_the_previous_checkpoint_replaces_a_missing_one(pair, capsys):
    pair.unlink()
    assert load_checkpoint(pair).step == 1
    assert capsys.readouterr().err == (f"warning: {pair} is missing; {previous(pair)} of step 1 is used in its place\n")


def test_of_two_damaged_files_both_are_named(pair):
    damage(previous(pair))
    assert load_checkpoint(pair).step == 2
    damage(pair)
    with pytest.raises(UserError, match=rf"{pair} is damaged .*, and {previous(pair)} is damaged .*"):
        load_checkpoint(pair)
    pair.unlink()
    with pytest.raises(UserError, match=rf"{pair} is missing, and {previous(pair)} is damaged .*"):
        load_checkpoint(pair)


def test_a_file_that_is_refused_is_not_replaced_by_the_previous_one(pair):
    content = torch.load(pair, weights_only=True)
    torch.save(content | {"format": "cledet 2"}, pair)
    with pytest.raises(UserError, match="newer cledet"):
        load_checkpoint(pair)


def test_a_folders_weights_fall_back_too(small, tmp_path, capsys):
    for step in (1, 2):
        small(step, values=2000).save(tmp_path / "weights" / "best.pt")
    damage(tmp_path / "weights" / "best.pt")
    assert load_checkpoint(tmp_path).step == 1
    assert "best.previous.pt of step 1 is used" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_goes_on_from_the_previous_checkpoint_and_ends_the_same(tiny_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    last = run / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    Detector().train(resume=run)
    assert "last.previous.pt of step 4 is used in its place" in capsys.readouterr().err
    expected = load_checkpoint(tiny_run / "weights" / "last.pt")
    again = load_checkpoint(last)
    assert again.step == 4
    assert all(torch.equal(again.model[key], value) for key, value in expected.model.items())


def test_other_weights_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match="neither a cledet checkpoint nor a detector of torchvision"):
        load_checkpoint(tmp_path / "resnet.pth")


def test_large_finite_weights_are_accepted(small, tmp_path):
    file = small(1)
    name = next(iter(file.model))
    file.model[name] = torch.full((8,), 3e38)  # the sum is infinite
    file.save(tmp_path / "large.pt")
    assert torch.equal(load_checkpoint(tmp_path / "large.pt").model[name], file.model[name])


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_weights_that_are_not_finite_are_refused(small, tmp_path, suffix, value):
    model, path = small(1), tmp_path / f"a{suffix}"
    model.model |= {"c": torch.ones(3), "d": torch.tensor([1, float(value)]), "e": torch.tensor(float(value))}
    path.write_bytes(pack(model.content())) if suffix == ".safetensors" else model.save(path)
    with pytest.raises(UserError) as error:
        load_checkpoint(path)
    assert str(error.value) == (
        f"{path} holds NaN or infinity in 2 of its 5 tensors, first d, and detects nothing "
        "(the run diverged: take an earlier checkpoint, or train with a lower --lr)"
    )


def test_a_missing_file_lists_the_folder(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(UserError, match=r"no weights at .*best\.pt \(.* holds last\.pt\)"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_failed_write_leaves_the_old_file(tiny_run, tmp_path, monkeypatch):
    model = load_checkpoint(tiny_run)
    path = tmp_path / "best.pt"
    model.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"best\.pt could not be written: No space left on device"):
        model.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.pt"]


def test_other_errors_of_torchs_writer_stay(small, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("CUDA error")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(RuntimeError, match="CUDA error"):
        small(1).save(tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_save_and_load_are_inverse(tiny_run, tmp_path):
    model = load_checkpoint(tiny_run)
    model.save(tmp_path / "copy.pt")
    again = load_checkpoint(tmp_path / "copy.pt")
    assert again.architecture == model.architecture
    assert all(torch.equal(again.model[key], value) for key, value in model.model.items())
    x = torch.rand(1, 3, 64, 64) * 255
    a, b = model.network().eval()(x), again.network().eval()(x)
    assert torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("backbone", ["r18", "timm:efficientnet_lite0"])
def test_no_random_numbers_are_drawn_for_weights_that_are_loaded(backbone):
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    arch = Architecture(backbone=backbone, fpn_channels=16, classes=2)
    state = build_network(arch).state_dict()
    before = torch.random.get_rng_state()
    network = Checkpoint(architecture=arch, model=state, classes=("a", "b"), category_ids=(0, 1)).network()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    image = torch.rand(1, 3, 64, 64)
    reference = build_network(arch).eval()
    reference.load_state_dict(state)
    assert torch.equal(network(image).logits, reference(image).logits)


def test_a_network_of_a_checkpoint_is_in_evaluation_mode(tiny_run):
    assert not any(module.training for module in load_checkpoint(tiny_run).network().modules())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"architecture": None}, "architecture: Input should be"),
     ({"architecture": {"fpn_channels": 10**9}}, r"architecture\.fpn_channels: Input should be less than or eq"),
     ({"architecture": {"classes": 10**9}}, r"architecture\.classes: Input should be less than or equal to 100000"),
     ({"architecture": {"classes": 0}}, r"architecture\.classes: Input should be greater than or equal to 1"),
     ({"architecture": {"classes": [1]}}, r"architecture\.classes: Input should be a valid integer"),
     ({"architecture": {"anchor_scale": float("nan")}}, r"architecture\.anchor_scale: Input should be"),
     ({"architecture": {"anchor_ratios": [1.0, 1.0]}}, r"architecture\.anchor_ratios: Value error, give up to 16"),
     ({"architecture": {"anchor_ratios": [1.0, 2.0], "head": "gfl"}}, r"architecture\.anchor_ratios: .*the head gfl"),
     ({"architecture": {"classes": 3}}, "its classes, their ids and outputs differ in number"),
     ({"classes": ["x"]}, "its classes, their ids and outputs differ in number"),
     ({"classes": None}, "classes: Input should be a valid tuple"),
     ({"classes": ["x", 5]}, r"classes\.1: Input should be a valid string"),
     ({"classes": ["x", "y" * 1001]}, r"classes\.1: String should have at most 1000 characters"),
     ({"category_ids": [1, 10**30]}, r"category_ids\.1: "),
     ({"components": ["iac", "abc"]}, r"components\.1: Input should be 'iac', 'dc' or 'clb'"),
     ({"imgsz": -1}, "imgsz: Input should be greater than or equal to 32"),
     ({"imgsz": 10**6}, "imgsz: Input should be less than or equal to 16384"),
     ({"step": "x"}, "step: Input should be a valid integer"),
     ({"versions": [1]}, "versions: Input should be a valid dictionary")],
)  # fmt: skip
def test_facts_that_no_checkpoint_holds_are_one_sentence(small, tmp_path, suffix, change, sentence):
    content, path = small(1).content(), tmp_path / f"a{suffix}"
    if isinstance(change.get("architecture"), dict):
        change = {"architecture": content["architecture"] | change["architecture"]}
    content |= change
    path.write_bytes(pack(content)) if suffix == ".safetensors" else torch.save(content, path)
    with pytest.raises(UserError, match=rf"a{suffix} is not as cledet wrote it: {sentence}"):
        load_checkpoint(path)


@pytest.mark.parametrize("model", [None, [1], {"a": 1}, {"a": None}])
def test_a_model_of_other_things_than_tensors_is_one_sentence(small, tmp_path, model):
    torch.save(small(1).content() | {"model": model}, tmp_path / "a.pt")
    with pytest.raises(UserError, match=r"a\.pt is not as cledet wrote it: its model holds other things than tensors"):
        load_checkpoint(tmp_path / "a.pt")


NAME = "head.classification.predict.bias"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [(lambda state: state.pop(NAME), f"it lacks {NAME}"),
     (lambda state: state.update({NAME: torch.zeros(5)}), rf"{NAME} is \[5\] where \[18\] is needed"),
     (lambda state: state.update({NAME: torch.zeros(18, dtype=torch.int64)}), f"{NAME} holds int64 where float32"),
     (lambda state: state.update({NAME: torch.zeros(18, dtype=torch.complex64)}), f"{NAME} holds complex64"),
     (lambda state: state.update(more=torch.zeros(1)), "more has no place in it")],
)  # fmt: skip
def test_tensors_that_do_not_fit_are_one_sentence(tiny_run, change, sentence):
    model = load_checkpoint(tiny_run)
    change(model.model)
    with pytest.raises(UserError, match=rf"^these weights are of no r18 detector: {sentence}"):
        model.network()


def test_a_large_network_of_few_weights_takes_no_memory(small, tmp_path, monkeypatch):
    """Of 4096 channels, 20 GB: refused before it is built."""
    model = small(1)
    replace(model, architecture=model.architecture.model_copy(update={"fpn_channels": 4096})).save(tmp_path / "a.pt")
    monkeypatch.setattr("cledet.models.checkpoint.build_network", pytest.fail)
    with pytest.raises(UserError, match=r"of no r18 detector: it lacks backbone\.conv1\.weight \(pass another file\)"):
        load_checkpoint(tmp_path / "a.pt").network()


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_an_exported_network_is_no_weights(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x08\x08\x12\x07pytorch")
    with pytest.raises(UserError) as error:
        load_checkpoint(tmp_path / name)
    assert str(error.value) == (
        f"{tmp_path / name} is a network exported for another runtime, not weights "
        "(val and predict take it; here, pass the .pt or .safetensors that it was exported from)"
    )


@pytest.mark.parametrize("content", [{"model": None}, {"model": 5}, {"state_dict": [1]}, {1: 2}, {"model": {1: 2}}])
def test_a_pickle_without_weights_is_one_sentence(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"a\.pkl is neither a cledet checkpoint nor a detector of"):
        load_checkpoint(tmp_path / "a.pkl")
    assert read_weights(tmp_path / "a.pkl") == {}


@pytest.fixture
def calls(monkeypatch):
    """Record the network connections, and refuse them."""
    found = []

    def refuse(*where, **_):
        found.append(where)
        raise OSError("no network")

    for target, name in ((socket, "getaddrinfo"), (socket.socket, "connect"), (socket.socket, "connect_ex")):
        monkeypatch.setattr(target, name, refuse)
    return found


@pytest.mark.parametrize(
    "backbone",
    ["timm:hf-hub:timm/resnet18.a1_in1k", "timm:hf_hub:timm/resnet18.a1_in1k", "timm:HF-HUB:a/b@c", "timm:a/resnet18",
     "timm:local-dir:/tmp", "timm:https://example.org/resnet18", "timm:resnet18\n"],
)  # fmt: skip
def test_other_sources_of_timm_are_refused_without_a_network_connection(small, tmp_path, calls, backbone):
    pytest.importorskip("timm")
    model = small(1)
    replace(model, architecture=model.architecture.model_copy(update={"backbone": backbone})).save(tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"^{re.escape(backbone)} is not a name of timm's own models"):
        load_checkpoint(tmp_path / "a.pt").network()
    assert calls == []


@pytest.mark.parametrize("backbone", ["r18", "lite0", "timm:resnet18", "timm:resnet18.a1_in1k"])
def test_loading_makes_no_network_connection(tmp_path, calls, backbone):
    if backbone.startswith("timm"):
        pytest.importorskip("timm")
    arch = Architecture(backbone=backbone, classes=1, fpn_channels=8)
    weights = build_network(arch).state_dict()
    path = tmp_path / "a.pt"
    Checkpoint(architecture=arch, model=weights, classes=("x",), category_ids=(1,)).save(path)
    found = load_checkpoint(path).network().state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert calls == []


OLD = ("architecture", "model", "classes", "category_ids", "components", "imgsz", "data", "step", "metrics", "settings",
       "training")  # fmt: skip
"""The fields that cledet 0.1.0 wrote, beside `format`, `versions` of torch alone, and `written`."""


def test_a_checkpoint_of_the_first_version_is_read(tiny_run, tmp_path):
    model = load_checkpoint(tiny_run / "weights" / "last.pt")
    content = {name: getattr(model, name) for name in OLD} | {"format": "cledet 1", "versions": {"torch": "2.6.0"}}
    content |= {"architecture": model.architecture.model_dump(), "written": "2025-01-02T03:04:05+0000"}
    torch.save(content, tmp_path / "old.pt")
    old = load_checkpoint(tmp_path / "old.pt")
    assert all(getattr(old, name) == getattr(model, name) for name in OLD if name not in ("model", "training"))
    assert old.training["step"] == 4
    assert old.versions == {"torch": "2.6.0"}
    x = torch.rand(1, 3, 64, 64) * 255
    assert torch.equal(old.network().eval()(x).logits, model.network().eval()(x).logits)


def test_a_checkpoint_of_a_newer_version_is_named_as_such(small, tmp_path):
    path = tmp_path / "a.pt"
    content = small(1).content()
    for changed in (
        {"format": "cledet 2", "versions": {"cledet": "9.0"}},
        {"architecture": content["architecture"] | {"neck": "bifpn"}, "versions": {"cledet": "9.0"}},
    ):
        torch.save(content | changed, path)
        with pytest.raises(UserError) as error:
            load_checkpoint(path)
        assert str(error.value) == f"{path} was written by a newer cledet (9.0) (pip install --upgrade cledet)"
    torch.save({"format": "cledet 2"}, path)
    with pytest.raises(UserError, match=r"was written by a newer cledet \(cledet 2\)"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", ["architecture", "model", "classes", "category_ids"])
def test_a_checkpoint_without_a_required_entry_is_an_error(small, tmp_path, name):
    content = small(1).content()
    del content[name]
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt lacks '{name}', which every checkpoint of cledet has"):
        load_checkpoint(tmp_path / "a.pt")


def test_fields_missing_from_an_old_file_have_defaults(small, tmp_path):
    content = small(1).content()
    for name in ("components", "versions", "written"):
        del content[name]
    torch.save(content, tmp_path / "a.pt")
    found = load_checkpoint(tmp_path / "a.pt")
    assert (found.components, found.versions, found.written) == ((), {}, "")


def test_anchor_ratios_are_kept_in_both_formats(small, tmp_path):
    """Files with the head's own ratios hold none, so that earlier versions read them."""
    model = small(1)
    assert "anchor_ratios" not in model.content()["architecture"]
    changed = replace(model, architecture=Architecture(backbone="r18", classes=2, anchor_ratios=(0.33, 1, 3)))
    changed.save(tmp_path / "a.pt")
    (tmp_path / "a.safetensors").write_bytes(pack(changed.content()))
    for name in ("a.pt", "a.safetensors"):
        assert load_checkpoint(tmp_path / name).architecture == changed.architecture


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_leaves_a_good_checkpoint(tiny, disk):
    """best.pt and last.pt of r18 take 45 and 90 MB: the first epoch's fit, the second's do not."""
    project = disk("180m")
    settings = {**tiny, "project": project, "name": "full"}
    words = [word for key, value in settings.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    process = subprocess.run(
        [sys.executable, "-m", "cledet", "train", *words],
        capture_output=True, text=True, timeout=300, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    run = project / "train" / "full"
    assert process.returncode == 2, process.stderr
    assert "Traceback" not in process.stderr
    error = process.stderr.splitlines()[-1]
    assert error.startswith(f"error: {run}/weights/")
    hint = f"(free some space and go on with: cledet train --resume {run})"
    assert error.endswith(f"pt could not be written: No space left on device {hint}")
    assert load_checkpoint(run / "weights" / "last.pt").training["step"] == 3
    assert not list(run.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=400m", str(project)], check=True)
    Detector().train(resume=run)
    assert load_checkpoint(run / "weights" / "last.pt").step == 4
