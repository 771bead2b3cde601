"""The numbers and the figure of an explanation, against values computed by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from cledet.components.iac import IACOptions
from cledet.config.train import TrainSettings
from cledet.explain.explanation import Objects
from cledet.explain.figure import draw, make_figure
from cledet.explain.finders import explain, find_clusters, find_peaks, find_positives, interpolate_map
from cledet.models.criterion import Criterion
from cledet.models.network import RawOutputs
from cledet.models.nms import batched_nms, suppress
from cledet.models.postprocess import Detected
from cledet.ops.boxes import box_iou


def outputs(*anchors, classes=2):
    """One level of anchors (x, y, side, probability of class 0, of class 1), predicted to stay where they are."""
    rows = torch.tensor(anchors)
    center, half = rows[:, :2], rows[:, 2:3] / 2
    boxes = torch.cat([center - half, center + half], 1)
    logits = rows[:, 3 : 3 + classes].logit()[None]
    return RawOutputs(logits, torch.zeros(1, len(rows), 4), boxes, torch.full((len(rows),), 8.0), [len(rows)])


def objects(*rows, source="some/val"):
    """Objects (x1, y1, x2, y2, label)."""
    values = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    return Objects(values[:, :4], values[:, 4].long(), torch.zeros(0, 4), source)


ONE = objects((0, 0, 16, 16, 1))
LINE = outputs((8, 8, 16, 0.2, 0.5), (16, 8, 16, 0.3, 0.9), (80, 8, 16, 0.1, 0.99))
"""An anchor that is the object, one half beside it (IoU 1/3), one far away."""


def explained(raw=LINE, found=ONE, size=(32, 96), shape=(32, 96, 3), **settings):
    settings = TrainSettings(conf=0.15, recall_min_iou=0.3, **settings)
    image = np.full(shape, 120, np.uint8)
    return explain(raw, size, found, settings, image=image, path=None, names=("ring", "$x^$"))


def test_positives_by_iou_and_recalled():
    """0.75 * 0.9 + 0.25 * 128 / 256 = 0.8 recalls the second anchor; 0.75 * 0.4 + 0.125 = 0.425 does not."""
    found = find_positives(LINE, ONE, Criterion(iac=IACOptions(min_iou=0.3)))
    assert found.recalled.tolist() == [False, True]
    assert found.gt.tolist() == [0, 0]
    assert found.boxes.tolist() == found.anchors.tolist() == [[0, 0, 16, 16], [8, 0, 24, 16]]
    assert find_positives(LINE, ONE, Criterion(iac=IACOptions(min_iou=0.35))).recalled.tolist() == [False]
    unsure = outputs((8, 8, 16, 0.2, 0.5), (16, 8, 16, 0.3, 0.4))
    assert find_positives(unsure, ONE, Criterion(iac=IACOptions(min_iou=0.3))).recalled.tolist() == [False]


def test_coefficients():
    """Eq. 2 with the centres 0 and 8 / 16 apart: 1 / 0.5 and 1 / sigmoid(0.25); Eq. 3: over their mean."""
    alike = outputs((8, 8, 16, 0.2, 0.9), (16, 8, 16, 0.2, 0.9))
    good, bad = 2.0, 1 + math.exp(-0.25)
    mean = (good + bad) / 2
    weight = find_positives(alike, ONE, Criterion(iac=IACOptions(), center_unit="size")).weight
    assert weight.tolist() == pytest.approx([good / mean, bad / mean], rel=1e-5)


def test_clusters_by_hand():
    """Three boxes side by side, the middle one next to the centre; one of another class, best of all."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [1, 0, 11, 10]])
    found = find_clusters(Detected(boxes, torch.tensor([0.6, 0.59, 0.58, 0.9]), torch.tensor([0, 0, 0, 1])), 0.5)
    assert found.standard.tolist() == [3, 0]
    assert found.balanced.tolist() == [3, 1]
    assert found.cluster_index.tolist() == [1, 1, 1, 0]
    assert found.sizes() == [1, 3]
    weights = [math.exp(s) for s in (0.6, 0.59, 0.58)]
    x = sum(w * c for w, c in zip(weights, (5, 6, 7))) / sum(weights)
    assert found.centers.tolist() == [[6, 5], pytest.approx([x, 5], rel=1e-6)]
    literal = find_clusters(Detected(*found[:3]), 0.5, localization="as-printed")
    assert literal.balanced.tolist() == [3, 0]
    assert found.count_shown() == 2


def test_clusters_are_those_of_nms():
    g = torch.Generator().manual_seed(1)
    corner = 40 * torch.rand(300, 2, generator=g)
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(300, 2, generator=g)], 1)
    scores, labels = torch.rand(300, generator=g), torch.randint(3, (300,), generator=g)
    found = find_clusters(Detected(boxes, scores, labels), 0.4, cl_norm="diagonal")
    assert torch.equal(found.standard, batched_nms(boxes, scores, labels, 0.4, method="standard")[0])
    kept = suppress(boxes, scores, labels, 0.4, method="cl-balanced", cl_norm="diagonal").keep
    assert sorted(found.balanced.tolist()) == sorted(kept.tolist())
    assert torch.equal(found.cluster_index[found.balanced], torch.arange(len(found.standard)))
    for k in (0, 3, len(found.standard) - 1):
        mine = (found.cluster_index == k).nonzero().squeeze(-1)
        assert (box_iou(boxes[mine], boxes[found.standard[k]][None]) > 0.4).all()
        weight = scores[mine].double().softmax(0)
        center = (weight[:, None] * (boxes[mine, :2] + boxes[mine, 2:]).double() / 2).sum(0)
        torch.testing.assert_close(found.centers[k].double(), center, atol=1e-4, rtol=0)
    assert found.count_shown() == int((scores[found.standard] >= 0.3).sum())


def test_peaks_by_hand():
    """In an image 20 wide the second anchor's box is cut to 12x16: it shares 128 of 320 with the object, 0.4."""
    found = find_peaks(LINE, (16, 20), ONE)
    assert found.best_probability.tolist() == pytest.approx([0.9])
    assert found.classified_at.tolist() == [[16, 8]]
    assert found.best_iou.tolist() == pytest.approx([1])
    assert found.localized_at.tolist() == [[8, 8]]
    assert found.probability.shape == found.iou.shape == (16, 20)
    assert float(found.iou[0, 8]) == pytest.approx(1 - 0.6 / 16, rel=1e-5)  # pixel 8's centre is 0.5 from x = 8
    assert float(found.iou[0, 16]) == pytest.approx(0.4 * (1 - 0.5 / 64), rel=1e-5)  # and pixel 16's from x = 16
    assert float(found.probability[0, 2]) == pytest.approx(0.5, rel=1e-5)  # left of all positions: the first one's


def test_an_anchor_that_overlaps_no_object_counts_as_0():
    wide = find_peaks(LINE, (16, 96), ONE)
    assert float(wide.probability[5, 90]) == float(wide.iou[5, 90]) == 0
    none = find_peaks(LINE, (16, 96), objects())
    assert not none.probability.any()
    assert none.classified_at.shape == (0, 2)


def test_an_anchor_is_matched_to_the_object_that_it_overlaps_most():
    both = objects((0, 0, 16, 16, 1), (12, 0, 28, 16, 0))
    found = find_peaks(LINE, (16, 96), both)  # (8..24) shares 128 with the first, 192 with the second
    assert found.best_probability.tolist() == pytest.approx([0.5, 0.3])
    assert found.best_iou.tolist() == pytest.approx([1, 192 / 320])


def test_maps_take_the_maximum_of_a_position_interpolate_and_take_the_maximum_over_levels():
    """Stride 8, 2x3 positions with two anchors each; stride 16, one position."""
    grid = torch.tensor([[1.0, 3, 2], [5, 4, 0]])
    fine = [[8.0 * x, 8.0 * y, side, 0.5] for y in range(2) for x in range(3) for side in (6, 10)]
    raw = outputs(*fine, [0, 0, 32, 0.5], classes=1)._replace(levels=[12, 1])
    values = torch.cat([torch.stack([grid.flatten() - 9, grid.flatten()], 1).flatten(), torch.tensor([2.5])])
    found = interpolate_map(values, raw, (12, 24))
    right, down = 4.5 / 8, 3.5 / 8  # of pixel (3, 4) from the first position to the next
    wanted = (1 - down) * ((1 - right) * 1 + right * 3) + down * ((1 - right) * 5 + right * 4)
    assert float(found[3, 4]) == pytest.approx(wanted)
    assert float(found[11, 0]) == pytest.approx(5 - 0.5 / 8)  # below all positions: as at the last row
    assert float(found[0, 23]) == 2.5  # 2 from the first level


def test_boxes_and_points_are_in_pixels_of_the_original_image():
    found = explained(shape=(64, 288, 3))  # twice as high, three times as wide as the input of the network
    assert found.objects.boxes.tolist() == [[0, 0, 48, 32]]
    assert found.positives.anchors.tolist() == [[0, 0, 48, 32], [24, 0, 72, 32]]
    assert found.peaks.classified_at.tolist() == [[48, 16]]
    top = found.clusters.standard[0]  # the far anchor
    assert found.clusters.boxes[top].tolist() == [216, 0, 264, 32]
    assert found.clusters.centers[0].tolist() == pytest.approx([240, 16])


@pytest.mark.parametrize("ablation", ["none", "iac,dc,clb"])
def test_components_that_were_off_are_shown_too(ablation):
    found = explained(ablation=ablation)
    assert found.positives.recalled.tolist() == [False, True]
    caption = make_figure(found).axes[0].get_xlabel()
    assert ("IAC was off in training" in caption.replace("\n", " ")) == (ablation == "none")


def test_the_document():
    document = json.loads(json.dumps(explained().to_dict(), allow_nan=False))
    assert document["settings"]["recall_min_iou"] == 0.3
    assert document["objects_from"] == "some/val"
    assert {k: v for k, v in document["positives"].items() if k != "anchors"} == {"by_iou": 1, "recalled": 1}
    (thing,) = document["objects"]
    assert (thing["name"], thing["box"], thing["by_iou"], thing["recalled"]) == ("$x^$", [0, 0, 16, 16], 1, 1)
    assert thing["best_classified"] == {"at": [16, 8], "probability": 0.9}
    assert thing["best_localized"] == {"at": [8, 8], "iou": 1}
    assert thing["distance"] == 0.5  # 8 pixels over the root of 256
    weights = [row["coefficient"] for row in document["positives"]["anchors"]]
    assert thing["coefficient"] == pytest.approx(sum(weights) / 2, abs=1e-4)
    assert document["positives"]["anchors"][1]["anchor"] == [8, 0, 24, 16]
    first = document["clusters"][0]
    assert first == {
        "name": "$x^$", "members": 1, "center": [80, 8], "differ": False,
        "standard": {"score": 0.99, "box": [72, 0, 88, 16]}, "cl_balanced": {"score": 0.99, "box": [72, 0, 88, 16]},
    }  # fmt: skip


def test_an_object_without_anchors_has_no_peaks():
    document = explained(found=objects((40, 20, 44, 30, 0))).to_dict()
    (thing,) = document["objects"]
    assert thing["best_classified"]["at"] is thing["best_localized"]["at"] is thing["distance"] is None
    assert thing["coefficient"] is None
    json.dumps(document, allow_nan=False)


def segments(axes):
    """Count the boxes of each kind in a panel."""
    return {c.get_label(): len(c.get_segments()) for c in axes.collections if hasattr(c, "get_segments")}


def test_the_panels_show_the_numbers():
    boxes = [(8, 8, 16, 0.2, 0.6), (9, 8, 16, 0.2, 0.59), (10, 8, 16, 0.2, 0.58), (60, 8, 16, 0.1, 0.4)]
    found = explained(raw=outputs(*boxes))
    first, second, third, fourth, _, note, *_ = make_figure(found).axes
    assert first.get_title("left") == "1  Positive anchors: 3 by IoU, 0 by IAC"
    assert segments(first) == {"by IoU": 3, "recalled by IAC": 0, "object": 1}
    assert [text.get_text() for text in first.get_legend().get_texts()] == ["by IoU", "object"]
    assert segments(second)["object"] == 1
    assert third.get_title("left") == "3  NMS clusters: 2; CL-B keeps another box in 1"
    # the three also make a cluster of the other class, under 0.3: not shown
    assert segments(third) == {"candidates": 4, "both keep": 1, "standard NMS keeps": 1, "CL-B keeps": 1}
    assert third.get_xlabel().startswith("2 of 3 clusters")
    assert "$x^$" in [text.get_text() for text in fourth.texts]
    assert "1 object annotated in some/val" in note.texts[0].get_text()


@pytest.mark.parametrize("shape", [(32, 96, 3), (300, 40, 3)], ids=["wide", "tall"])
@pytest.mark.parametrize("found", [ONE, objects(), objects(source="")], ids=["one", "none", "none detected"])
def test_the_picture_is_written(tmp_path, shape, found):
    draw(explained(found=found, shape=shape), tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_objects_and_candidates_the_panels_say_so():
    panels = make_figure(explained(raw=outputs((8, 8, 16, 0.01, 0.01)), found=objects(source=""))).axes
    assert [[text.get_text() for text in axes.texts] for axes in panels[1:5]] == [
        [], ["no candidate"], ["no object"], ["no object"],
    ]  # fmt: skip
    assert panels[1].get_title("left") == "2  Coefficient of each positive: no positives"
    assert "are used as objects (0)" in panels[5].texts[0].get_text().replace("\n", " ")
