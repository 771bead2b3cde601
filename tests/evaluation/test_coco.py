"""Figures are pycocotools' own, to the last digit, on the data set's own ids."""

from __future__ import annotations

import contextlib
import io
import json
import sys

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cledet.data.dataset import DetectionDataset
from cledet.data.loader import eval_loader
from cledet.data.shapes import draw_shapes
from cledet.data.source import open_source
from cledet.engine.candidates import from_network
from cledet.engine.comparison import compare
from cledet.errors import UserError
from cledet.evaluation.coco import coco_backend, evaluate
from cledet.evaluation.figures import METRICS
from cledet.evaluation.results import read_results
from cledet.models.decode import PostProcess
from cledet.models.network import Architecture, build_network


def coco_stats(truth_file, results_file):
    """The twelve figures as anybody would get them from pycocotools."""
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
def test_the_twelve_figures_equal_pycocotools(shared_data, truth, results):
    index = open_source(shared_data / truth).index("val", need_images=False)
    found = evaluate(index, read_results(shared_data / results, index))
    wanted = coco_stats(shared_data / truth, shared_data / results)
    assert list(found.metrics.values()) == [None if v < 0 else v for v in wanted]
    present = [v["AP"] for v in found.per_class.values() if v["AP"] is not None]
    assert np.mean(present) == pytest.approx(found.metrics["AP"], abs=1e-12)


def test_the_published_figures_of_the_coco_api(shared_data):
    """cocodataset/cocoapi publishes these for its own example."""
    folder = shared_data / "coco_val2014_100"
    index = open_source(folder / "instances_val2014_100.json").index("val", need_images=False)
    metrics = evaluate(index, read_results(folder / "instances_val2014_fakebbox100_results.json", index)).metrics
    published = [0.505, 0.697, 0.573, 0.586, 0.519, 0.501, 0.387, 0.594, 0.595, 0.640, 0.566, 0.564]
    assert [round(metrics[name], 3) for name in METRICS] == published


def test_both_backends_give_the_same_figures(shared_data, monkeypatch):
    pytest.importorskip("ultrafast_pycocotools")
    folder = shared_data / "coco2017_sub"
    index = open_source(folder).index("val", need_images=False)
    results = read_results(folder / "detections" / "yolox_nano_raw.json", index)
    fast = evaluate(index, results)
    assert coco_backend()[0].__module__.startswith("ultrafast")
    monkeypatch.setitem(sys.modules, "ultrafast_pycocotools", None)
    assert coco_backend() == (COCO, COCOeval)
    assert evaluate(index, results) == fast


def test_what_is_found_on_an_image_does_not_depend_on_its_batch(tmp_path):
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
        results = compare(stream, index, {"standard": PostProcess()})["standard"].results
        found.append(results[np.lexsort((-results[:, 5], results[:, 0]))])
    np.testing.assert_array_equal(found[0][:, 0], found[1][:, 0])
    np.testing.assert_allclose(found[0][:, 5], found[1][:, 5], atol=1e-6)


def test_perfect_and_empty_detections(squares):
    index = open_source(squares).index("val")
    ids = index.image_ids[index.image_of_boxes()]
    perfect = np.column_stack([ids, index.xywh, np.ones(len(ids)), index.category_ids[index.labels]])
    assert evaluate(index, perfect).metrics["AP"] == 1.0
    assert evaluate(index, perfect).per_class["red"] == {"AP": 1.0, "AP50": 1.0}
    nothing = evaluate(index, np.zeros((0, 7)))
    assert nothing.metrics["AP"] == 0.0
    assert nothing.metrics["APl"] is None  # no large square


def test_a_split_without_boxes_has_no_figures(squares):
    index = open_source(squares).index("val").subset(np.array([0]))
    assert set(evaluate(index, np.zeros((0, 7))).metrics.values()) == {None}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('[{"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}]', r"image ids .* not have: \[5\]"),
        ('[{"image_id": 100, "category_id": 4, "bbox": [0, 0, 1, 1], "score": 1}]', r"category ids .*: \[4\]"),
        ('[{"image_id": 100}]', "not in COCO's results format"),
        ("{", "not in COCO's results format"),
        ('{"a": 1}', "not in COCO's results format"),
    ],
)
def test_results_that_do_not_fit_are_refused(squares, tmp_path, content, sentence):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_results(tmp_path / "r.json", open_source(squares).index("val"))


def test_an_empty_results_file_scores_zero(squares, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps([]))
    index = open_source(squares).index("val")
    assert evaluate(index, read_results(tmp_path / "r.json", index)).metrics["AP50"] == 0.0
