"""The program of docs/deploy.md, which imports no cledet, returns the detections of cledet."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cledet import Detector
from cledet.data.dataset import fit_canvas
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import detect
from cledet.ops.boxes import clip_boxes

pytestmark = pytest.mark.slow
pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


@pytest.fixture(scope="module")
def detector(tiny_run):
    """The tiny network with scores that are far from equal."""
    found = Detector(tiny_run)
    found.model.model["head.classification.predict.weight"] *= 30
    found.model.model["head.classification.predict.bias"] += 3
    return found


def program(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Run the page's program in a folder; returns its names."""
    (code,) = re.findall(r"## Without cledet.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "cledet" not in code
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("imgsz", [64, (96, 96)])
@pytest.mark.parametrize("size", [(96, 64), (64, 96)], ids=["landscape", "portrait"])
def test_detections_equal_those_of_cledet(detector, tmp_path, monkeypatch, imgsz, size):
    """On photos that need no resizing; the fixed input is larger than the photos, and padded."""
    exported = detector.export(imgsz=imgsz, project=tmp_path, nms="standard", conf=0.05, max_det=10)
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize(size)
    photo.save(tmp_path / "photo.png")
    boxes, scores, names = program(exported.path.parent, monkeypatch)["detect"](tmp_path / "photo.png")
    canvas = imgsz if isinstance(imgsz, tuple) else size[::-1]
    with torch.inference_mode():
        raw = detector.network("cpu")(fit_canvas(np.asarray(photo), canvas))
    (wanted,) = detect(raw, torch.tensor([canvas]), NMSOptions(method="standard", max_det=10))
    assert 0 < len(scores) <= 10
    np.testing.assert_allclose(scores, wanted.scores, atol=1e-3)
    np.testing.assert_allclose(boxes, clip_boxes(wanted.boxes, size[::-1]), atol=0.05)
    assert names == [detector.names[label] for label in wanted.labels.tolist()]


@pytest.mark.parametrize("imgsz", [64, (64, 96)])
@pytest.mark.parametrize("size", [(160, 120), (120, 160)], ids=["landscape", "portrait"])
def test_boxes_are_scaled_back_to_the_photo(detector, tmp_path, monkeypatch, imgsz, size):
    """Of a photo that is shrunk, all boxes lie in it, and some reach its far half in both directions."""
    exported = detector.export(imgsz=imgsz, project=tmp_path, nms="standard", conf=0.05)
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    boxes, scores, _ = program(exported.path.parent, monkeypatch)["detect"](tmp_path / "photo.png")
    assert len(scores) > 0
    assert (boxes >= 0).all()
    assert (boxes <= [*size, *size]).all()
    assert (boxes[:, 2:].max(0) > 0.8 * np.array(size)).all()
