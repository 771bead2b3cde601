"""Prediction on files and arrays: boxes in the image's pixels, class names, and drawn pictures."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.commands.predict import predict_to_folder
from cledet.config.base import PredictSettings
from cledet.config.loading import resolve
from cledet.data.dataset import DetectionDataset, collate, preprocess
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.evaluator import nms_options
from cledet.inference.predictor import picture_path
from cledet.models.postprocess import detect
from cledet.visualization.draw import class_color, draw_detections


def settings(**given):
    return resolve(PredictSettings, {"device": "cpu", "amp": "off", "conf": 0.0, **given}, environ={})


@pytest.mark.parametrize("network", ["as loaded", "in training"])
def test_a_predictor_is_in_evaluation_mode_from_the_start(tiny_run, squares, network):
    detector, image = Detector(tiny_run), read_image(squares / "val" / "1.png")
    predictor = detector.predictor(settings())
    if network == "in training":
        predictor = replace(predictor, network=predictor.network.train())
    wanted = detector.predictor(settings()).predict(image)
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
     (np.zeros((8, 8), np.uint16), r"not uint16 \[8, 8\]"),
     (np.zeros((8, 8), object), r"not object \[8, 8\]"),
     (np.zeros((3, 8, 8), np.uint8), r"not uint8 \[3, 8, 8\] \(move channels last with"),
     (np.zeros((2, 3, 8, 8), np.uint8), r"not uint8 \[2, 3, 8, 8\]"),
     (np.zeros((8,), np.uint8), r"not uint8 \[8\]"),
     (np.zeros((0, 8, 3), np.uint8), r"an image of uint8 \[0, 8, 3\] has no pixels"),
     (np.zeros((8, 0), np.uint8), r"an image of uint8 \[8, 0\] has no pixels"),
     (torch.zeros(3, 8, 8), r"not Tensor \(convert a Pillow image"), (None, "not NoneType"),
     (b"x.jpg", "not bytes"), ([5], "not int"), ({"image": 1}, "not dict")],
)  # fmt: skip
def test_invalid_images_are_user_errors(tiny_run, source, sentence):
    with pytest.raises(UserError, match=sentence):
        list(Detector(tiny_run).predict(source, device="cpu"))
    if isinstance(source, np.ndarray):
        with pytest.raises(UserError, match=sentence):
            Detector(tiny_run).explain(source, device="cpu")


@pytest.mark.parametrize(("source", "sentence"), [("nowhere.jpg", "nowhere.jpg"), ("empty", "empty"), ("*.xyz", "xyz")])
def test_sources_without_images_are_user_errors(tiny_run, tmp_path, monkeypatch, source, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=sentence):
        predict_to_folder(Detector(tiny_run), source, settings(project=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_folder_becomes_pictures_and_json(tiny_run, squares, tmp_path):
    run, documents = predict_to_folder(Detector(tiny_run), str(squares / "val"), settings(project=tmp_path, max_det=3))
    assert sorted(path.name for path in run.iterdir()) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "predictions.json"]
    assert json.loads((run / "predictions.json").read_text()) == documents
    first = documents[0]
    assert (first["width"], first["height"], len(first["detections"])) == (96, 80, 3)
    assert {(d["name"], d["category_id"]) for d in first["detections"]} <= {("blue", 3), ("red", 7)}
    assert cv2.imread(str(run / "0.jpg")).shape == (80, 96, 3)


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    taken: set[str] = set()
    names = [picture_path(tmp_path, tmp_path / name, taken).name for name in ("a.png", "a.jpg", "b/a.png", "a-2.png")]
    assert names == ["a.jpg", "a-2.jpg", "a-3.jpg", "a-2-2.jpg"]


def test_a_box_is_drawn_on_a_copy_of_the_image():
    image = np.full((200, 300, 3), 90, dtype=np.uint8)
    picture = draw_detections(image, np.array([[50, 60, 250, 180]], dtype=np.float32), [4], ["bar 0.87"])
    assert (image == 90).all()
    assert tuple(picture[120, 50]) == class_color(4)
    assert tuple(picture[180, 150]) == class_color(4)
    assert (picture[120, 150] == 90).all()  # inside
    assert (picture[:30] == 90).all()  # the caption sits right above the box
    assert (picture[45:59, 52:80] != 90).any()


@pytest.mark.parametrize("box", [[0, 0, 40, 40], [290, 190, 300, 200], [-20, -30, 500, 400], [5, 5, 5, 5]])
def test_captions_stay_inside_the_picture(box):
    """A caption at an edge is as large as one in the middle."""
    image = np.zeros((200, 300, 3), dtype=np.uint8)
    at, middle = (
        draw_detections(image, np.array([b], dtype=np.float32), [1], ["a name 0.50"])
        for b in (box, [120, 100, 121, 101])
    )
    color = np.array(class_color(1))
    assert (at == color).all(-1).sum() >= 0.95 * (middle == color).all(-1).sum()
