"""The confidence threshold of prediction: its origin, and that per-class thresholds are applied exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cledet import Detector
from cledet.config.base import PredictSettings
from cledet.config.loading import resolve
from cledet.errors import UserError
from cledet.inference.confidence import resolve_conf
from cledet.models.checkpoint import load_checkpoint


def settings(conf=None):
    return resolve(PredictSettings, {"conf": conf}, environ={})


def test_a_number_is_taken_as_it_is(small):
    assert resolve_conf(settings("0.4"), replace(small(0), best_conf=0.1)) == (0.4, "")
    assert resolve_conf(settings(0), None) == (0.0, "")


def test_auto_is_the_confidence_of_best_f1_and_says_so(small):
    conf, origin = resolve_conf(settings(), replace(small(0), best_conf=0.0581, class_confs=(0.2, None)))
    assert conf == 0.0581
    assert origin == "confidence 0.0581: best F1 in training's evaluation"


def test_per_class_falls_back_on_that_of_all_classes(small):
    conf, origin = resolve_conf(settings("per-class"), replace(small(0), best_conf=0.058, class_confs=(0.2, None)))
    assert conf == (0.2, 0.058)
    assert origin.startswith("confidence per class, x 0.2, y 0.058: best F1")


def test_weights_without_an_evaluation_have_a_fixed_threshold(small):
    for model in (small(0), None):
        assert resolve_conf(settings(), model) == (0.3, "confidence 0.3: the weights hold none of best F1")
        with pytest.raises(UserError, match="--conf per-class needs weights that training evaluated"):
            resolve_conf(settings("per-class"), model)


@pytest.mark.parametrize("conf", ["1.5", "-0.1", "nan", "best", ""])
def test_what_is_no_confidence_is_refused(conf):
    with pytest.raises(UserError, match=rf"--conf {conf} \(from the flag\): give a number from 0 to 1, auto or per-c"):
        settings(conf)


@pytest.mark.slow
def test_per_class_thresholds_are_those_of_a_slow_reference(tiny_run, squares, tmp_path, capsys):
    """With standard NMS, which treats classes apart, thresholds after it leave the same detections."""
    options = {"nms": "standard", "device": "cpu", "max_det": 10_000, "amp": "off"}
    every = list(Detector(tiny_run).predict(squares / "val", conf=0, **options))
    scores = torch.cat([one.scores for one in every])
    low, high = scores.quantile(0.5).item(), scores.quantile(0.9).item()
    model = replace(load_checkpoint(tiny_run), best_conf=low, class_confs=(high, None))
    model.save(tmp_path / "a.pt")
    capsys.readouterr()
    found = list(Detector(tmp_path / "a.pt").predict(squares / "val", conf="per-class", **options))
    assert capsys.readouterr().err.count("confidence per class, blue") == 1
    for one, whole in zip(found, every, strict=True):
        kept = whole.scores > torch.tensor([high, low])[whole.labels]
        assert torch.equal(one.scores, whole.scores[kept])
        assert torch.equal(one.labels, whole.labels[kept])
        torch.testing.assert_close(one.boxes, whole.boxes[kept])
    assert 0 < sum(len(one.scores) for one in found) < len(scores)
