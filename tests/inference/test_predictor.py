"""Prediction on files and arrays: boxes in the image's pixels, class names, and drawn pictures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.config.base import PredictSettings
from cledet.config.loading import resolve
from cledet.data.dataset import DetectionDataset, collate, preprocess
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.evaluator import nms_options
from cledet.inference.frame import Frame
from cledet.inference.results import Results
from cledet.models.postprocess import detect


def settings(**given):
    return resolve(PredictSettings, {"device": "cpu", "amp": "off", "conf": 0.0, **given}, environ={})


@pytest.mark.parametrize("network", ["as loaded", "in training"])
def test_a_predictor_is_in_evaluation_mode_from_the_start(tiny_run, squares, network):
    detector, image = Detector(tiny_run), read_image(squares / "val" / "1.png")
    predictor = detector.predictor(settings())
    if network == "in training":
        predictor = replace(predictor, network=predictor.network.train())
    (wanted,) = detector.predictor(settings()).stream([Frame(image, None, "image")])
    found = predictor.predict(image, None)
    assert not any(module.training for module in predictor.network.modules())
    assert len(found) == 100
    assert torch.equal(found.scores, wanted.scores)


@torch.inference_mode()
def test_predict_returns_the_detections_of_evaluation(tiny_run, squares):
    """The pixels of a single image in predict equal those of a batch in val."""
    detector = Detector(tiny_run)
    index = open_source(squares).index("val")
    found = next(detector.predict(str(index.paths[1]), settings()))
    batch = collate([DetectionDataset(index, short=64, long=107)[1]])
    network = detector.model.network().eval()
    wanted = detect(network(batch.images), batch.sizes, nms_options(settings(), ("iac", "dc", "clb")))[0]
    scale = 96 / int(batch.sizes[0, 1])
    torch.testing.assert_close(found.boxes, wanted.boxes * scale, atol=0.05, rtol=0.01)
    assert torch.equal(found.scores, wanted.scores)
    assert len(found) == 100
    assert found.boxes.min() >= 0
    assert (found.boxes.amax(0) <= torch.tensor([96.0, 80.0, 96.0, 80.0]) + 1e-3).all()


def test_preprocess_gives_the_batch_of_evaluation(squares):
    """Including a read-only image, as Pillow's are, without a warning."""
    index = open_source(squares).index("val")
    image = read_image(str(index.paths[1]))
    image.flags.writeable = False
    for short, long in ((64, 107), (80, 107)):  # smaller, and as it is
        batch = collate([DetectionDataset(index, short=short, long=long)[1]])
        images, size = preprocess(image, short, long)
        assert torch.equal(images, batch.images)
        assert size == tuple(batch.sizes[0].tolist())


def test_every_kind_of_source(tiny_run, squares):
    detector, folder = Detector(tiny_run), squares / "val"
    assert len(list(detector.predict(folder))) == 4
    assert len(list(detector.predict(str(folder / "*.png")))) == 4
    assert len(list(detector.predict([folder / "0.png", folder / "1.png"]))) == 2
    array = read_image(folder / "1.png")
    from_array, from_file = (next(detector.predict(s, conf=0.01)) for s in (array, folder / "1.png"))
    assert torch.equal(from_array.boxes, from_file.boxes)
    assert from_array.path is None


@pytest.mark.parametrize("kind", ["gray", "gray with channel", "RGBA", "batch", "list", "flipped twice"])
def test_arrays_of_every_kind_are_converted_to_rgb(tiny_run, squares, kind):
    rgb = read_image(squares / "val" / "1.png")
    gray = rgb[..., 1]
    if kind.startswith("gray"):
        rgb = np.stack([gray] * 3, 2)
    array = {
        "gray": gray,
        "gray with channel": gray[..., None],
        "RGBA": np.dstack([rgb, gray]),
        "batch": np.stack([rgb, rgb[::-1]]),
        "list": [rgb, rgb[::-1]],
        "flipped twice": rgb[::-1].copy()[::-1],
    }[kind]
    found = list(Detector(tiny_run).predict(array, conf=0.0, device="cpu"))
    wanted = list(Detector(tiny_run).predict([rgb, rgb[::-1]], conf=0.0, device="cpu"))
    assert len(found) == (2 if kind in ("batch", "list") else 1)
    for one, other in zip(found, wanted):
        assert len(one) == 100
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.scores, other.scores)
        assert one.plot().shape == (80, 96, 3)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [(np.zeros((8, 8, 3), np.float32), r"0 to 255, not float32 \[8, 8, 3\] \(convert values from 0 to 1 with"),
     (np.zeros((8, 8), np.int16), r"not int16 \[8, 8\]"),
     (np.zeros((8, 8), object), r"not object \[8, 8\]"),
     (np.zeros((3, 8, 8), np.uint8), r"not uint8 \[3, 8, 8\] \(move channels last with"),
     (np.zeros((2, 3, 8, 8), np.uint8), r"not uint8 \[2, 3, 8, 8\]"),
     (np.zeros((8,), np.uint8), r"not uint8 \[8\]"),
     (np.zeros((0, 8, 3), np.uint8), r"an image of uint8 \[0, 8, 3\] has no pixels"),
     (np.zeros((8, 0), np.uint8), r"an image of uint8 \[8, 0\] has no pixels"),
     (torch.full((3, 8, 8), 7.0), "a tensor of floats holds values outside 0 to 1"), (None, "not NoneType"),
     (b"x.jpg", "not bytes"), ([5.5], "not float"), ({"image": 1}, "not dict")],
)  # fmt: skip
def test_invalid_images_are_user_errors(tiny_run, source, sentence):
    with pytest.raises(UserError, match=sentence):
        list(Detector(tiny_run).predict(source, device="cpu"))
    if isinstance(source, np.ndarray):
        with pytest.raises(UserError, match=sentence):
            Detector(tiny_run).explain(source, device="cpu")


def test_an_image_without_detections_is_unchanged():
    image = np.zeros((20, 30, 3), dtype=np.uint8)
    none = Results(None, image, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), ("a",), (1,))
    assert (none.plot() == image).all()
    assert none.to_dict()["detections"] == []
