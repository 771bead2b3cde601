"""The search on synthetic metrics, and trials on detections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cledet.config.types import NMS_METHODS
from cledet.evaluation.candidates import from_results
from cledet.evaluation.tune.search import (
    PARAMETERS,
    READINGS,
    Trial,
    TrialRunner,
    raise_conf,
    search,
    search_method,
    within,
)
from cledet.metrics.bootstrap import halves, match, resamples, weighted_ap
from cledet.metrics.coco import evaluate
from cledet.models.nms import NMSOptions


def weights(images):
    return halves(images, 1), resamples(images, 2, seed=0)


class Mountain:
    """A runner whose metric is a function of the setting."""

    def __init__(self, height):
        self.height, self.tried = height, []

    def __call__(self, options):
        if options not in self.tried:
            self.tried.append(options)
        return Trial(options, self.height(options), np.zeros(2), np.zeros(2), 0)


def test_every_method_has_its_parameters():
    assert set(PARAMETERS) == set(NMS_METHODS)
    assert all(hasattr(NMSOptions(), name) for names in PARAMETERS.values() for name in names)


@pytest.mark.parametrize("top", [0.625, 0.5, 0.25, 0.95, 0.05, 0.475])
def test_the_best_iou_is_found_from_coarse_to_fine(top):
    mountain = Mountain(lambda options: -abs(options.iou - top))
    assert search_method(mountain, NMSOptions()).options.iou == top
    assert mountain.tried[0] == NMSOptions()
    assert len(mountain.tried) == len(set(mountain.tried))
    assert all(0.05 <= options.iou <= 0.95 for options in mountain.tried)


@pytest.mark.parametrize("top", [0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
def test_a_lone_peak_of_the_coarse_grid_is_found(top):
    """Without a slope that leads to it."""
    mountain = Mountain(lambda options: float(options.iou == top))
    assert search_method(mountain, NMSOptions(iou=0.55)).options.iou == top


def test_large_steps_skip_small_dips():
    """Between the grid's best, 0.6, and the top, 0.55, lies a trough."""
    heights = {0.6: 1.0, 0.575: 0.0, 0.55: 2.0}
    assert (
        search_method(Mountain(lambda options: heights.get(options.iou, 0.0)), NMSOptions(iou=0.6)).options.iou == 0.55
    )


def test_all_readings_are_tried_at_the_best_iou():
    """The top lies where two of three differ from the start, and neither alone is a step up."""

    def height(options):
        return (options.cl_norm, options.cl_score) == ("diagonal", "own"), -abs(options.iou - 0.7)

    mountain = Mountain(height)
    best = search_method(mountain, NMSOptions(method="cl-balanced", cl_score="max")).options
    assert (best.cl_norm, best.cl_score, best.localization, best.iou) == ("diagonal", "own", "proximity", 0.7)
    readings = {tuple(getattr(options, name) for name in READINGS) for options in mountain.tried}
    assert len(readings) == 8


def test_of_equal_settings_the_start_is_kept():
    start = NMSOptions(method="cl-balanced", iou=0.55, cl_score="own")
    mountain = Mountain(lambda options: 0.3)
    assert search_method(mountain, start).options == start


def test_methods_without_parameters_are_tried_once_and_the_start_first():
    mountain = Mountain(lambda options: 0.3)
    start = NMSOptions(method="diou", iou=0.6)
    found = list(search(mountain, start, ("soft", "soft-vote")))
    assert [trial.options for trial in found] == [replace(start, method="soft"), replace(start, method="soft-vote")]
    assert mountain.tried == [start, *(trial.options for trial in found)]


def test_conf_rises_until_it_costs_too_much():
    """The metric falls by 0.01 per 0.1 of conf: with a tolerance of 0.0125, 0.1 is the last."""
    mountain = Mountain(lambda options: 0.5 - options.conf / 10)
    trials = raise_conf(mountain, mountain(NMSOptions(conf=0.0)), 0.0125)
    assert [trial.options.conf for trial in trials] == [0.0, 0.02, 0.03, 0.05, 0.1, 0.15]
    assert within(trials, 0.0125)[-1].options.conf == 0.1
    assert [t.options.conf for t in raise_conf(mountain, mountain(NMSOptions(conf=0.05)), 0)] == [0.05, 0.1]
    trials = raise_conf(mountain, mountain(NMSOptions(conf=0.0)), 1)
    assert [trial.options.conf for trial in trials] == [0.0, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5]


def test_a_higher_conf_may_be_better():
    mountain = Mountain(lambda options: 0.5 + options.conf if options.conf <= 0.1 else 0.0)
    trials = raise_conf(mountain, mountain(NMSOptions(conf=0.01)), 0.001)
    assert within(trials, 0.001)[-1].options.conf == 0.1
    assert len(within(trials, 0.001)) == 1


def test_a_trial_is_pycocotools_on_the_split_and_on_its_halves(scattered):
    index, results = scattered(9, 3)
    parts, drawn = halves(9, 2), resamples(9, 3, seed=0)
    runner = TrialRunner(list(from_results(results)), index, "AP", parts, drawn)
    options = NMSOptions(conf=0.3, iou=0.4, method="diou")
    trial = runner(options)
    left = runner.detections(options)
    assert trial.metric == pytest.approx(evaluate(index, left).metrics["AP"], abs=1e-12)
    assert trial.boxes == len(left) / 9
    assert left[:, 5].min() > 0.3
    for half, figure in zip(parts.T, trial.halves, strict=True):
        some = index.subset(np.flatnonzero(half))
        shown = left[np.isin(left[:, 0], some.image_ids)]
        assert figure == pytest.approx(evaluate(some, shown).metrics["AP"], abs=1e-12)
    np.testing.assert_array_equal(trial.samples, weighted_ap(match(index, left), drawn))
    assert runner(options) is trial
    assert list(runner.tried) == [options]


def test_without_images_there_is_no_metric(make_index):
    nothing = TrialRunner([], make_index(), "AP", *weights(0))(NMSOptions())
    assert nothing.boxes == 0
    assert np.isnan(nothing.metric)


def test_conf_leaves_out_candidates_before_nms(scattered):
    """A candidate of just that score is left out."""
    index, results = scattered(2, 0)
    runner = TrialRunner(list(from_results(results)), index, "AP", *weights(2))
    for conf in (0.0, 0.5, results[:, 5].min()):
        found = runner.detections(NMSOptions(conf=conf, iou=1.0, max_det=10**6))
        assert sorted(found[:, 5]) == sorted(score for score in results[:, 5] if score > conf)


def test_classes_that_the_split_lacks_are_left_out(scattered):
    index, results = scattered(3, 0)
    results[::2, 6] = 77
    runner = TrialRunner(list(from_results(results)), index, "AP50", *weights(3))
    found = runner.detections(NMSOptions(conf=0.0, iou=1.0))
    np.testing.assert_array_equal(np.sort(found[:, 5]), np.sort(results[results[:, 6] != 77, 5]))
