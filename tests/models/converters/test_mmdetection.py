"""MMDetection's RetinaNet, from weights with its names and shapes, against the network written out."""

from __future__ import annotations

import re

import pytest
import torch

from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.models.converters.imported import COCO_IDS, COCO_NAMES, build_detector
from cledet.models.converters.mmdetection import from_mmdetection

CAFFE = """model = dict(type='RetinaNet', backbone=dict(type='ResNet', depth=50, style='caffe'))
img_norm_cfg = dict(
    mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)"""
V3 = """model = dict(
    data_preprocessor=dict(
        bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], type='DetDataPreprocessor'),
    backbone=dict(style='pytorch'), bbox_head=dict(bbox_coder=dict(target_stds=[1.0, 1.0, 1.0, 1.0])))"""
IMAGES = {True: ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0)),
          False: ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))}  # fmt: skip


def named(key):
    """Torchvision's names -> MMDetection's, as its modules have them."""
    if key.startswith(("conv1", "bn1", "layer")):
        return f"backbone.{key.replace('.offset.', '.conv2.conv_offset.')}"
    key = re.sub(r"^lateral(\d)", r"neck.lateral_convs.\1.conv", key)
    key = re.sub(r"^output(\d)", r"neck.fpn_convs.\1.conv", key)
    key = re.sub(r"^p([67])", lambda m: f"neck.fpn_convs.{int(m[1]) - 3}.conv", key)
    key = re.sub(r"^cls(\d)", r"bbox_head.cls_convs.\1.conv", key)
    key = re.sub(r"^box(\d)", r"bbox_head.reg_convs.\1.conv", key)
    return key.replace("cls.", "bbox_head.retina_cls.").replace("box.", "bbox_head.retina_reg.")


@pytest.fixture(scope="module")
def weights(random_weights):
    """By torchvision's names, and by MMDetection's."""
    return random_weights(str), random_weights(named)


@pytest.mark.parametrize(
    ("meta", "caffe"),
    [({"config": CAFFE, "CLASSES": ("a", "b", "c", "d")}, True),
     ({"cfg": V3, "dataset_meta": {"classes": ["a", "b", "c", "d"]}}, False), ({}, False)],
    ids=["2-caffe", "3-pytorch", "bare"],
)  # fmt: skip
@pytest.mark.slow
def test_anchors_scores_and_deltas_agree(weights, slow_retinanet, slow_anchors, tmp_path, capsys, meta, caffe):
    plain, state = weights
    tracked = {"backbone.bn1.num_batches_tracked": torch.tensor(7)}
    torch.save({"meta": meta, "state_dict": state | tracked}, tmp_path / "retinanet.pth")
    model = load_checkpoint(tmp_path / "retinanet.pth")
    log = capsys.readouterr().err
    assert ("r50-caffe, images in BGR" if caffe else "r50, images in RGB") in log
    assert ("assumed, because the file holds no configuration" in log) == (not meta)
    assert model.classes == (("a", "b", "c", "d") if meta else ("class 0", "class 1", "class 2", "class 3"))

    rgb = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(1)).float()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGES[caffe])
    x = ((rgb.flip(1) if caffe else rgb) - mean) / std
    with torch.inference_mode():
        logits, deltas = slow_retinanet(x, plain, caffe=caffe, relu=False)
        raw = model.network().eval()(rgb)
    anchors = slow_anchors(64, 96, False)
    torch.testing.assert_close(raw.anchors, anchors, atol=1e-3, rtol=0)
    for found, wanted in ((raw.logits, logits), (raw.deltas, deltas)):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted, atol=2e-4 * float(wanted.std()), rtol=1e-4)


def test_the_configuration_of_the_file_is_used(weights):
    text = V3 + "neck=dict(relu_before_extra_convs=True), anchor_generator=dict(octave_base_scale=8)"
    found = from_mmdetection({"meta": {"cfg": text}, "state_dict": weights[1]})
    assert found.architecture.p7_relu
    assert found.architecture.anchor_scale == 8
    state = {**weights[1], "neck.fpn_convs.3.conv.weight": torch.zeros(16, 16, 3, 3)}
    assert from_mmdetection({"state_dict": state}).architecture.p6_from == "p5"


@pytest.mark.parametrize("old", [False, True], ids=["mmcv 1", "mmcv 0"])
def test_deformable_convolutions_load(random_weights, old):
    state = random_weights(named, offsets=18)
    if old:
        state = {key.replace(".conv2.conv_offset.", ".conv2_offset."): value for key, value in state.items()}
    found = from_mmdetection({"state_dict": state})
    assert found.architecture.backbone == "r50-dcn"
    key = "layer3.1.conv2.weight"
    assert torch.equal(found.model[f"backbone.{key}"], state[f"backbone.{key}"])


def test_eighty_classes_are_cocos(weights):
    found = from_mmdetection({"meta": {"CLASSES": COCO_NAMES}, "state_dict": {
        **weights[1], "bbox_head.retina_cls.weight": torch.zeros(720, 16, 3, 3),
        "bbox_head.retina_cls.bias": torch.zeros(720)}})  # fmt: skip
    assert found.category_ids == COCO_IDS
    assert build_detector(found.architecture, found.model, (), "").classes == COCO_NAMES


@pytest.mark.parametrize(
    ("text", "change", "sentence"),
    [("target_stds=[0.1, 0.1, 0.2, 0.2]", {}, r"with target_stds \[0\.1, 0\.1, 0\.2, 0\.2\] is not supported"),
     ("add_extra_convs='on_lateral'", {}, "with P6 from the lateral maps is not supported"),
     ("", {"bbox_head.retina_reg.weight": torch.zeros(4, 16, 3, 3)}, "without 9 anchors per position"),
     ("", {"backbone.layer1.0.conv2.weight": torch.zeros(48, 48, 3, 3)}, r"layer1\.0\.conv2\.weight is \[48, 48, 3, 3"),
     ("", {"bbox_head.cls_convs.0.gn.weight": torch.zeros(16)}, "has no place in it")],
)  # fmt: skip
def test_unsupported_networks_are_errors(weights, text, change, sentence):
    with pytest.raises(UserError, match=sentence):
        from_mmdetection({"meta": {"config": text}, "state_dict": {**weights[1], **change}})
