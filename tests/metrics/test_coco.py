"""Metrics equal those of pycocotools to the last digit, on the ids of the data set."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.data.dataset import DetectionDataset
from cledet.data.formats.coco import read_coco
from cledet.data.loader import eval_loader
from cledet.data.open import open_source
from cledet.data.shapes.dataset import draw_shapes
from cledet.errors import UserError
from cledet.evaluation.candidates import from_network
from cledet.evaluation.nms_methods import evaluate_methods
from cledet.evaluation.pycocotools_evaluator import coco_annotations
from cledet.metrics.coco import evaluate, score_iou_correlation
from cledet.metrics.evaluation import METRICS, Limits
from cledet.metrics.matching import overlaps
from cledet.metrics.results_file import read_results
from cledet.models.network import Architecture, build_network
from cledet.models.nms import NMSOptions


def coco_stats(truth_file, results_file):
    """Compute the twelve metrics with pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth_file))
        coco = COCOeval(truth, truth.loadRes(str(results_file)), "bbox")
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    return coco.stats


@pytest.mark.parametrize(
    ("truth", "results"),
    [
        ("coco2017_sub/annotations/instances_val2017.json", "coco2017_sub/detections/yolox_nano_raw.json"),
        ("coco_val2014_100/instances_val2014_100.json", "coco_val2014_100/instances_val2014_fakebbox100_results.json"),
    ],
)
@pytest.mark.slow
def test_the_twelve_metrics_equal_pycocotools(shared_data, truth, results):
    index = open_source(shared_data / truth).index("val", need_images=False)
    found = evaluate(index, read_results(shared_data / results, index))
    wanted = coco_stats(shared_data / truth, shared_data / results)
    assert [found.metrics[name] for name in METRICS] == [None if v < 0 else v for v in wanted]
    present = [v["AP"] for v in found.per_class.values() if v["AP"] is not None]
    assert np.mean(present) == pytest.approx(found.metrics["AP"], abs=1e-12)


@st.composite
def files(draw):
    """A COCO file and results for it: crowds, ties in score, boxes of no area, empty images, ids with holes, and
    perhaps more than 100 detections of one class on an image.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image_ids = draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=5, unique=True))
    category_ids = draw(st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True))
    many, grid = draw(st.booleans()), draw(st.sampled_from([2, 10, 1000]))

    def box():
        box = np.concatenate([rng.integers(0, 60, 2), np.exp(rng.uniform(1, 5, 2))]).round(1)
        box[2:] *= rng.random(2) > 0.03
        return box.tolist()

    annotations, results = [], []
    for image in image_ids[:-1] if draw(st.booleans()) else image_ids:
        for category in category_ids:
            for _ in range(rng.integers(0, 5)):
                truth = box()
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": category, "bbox": truth,
                     "area": truth[2] * truth[3] * rng.uniform(0.4, 1), "iscrowd": int(rng.random() < 0.2)}
                )  # fmt: skip
                for _ in range(rng.integers(0, 4)):
                    moved = (np.array(truth) * rng.normal(1, 0.05, 4)).round(1).tolist()
                    results.append((image, category, moved if rng.random() < 0.8 else truth))
            for _ in range(rng.integers(0, 3) + 105 * (many and category == category_ids[0])):
                results.append((image, category, box()))
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 200, "height": 200} for i in image_ids],
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
        "annotations": annotations,
    }
    scores = (rng.integers(0, grid + 1, len(results)) / grid).tolist()
    order = rng.permutation(len(results)).tolist()
    keys = ("image_id", "category_id", "bbox", "score")
    return content, [dict(zip(keys, (*results[i], scores[i]))) for i in order]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=files())
@pytest.mark.slow
def test_the_twelve_metrics_of_any_file_equal_pycocotools(tmp_path, case):
    truth, results = tmp_path / "truth.json", tmp_path / "results.json"
    truth.write_text(json.dumps(case[0]))
    results.write_text(json.dumps(case[1]))
    index = read_coco(truth)
    metrics = evaluate(index, read_results(results, index)).metrics
    if case[0]["annotations"] and case[1]:
        assert [metrics[name] for name in METRICS] == [None if v < 0 else v for v in coco_stats(truth, results)]


def test_other_limits_are_pycocotools_with_its_parameters_set(shared_data):
    """Its `summarize` gives all but AP with other numbers of detections, for which it looks at 100 only."""
    folder = shared_data / "coco2017_sub"
    index = open_source(folder).index("val", need_images=False)
    results = read_results(folder / "detections" / "yolox_nano_raw.json", index)
    index = index.subset(range(30))
    results = results[np.isin(results[:, 0], index.image_ids)]
    truth = COCO()
    truth.dataset = coco_annotations(index)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results), "bbox")
        coco.params.maxDets = [2, 50, 300]
        coco.params.areaRng = [[0, 1e10], [0, 50**2], [50**2, 150.5**2], [150.5**2, 1e10]]
        coco.evaluate()
        coco.accumulate()
        coco.summarize()
    limits = Limits((2, 50, 300), (50, 150.5))
    found = evaluate(index, results, limits)
    names = ("AP50", "AP75", "APs", "APm", "APl", "AR2", "AR50", "AR300", "ARs", "ARm", "ARl")
    assert [found.metrics[name] for name in names] == coco.stats[1:].tolist()
    precision = coco.eval["precision"][:, :, :, 0, 2]
    assert found.metrics["AP"] == precision[precision > -1].mean()
    one = precision[:, :, 0]
    assert found.per_class[index.classes[0]]["AP"] == one[one > -1].mean()
    assert found.metrics["AP"] != evaluate(index, results).metrics["AP"]


def test_a_class_has_the_metrics_of_pycocotools_on_that_class_alone(shared_data):
    folder = shared_data / "coco_val2014_100"
    index = open_source(folder / "instances_val2014_100.json").index("val", need_images=False)
    results = read_results(folder / "instances_val2014_fakebbox100_results.json", index)
    found = evaluate(index, results)
    truth = COCO()
    truth.dataset = coco_annotations(index)
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results), "bbox")
        for label in (0, 1, 40):
            coco.params.catIds = [int(index.category_ids[label])]
            coco.evaluate()
            coco.accumulate()
            coco.summarize()
            figures = found.per_class[index.classes[label]]
            assert [figures[name] for name in METRICS] == [None if v < 0 else v for v in coco.stats]


def test_the_published_metrics_of_the_coco_api(shared_data):
    """cocodataset/cocoapi publishes these for its own example."""
    folder = shared_data / "coco_val2014_100"
    index = open_source(folder / "instances_val2014_100.json").index("val", need_images=False)
    metrics = evaluate(index, read_results(folder / "instances_val2014_fakebbox100_results.json", index)).metrics
    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    assert [round(metrics[name], 3) for name in METRICS] == published


def test_detections_do_not_depend_on_the_batch(tmp_path):
    """Images on end and on their side, in batches of one and of five."""
    draw_shapes(tmp_path, counts={"val": 8})
    index = open_source(tmp_path).index("val")
    assert len({tuple(size) for size in index.sizes.tolist()}) == 2
    torch.manual_seed(0)
    network = build_network(Architecture(backbone="r18", classes=4, fpn_channels=16, norm="batch"))
    dataset = DetectionDataset(index, short=96, long=160)
    found = []
    for batch in (1, 5):
        loader = eval_loader(dataset, batch=batch)
        stream = from_network(network, loader, 0.0, [1, 2, 3, 4], torch.device("cpu"), None)
        results = evaluate_methods(stream, index, {"standard": NMSOptions()})["standard"].results
        found.append(results[np.lexsort((-results[:, 5], results[:, 0]))])
    np.testing.assert_array_equal(found[0][:, 0], found[1][:, 0])
    np.testing.assert_allclose(found[0][:, 5], found[1][:, 5], atol=1e-6)


def test_perfect_and_empty_detections(squares):
    index = open_source(squares).index("val")
    ids = index.image_ids[index.image_of_boxes()]
    perfect = np.column_stack([ids, index.xywh, np.ones(len(ids)), index.category_ids[index.labels]])
    assert evaluate(index, perfect).metrics["AP"] == 1.0
    red = evaluate(index, perfect).per_class["red"]
    assert [red[name] for name in ("AP", "AP50", "VOC07", "VOC12", "conf", "f1", "precision", "recall")] == [1.0] * 8
    nothing = evaluate(index, np.zeros((0, 7)))
    assert nothing.metrics["AP"] == 0.0
    assert nothing.metrics["APl"] is None  # no large square


def test_only_voc_counts_detections_beyond_the_limit(make_index):
    """The right one behind three wrong ones: VOC's rule counts all, the confidence of best F1 what AP counts."""
    index = make_index([(0, 0, 0, 20, 20)])
    wrong = [[0, 60, 50, 20, 20, 0.9 - k / 10, 1] for k in range(3)]
    results = np.array([*wrong, [0, 0, 0, 20, 20, 0.1, 1]])
    found = evaluate(index, results)
    assert found.metrics["VOC12"] == found.metrics["AP50"] == pytest.approx(1 / 4)
    assert (found.best["conf"], found.best["f1"]) == (0.1, 2 * 1 / (4 + 1))
    few = evaluate(index, results, Limits((1, 2, 3)))
    assert (few.metrics["AP50"], few.best["conf"]) == (0, None)
    assert few.metrics["VOC12"] == pytest.approx(1 / 4)
    many = evaluate(index, np.concatenate([np.repeat(results[:1], 100, axis=0), results[3:]]))
    assert (many.metrics["AP50"], many.best["conf"]) == (0, None)
    assert many.metrics["VOC12"] == pytest.approx(1 / 101)


def test_misalignment_is_that_of_the_detections_as_they_came(scattered):
    """In their order, so that a sum ends in the same digit as where they came from: by score, some end in another."""
    sums = []
    for seed in range(8):
        index, results = scattered(60, seed)
        o = overlaps(index, results)
        match = o.match()
        right = np.flatnonzero(match.correct)
        by_score, came = (
            score_iou_correlation(np.column_stack([o.score[i], match.iou[i]])) for i in (right, sort_by(o.row, right))
        )
        sums.append(by_score["kept_iou"] != came["kept_iou"])
        found = evaluate(index, results, correlation=True)
        assert found.misalignment == came
        assert replace(found, misalignment=None) == evaluate(index, results)
    assert any(sums)


def sort_by(key, chosen):
    return chosen[np.argsort(key[chosen])]


def test_a_split_without_boxes_has_no_metrics(squares):
    index = open_source(squares).index("val").subset(np.array([0]))
    found = evaluate(index, np.zeros((0, 7)))
    assert set(found.metrics.values()) == set(found.per_class["red"].values()) == {None}
    assert found.metrics.keys() == {*METRICS, "VOC07", "VOC12"}
    some = np.array([[index.image_ids[0], 0, 0, 9, 9, 0.5, 3]])
    assert evaluate(index, some, correlation=True) == replace(found, misalignment={"spearman": None, "kept_iou": None})
    assert set(found.best.values()) == {None}


def test_metrics_do_not_depend_on_the_order_of_the_classes(shared_data):
    """To the last digit: they are summed up in the order of the ids, as pycocotools does."""
    folder = shared_data / "coco2017_sub"
    index = open_source(folder).index("val", need_images=False).subset(range(60))
    results = read_results(folder / "detections" / "yolox_nano_raw.json", open_source(folder).index("val"))
    results = results[np.isin(results[:, 0], index.image_ids)]
    last = len(index.classes) - 1
    turned = {"classes": index.classes[::-1], "category_ids": index.category_ids[::-1], "labels": last - index.labels}
    found, other = evaluate(index, results), evaluate(replace(index, **turned), results)
    assert [found.metrics[name] for name in METRICS] == [other.metrics[name] for name in METRICS]
    assert found.per_class == other.per_class


def test_an_object_on_a_bound_belongs_to_both_sizes(make_index):
    """As pycocotools has it; one of 32x32 px is small and medium, one of 96x96 medium and large."""
    for side, wanted in ((31, "APs"), (32, "APs APm"), (33, "APm"), (96, "APm APl"), (97, "APl")):
        index = make_index([(0, 1, 1, side, side)])
        metrics = evaluate(index, np.array([[0, 1, 1, side, side, 0.5, 1]])).metrics
        assert [name for name in ("APs", "APm", "APl") if metrics[name] is not None] == wanted.split()
        assert all(metrics[name] == pytest.approx(1) for name in wanted.split())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}]', r"image ids .* not have: 5"),
        ('[{"image_id": 100, "category_id": 4, "bbox": [0, 0, 1, 1], "score": 1}]', r"category ids .*: 4"),
        ('[{"image_id": 100}]', "not in COCO's results format"),
        ("{", "not in COCO's results format"),
        ('{"a": 1}', "not in COCO's results format"),
    ],
)
def test_invalid_results_are_refused(squares, tmp_path, content, sentence):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_results(tmp_path / "r.json", open_source(squares).index("val"))


def test_an_empty_results_file_scores_zero(squares, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([]))
    index = open_source(squares).index("val")
    assert evaluate(index, read_results(tmp_path / "r.json", index)).metrics["AP50"] == 0.0
