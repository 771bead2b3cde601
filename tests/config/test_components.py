from __future__ import annotations

import pytest

from cledet.config.loading import resolve
from cledet.config.train import TrainSettings


@pytest.mark.parametrize(
    ("flags", "target", "floor"),
    [
        ({}, "soft", 0.0),
        ({"cls_loss": "focal"}, "soft", 0.0),
        ({"cls_loss": "ghm"}, "hard", 0.4),  # the loss has hard labels
        ({"cls_loss": "varifocal"}, "hard", 0.4),  # its own target is an IoU already
        ({"head": "gfl"}, "hard", 0.4),
        ({"head": "fcos"}, "soft", 0.0),
        ({"head": "gfl", "cls_loss": "focal"}, "soft", 0.0),
        ({"recall_target": "hard"}, "hard", 0.4),
        ({"recall_target": "hard", "recall_min_iou": 0}, "hard", 0.0),
        ({"recall_min_iou": 0.3}, "soft", 0.3),
        ({"cls_loss": "ghm", "recall_min_iou": 0.2}, "hard", 0.2),
    ],
)
def test_what_recalled_anchors_learn_and_their_least_iou(flags, target, floor):
    settings = resolve(TrainSettings, flags, environ={})
    assert (settings.recall_target, settings.recall_min_iou) == (target, floor)
    assert settings.origins["recall_target"] == ("flag" if "recall_target" in flags else "default")


def test_the_form_of_dc_is_the_one_that_was_tested():
    settings = resolve(TrainSettings, {}, environ={})
    assert (settings.dc_form, settings.dc_scope, settings.center_unit) == ("zero-based", "row", "size")


def test_a_run_that_names_no_form_and_no_target_has_those_of_its_time(tmp_path):
    """cledet 0.1 had one form of DC and one target, and the floor of 0.4, which it wrote."""
    config = resolve(TrainSettings, {}, environ={}).to_yaml().splitlines(keepends=True)
    lines = [line for line in config if line.partition(":")[0] not in ("dc_form", "recall_target", "recall_min_iou")]
    (tmp_path / "config.yaml").write_text("".join([*lines, "recall_min_iou: 0.4  # default\n"]))
    settings = resolve(TrainSettings, {}, recipe=tmp_path / "config.yaml", environ={})
    assert (settings.dc_form, settings.recall_target, settings.recall_min_iou) == ("as-printed", "hard", 0.4)
    (tmp_path / "recipe.yaml").write_text("lr: 0.01\n")
    settings = resolve(TrainSettings, {}, recipe=tmp_path / "recipe.yaml", environ={})
    assert (settings.dc_form, settings.recall_target, settings.recall_min_iou) == ("zero-based", "soft", 0.0)
