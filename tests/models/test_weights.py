"""Weights by name: torchvision's published detectors through our network, and names that do not exist."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
import torch
from torchvision.models import detection

from cledet import Detector
from cledet.errors import UserError
from cledet.models import weights
from cledet.models.converters.imported import COCO_IDS, COCO_NAMES
from cledet.models.weights import Published, load_weights, published


def noisy(network, seed=0):
    """Random weights made to find things, with norms that are not the identity."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if name.startswith("backbone.body") and value.ndim == 1:
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(
                0.02 * noise + 1e-4 if name.endswith("var") else 0.1 * noise
            )  # an eps of 1e-5 makes a difference
    network.eval()
    with torch.no_grad():
        x = torch.randn(1, 3, 128, 160, generator=generator)
        logits, boxes = network.head.classification_head.cls_logits, network.head.regression_head.bbox_reg
        for layer, output in ((logits, "cls_logits"), (boxes, "bbox_regression")):
            torch.nn.init.normal_(layer.weight, std=0.01, generator=generator)
            torch.nn.init.zeros_(layer.bias)
            layer.weight /= network.head(list(network.backbone(x).values()))[output].std()
        boxes.weight *= 0.2
        bias = logits.bias.view(-1, 91)
        bias.fill_(-3)
        bias[:, [i for i in range(91) if i not in COCO_IDS]] = -1e4  # they are no classes of ours
    return network


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def serve(network, name, server, monkeypatch):
    """Publish the network's weights under torchvision's name on loopback; return the file's name."""
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    content = file.getvalue()
    path = f"{name}_coco-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    server.files[path] = content
    monkeypatch.setattr(
        weights, "published", lambda _: Published(f"{server.url}/{path}", f"torchvision's {name} (1 MB)")
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "build"),
    [("coco", detection.retinanet_resnet50_fpn_v2), ("coco-v1", detection.retinanet_resnet50_fpn)],
)
def test_the_published_detector_finds_what_torchvisions_own_finds(name, build, home, server, monkeypatch, capsys):
    """An image of sides that need neither resizing nor padding, through the whole of both."""
    options = {"weights": None, "weights_backbone": None, "num_classes": 91}
    torch.manual_seed(1)  # of some networks, two detections have almost the same score
    theirs = build(**options, min_size=256, max_size=10_000, detections_per_img=100)
    if name == "coco-v1":  # torchvision sets this if it loads its published weights
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
    noisy(theirs)
    file = serve(theirs, build.__name__, server, monkeypatch)
    detector = Detector(name)
    said = capsys.readouterr().err
    assert f"fetching torchvision's {build.__name__} (1 MB) from {server.url}/{file} into {home}" in said
    assert detector.model.classes == COCO_NAMES
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1)
    with torch.inference_mode():
        wanted = theirs([torch.from_numpy(image).permute(2, 0, 1) / 255])[0]
    (found,) = detector.predict(image, conf=0.05, imgsz=256, nms="standard", device="cpu", amp="off")
    assert len(wanted["boxes"]) == len(found.boxes) == 100
    torch.testing.assert_close(found.scores, wanted["scores"], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.boxes, wanted["boxes"], atol=1e-2, rtol=1e-4)
    assert [found.category_ids[label] for label in found.labels] == wanted["labels"].tolist()
    server.files.clear()
    assert load_weights(name).classes == COCO_NAMES  # from the cache
    (home / file).write_bytes(b"something else")
    with pytest.raises(UserError, match=rf"{file} does not match the hash in its name"):
        load_weights(name)


def test_offline_one_sentence_names_url_folder_and_flag(home, monkeypatch):
    url = "http://127.0.0.1:1/retinanet-5905b1c5.pth"
    monkeypatch.setattr(
        weights, "published", lambda _: Published(url, "torchvision's retinanet_resnet50_fpn_v2 (146 MB)")
    )
    with pytest.raises(UserError) as error:
        load_weights("coco")
    assert f"retinanet_resnet50_fpn_v2 (146 MB) could not be fetched from {url}: " in error.value.message
    assert error.value.hint == f"put that file into {home} as retinanet-5905b1c5.pth, or pass --weights FILE or RUN"


def test_the_announcement_holds_size_and_licence():
    file = published("retinanet_resnet50_fpn_v2")
    assert file.url.endswith("/retinanet_resnet50_fpn_v2_coco-5905b1c5.pth")
    assert file.description == (
        "torchvision's retinanet_resnet50_fpn_v2 (146 MB, BSD-3-Clause, trained on COCO, AP 41.5 as published)"
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("coco-v3", r"'coco-v3' is neither a file nor a name of weights \(did you mean coco-v1\?\)"),
        ("torchvision:fcos_resnet50", r"is neither a file .*\(did you mean torchvision:fcos_resnet50_fpn\?\)"),
        ("torchvision:ssd300_vgg16", "torchvision:ssd300_vgg16 is used as published, and cannot be trained, saved"),
        ("runs/train/gone", "there are no weights at runs/train/gone"),
    ],
)
def test_a_name_that_does_not_exist_is_one_sentence(name, sentence):
    with pytest.raises(UserError, match=sentence):
        load_weights(name)
    with pytest.raises(UserError, match=r"neither a file, a name of weights nor a backbone \(did you mean coco\?\)"):
        Detector("cocoo")


def test_a_data_sets_folder_does_not_hide_a_name_and_a_run_does(tmp_path, monkeypatch, small):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").mkdir()
    monkeypatch.setattr(weights, "_load_published", lambda name: name)
    assert load_weights("coco") == "retinanet_resnet50_fpn_v2"
    small(5).save(tmp_path / "coco" / "weights" / "best.pt")
    assert load_weights("coco").step == 5
