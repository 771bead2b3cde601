"""Safetensors files of weights: bitwise round trip, metadata, and other projects' files."""

from __future__ import annotations

import json

import pytest
import safetensors
import safetensors.torch
import torch

from cledet import Detector
from cledet.errors import UserError
from cledet.export import exporter
from cledet.models.checkpoint import load_checkpoint
from cledet.models.safetensors import FACTS, digest, pack


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    return Detector(tiny_run).export("safetensors", project=tmp_path_factory.mktemp("export"))


def metadata(path):
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata()


def test_the_file_holds_the_weights_bit_by_bit_and_no_training_state(exported, tiny_run):
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.safetensors"]
    found = safetensors.torch.load_file(exported.path)
    wanted = load_checkpoint(tiny_run).model
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    assert exported.path.stat().st_size < 1.01 * sum(t.numel() * t.element_size() for t in wanted.values())


def test_the_metadata_describe_the_model_without_local_paths(exported, squares):
    entries = metadata(exported.path)
    assert entries["format"] == "pt"  # as other readers want it
    assert entries["cledet"] == "cledet 1"
    assert json.loads(entries["classes"]) == ["blue", "red"]
    assert json.loads(entries["category_ids"]) == [3, 7]
    assert json.loads(entries["components"]) == ["iac", "dc", "clb"]
    assert json.loads(entries["imgsz"]) == 64
    assert json.loads(entries["architecture"])["backbone"] == "r18"
    assert json.loads(entries["versions"])["torch"] == torch.__version__
    assert str(squares) not in str(entries)


def test_a_detector_of_the_file_has_the_same_detections(exported, tiny_run, squares):
    a, b = Detector(exported.path), Detector(tiny_run)
    assert a.model.training == {}
    assert a.model.versions == b.model.versions
    assert (a.model.components, a.model.imgsz) == (b.model.components, b.model.imgsz)
    for one, other in zip(*(d.predict(squares / "val", conf=0.01, device="cpu") for d in (a, b)), strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert one.names == ("blue", "red")
        assert one.category_ids == (3, 7)


def test_training_starts_from_the_file(exported, tiny, tmp_path):
    short = {**tiny, "iters": 1, "val_split": "none", "lr": 1e-12}
    run = Detector().train(**short, weights=str(exported.path), project=tmp_path)
    key = "head.classification.predict.weight"
    torch.testing.assert_close(load_checkpoint(run).model[key], load_checkpoint(exported.path).model[key])


def same_weights(one, other):
    """The same classes, architecture and tensors, bit by bit."""
    facts = [key for key in FACTS if key not in ("versions", "written")]
    return all(getattr(one, key) == getattr(other, key) for key in facts) and (
        digest(one.model, {}) == digest(other.model, {})
    )


def test_any_changed_byte_and_any_truncation_is_noticed(small, tmp_path):
    path = tmp_path / "a.safetensors"
    data = pack(small(1).content())
    path.write_bytes(data)
    undamaged = load_checkpoint(path)
    assert same_weights(undamaged, small(1))
    for position in range(0, len(data), 2):
        for change in (0x01, 0xFF):
            path.write_bytes(data[:position] + bytes([data[position] ^ change]) + data[position + 1 :])
            try:
                assert same_weights(load_checkpoint(path), undamaged), (position, change)
                assert data[position : position + 1] in b' "'  # blanks behind the header
            except UserError:
                pass
        path.write_bytes(data[:position])
        with pytest.raises(UserError):
            load_checkpoint(path)


def test_the_digest_is_of_names_types_shapes_bytes_and_metadata():
    zeros = torch.zeros(2, 3)
    different = [
        digest({"a": zeros}, {}),
        digest({"b": zeros}, {}),
        digest({"a": zeros.int()}, {}),
        digest({"a": zeros.reshape(3, 2)}, {}),
        digest({"a": zeros + 1}, {}),
        digest({"a": zeros}, {"x": "1"}),
        digest({"a": zeros}, {"x": "2"}),
    ]
    assert len(set(different)) == 7
    assert digest({"a": zeros, "b": zeros}, {"x": "", "y": ""}) == digest({"b": zeros, "a": zeros}, {"y": "", "x": ""})
    turned, straight = torch.arange(6).view(2, 3).t(), torch.tensor([[0, 3], [1, 4], [2, 5]])
    assert digest({"a": turned}, {}) == digest({"a": straight}, {})  # of the values, not of how memory holds them


def test_a_file_of_another_name_is_recognized_by_its_header(small, tmp_path):
    (tmp_path / "model.bin").write_bytes(pack(small(5).content()))
    assert load_checkpoint(tmp_path / "model.bin").step == 5


def test_other_safetensors_files_are_errors(tmp_path):
    path = tmp_path / "backbone.safetensors"
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, path, {"format": "pt"})
    with pytest.raises(UserError) as error:
        Detector(path)
    assert str(error.value) == (
        f"{path} holds no cledet detector but 1 tensors of something else (`cledet export --format safetensors` writes "
        "one; a backbone's weights are for --backbone-weights)"
    )
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, path)  # without any metadata
    with pytest.raises(UserError, match="holds no cledet detector"):
        Detector(path)


def test_a_newer_file_is_named_as_such(small, tmp_path):
    content = small(1).content() | {"format": "cledet 2"}
    (tmp_path / "a.safetensors").write_bytes(pack(content))
    with pytest.raises(UserError, match="was written by a newer cledet"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_metadata_that_are_no_json_are_one_sentence(small, tmp_path):
    content = small(1).content()
    tensors, told = content["model"], {"cledet": "cledet 1"}
    for text in ("{", "[" * 100_000, "1" * 5000):
        metadata = told | {"architecture": text}
        path = tmp_path / "a.safetensors"
        safetensors.torch.save_file(tensors, path, metadata | {"blake2b": digest(tensors, metadata)})
        with pytest.raises(UserError, match=r"a\.safetensors is not as cledet wrote it: its metadata are no JSON"):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "flags", [{"nms": "auto"}, {"nms": "none"}, {"imgsz": 64}, {"conf": 0.1}, {"max_det": 5}, {"cl_norm": "max"}]
)
def test_a_flag_without_effect_is_refused(tiny_run, tmp_path, flags):
    with pytest.raises(UserError) as error:
        Detector(tiny_run).export("safetensors", project=tmp_path, **flags)
    flag = next(iter(flags)).replace("_", "-")
    assert (
        str(error.value) == f"--{flag} does nothing with --format safetensors, which holds weights alone (leave it out)"
    )
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("change", ["bit", "type", "shape", "name", "classes"])
def test_a_file_that_holds_something_else_is_not_kept(tiny_run, tmp_path, monkeypatch, change):
    def tampered(content):
        model = dict(content["model"])
        name = "head.classification.predict.bias"
        value = model.pop(name)
        other = {
            "bit": torch.cat([-value[:1] if value[0] == 0 else value[:1] * (1 + 2e-7), value[1:]]),
            "type": value.double(),
            "shape": value[None],
        }.get(change, value)
        model["head.bias" if change == "name" else name] = other
        return pack(content | {"model": model, "classes": ("a", "b") if change == "classes" else content["classes"]})

    monkeypatch.setattr(exporter, "pack", tampered)
    with pytest.raises(UserError, match="the weights read back from safetensors differ from the model"):
        Detector(tiny_run).export("safetensors", project=tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_nan_is_compared_bitwise(small, tmp_path):
    a, b = small(1), small(1)
    a.model["a.weight"][0] = b.model["a.weight"][0] = float("nan")
    assert same_weights(a, b)
    b.model["a.weight"][1] = -0.0
    a.model["a.weight"][1] = 0.0
    assert not same_weights(a, b)
