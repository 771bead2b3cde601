"""The head gfl through the engine: trained, resumed, explained, exported; and what does not go with it."""

from __future__ import annotations

import pytest
import torch

from cledet import Detector
from cledet.config.base import ExplainSettings
from cledet.config.loading import resolve
from cledet.config.train import GridSettings, TrainSettings
from cledet.errors import UserError
from cledet.explain.explainer import as_trained
from cledet.explain.figure import make_figure
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.network import Architecture
from cledet.training import trainer
from cledet.training.init_model import build_architecture, build_criterion

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gfl_run(tiny, tmp_path_factory):
    project = tmp_path_factory.mktemp("project")
    return Detector().train(**tiny, head="gfl", project=project, name="gfl", save_steps=2)


def settings(kind=TrainSettings, **flags):
    return resolve(kind, flags, environ={})


def test_a_run_holds_the_head_and_what_its_defaults_stand_for(gfl_run):
    model = load_checkpoint(gfl_run)
    assert (model.architecture.head, model.architecture.anchor_scale) == ("gfl", 8.0)
    assert model.components == ("dc", "clb")
    assert model.network().coder == "distances"
    assert model.metrics["AP"] >= 0


def test_without_the_field_a_checkpoint_is_retinanets():
    old = {"backbone": "r18", "classes": 2, "fpn_channels": 16, "anchor_scale": 4.0, "norm": "batch"}
    assert Architecture(**old).head == "retinanet"
    with pytest.raises(ValueError, match="unknown head"):
        Architecture(**old, head="other")


def test_iac_is_left_out_of_the_default_and_refused_where_it_is_asked_for():
    assert settings().ablation == ("iac", "dc", "clb")
    assert settings(head="gfl").ablation == settings(assign="atss").ablation == ("dc", "clb")
    assert settings(head="gfl", assign="iou").ablation == ("iac", "dc", "clb")
    assert settings(GridSettings, head="gfl").ablation == (("dc", "clb"),)
    for kind, ablation in ((TrainSettings, "iac,dc"), (GridSettings, "all"), (GridSettings, "dc;iac")):
        with pytest.raises(UserError, match="--ablation iac needs --assign iou, not atss"):
            settings(kind, head="gfl", ablation=ablation)
    assert [run.ablation for run in settings(GridSettings, head="gfl", ablation="none;dc,clb").runs()] == [
        (),
        ("dc", "clb"),
    ]


def test_what_a_head_cannot_do_is_refused():
    with pytest.raises(UserError, match="--assign fcos is for points"):
        settings(assign="fcos")
    with pytest.raises(UserError, match="--reg-loss dfl does not fit --head retinanet"):
        settings(reg_loss="dfl")
    with pytest.raises(UserError, match="--reg-loss smooth_l1 does not fit --head gfl"):
        settings(head="gfl", reg_loss="smooth_l1")
    start = load_checkpoint_of("gfl")
    with pytest.raises(UserError, match=r"the given weights have the head gfl, not retinanet \(add --head gfl\)"):
        build_architecture(settings(), 2, start)
    assert build_architecture(settings(head="gfl"), 3, start).classes == 3


def load_checkpoint_of(head):
    arch = Architecture(backbone="r18", classes=2, head=head)
    return Checkpoint(architecture=arch, model={}, classes=("x", "y"), category_ids=(1, 2))


def test_the_criterion_is_what_the_settings_say():
    plain, gfl = build_criterion(settings()), build_criterion(settings(head="gfl"))
    assert (plain.assignment, plain.cls_loss, plain.reg_loss) == ("iou", "focal", "smooth_l1")
    assert plain.iac is not None
    assert (gfl.assignment, gfl.cls_loss, gfl.reg_loss, gfl.iac, gfl.dc) == ("atss", "qfl", "dfl", None, True)
    other = build_criterion(settings(head="gfl", assign="fcos", center_sampling=0, cls_loss="focal", reg_loss="giou"))
    assert (other.assignment, other.center_sampling, other.cls_loss, other.reg_loss) == ("fcos", 0, "focal", "giou")


def test_a_stopped_run_goes_on_to_the_same_end(gfl_run, tiny, tmp_path, monkeypatch):
    whole = load_checkpoint(gfl_run / "weights" / "last.pt")
    steps = trainer.TrainStep.compute_gradients

    def stop(self, parts, step):
        if step == 2:
            raise KeyboardInterrupt
        return steps(self, parts, step)

    monkeypatch.setattr(trainer.TrainStep, "compute_gradients", stop)
    with pytest.raises(KeyboardInterrupt):
        Detector().train(**tiny, head="gfl", project=tmp_path, name="gfl", save_steps=2)
    monkeypatch.setattr(trainer.TrainStep, "compute_gradients", steps)
    run = Detector().train(resume=tmp_path / "train" / "gfl")
    again = load_checkpoint(run / "weights" / "last.pt")
    assert (again.step, again.architecture) == (whole.step, whole.architecture)
    assert all(torch.equal(again.model[name], value) for name, value in whole.model.items())


def test_an_explanation_shows_what_there_is(gfl_run, squares):
    detector = Detector(gfl_run)
    found = detector.explain(str(squares / "val" / "1.png"), device="cpu")
    document = found.to_dict()
    assert document["positives"]["by_atss"] == len(found.positives.gt) > 0
    assert "by_iou" not in document["positives"]
    assert document["objects"][0]["by_atss"] > 0
    assert "alpha" not in document["settings"]
    titles = [axes.get_title(loc="left") for axes in make_figure(found).axes]
    assert titles[0] == f"1  Positive anchors: {len(found.positives.gt)} by ATSS"
    with pytest.raises(UserError, match="--alpha is an option of IAC, which this model's assignment"):
        as_trained(detector.model, ExplainSettings(alpha=0.5))


@pytest.mark.parametrize("nms", ["none", "cl-balanced"])
def test_an_exported_file_agrees(gfl_run, tmp_path, nms):
    pytest.importorskip("onnxruntime")
    detector = Detector(gfl_run)
    detector.model.model["head.classification.predict.weight"] *= 30
    detector.model.model["head.classification.predict.bias"] += 3
    result = detector.export(nms=nms, project=tmp_path)
    assert result.max_score_error < 1e-4
    assert result.max_box_error < 0.05
    assert (result.detections > 0) == (nms != "none")


def test_weights_as_safetensors_are_the_same_model(gfl_run, tmp_path):
    path = Detector(gfl_run).export("safetensors", project=tmp_path).path
    assert load_checkpoint(path).architecture == load_checkpoint(gfl_run).architecture
