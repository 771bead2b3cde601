"""The stream of a predictor: batches, order, views, classes and thresholds, threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from untrained import untrained

from cledet import Detector
from cledet.config.base import PredictSettings, long_side
from cledet.config.loading import resolve
from cledet.data.dataset import preprocess
from cledet.data.images import read_image
from cledet.errors import UserError
from cledet.inference import predictor as predictor_module
from cledet.inference.frame import Frame
from cledet.inference.slicing import cut_off, drop_covered, slice_windows
from cledet.inference.sources import read_frames
from cledet.inference.views import SCALES, ViewOptions
from cledet.models.nms import NMS, Kept, apply_nms
from cledet.models.postprocess import Detected, candidates
from cledet.ops.nms_clusters import _round_down

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "run-0.1" / "weights" / "last.pt"
"""A network that was trained to find red and blue squares."""


@pytest.fixture(scope="module")
def trained():
    return Detector(OLD)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("untrained") / "model.pt"
    untrained(("a", "b", "c")).save(path)
    return path


@pytest.fixture(scope="module")
def detector(checkpoint):
    return Detector(checkpoint)


def settings(**given):
    return resolve(PredictSettings, {"device": "cpu", "amp": "off", **given}, environ={})


def squares_of(*sizes, seed=0):
    """Frames of these sizes (height, width) with a red and a blue square each."""
    rng = np.random.default_rng(seed)
    frames = []
    for i, (height, width) in enumerate(sizes):
        image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
        for color in ((230, 40, 40), (40, 60, 230)):
            side = int(rng.integers(20, 40))
            x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
            cv2.rectangle(image, (x, y), (x + side - 1, y + side - 1), color, cv2.FILLED)
        frames.append(Frame(image=image, path=None, name=str(i), number=None, seconds=None))
    return frames


MIXED = [(80, 96), (80, 96), (96, 80), (80, 100), (80, 96), (90, 96), (96, 80), (80, 96), (200, 61)]


def assert_same(found, wanted, tolerance=1e-4):
    """The same detections in the same order, boxes to the tolerance of the image's size."""
    assert [one.name for one in found] == [one.name for one in wanted]
    for one, other in zip(found, wanted):
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores, atol=tolerance, rtol=0)
        torch.testing.assert_close(one.boxes, other.boxes, atol=tolerance * max(one.original_size), rtol=0)
        assert one.highest_score == pytest.approx(other.highest_score, abs=tolerance)


@pytest.mark.parametrize("batch", [2, 3, 8])
def test_a_batch_finds_what_single_images_find(trained, batch):
    predictor, frames = trained.predictor(settings(conf=0.05)), squares_of(*MIXED)
    wanted = list(predictor.stream(frames))
    assert sum(map(len, wanted)) >= len(MIXED)
    assert_same(list(predictor.stream(frames, batch)), wanted)


@pytest.mark.parametrize("head", ["retinanet", "fcos", "gfl"])
@pytest.mark.slow
def test_a_batch_of_photos_finds_what_single_photos_find(shared_data, tmp_path, head):
    """Before NMS, so that every candidate counts. The photos have several padded shapes."""
    untrained(("a", "b"), head=head, imgsz=128).save(tmp_path / "m.pt")
    conf = {"fcos": 0.6}.get(head, 0.9)  # with centerness, scores are lower
    chosen = settings(conf=conf, max_det=10**6, iou=1.0, nms="standard")
    predictor = Detector(tmp_path / "m.pt").predictor(chosen)
    files = sorted((shared_data / "voc2012_sub" / "JPEGImages").glob("*.jpg"))[:12]
    frames = list(read_frames(files))
    single, batched = (list(predictor.stream(frames, batch)) for batch in (1, 8))
    assert sum(map(len, single)) > 100
    for one, other in zip(single, batched):
        assert one.path == other.path
        assert len(one) == len(other)
        rows = [
            torch.cat([r.boxes / max(r.original_size), r.scores[:, None], r.labels[:, None]], 1) for r in (one, other)
        ]
        distance = torch.cdist(*rows, p=torch.inf)
        assert distance.amin(0).max() < 1e-4
        assert distance.amin(1).max() < 1e-4


def test_images_of_one_padded_shape_are_processed_together(detector, monkeypatch):
    shapes = []
    predictor = detector.predictor(settings(conf=0.9))
    forward = predictor.network.forward
    monkeypatch.setattr(predictor.network, "forward", lambda x: shapes.append(tuple(x.shape)) or forward(x))
    frames = squares_of((64, 96), (96, 64), (64, 96), (64, 90), (96, 64))  # 64x90 is padded to 64x96
    assert [r.name for r in predictor.stream(frames, 3)] == list("01234")
    assert shapes == [(3, 3, 64, 96), (2, 3, 96, 64)]


@pytest.mark.parametrize("batch", [1, 4])
def test_frames_are_read_when_they_are_needed(detector, batch):
    """Of a stream of mixed shapes, a bounded number waits."""
    read = 0

    def source():
        nonlocal read
        for i in range(200):
            read += 1
            yield squares_of((64, 96) if i % 50 == 0 else (96, 64 + 32 * (i % 3)))[0]

    stream = detector.predictor(settings(conf=0.9)).stream(source(), batch)
    assert read == 0
    for i in range(1, 60):
        next(stream)
        assert i <= read <= i + (0 if batch == 1 else predictor_module.WAITING * batch)


def test_large_frames_wait_for_no_others(detector, monkeypatch):
    monkeypatch.setattr(predictor_module, "WAITING_PIXELS", 10_000)
    frames = squares_of(*[(64, 96), (96, 64)] * 5)
    source = iter(frames)
    next(detector.predictor(settings(conf=0.9)).stream(source, 8))
    assert len(list(source)) == 8


def test_results_before_a_broken_image_are_not_lost(detector):
    def source():
        yield from squares_of((64, 96), (96, 64))
        raise UserError("the third is broken")

    stream = detector.predictor(settings(conf=0.9)).stream(source(), 8)
    assert [next(stream).name, next(stream).name] == ["0", "1"]
    with pytest.raises(UserError, match="the third is broken"):
        next(stream)


def all_candidates(predictor, image, short):
    """Every candidate of an image resized to a short side, boxes in its pixels, by the documented steps."""
    batch, (height, width) = preprocess(image, short, long_side(short))
    with torch.no_grad():
        ((boxes, scores, labels),) = candidates(predictor.network(batch), torch.tensor([[height, width]]), 0)
    factor = torch.tensor([image.shape[1] / width, image.shape[0] / height]).repeat(2)
    return boxes * factor, scores, labels


def loop_over_views(predictor, image, windows, variants, conf):
    """Sliced and augmented inference as a slow loop; candidates over conf in pixels of the image."""
    rows = [[], [], [], []]
    for left, top, right, bottom in windows:
        for mirrored, scale in variants:
            part = image[top:bottom, left:right]
            part = np.ascontiguousarray(part[:, ::-1]) if mirrored else part
            boxes, scores, labels = all_candidates(predictor, part, max(32, round(predictor.imgsz * scale)))
            if mirrored:
                boxes = torch.stack(
                    [right - left - boxes[:, 2], boxes[:, 1], right - left - boxes[:, 0], boxes[:, 3]], 1
                )
            boxes = (boxes + torch.tensor([left, top, left, top]))[scores > conf]
            cut = cut_off(boxes, (left, top, right, bottom), image.shape[:2])
            for row, values in zip(rows, (boxes, scores[scores > conf], labels[scores > conf], cut)):
                row.append(values)
    boxes, scores, labels, cut = (torch.cat(row) for row in rows)
    return drop_covered(Detected(boxes, scores, labels), cut)


@pytest.mark.parametrize("method", NMS)
@pytest.mark.parametrize(
    ("given", "variants"),
    [({"slice": 64, "overlap": 0.25}, [(False, 1.0)]), ({"tta": True}, [(m, s) for s in SCALES for m in (False, True)]),
     ({"slice": 80, "tta": True}, [(m, s) for s in SCALES for m in (False, True)])],
    ids=["slices", "tta", "both"],
)  # fmt: skip
@pytest.mark.slow
def test_slices_and_augmentation_equal_a_slow_loop(trained, method, given, variants):
    predictor = trained.predictor(settings(conf=0.2, nms=method, **given))
    (frame,) = squares_of((120, 150), seed=3)
    height, width = frame.image.shape[:2]
    windows = [(0, 0, width, height)]
    if "slice" in given:
        windows += slice_windows(height, width, given["slice"], given.get("overlap", 0.2))
    wanted = loop_over_views(predictor, frame.image, windows, variants, 0.2)
    kept = apply_nms(*wanted, predictor.options)
    kept = Kept(*(values[kept.scores > 0.2] for values in kept))  # soft methods lower scores
    for batch in (1, 4):
        (found,) = predictor.stream([frame], batch)
        assert len(found) == len(kept.keep) > 0
        torch.testing.assert_close(found.scores, kept.scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.boxes, kept.boxes, atol=1e-2, rtol=0)
        assert torch.equal(found.labels, wanted.labels[kept.keep])


def test_slices_find_small_squares_in_a_large_image(trained):
    """Four squares of 28 px in 480x640: the whole image shrinks to a short side of 64, where a square has 4 px."""
    rng = np.random.default_rng(1)
    image = rng.integers(90, 130, (480, 640, 3), dtype=np.uint8)
    squares = torch.tensor([(150 + 300 * i, 150 + 250 * j) for i in range(2) for j in range(2)]).float()
    for x, y in squares.int().tolist():
        cv2.rectangle(image, (x - 14, y - 14), (x + 13, y + 13), (230, 40, 40), cv2.FILLED)
    whole = trained.predict_one(image, conf=0.5, device="cpu")
    sliced = trained.predict_one(image, conf=0.5, device="cpu", slice=96, overlap=0.4, batch=16)
    assert len(whole) == 0
    assert set(sliced.class_names) == {"red"}
    distance = torch.cdist((sliced.boxes[:, :2] + sliced.boxes[:, 2:]) / 2, squares, p=torch.inf)
    assert distance.amin(0).max() < 10  # each square is found
    assert distance.amin(1).max() < 10  # and nothing else


def test_the_highest_score_is_that_before_the_threshold(detector):
    image = squares_of((64, 96))[0].image
    _, scores, labels = all_candidates(detector.predictor(settings()), image, 64)
    found = detector.predict_one(image, conf=1.0, device="cpu", amp="off")
    assert len(found) == 0
    assert found.highest_score == pytest.approx(scores.max().item(), abs=1e-6)
    some = detector.predict_one(image, conf=1.0, device="cpu", classes="b", amp="off")
    assert some.highest_score == pytest.approx(scores[labels == 1].max().item(), abs=1e-6)


def test_only_the_chosen_classes_are_detected(detector):
    image = squares_of((64, 96))[0].image
    everything = detector.predict_one(image, conf=0.6, device="cpu", max_det=10_000)
    for chosen, labels in (("b", {1}), ("a, c", {0, 2}), (["c"], {2})):
        found = detector.predict_one(image, conf=0.6, device="cpu", max_det=10_000, classes=chosen)
        wanted = everything[torch.tensor([label in labels for label in everything.labels.tolist()])]
        assert len(found) == len(wanted) > 0
        assert torch.equal(found.boxes, wanted.boxes)
    with pytest.raises(UserError, match=r"the model has no class 'd' \(choose from: a, b, c\)"):
        detector.predict(image, classes="d")


def test_each_class_may_have_its_own_confidence(detector, monkeypatch):
    monkeypatch.setattr("cledet.models.postprocess.CANDIDATES", 10_000)  # all: no class takes the place of another
    predictor = detector.predictor(settings(conf=0.0, max_det=10_000, iou=1.0, nms="standard"))
    image = squares_of((64, 96))[0].image
    own = replace(predictor, options=replace(predictor.options, class_confs=(0.9, 0.5, 1.0))).predict(image)
    everything = predictor.predict(image)
    assert (
        predictor.conf,
        replace(predictor, options=replace(predictor.options, class_confs=(0.9, 0.5, 1.0))).conf,
    ) == (
        0,
        None,
    )
    wanted = everything.scores > torch.tensor([0.9, 0.5, 1.0])[everything.labels]
    assert torch.equal(own.boxes, everything.boxes[wanted])
    assert {one.label for one in own} == {0, 1}


@pytest.mark.parametrize("method", NMS)
def test_agnostic_nms_equals_nms_of_one_class(detector, method):
    chosen = settings(conf=0.6, max_det=10_000, nms=method, agnostic=True)
    predictor = detector.predictor(chosen)
    image = squares_of((64, 64))[0].image  # as large as the network's: no scale
    boxes, scores, labels = all_candidates(predictor, image, 64)
    wanted = scores > 0.6
    kept = apply_nms(
        boxes[wanted], scores[wanted], torch.zeros(int(wanted.sum()), dtype=torch.int64), predictor.options
    )
    found = predictor.predict(image)
    over = kept.scores > 0.6  # soft methods lower scores
    torch.testing.assert_close(found.boxes, kept.boxes[over])
    torch.testing.assert_close(found.scores, kept.scores[over])
    keep = kept.keep[over]
    if method == "cl-balanced":  # the score is that of the cluster's best box, and so is the class
        assert predictor.options.cl_score == "max"
        keep = (kept.scores[over][:, None] == scores[wanted]).float().argmax(1)
    assert torch.equal(found.labels, labels[wanted][keep])
    assert len({one.label for one in found}) > 1


def test_results_may_be_changed_in_place(detector):
    result = detector.predict_one(squares_of((64, 96))[0].image, conf=0.5, device="cpu")
    result.boxes[:, 0] += 1
    result.scores.mul_(0.5)
    result.labels[0] = 2
    assert not any(values.is_inference() for values in (result.boxes, result.scores, result.labels))


def test_threads_share_a_detector(checkpoint):
    """Each thread has settings of its own; the network is built once, by the first that needs it."""
    frames = squares_of((64, 96), (96, 64))
    jobs = [{"conf": conf, "nms": nms} for conf in (0.9, 0.97) for nms in ("standard", "cl-balanced", "soft-vote")]

    def predict(detector, given):
        return list(detector.predict([frame.image for frame in frames], device="cpu", **given))

    alone, shared = Detector(checkpoint), Detector(checkpoint)
    wanted = [predict(alone, given) for given in jobs]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda given: predict(shared, given), jobs))
    for one, other in zip(found, wanted):
        assert_same(one, other)
    assert len(shared._networks) == 1


def test_two_detectors_at_once(trained, detector):
    frames = squares_of((80, 96), (96, 80), (80, 96))
    streams = [d.predictor(settings(conf=0.3)).stream(frames) for d in (trained, detector)]
    wanted = [list(d.predictor(settings(conf=0.3)).stream(frames)) for d in (trained, detector)]
    found = list(zip(*streams))  # in turn
    for own, other in zip(zip(*found), wanted):
        assert_same(own, other)


def test_the_network_is_built_once(checkpoint, monkeypatch):
    detector, built = Detector(checkpoint), []
    network = detector.model.network
    monkeypatch.setattr(detector.model, "network", lambda: built.append(1) or network())
    image = squares_of((64, 96))[0].image
    for _ in range(3):
        detector.predict_one(image, conf=0.9, device="cpu")
    list(detector.predict([image, image], conf=0.5, device="cpu"))
    assert built == [1]
    detector.load(checkpoint)
    detector.predict_one(image, conf=0.9, device="cpu")
    assert detector.predictor(settings()).network is detector.predictor(settings()).network


def test_predict_one_takes_one_image(detector, squares):
    assert detector.predict_one(squares / "val" / "1.png", device="cpu").path == squares / "val" / "1.png"
    with pytest.raises(UserError, match="predict_one takes one image, and this source holds several images"):
        detector.predict_one(squares / "val", device="cpu")
    with pytest.raises(UserError, match=r"this source holds no image \(use predict\)"):
        detector.predict_one([], device="cpu")


@pytest.mark.parametrize("name", ["meta"])
def test_torchs_default_device_has_no_effect(checkpoint, name):
    image = squares_of((120, 150))[0].image
    given = {"conf": 0.95, "device": "cpu", "slice": 96, "tta": True, "nms": "cl-balanced", "classes": "a,b"}
    wanted = Detector(checkpoint).predict_one(image, **given)
    _round_down.cache_clear()
    with torch.device(name):
        found = Detector(checkpoint).predict_one(image, **given)
        assert_same([found["a"]], [wanted["a"]])
        assert len(found[[True] * len(found)]) == len(found)


@pytest.mark.parametrize("method", ["soft", "soft-linear", "soft-vote", "agreement"])
@pytest.mark.parametrize("options", [{}, {"slice": 48}], ids=["whole", "slices"])
def test_the_threshold_holds_after_nms_too(detector, method, options):
    """Soft methods lower scores, some below the threshold."""
    image = squares_of((96, 96))[0].image
    every = detector.predict_one(image, conf=0.5, nms="standard", max_det=10_000, device="cpu", **options)
    found = detector.predict_one(image, conf=0.5, nms=method, max_det=10_000, device="cpu", **options)
    assert 0 < len(found) <= len(every) * 3
    assert (found.scores > 0.5).all()


def test_overlap_needs_slices(detector):
    with pytest.raises(UserError, match=r"--overlap 0\.3 needs --slice"):
        detector.predict("x.jpg", overlap=0.3)
    with pytest.raises(UserError, match=r"--overlap 0\.95 \(from the flag\)"):
        detector.predict("x.jpg", slice=64, overlap=0.95)
    assert ViewOptions().overlap == PredictSettings().overlap


def test_a_file_is_read_when_its_result_is_asked_for(detector, tmp_path):
    """The third file does not exist."""
    for name in ("a", "b"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), squares_of((64, 96))[0].image)
    stream = detector.predict([tmp_path / f"{name}.png" for name in "abc"], device="cpu")
    image = read_image(tmp_path / "a.png")
    assert (next(stream).image == image).all()
    assert next(stream).path == tmp_path / "b.png"
    with pytest.raises(UserError, match=r"c\.png"):
        next(stream)
