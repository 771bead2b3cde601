"""Initial weights of a run, where rows of classes of the same name are taken over, and its criterion."""

from __future__ import annotations

import pytest
import torch

from cledet import Detector
from cledet.components.iac import IACOptions
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.errors import UserError
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.network import Architecture, build_network
from cledet.training.init_model import build_architecture, build_criterion, transfer_weights


def start_of(architecture, classes):
    state = build_network(architecture).state_dict()
    return Checkpoint(architecture=architecture, model=state, classes=classes, category_ids=tuple(range(len(classes))))


@pytest.mark.parametrize(("head", "anchors"), [("retinanet", 9), ("fcos", 1), ("gfl", 1)])
@pytest.mark.parametrize("conv", [None, "depthwise"])
def test_rows_of_classes_of_the_same_name_are_taken_over(head, anchors, conv):
    """Against a loop over anchors and classes."""
    arch = Architecture(backbone="r18", classes=3, fpn_channels=16, head=head, head_conv=conv)
    start = start_of(arch, ("cat", "dog", "bird"))
    network = build_network(arch.model_copy(update={"classes": 4}))
    own = {name: value.clone() for name, value in network.state_dict().items()}
    weights, known = transfer_weights(start, network, ("zebra", "bird", "cat", "cow"))
    assert known == 2
    for kind in ("weight", "bias"):
        name = f"head.classification.predict.{kind}"
        for anchor in range(anchors):
            for place, before in ((0, None), (1, 2), (2, 0), (3, None)):
                row = weights[name][anchor * 4 + place]
                wanted = own[name][anchor * 4 + place] if before is None else start.model[name][anchor * 3 + before]
                assert torch.equal(row, wanted)
    assert all(torch.equal(weights[name], start.model[name]) for name in own if "classification.predict" not in name)
    assert all(torch.equal(value, own[name]) for name, value in network.state_dict().items())
    network.load_state_dict(weights)


def test_equal_classes_take_all_and_other_classes_none():
    arch = Architecture(backbone="r18", classes=2, fpn_channels=16)
    start = start_of(arch, ("a", "b"))
    assert transfer_weights(start, build_network(arch), ("a", "b")) == (start.model, 2)
    network = build_network(arch)
    weights, known = transfer_weights(start, network, ("c", "d"))
    assert known == 0
    name = "head.classification.predict.weight"
    assert torch.equal(weights[name], network.state_dict()[name])


def test_given_weights_keep_the_convolutions_of_their_head():
    arch = Architecture(backbone="r18", classes=2, fpn_channels=16)
    for own, other in ((None, "depthwise"), ("depthwise", "standard")):
        start = start_of(arch.model_copy(update={"head_conv": own}), ("a", "b"))
        assert build_architecture(resolve(TrainSettings, environ={}), 2, start) == start.architecture
        message = f"--head-conv {other} does not fit the given weights, which have {own or 'standard'}"
        with pytest.raises(UserError, match=message):
            build_architecture(resolve(TrainSettings, {"head_conv": other}, environ={}), 2, start)
    assert build_architecture(resolve(TrainSettings, {"backbone": "r18"}, environ={}), 2, None).head_conv is None
    given = resolve(TrainSettings, {"backbone": "r18", "head_conv": "depthwise"}, environ={})
    assert build_architecture(given, 2, None).head_conv == "depthwise"


@pytest.mark.parametrize(
    ("name", "value", "actual"),
    [("backbone", "r34", "r18"), ("head_conv", "depthwise", "standard"), ("norm", "batch", "frozen"),
     ("norm", "sync", "frozen"), ("norm", "group", "frozen"), ("backbone_weights", "own.pth", "their own")],
)  # fmt: skip
def test_settings_that_given_weights_overrule_are_refused_unless_a_recipe_has_them(tmp_path, name, value, actual):
    start = start_of(Architecture(backbone="r18", classes=2, fpn_channels=256, norm="frozen"), ("a", "b"))
    flag, variable = f"--{name.replace('_', '-')}", f"CLEDET_{name.upper()}"
    message = f"{flag} {value} does not fit the given weights, which have {actual}"
    with pytest.raises(UserError, match=rf"^{message} \(leave {flag} out\)$"):
        build_architecture(resolve(TrainSettings, {name: value}, environ={}), 2, start)
    with pytest.raises(UserError, match=rf"^{message} \(unset {variable}\)$"):
        build_architecture(resolve(TrainSettings, environ={variable: value}), 2, start)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"{name}: {value}\n")
    assert build_architecture(resolve(TrainSettings, recipe=recipe, environ={}), 2, start) == start.architecture


@pytest.mark.parametrize(("norm", "flags"), [("frozen", ("auto", "frozen")), ("batch", ("auto", "batch", "sync"))])
def test_settings_that_given_weights_agree_with_are_accepted(norm, flags):
    start = start_of(Architecture(backbone="r18", classes=2, fpn_channels=16, norm=norm), ("a", "b"))
    for flag in flags:
        for source in ("auto", "none"):
            given = {"backbone": "r18", "fpn_channels": 16, "norm": flag, "backbone_weights": source}
            assert build_architecture(resolve(TrainSettings, given, environ={}), 2, start) == start.architecture


@pytest.mark.slow
@pytest.mark.parametrize("tower_norm", ["none", "group", "group-bias"])
def test_imported_detectors_are_trained_further(tiny, tmp_path, capsys, tower_norm):
    """With what the converters set: P6 from C5, norms in the towers, anchors of the image's side."""
    head = "fcos" if tower_norm == "group-bias" else "retinanet"
    arch = Architecture(
        backbone="r18", classes=3, fpn_channels=16, p6_from="c5", tower_norm=tower_norm, anchors_from_image=True,
        anchor_scale=8.0 if head == "fcos" else 4.0, head=head,
    )  # fmt: skip
    start_of(arch, ("person", "red", "car")).save(tmp_path / "start.pt")
    settings = {key: value for key, value in tiny.items() if key not in ("backbone", "fpn_channels")}
    run = Detector().train(**settings, head=head, weights=str(tmp_path / "start.pt"), project=tmp_path)
    said = capsys.readouterr().err
    assert "initial weights: a r18 trained on person, red, car; 1 of 2 classes taken over" in said
    before, after = load_checkpoint(tmp_path / "start.pt"), load_checkpoint(run)
    assert after.architecture == arch.model_copy(update={"classes": 2})
    name = "head.regression.predict.weight"
    assert not torch.equal(after.model[name], before.model[name])


@pytest.mark.parametrize(
    ("flag", "value", "field", "wanted"),
    [
        ("alpha", 0.6, "alpha", 0.6),
        ("score_threshold", 0.7, "score_threshold", 0.7),
        ("recall_min_iou", 0.3, "min_iou", 0.3),
        ("recall_center", True, "center", True),
        ("recall_cap", 4, "cap", 4),
        ("recall_fill", 9, "fill", 9),
        ("recall_relative", 0.8, "relative", 0.8),
        ("recall_overlap", "predicted", "decoded", True),
        ("recall_box_loss", False, "box_loss", False),
        ("recall_target", "hard", "soft_target", False),
        ("recall_fade", True, "fade", True),
        ("center_unit", "pixel", "center_unit", "pixel"),
        ("dc_form", "iou", "dc_form", "iou"),
        ("dc_scope", "class", "dc_scope", "class"),
        ("dc_balance", "class", "dc_balance", "class"),
        ("normalizer", "matched", "normalizer", "matched"),
        ("correlation", 0.5, "correlation", 0.5),
    ],
)
def test_every_flag_of_the_components_reaches_the_criterion(flag, value, field, wanted):
    plain, chosen = (build_criterion(resolve(TrainSettings, flags, environ={})) for flags in ({}, {flag: value}))
    values = [getattr(one.iac if field in IACOptions._fields else one, field) for one in (plain, chosen)]
    assert values[0] != values[1] == wanted
