"""Compare sliced inference with sahi's on real photos: windows, candidates, merged boxes and time.

sahi is not a dependency: pip install sahi. Two parts:

1. A detector (--weights) on the photos: the same candidates must end in the same boxes by standard NMS. cledet also
   drops boxes that a slice cuts off and another view holds whole; the boxes that remain then are counted.
2. A perfect detector that sees the annotated objects of each view, cut to it: the merged boxes are matched with the
   objects. What is wrong is made by cutting and merging alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sahi.models.base import DetectionModel
from sahi.postprocess.combine import GreedyNMMPostprocess, NMSPostprocess
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes

from cledet import Detector
from cledet.config.base import PredictSettings
from cledet.config.loading import resolve
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.inference import slicing
from cledet.inference.predictor import Predictor
from cledet.inference.slicing import slice_windows
from cledet.inference.sources import read_frames
from cledet.inference.views import ViewOptions, unite
from cledet.models.nms import NMSOptions, apply_nms
from cledet.models.postprocess import Detected
from cledet.ops.boxes import box_iou

Candidates = Callable[[np.ndarray], Detected]


class OurModel(DetectionModel):
    """A detector of cledet for sahi, which returns the candidates before NMS."""

    def load_model(self) -> None:
        pass

    def set_model(self, model: Any, **_: Any) -> None:
        self.model = model

    def perform_inference(self, image: np.ndarray) -> None:
        self._original_predictions = self.model(image)

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = ((0, 0),), full_shape_list: Any = None
    ) -> None:
        rows = zip(*(values.tolist() for values in self._original_predictions))
        shift, shape = (np.reshape(pairs, (-1, 2))[0].tolist() for pairs in (shift_amount_list, full_shape_list))
        self._object_prediction_list_per_image = [[as_prediction(row, shift, shape) for row in rows]]


def as_prediction(row: tuple[Any, float, int], shift: Any = (0, 0), shape: Any = None) -> ObjectPrediction:
    box, score, label = row
    return ObjectPrediction(
        bbox=box, score=score, category_id=label, category_name=str(label), shift_amount=list(shift), full_shape=shape
    )


def arrays(predictions: list[ObjectPrediction]) -> Detected:
    boxes = torch.tensor([one.bbox.to_xyxy() for one in predictions], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([one.score.value for one in predictions])
    return Detected(boxes, scores, torch.tensor([one.category.id for one in predictions], dtype=torch.int64))


def difference(ours: Detected, theirs: Detected) -> tuple[int, float]:
    """Match detections of one class and score; returns the number without a match, and the largest box difference."""
    left, largest = list(range(len(theirs.boxes))), 0.0
    missing = 0
    for box, score, label in zip(*ours):
        near = [i for i in left if theirs.labels[i] == label and abs(theirs.scores[i] - score) < 1e-5]
        gaps = [float((theirs.boxes[i] - box).abs().max()) for i in near]
        if not gaps or min(gaps) > 1:
            missing += 1
            continue
        largest = max(largest, min(gaps))
        left.remove(near[int(np.argmin(gaps))])
    return missing + len(left), largest


def of_detector(predictor: Predictor, photos: list[Path], side: int, overlap: float) -> None:
    """Part 1: the same candidates end in the same boxes."""
    options = replace(predictor.options, method="standard", iou=1.0)  # which suppresses nothing
    single = replace(predictor, view_options=ViewOptions(), options=options)

    def candidates(image: np.ndarray) -> Detected:
        found = single.predict(np.ascontiguousarray(image))
        return Detected(found.boxes, found.scores, found.labels)

    model = OurModel(model=candidates, confidence_threshold=predictor.options.conf, device="cpu")
    unmatched, largest, boxes, remaining, windows, seconds = 0, 0.0, 0, 0, 0, [0.0, 0.0]
    for photo in photos:
        image = read_image(photo)
        height, width = image.shape[:2]
        mine = slice_windows(height, width, side, overlap)
        assert mine == [tuple(box) for box in get_slice_bboxes(height, width, side, side, False, overlap, overlap)]
        windows += len(mine)
        start = time.perf_counter()
        result = get_sliced_prediction(
            image, model, side, side, overlap, overlap, postprocess_type="NMS", postprocess_match_metric="IOU",
            postprocess_match_threshold=predictor.options.iou, verbose=0,
        )  # fmt: skip
        seconds[0] += time.perf_counter() - start
        theirs = arrays(result.object_prediction_list)
        covered, slicing.COVERED = slicing.COVERED, np.inf  # without the rule for boxes that are cut off
        ours = predictor.predict(image)
        slicing.COVERED = covered
        one, gap = difference(Detected(ours.boxes, ours.scores, ours.labels), theirs)
        unmatched, largest, boxes = unmatched + one, max(largest, gap), boxes + len(theirs.boxes)
        start = time.perf_counter()
        (ruled,) = predictor.stream(read_frames(photo), 8)
        seconds[1] += time.perf_counter() - start
        remaining += len(ruled)
    print(f"{len(photos)} photos, {windows} slices of {side} px: the windows are sahi's")
    print(f"{boxes} boxes of sahi: {unmatched} without an equal one here, largest difference {largest:.2g} px")
    print(f"{remaining} boxes without those that are cut off and covered")
    print(f"seconds per photo: sahi {seconds[0] / len(photos):.2f}, cledet {seconds[1] / len(photos):.2f} (--batch 8)")


def of_objects(data: Path, side: int, overlap: float, visible: float = 0.3) -> None:
    """Part 2: views of annotated objects, each cut to the view; an object that is hardly visible is not seen."""
    index = open_source(data).index("val")
    rng = np.random.default_rng(0)
    counts = {name: [0, 0, 0] for name in ("sahi NMS, IoU 0.5", "sahi GREEDYNMM, IoS 0.5 (its default)",
                                           "cledet standard", "cledet cl-balanced", "cledet soft-vote")}  # fmt: skip
    for i in range(len(index)):
        rows = index.rows(i)
        wanted = ~index.ignore[rows] & ~index.degenerate(rows)
        objects = torch.from_numpy(index.boxes(i)[wanted]).float()
        labels = torch.from_numpy(index.labels[rows][wanted])
        width, height = index.size(i)
        if not len(objects) or max(height, width) <= side:
            continue
        views = ViewOptions(side=side, overlap=overlap).views(height, width)
        found = [seen(objects, labels, view.window, visible, rng) for view in views]
        moved = [view.to_image(one.boxes) for view, one in zip(views, found)]
        scores, classes = (torch.cat([one[k] for one in found]) for k in (1, 2))
        every = [as_prediction(row) for row in zip(torch.cat(moved).tolist(), scores.tolist(), classes.tolist())]
        united = unite(views, found)
        merged = {
            "sahi NMS, IoU 0.5": arrays(NMSPostprocess(0.5, "IOU", False)(every)),
            "sahi GREEDYNMM, IoS 0.5 (its default)": arrays(GreedyNMMPostprocess(0.5, "IOS", False)(every)),
        }
        for method in ("standard", "cl-balanced", "soft-vote"):
            kept = apply_nms(*united, NMSOptions(method=method, cl_score="max", max_det=10**6))
            strong = kept.scores > 0.3
            merged[f"cledet {method}"] = Detected(
                kept.boxes[strong], kept.scores[strong], united.labels[kept.keep][strong]
            )
        for name, one in merged.items():
            right = matches(one, objects, labels)
            counts[name][0] += right
            counts[name][1] += len(one.boxes) - right
            counts[name][2] += len(objects) - right
    print(f"objects of {data.name}/val, seen in slices of {side} px and whole photos:")
    for name, (right, wrong, missed) in counts.items():
        print(f"  {name:40} {right} right, {wrong} wrong, {missed} missed")


def seen(objects: torch.Tensor, labels: torch.Tensor, window: tuple[int, ...], visible: float, rng: Any) -> Detected:
    """The objects in a window, cut to it, with scores by how much of each is visible, and a pixel of noise."""
    left, top, right, bottom = window
    low = torch.maximum(objects[:, :2], torch.tensor([left, top]))
    high = torch.minimum(objects[:, 2:], torch.tensor([right, bottom]))
    extent = (high - low).clamp(min=0)
    share = extent.prod(1) / (objects[:, 2:] - objects[:, :2]).prod(1)
    inside = (share > visible) & (extent.min(1).values > 3)
    noise = torch.from_numpy(rng.normal(0, 1, (int(inside.sum()), 4))).float()
    boxes = torch.cat([low, high], 1)[inside] + noise
    boxes = boxes.clamp(min=0) - torch.tensor([left, top, left, top])
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([right - left, bottom - top] * 2))
    score = 0.5 + 0.4 * share[inside] + torch.from_numpy(rng.uniform(0, 0.1, len(boxes))).float()
    return Detected(boxes, score, labels[inside])


def matches(found: Detected, objects: torch.Tensor, labels: torch.Tensor) -> int:
    """Count the objects that are found with an IoU over 0.5, one to one, best score first."""
    free, right = torch.ones(len(objects), dtype=torch.bool), 0
    for i in found.scores.argsort(descending=True).tolist():
        iou = box_iou(found.boxes[i : i + 1], objects)[0] * free * (labels == found.labels[i])
        if len(iou) and iou.max() > 0.5:
            free[iou.argmax()] = False
            right += 1
    return right


if __name__ == "__main__":
    shared = Path(__file__).resolve().parents[2] / "shared" / "data"
    old = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "run-0.1" / "weights" / "last.pt"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", default=str(old))
    parser.add_argument("--photos", type=Path, default=shared / "coco2017_sub" / "val2017")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--slice", type=int, default=256)
    parser.add_argument("--overlap", type=float, default=0.2)
    parser.add_argument("--conf", type=float, default=0.3)
    args = parser.parse_args()
    given = {"device": "cpu", "nms": "standard", "conf": args.conf, "max_det": 10**6, "slice": args.slice}
    settings = resolve(PredictSettings, {**given, "overlap": args.overlap}, environ={})
    files = sorted(args.photos.glob("*.jpg"))[: args.count]
    of_detector(Detector(args.weights).predictor(settings), files, args.slice, args.overlap)
    of_objects(shared / "coco2017_sub", args.slice, args.overlap)
