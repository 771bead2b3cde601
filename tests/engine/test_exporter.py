"""The exported file computes what PyTorch computes, on images that neither has seen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.engine import exporter
from cledet.engine.exporter import Exported
from cledet.errors import UserError

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    return Detector(tiny_run).export(project=tmp_path_factory.mktemp("export"))


def test_the_file_agrees_with_pytorch_for_any_number_of_images(exported, tiny_run):
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    module = Exported(Detector(tiny_run).model.network()).eval()
    for count in (1, 3):
        images = np.random.default_rng(count).uniform(0, 255, (count, *exported.inputs[1:])).astype(np.float32)
        boxes, scores = session.run(None, {"images": images})
        with torch.inference_mode():
            wanted_boxes, wanted_scores = module(torch.from_numpy(images))
        assert scores.shape == (count, wanted_scores.shape[1], 2)
        np.testing.assert_allclose(scores, wanted_scores.numpy(), atol=1e-4)
        np.testing.assert_allclose(boxes, wanted_boxes.numpy(), atol=1e-2)


def test_the_file_says_what_it_takes_and_gives(exported):
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["names"]) == ["blue", "red"]
    assert json.loads(facts["category_ids"]) == [3, 7]
    assert session.get_inputs()[0].shape[1:] == [3, 64, 128]
    assert exported.inputs == (-1, 3, 64, 128)
    assert exported.max_score_error < 1e-4
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.onnx"]


def test_openvino_agrees_too(tiny_run, tmp_path):
    openvino = pytest.importorskip("openvino")
    result = Detector(tiny_run).export("openvino", project=tmp_path)
    assert sorted(path.name for path in result.path.parent.iterdir()) == ["model.bin", "model.xml"]
    assert result.max_score_error < 1e-4
    assert result.max_box_error < 0.01
    assert openvino.Core().read_model(str(result.path)).get_rt_info(["cledet", "names"]).value == '["blue", "red"]'


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_file_that_computes_something_else_is_not_kept(tiny_run, tmp_path, monkeypatch, format):
    packages, suffixes, write, run = exporter.FORMATS[format]

    def tampered(module, *rest):
        with torch.no_grad():
            module.network.head.classification.predict.bias.add_(0.5)
            write(module, *rest)
            module.network.head.classification.predict.bias.sub_(0.5)

    monkeypatch.setitem(exporter.FORMATS, format, (packages, suffixes, tampered, run))
    with pytest.raises(UserError, match="outputs differ from PyTorch's"):
        Detector(tiny_run).export(format, project=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_a_torch_that_cannot_write_onnx_is_one_sentence(tiny_run, tmp_path, monkeypatch):
    """As torch 2.6 with onnxscript 0.7."""

    def refuse(*_):
        raise torch.onnx.errors.OnnxExporterError("Failed to convert\nthe last line")

    monkeypatch.setitem(exporter.FORMATS, "onnx", (("onnx",), (".onnx",), refuse, exporter.run_onnx))
    with pytest.raises(UserError, match=r"cannot write this network as ONNX .*: the last line \(try a newer torch\)"):
        Detector(tiny_run).export(project=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_a_missing_package_is_named(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(UserError, match=r"export needs onnxscript \(pip install 'cledet\[onnx\]'\)"):
        Detector(tiny_run).export(project=tmp_path)
    assert not list(tmp_path.rglob("*"))
