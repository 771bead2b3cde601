"""The program of docs/deploy.md, which imports no cledet, returns the detections of `cledet predict`."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cledet import Detector

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
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "cledet" not in code
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("imgsz", [64, (96, 96)])
@pytest.mark.parametrize("size", [(90, 64), (64, 107)], ids=["landscape", "portrait"])
def test_detections_equal_those_of_predict(detector, tmp_path, monkeypatch, imgsz, size):
    """On photos whose short side is the model's, so that neither resizes; the fixed input shrinks one of them."""
    options = {"nms": "standard", "conf": 0.05, "max_det": 10}
    exported = detector.export(imgsz=imgsz, project=tmp_path, **options)
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize(size)
    photo.save(tmp_path / "photo.png")
    boxes, scores, names = program(exported.path.parent, monkeypatch)["detect"](tmp_path / "photo.png")
    wanted = detector.predict_one(tmp_path / "photo.png", device="cpu", amp="off", **options)
    assert 0 < len(scores) <= 10
    assert boxes.shape == (len(scores), 4)
    assert (boxes >= 0).all()
    assert (boxes <= [*size, *size]).all()
    if isinstance(imgsz, int):
        torch.testing.assert_close(torch.from_numpy(scores), wanted.scores, atol=1e-3, rtol=0)
        torch.testing.assert_close(torch.from_numpy(boxes).float(), wanted.boxes, atol=0.05, rtol=0)
        assert names == [wanted.names[label] for label in wanted.labels.tolist()]
