"""Torchvision's detectors: detections equal torchvision's bit by bit, and classes are matched by name."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import detection, get_model, get_model_weights, list_models

from cledet import Detector
from cledet.config.base import PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.data.images import read_image
from cledet.errors import UserError
from cledet.inference.slicing import cut_off, drop_covered, slice_windows
from cledet.inference.torchvision_detector import (
    Thresholds,
    TorchvisionDetector,
    default_thresholds,
    load_network,
    thresholds,
    with_thresholds,
)
from cledet.models.nms import NMSOptions, apply_nms
from cledet.models.postprocess import Detected
from cledet.ops.boxes import box_iou

pytestmark = pytest.mark.slow

NAME = "ssdlite320_mobilenet_v3_large"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A folder of torch.hub with random weights under the name of the published ones.

    Batch norm gets the statistics of noise, so that the signal does not vanish; persons and dogs score highest.
    """
    home = tmp_path_factory.mktemp("hub")
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    network = get_model(NAME, weights=None, weights_backbone=None, num_classes=91)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        for name, value in network.head.named_parameters():
            if name.endswith("1.weight"):
                torch.nn.init.normal_(value, std=0.2)
            elif len(value) % 91 == 0:
                value.view(-1, 91)[:, [0, 1, 18, 40]] += 9
        network.train().head(list(network.backbone(torch.randn(4, 3, 320, 320)).values()))
    torch.save(network.state_dict(), folder / get_model_weights(NAME).DEFAULT.url.rpartition("/")[2])
    return home


@pytest.fixture(autouse=True)
def only_this_hub(hub, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(hub))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two images with an object each; two classes of COCO, in another order and with other ids, and one other class."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(2):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(root / f"{i}.png"), cv2.resize(small, (200, 150 + 40 * i), interpolation=cv2.INTER_CUBIC))
    content = {
        "images": [{"id": 5 + i, "file_name": f"{i}.png", "width": 200, "height": 150 + 40 * i} for i in range(2)],
        "annotations": [
            {"id": i, "image_id": 5 + i, "category_id": 9, "bbox": [10, 10, 90, 80], "area": 7200, "iscrowd": 0}
            for i in range(2)
        ],
        "categories": [{"id": 9, "name": "dog"}, {"id": 4, "name": "zeppelin"}, {"id": 2, "name": "person"}],
    }
    (root / "instances_val.json").write_text(json.dumps(content))
    return root


def theirs(image, **own):
    """Detect as torchvision documents it."""
    weights = get_model_weights(NAME).DEFAULT
    network = get_model(NAME, weights=weights).eval()
    for key, value in own.items():
        setattr(network, key, value)
    with torch.inference_mode():
        return network([weights.transforms()(Image.open(image).convert("RGB"))])[0]


def same(found, wanted):
    return all(torch.equal(getattr(found, key), wanted[key]) for key in ("boxes", "scores", "labels"))


def test_detections_are_torchvisions_to_the_last_bit(photos):
    detector, image = Detector(f"torchvision:{NAME}"), photos / "1.png"
    (found,) = detector.predict(image, conf=0.001, device="cpu")
    wanted = theirs(image)
    assert len(wanted["boxes"]) == 300
    assert same(found, wanted)
    assert found.names[18] == "dog"
    assert found.to_dict()["detections"][0]["category_id"] == wanted["labels"][0]
    (fewer,) = detector.predict(image, conf=0.02, iou=0.3, max_det=7, device="cpu")
    assert same(fewer, theirs(image, score_thresh=0.02, nms_thresh=0.3, detections_per_img=7))
    (again,) = detector.predict(image, conf=0.001, device="cpu")
    assert same(again, wanted)  # the thresholds of one call do not persist


def test_a_method_of_cledet_replaces_the_nms_of_torchvision(photos):
    image = photos / "0.png"
    (found,) = Detector(f"torchvision:{NAME}").predict(image, conf=0.2, iou=0.4, max_det=50, nms="standard")
    wanted = theirs(image, score_thresh=0.2, nms_thresh=0.4, detections_per_img=50)
    assert len(wanted["boxes"]) == 50
    torch.testing.assert_close(found.boxes, wanted["boxes"])
    assert torch.equal(found.scores, wanted["scores"])


def test_predictions_of_one_detector_in_turn_keep_their_thresholds(photos):
    """Predictions are lazy: the second call comes before the first image of the first is read."""
    detector, image = Detector(f"torchvision:{NAME}"), photos / "0.png"
    wanted = theirs(image, score_thresh=0.02)
    high = wanted["scores"][100].item()
    wanted = {0.02: wanted, high: theirs(image, score_thresh=high)}
    assert len(wanted[0.02]["boxes"]) > len(wanted[high]["boxes"]) == 100
    streams = [detector.predict([image, image], conf=conf, device="cpu") for conf in wanted]
    for found in zip(*streams):
        assert all(map(same, found, wanted.values()))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda conf: detector.predict_one(image, conf=conf, device="cpu"), [*wanted] * 3))
    assert all(map(same, found, [*wanted.values()] * 3))


def test_thresholds_are_those_of_a_copy_with_the_same_weights():
    with torch.device("meta"):
        networks = [get_model(name, weights=None, weights_backbone=None) for name in ("fcos_resnet50_fpn",
                    "fasterrcnn_resnet50_fpn")]  # fmt: skip
    for network in networks:
        before = default_thresholds(network)
        other = with_thresholds(network, Thresholds(0.7, 0.1, 3))
        assert default_thresholds(network) == before
        assert default_thresholds(other) == (0.7, 0.1, 3)
        assert all(a is b for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_the_highest_score_and_classes(photos):
    detector, image = Detector(f"torchvision:{NAME}"), photos / "0.png"
    wanted = theirs(image, score_thresh=0.001)
    found = detector.predict_one(image, conf=1.0, device="cpu")
    assert len(found) == 0
    assert found.highest_score == wanted["scores"].max()
    dogs = detector.predict_one(image, conf=0.05, device="cpu", classes="dog", max_det=7)
    every = theirs(image, score_thresh=0.05, detections_per_img=10**6)
    expected = every["scores"][every["labels"] == 18]
    assert len(expected) > 7
    assert dogs.summary() == "7 dog"
    assert torch.equal(dogs.scores, expected[:7])
    with pytest.raises(UserError, match="no class 'zeppelin'"):
        detector.predict(image, classes="zeppelin")


@pytest.mark.parametrize("method", ["auto", "cl-balanced", "soft-vote"])
def test_slices_and_mirrored_images_equal_a_slow_loop(photos, method):
    image = read_image(photos / "1.png")
    height, width = image.shape[:2]
    network = get_model(NAME, weights=get_model_weights(NAME).DEFAULT).eval()
    network.score_thresh, network.nms_thresh, network.detections_per_img = 0.1, 2.0, sys.maxsize
    rows, cuts = [], []
    for left, top, right, bottom in [(0, 0, width, height), *slice_windows(height, width, 128, 0.2)]:
        for mirrored in (False, True):
            part = image[top:bottom, left:right]
            part = Image.fromarray(np.ascontiguousarray(part[:, ::-1] if mirrored else part))
            with torch.no_grad():
                found = network([get_model_weights(NAME).DEFAULT.transforms()(part)])[0]
            boxes = found["boxes"].clone()
            if mirrored:
                boxes[:, [0, 2]] = (right - left) - boxes[:, [2, 0]]
            boxes += torch.tensor([left, top, left, top])
            rows.append(Detected(boxes, found["scores"], found["labels"]))
            cuts.append(cut_off(boxes, (left, top, right, bottom), (height, width)))
    every = drop_covered(Detected(*(torch.cat(column) for column in zip(*rows))), torch.cat(cuts))
    options = NMSOptions(method="standard" if method == "auto" else method, cl_score="max", conf=0.1)
    kept = apply_nms(*every, options)
    given = {"conf": 0.1, "slice": 128, "tta": True, "device": "cpu", "nms": method}
    found = Detector(f"torchvision:{NAME}").predict_one(image, **given)
    torch.testing.assert_close(found.boxes, kept.boxes)
    torch.testing.assert_close(found.scores, kept.scores)
    assert torch.equal(found.labels, every.labels[kept.keep])


def test_agnostic_nms(photos):
    """Persons and dogs score highest everywhere; of all that overlap, one remains."""
    found = Detector(f"torchvision:{NAME}").predict_one(photos / "0.png", conf=0.2, agnostic=True, device="cpu")
    iou = box_iou(found.boxes, found.boxes).fill_diagonal_(0)
    assert iou.max() <= 0.5
    assert len(found) > 1


def test_a_split_is_evaluated_on_the_classes_of_both(photos, capsys):
    settings = resolve(ValSettings, {"data": str(photos / "instances_val.json"), "device": "cpu"}, environ={})
    (found,) = Detector(f"torchvision:{NAME}").validate(settings).values()
    said = " ".join(capsys.readouterr().err.split())
    assert "does not detect zeppelin, whose objects all count as missed" in said
    assert "detections of 78 classes that" in said
    rows = found.results
    wanted = [theirs(photos / f"{i}.png") for i in range(2)]
    for image_id, one in zip((5, 6), wanted):
        for category, label in ((9, 18), (2, 1)):
            boxes = one["boxes"][one["labels"] == label].double().numpy()
            mine = rows[(rows[:, 0] == image_id) & (rows[:, 6] == category)]
            np.testing.assert_array_equal(mine[:, 1:3], boxes[:, :2])
            np.testing.assert_array_equal(mine[:, 3:5], boxes[:, 2:] - boxes[:, :2])
    assert len(rows) == sum(int(((one["labels"] == 18) | (one["labels"] == 1)).sum()) for one in wanted) > 0
    both = Detector(f"torchvision:{NAME}").compare_nms(
        data=str(photos / "instances_val.json"), nms="standard,soft", conf=0.2, device="cpu"
    )
    assert list(both) == ["standard", "soft"]


def test_a_data_set_of_other_classes_is_refused(squares, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", pytest.fail)
    with pytest.raises(UserError, match=f"torchvision:{NAME} detects no class of .*blue, red"):
        Detector(f"torchvision:{NAME}").val(data=str(squares), device="cpu")
    with pytest.raises(UserError, match="needs --data"):
        Detector(f"torchvision:{NAME}").val()


def test_unsupported_actions_are_refused_before_any_download(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", pytest.fail)
    detector = Detector(f"torchvision:{NAME}")
    for call in (
        detector.train,
        detector.export,
        lambda: detector.explain(photos / "0.png"),
        lambda: detector.save("x"),
    ):
        with pytest.raises(UserError, match=f"torchvision:{NAME} is used as published, and cannot be"):
            call()
    for flags, flag in (({"imgsz": 640}, "--imgsz"), ({"amp": "bf16"}, "--amp"), ({"cl_norm": "max"}, "--cl-norm")):
        with pytest.raises(UserError, match=f"{flag} does nothing with torchvision:{NAME}"):
            detector.predict(photos / "0.png", **flags)


def test_thresholds_default_to_those_of_torchvision():
    own = Thresholds(0.2, 0.6, 300)
    assert thresholds(own, resolve(ValSettings, {}, environ={})) == own
    assert thresholds(own, resolve(ValSettings, {"conf": 0.1}, environ={})) == (0.1, 0.6, 300)
    assert thresholds(own, resolve(ValSettings, {"nms": "soft"}, environ={})) == (0.05, 2.0, sys.maxsize)
    assert thresholds(own, resolve(PredictSettings, {"iou": 0.5, "conf": 0.3}, environ={})) == (0.3, 0.5, 300)


def test_every_detector_of_torchvision_has_these_thresholds_and_names():
    for name in list_models(module=detection):
        with torch.device("meta"):
            network = get_model(name, weights=None, weights_backbone=None)
        part = network.roi_heads if hasattr(network, "roi_heads") else network
        assert all(hasattr(part, key) for key in Thresholds._fields), name
        assert "person" in get_model_weights(name).DEFAULT.meta["categories"]


def test_an_unknown_name_and_missing_weights_are_user_errors(hub, monkeypatch):
    with pytest.raises(UserError, match="did you mean ssd300_vgg16"):
        TorchvisionDetector("ssd300_vgg61")
    broken = get_model_weights("fcos_resnet50_fpn").DEFAULT
    file = hub / "hub" / "checkpoints" / broken.url.rpartition("/")[2]
    file.write_bytes(b"no weights")
    with pytest.raises(UserError, match=f"{file.name} is damaged or no checkpoint"):
        load_network("fcos_resnet50_fpn")
    torch.save({"a": torch.ones(2), "b": print}, file)
    with pytest.raises(UserError, match=f"{file.name} contains code"):
        load_network("fcos_resnet50_fpn")
    torch.save({"a": torch.ones(2)}, file)
    with pytest.raises(
        UserError, match=rf"{file.name} does not hold the weights of fcos_resnet50_fpn: .*\(remove it\)"
    ):
        load_network("fcos_resnet50_fpn")
    file.unlink()

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(
        UserError, match=r"https://.*fcos_.*could not be downloaded: no route to host \(put that file into"
    ):
        load_network("fcos_resnet50_fpn")
