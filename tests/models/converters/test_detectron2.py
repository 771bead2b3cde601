"""Detectron2's RetinaNet, from weights with its names and shapes, against the network written out."""

from __future__ import annotations

import pickle
import re

import pytest
import torch

from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.models.converters.detectron2 import from_detectron2
from cledet.models.converters.origins import convert_weights

MSRA = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0))  # BGR
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # RGB


def named(key):
    """Torchvision's names -> Detectron2's, as its modules have them."""
    key = re.sub(r"^(conv1)\.", r"stem.conv1.", re.sub(r"^bn1\.", "stem.conv1.norm.", key))
    key = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", key)
    key = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", key)
    key = key.replace(".downsample.0.", ".shortcut.").replace(".downsample.1.", ".shortcut.norm.")
    key = key.replace(".offset.", ".conv2_offset.")
    if key.startswith(("stem", "res")):
        return f"backbone.bottom_up.{key}"
    key = re.sub(r"^lateral(\d)", lambda m: f"backbone.fpn_lateral{int(m[1]) + 3}", key)
    key = re.sub(r"^output(\d)", lambda m: f"backbone.fpn_output{int(m[1]) + 3}", key)
    key = re.sub(r"^(p[67])\.", r"backbone.top_block.\1.", key)
    key = re.sub(r"^cls(\d)", lambda m: f"head.cls_subnet.{2 * int(m[1])}", key)
    key = re.sub(r"^box(\d)", lambda m: f"head.bbox_subnet.{2 * int(m[1])}", key)
    return key.replace("cls.", "head.cls_score.").replace("box.", "head.bbox_pred.")


@pytest.fixture(scope="module")
def weights(random_weights):
    """By torchvision's names, and by Detectron2's."""
    return random_weights(str), random_weights(named)


@pytest.mark.parametrize(
    ("images", "with_mean", "protocol"), [(MSRA, False, 2), (IMAGENET, True, 5)], ids=["msra", "torchvision"]
)
@pytest.mark.slow
def test_anchors_scores_and_deltas_agree(
    weights, slow_retinanet, slow_anchors, tmp_path, capsys, images, with_mean, protocol
):
    plain, state = weights
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in images)
    content = {key: value.numpy() for key, value in state.items()}
    content["anchor_generator.cell_anchors.0"] = torch.zeros(9, 4).numpy()
    if with_mean:
        content |= {"pixel_mean": mean.numpy(), "pixel_std": std.numpy()}
    document = {"model": content, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(document, protocol=protocol))
    model = load_checkpoint(tmp_path / "model_final.pkl")
    log = capsys.readouterr().err
    note = "r50, images in RGB)" if with_mean else "r50-caffe, images in BGR; assumed as in the published models"
    assert note in log
    assert model.classes == ("class 0", "class 1", "class 2", "class 3")

    rgb = torch.randint(0, 256, (2, 3, 64, 96), generator=torch.Generator().manual_seed(1)).float()
    x = ((rgb if with_mean else rgb.flip(1)) - mean) / std
    with torch.inference_mode():
        logits, deltas = slow_retinanet(x, plain, caffe=not with_mean, relu=True)
        raw = model.network().eval()(rgb)
    anchors = slow_anchors(64, 96, True)
    order = torch.arange(len(anchors)).view(-1, 3, 3).transpose(1, 2).flatten()  # theirs, ratio by ratio
    torch.testing.assert_close(raw.anchors, anchors[order], atol=1e-3, rtol=0)
    for found, wanted in ((raw.logits, logits), (raw.deltas, deltas)):
        assert wanted.std() > 0.1
        torch.testing.assert_close(found, wanted[:, order], atol=2e-4 * float(wanted.std()), rtol=1e-4)


def test_a_resnext_has_its_stride_in_the_3x3_and_imagenets_deviation(weights):
    """There is no ResNeXt of MSRA; the published X-101-32x8d has neither of the two."""
    with torch.device("meta"):
        state = {key: value.to("meta") for key, value in weights[1].items()}
        for stage, depth in enumerate((3, 4, 23, 3)):
            width = 256 * 2**stage
            for block in range(depth):
                start = f"backbone.bottom_up.res{stage + 2}.{block}"
                inside = 64 if (stage, block) == (0, 0) else width // (1 if block else 2)
                state[f"{start}.conv1.weight"] = torch.zeros(width, inside, 1, 1)
                state[f"{start}.conv2.weight"] = torch.zeros(width, width // 32, 3, 3)
                state[f"{start}.conv3.weight"] = torch.zeros(width, width, 1, 1)
                for conv in "123":
                    for key in ("weight", "bias", "running_mean", "running_var"):
                        state[f"{start}.conv{conv}.norm.{key}"] = torch.zeros(width)
    state["backbone.bottom_up.stem.conv1.weight"] = torch.ones(64, 3, 7, 7)
    found = from_detectron2({"model": state})
    assert found.architecture.backbone == "x101"
    assert found.model["backbone.conv1.weight"].eq(1).all()


def test_weights_for_the_trainer_and_deformable_ones_load(random_weights):
    """As its trainer saves them; a modulated convolution's weight is halved, as ours weighs samples twice as much."""
    state = random_weights(named, offsets=27)
    found = from_detectron2({"model": state, "iteration": 3, "optimizer": {}})
    assert found.architecture.backbone == "r50-caffe-dcnv2"
    key = "layer3.1.conv2.weight"
    assert torch.equal(found.model[f"backbone.{key}"], state[named(key)] / 2)
    assert torch.equal(found.model["backbone.layer2.0.conv2.offset.bias"], state[named("layer2.0.offset.bias")])
    assert torch.equal(found.model["backbone.layer1.0.conv2.weight"], state[named("layer1.0.conv2.weight")])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"head.bbox_pred.weight": None}, r"Detectron2: it lacks 'head\.regression\.predict\.weight'"),
     ({"head.cls_score.bias": torch.zeros(5)}, "Detectron2 with weights of other shapes: "),
     ({"pixel_mean": torch.zeros(1), "pixel_std": torch.ones(1)}, "Detectron2 with weights of other shapes: "),
     ({"backbone.bottom_up.res2.0.conv2.weight": torch.zeros(())}, "Detectron2 with weights of other shapes: "),
     ({"head.cls_score.weight": torch.zeros(0, 16, 3, 3)}, "Detectron2 with weights of other shapes: ")],
)  # fmt: skip
def test_incomplete_weights_are_one_sentence(weights, change, sentence):
    state = {key: value for key, value in {**weights[1], **change}.items() if value is not None}
    with pytest.raises(UserError, match=f"^a detector of {sentence}"):
        convert_weights({"model": state})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [({"head.bbox_pred.weight": torch.zeros(12, 16, 3, 3)}, "without 9 anchors per position is not supported"),
     ({"pixel_mean": torch.tensor([102.98, 115.95, 122.77]), "pixel_std": torch.ones(3)},
      r"with an image mean of 122\.77, 115\.95, 102\.98 \(RGB\) are not supported"),
     ({"head.cls_subnet.1.weight": torch.zeros(16)}, r"head\.classification\.convs\.1\.weight has no place in it")],
)  # fmt: skip
def test_unsupported_networks_are_errors(weights, change, sentence):
    with pytest.raises(UserError, match=sentence):
        from_detectron2({"model": {**weights[1], **change}})
