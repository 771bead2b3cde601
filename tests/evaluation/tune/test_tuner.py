"""Tuning recommends a setting with a significant gain, and else the default."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import yaml

from cledet.config.base import PredictSettings
from cledet.config.evaluate import TuneSettings, ValSettings
from cledet.config.loading import resolve
from cledet.errors import Interrupted, UserError
from cledet.evaluation.candidates import from_results
from cledet.evaluation.tune.search import Trial, TrialRunner
from cledet.evaluation.tune.tuner import assess_gains, open_candidates, tune
from cledet.evaluation.tune.tuning_report import commands, methods_table, sentences, to_document, to_recipe
from cledet.metrics.bootstrap import PairedDifference
from cledet.models.nms import NMSOptions

SIDE = 20


def settings(**given):
    return resolve(TuneSettings, {"bootstrap": 200, "predictions": "raw.json", "data": "set", **given}, environ={})


def tuned(index, results, default=NMSOptions(conf=0.0), **given):  # noqa: B008
    return tune(list(from_results(results)), index, default, settings(**given))


@pytest.fixture(scope="module")
def doubled(make_index):
    """Each object has an accurate detection, and a duplicate 8 px beside it at IoU 0.43 with a slightly lower score."""
    rng = np.random.default_rng(0)
    index = make_index(*([(0, *rng.uniform(0, 20, 2), SIDE, SIDE), (0, 60, 50, SIDE, SIDE)] for _ in range(40)))
    ids = index.image_ids[index.image_of_boxes()]
    good = np.column_stack([ids, index.xywh, rng.uniform(0.5, 1, len(ids)), np.ones(len(ids))])
    return index, np.concatenate([good, good + np.array([0, 8, 0, 0, 0, -0.01, 0])])


@pytest.fixture(scope="module")
def chancy(make_index):
    """Beside each object that is found lies a box as good, at a random IoU, that is another one's in two of five cases.

    To keep it is about as good as to suppress it, so which threshold is ahead on 40 images is mostly chance.
    """
    rng = np.random.default_rng(9)
    truths, found = [], []
    for image in range(40):
        x, y = rng.uniform(5, 25, 2)
        near = (x + rng.uniform(4, 12), y, SIDE, SIDE)
        truths.append([(0, x, y, SIDE, SIDE), *([(0, *near)] if rng.random() < 0.4 else [])])
        score = rng.uniform(0.5, 1)
        found += [(image, x, y, SIDE, SIDE, score, 1), (image, *near, score - 0.01, 1)]
    return make_index(*truths), np.array(found)


def test_candidates_of_a_file_are_those_over_conf_if_one_was_given(squares, tmp_path):
    """And the default setting looks at all of them; components have no part in it."""
    scores = (0.5, 0.02, 0.3)
    rows = [{"image_id": 101, "category_id": 3, "bbox": [9 * i, 0, 9, 9], "score": s} for i, s in enumerate(scores)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    given = {"predictions": tmp_path / "r.json", "data": str(squares), "nms": "soft"}
    for more, left, conf in (({}, [0.5, 0.3, 0.02], 0.0), ({"conf": 0.1}, [0.5, 0.3], 0.1)):
        candidates, index, default = open_candidates(None, settings(**given, **more))
        found = sorted((score for one in candidates for score in one.scores.tolist()), reverse=True)
        assert found == pytest.approx(left)
        assert (index.name, default.method, default.conf) == (f"{squares.name}/val", "standard", conf)


def test_candidates_may_be_in_any_format(squares, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "1.txt").write_text("0 0.5 0.5 0.25 0.25 0.5\n0 0.5 0.5 0.25 0.25 0.25\n")
    (one,) = open_candidates(None, settings(predictions=tmp_path / "labels", data=str(squares)))[0]
    assert one.scores.tolist() == [0.5, 0.25]


def test_where_duplicates_are_left_a_lower_iou_gains(doubled, capsys):
    found = tuned(*doubled, nms="standard,soft-vote")
    assert found.best.options.method == "standard"
    assert found.best.options.iou <= 0.425
    assert found.best.metric == pytest.approx(1)
    assert found.gain.low > 0.1
    assert found.gain.low <= found.gain.value <= found.gain.high
    assert (found.held_out.better, found.held_out.halves) == (20, 20)
    assert not found.within_noise
    assert found.recommended == found.best
    assert [trial.options.conf for trial in found.confs] == [0, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]
    assert found.conf == 0.5  # no score of a first box is lower
    assert found.seconds > 0
    tried = sum(trial.options.method == "standard" for trial in found.searched)
    assert f"standard: best AP 1.0000 of {tried} settings\n" in capsys.readouterr().err
    said = sentences(found, settings())
    assert "the gain is significant" in said
    (line,) = commands(found, settings(), None)
    iou = f"{found.best.options.iou:g}"
    assert line == f"cledet val --predictions raw.json --data set --nms standard --iou {iou} --conf {found.conf:g}"


def test_a_gain_due_to_chance_is_within_the_noise(chancy):
    """Some threshold is better on these images by chance."""
    found = tuned(*chancy, nms="standard,diou")
    assert found.best.metric > found.default.metric
    assert found.gain.low < 0 < found.gain.high
    assert found.held_out.gain < 0
    assert found.within_noise
    assert found.recommended == found.default
    assert "the gain is within the noise: keep the default" in sentences(found, settings())
    assert "--nms standard --iou 0.5" in commands(found, settings(), None)[0]


def test_a_smaller_significant_gain_is_recommended(doubled):
    """Unless there is no gain on held-out halves."""
    found = tuned(*doubled, nms="standard,soft")
    best, other = found.methods["standard"], found.methods["soft"]
    assert best.metric > other.metric > found.default.metric
    unsure = replace(found, gains={**found.gains, "standard": PairedDifference(0.2, -0.1, 0.5)})
    nowhere_else = replace(unsure, held_out=found.held_out._replace(gain=0))
    assert (found.significant, unsure.significant) == (best, other)
    assert [one.within_noise for one in (found, unsure, nowhere_else)] == [False, False, True]
    gain = found.gains["soft"]
    assert sentences(replace(unsure, confs=[other]), settings())[2] == (
        "that gain is within the noise; the best significant one is that of --nms soft: "
        f"{gain.value:+.4f}, {gain.low:+.4f} to {gain.high:+.4f}"
    )


class Made:
    """A runner of made-up trials; all detections are the same."""

    def __init__(self, case, *trials):
        (self.index, self.results), self.tried = case, {trial.options: trial for trial in trials}
        self.images = len(self.index)

    def detections(self, options):
        return self.results


def test_intervals_are_those_of_differences_and_the_best_significant_setting_is_recommended(doubled):
    """A deviation of 0.2 over images is common to all and cancels; that of weighted alone is large."""
    rng = np.random.default_rng(0)
    easy, other = 0.2 * rng.normal(size=(2, 500))
    half = np.tile([0.5, 0.6, 0.7], (4, 1)).T
    figures = {"standard": (0.5, easy), "soft": (0.6, easy + 0.1 * other), "weighted": (0.7, easy + other)}
    trials = [
        Trial(NMSOptions(method=name), figure, half[i], figure + moved, boxes=1)
        for i, (name, (figure, moved)) in enumerate(figures.items())
    ]
    default, sure, best = trials
    found = assess_gains(Made(doubled, *trials), default.options, {trial.options.method: trial for trial in trials})
    assert (found.best, found.significant, found.recommended, found.within_noise) == (best, sure, sure, False)
    one = found.gains["soft"]
    assert one[:3] == pytest.approx((0.1, 0.1 - 1.96 * 0.02, 0.1 + 1.96 * 0.02), abs=0.006)
    assert found.gains["weighted"].low < 0
    assert found.gains["standard"][:3] == (0, 0, 0)


def test_where_all_settings_are_equal_the_default_is_best(doubled):
    """Without the duplicates nothing overlaps."""
    index, results = doubled
    found = tuned(index, results[: len(results) // 2], nms="diou,weighted")
    assert found.best is found.default
    assert found.gain[:3] == (0, 0, 0)
    assert found.within_noise
    assert f"of {len(found.searched)} settings none is better than the default" in sentences(found, settings())[0]


def test_the_same_search_finds_the_same(chancy):
    one, other = (tuned(*chancy, nms="standard") for _ in range(2))
    assert [t.options for t in one.searched] == [t.options for t in other.searched]
    assert [t.metric for t in one.searched] == [t.metric for t in other.searched]
    assert (one.gains, one.held_out, one.conf) == (other.gains, other.held_out, other.conf)


def test_the_tables_recipe_and_document_agree(doubled, tmp_path):
    found = tuned(*doubled, nms="soft,cl-balanced,standard")
    columns, rows = methods_table(found, "AP")
    assert columns[:2] == ["best setting", "AP"]
    assert [row[0].split()[1] for row in rows] == ["standard", "soft", "cl-balanced", "standard"]
    assert rows[0][0] == "--nms standard --iou 0.5 (the default)"
    assert sum(row[-1] or 0 for row in rows) == len(found.searched)
    (tmp_path / "tuned.yaml").write_text(to_recipe(found, ["a", "b --data 'c\niou: 0.99'"]))
    assert (tmp_path / "tuned.yaml").read_text().startswith("# a\n# b --data 'c\\niou: 0.99'\nnms: ")
    for kind in (ValSettings, PredictSettings):
        read = resolve(kind, {}, recipe=tmp_path / "tuned.yaml", environ={})
        assert (read.nms, read.iou) == (found.best.options.method, found.best.options.iou)
        assert read.origins["iou"] == "recipe"
    assert "conf" not in yaml.safe_load((tmp_path / "tuned.yaml").read_text())
    document = json.loads(json.dumps(to_document(found, settings(), ["x"]), allow_nan=False))
    assert document["best"]["iou"] == found.best.options.iou
    assert len(document["tried"]) == len(found.searched)
    assert document["gain"]["gain"] == pytest.approx(document["best"]["figure"] - document["default"]["figure"])
    assert document["methods"]["soft"]["low"] == found.gains["soft"].low


def test_commands_of_a_model(doubled):
    found = tuned(*doubled, nms="standard")
    own = resolve(TuneSettings, {"imgsz": 96, "split": "test"}, environ={})
    val, predict = commands(found, own, "runs/a b")
    assert val.startswith("cledet val --weights 'runs/a b' --split test --imgsz 96 --nms standard --iou ")
    assert predict.startswith("cledet predict IMAGES --weights 'runs/a b' --imgsz 96 --nms standard --iou ")
    assert predict.endswith(f" --conf {found.operating_point.confidence:.3f}")


@pytest.mark.slow
def test_a_command_has_all_flags_that_matter_to_its_method(doubled):
    """And none that does not."""
    for method, names in (
        ("cl-balanced", ["nms", "iou", "localization", "cl-norm", "cl-score"]),
        ("standard", ["nms", "iou"]),
        ("soft", ["nms"]),
    ):
        (line,) = commands(tuned(*doubled, nms=method), settings(nms=method), None)
        given = [word[2:] for word in line.split() if word.startswith("--")]
        assert given == ["predictions", "data", *names, "conf"], method


@pytest.fixture(scope="module")
def wide(make_index):
    """Of the three boxes of each object, the one in the middle lies best and has the lowest score."""
    index = make_index(*([(0, 10, 10, SIDE, SIDE)] for _ in range(10)))
    offsets = np.array([[-3, 0.9], [0.5, 0.5], [2.5, 0.8]])
    return index, np.array([(i, 10 + x, 10, SIDE, SIDE, score, 1) for i in index.image_ids for x, score in offsets])


def test_what_cl_balanced_chooses_among_is_said(wide):
    """IoU 0.74, 0.95 and 0.78: standard NMS is right at 5 of COCO's 10 thresholds, CL-B at all."""
    found = tuned(*wide, nms="standard,cl-balanced")
    assert found.clusters[None] == (10, 3, 10, pytest.approx(-1), pytest.approx(1))
    assert found.cl_balanced[:3] == pytest.approx((0.5, 0.5, 0.5))
    assert sentences(found, settings())[-2:] == [
        "CL-B chooses among 3.0 boxes per object found; among these, the IoU has a rank correlation of -1.00 with the "
        "score and 1.00 with the closeness to their centre",
        "CL-B changes AP by +0.5000 from standard NMS at --iou 0.5, 95 % interval +0.5000 to +0.5000: better",
    ]
    document = to_document(found, settings(), [])
    assert document["clusters"]["all"]["boxes"] == 3
    assert [one["clusters"] for one in document["clusters"]["per_class"].values() if one["clusters"]] == [10]
    assert document["cl_balanced"]["low"] == pytest.approx(0.5)


def test_the_change_on_few_images_has_no_interval(wide):
    index, rows = wide
    few = index.subset(range(9))
    found = tuned(few, rows[np.isin(rows[:, 0], few.image_ids)], nms="standard,cl-balanced")
    assert found.cl_balanced[:3] == (pytest.approx(0.5), None, None)
    assert found.gains["cl-balanced"][1:3] == (None, None)
    assert found.recommended is found.default
    assert sentences(found, settings())[-1].endswith("95 % interval unknown: too few images")
    assert "an interval needs objects on 10 images, and these have 9: keep the default" in sentences(found, settings())


def test_images_count_that_hold_objects_of_the_metrics_size(make_index):
    """Of 12 images, two hold an object under 32 x 32 px."""
    index = make_index(*([(0, 10, 10, side, side)] for side in [20] * 2 + [40] * 10))
    rows = np.array([(i, *box[:4], 0.9, 1) for i, box in zip(index.image_ids, index.xywh)])
    assert tuned(index, rows, nms="standard,cl-balanced", metric="APs").cl_balanced.conclusion == "too few images"
    assert tuned(index, rows, nms="standard,cl-balanced").cl_balanced.conclusion == "within the noise"


def test_of_methods_that_were_not_tried_no_gain_is_said(wide):
    for nms in ("standard", "cl-balanced", "soft"):
        found = tuned(*wide, default=NMSOptions(method="soft", conf=0.0), nms=nms)
        assert found.cl_balanced is None
        assert [line[:12] for line in sentences(found, settings()) if line.startswith("CL-B")] == ["CL-B chooses"]
    assert to_document(found, settings(), [])["cl_balanced"] is None


def test_clusters_are_those_of_the_default(wide):
    """At an IoU threshold of 0.8, the boxes at -3 and 2.5 are clusters of their own, and one has the third."""
    found = tuned(*wide, default=NMSOptions(conf=0.0, iou=0.8), nms="standard,cl-balanced")
    assert found.clusters[None][:3] == (10, 1, 0)
    said = [line for line in sentences(found, settings()) if line.startswith("CL-B")]
    assert [line.split(",")[0] for line in said] == ["CL-B changes AP by +0.0000 from standard NMS at --iou 0.8"]


def test_by_default_the_method_of_the_model_is_searched(doubled):
    assert set(tuned(*doubled, default=NMSOptions(method="soft-linear", conf=0.0), nms="auto").methods) == {
        "soft-linear"
    }


def test_other_metrics(doubled):
    """AP75 of the second boxes is 0, so at AP75 too they are in the way."""
    found = tuned(*doubled, nms="standard", metric="AP75")
    assert found.best.metric == pytest.approx(1)
    with pytest.raises(UserError, match="no objects that count for APl"):
        tuned(*doubled, nms="standard", metric="APl")


def test_a_signal_keeps_the_trials_so_far(doubled, monkeypatch):
    """After four settings; diou was not begun."""
    call = TrialRunner.__call__

    def interrupted(self, options):
        if len(self.tried) == 4 and options not in self.tried:
            os.kill(os.getpid(), signal.SIGINT)
        return call(self, options)

    monkeypatch.setattr(TrialRunner, "__call__", interrupted)
    found = tuned(*doubled, default=NMSOptions(conf=0.25), nms="standard,diou")
    assert found.stopped == signal.SIGINT
    assert (found.conf, found.confs) == (0.25, [found.recommended])  # no conf is searched any more
    assert len(found.searched) == 4
    assert set(found.methods) == {"standard"}
    assert found.clusters == {}
    assert found.best.metric == max(trial.metric for trial in found.searched)
    assert sentences(found, settings())[-1] == "the search was interrupted"


def test_a_signal_before_the_first_trial(doubled, monkeypatch):
    monkeypatch.setattr(TrialRunner, "__call__", lambda self, options: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="SIGTERM"):
        tuned(*doubled)
