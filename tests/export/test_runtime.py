"""Exported files evaluate and predict as the checkpoint does that they were written from."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.data.dataset import fit_canvas, pad_images
from cledet.errors import UserError
from cledet.export.runtime import open_exported
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Architecture, build_network

pytestmark = pytest.mark.slow

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def detector(squares):
    """A small network whose scores are far from equal, with all metadata of a trained one."""
    torch.manual_seed(0)
    architecture = Architecture(backbone="r18", classes=2, fpn_channels=16, norm="batch")
    network = build_network(architecture).eval()
    image = torch.from_numpy(cv2.imread(str(squares / "val" / "1.png")))[None, :64].permute(0, 3, 1, 2)
    with torch.inference_mode():
        spread = network(image).logits.std()
        network.head.classification.predict.weight *= 1.5 / spread
        network.head.classification.predict.bias += 3
    found = Detector()
    found.model = Checkpoint(
        architecture=architecture, model=network.state_dict(), classes=("blue", "red"), category_ids=(3, 7),
        components=("iac", "clb"), imgsz=64, data=str(squares), best_conf=0.2, class_confs=(0.15, None),
    )  # fmt: skip
    return found


@pytest.fixture(scope="module")
def files(detector, tmp_path_factory):
    """Files of the network: for all sizes without NMS, and of a fixed size with NMS."""
    pytest.importorskip("openvino")
    project = tmp_path_factory.mktemp("files")
    return {
        "onnx": detector.export(project=project).path,
        "openvino": detector.export("openvino", project=project).path,
        "fixed": detector.export(imgsz=(64, 128), nms="standard", conf=0.5, project=project).path,
    }


@pytest.fixture(scope="module")
def annotated(detector, squares, tmp_path_factory):
    """The validation images, with every third detection of the checkpoint as an object, moved by two pixels."""
    root = tmp_path_factory.mktemp("annotated")
    content = json.loads((squares / "annotations" / "instances_val.json").read_text())
    content["annotations"] = []
    for image in content["images"]:
        result = detector.predict_one(squares / "val" / image["file_name"], conf=0.1, nms="standard", device="cpu")
        rows = zip(result.boxes.tolist()[::3], result.labels.tolist()[::3])
        for (left, top, right, bottom), label in rows:
            box = [left + 2, top, right - left, bottom - top]
            number = len(content["annotations"]) + 1
            content["annotations"].append(
                {"id": number, "image_id": image["id"], "category_id": (3, 7)[label], "bbox": box, "iscrowd": 0,
                 "area": box[2] * box[3]}
            )  # fmt: skip
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val.json").write_text(json.dumps(content))
    (root / "val").symlink_to(squares / "val")
    return root


@pytest.mark.parametrize("name", ["onnx", "openvino", "fixed"])
def test_ap_equals_that_of_the_checkpoint(detector, files, annotated, name, monkeypatch):
    settings = {"data": str(annotated), "workers": 0, "batch": 3, "nms": "soft-vote", "device": "cpu", "amp": "off"}
    exported = Detector(files[name])
    if name == "fixed":  # PyTorch on the canvas of the file
        network = detector.network("cpu")
        forward = network.forward
        monkeypatch.setattr(network, "canvas", (64, 128))
        monkeypatch.setattr(network, "forward", lambda images: forward(pad_images(list(images), sides=(64, 128))))
    wanted, actual = detector.val(**settings).metrics, exported.val(**settings).metrics
    assert 0.05 < wanted["AP"] < 0.95
    assert {key: value for key, value in actual.items() if value is not None} == pytest.approx(
        {key: value for key, value in wanted.items() if value is not None}, abs=1e-3
    )


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("more", [{}, {"tta": True}, {"slice": 48}, {"imgsz": 96, "batch": 4}])
def test_predictions_equal_those_of_the_checkpoint(detector, files, squares, name, more):
    settings = {"conf": 0.2, "nms": "cl-balanced", "max_det": 20, "device": "cpu", "amp": "off", **more}
    pairs = zip(
        detector.predict(squares / "val", **settings), Detector(files[name]).predict(squares / "val", **settings)
    )
    count = 0
    for wanted, actual in pairs:
        np.testing.assert_allclose(actual.scores, wanted.scores, atol=1e-4)
        np.testing.assert_allclose(actual.boxes, wanted.boxes, atol=0.02)
        assert actual.labels.tolist() == wanted.labels.tolist()
        assert actual.category_ids == (3, 7)
        assert actual.highest_score == pytest.approx(wanted.highest_score, abs=1e-4)
        count += len(wanted)
    assert count > 10


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("size", [(80, 96), (96, 40), (30, 300)])
def test_images_are_letterboxed_for_a_fixed_input(detector, files, size, tta):
    """Portrait photos too. NMS, its threshold and the components are those of the settings and the checkpoint."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_NEAREST)
    exported = Detector(files["fixed"])
    result = exported.predict_one(image, conf=0.1, tta=tta)
    assert len(result)
    assert float(result.boxes.min()) >= 0
    assert (result.boxes.amax(0) <= torch.tensor([*size[::-1], *size[::-1]])).all()
    if not tta:
        with torch.inference_mode():
            raw = detector.network("cpu")(fit_canvas(image, (64, 128)))
        assert result.highest_score == pytest.approx(float(raw.logits.amax().sigmoid()), abs=1e-4)


def test_the_metadata_of_the_checkpoint_are_read_back(detector, files):
    for path, canvas, batched in ((files["onnx"], None, True), (files["fixed"], (64, 128), False)):
        model = open_exported(path)
        for key in (
            "architecture",
            "classes",
            "category_ids",
            "components",
            "imgsz",
            "data",
            "best_conf",
            "class_confs",
        ):
            assert getattr(model, key) == getattr(detector.model, key)
        assert (model.canvas, model.batched) == (canvas, batched)
    assert repr(Detector(files["openvino"].parent)) == repr(detector)


def test_what_needs_weights_for_pytorch_refuses_a_file(detector, files, squares, tmp_path):
    exported = Detector(files["onnx"])
    reason = r"model.onnx is a network exported for another runtime, not weights \(val and predict take it; here, pass"
    for call in (
        lambda: exported.train(data=str(squares), project=tmp_path),
        lambda: exported.explain(squares / "val" / "1.png", device="cpu"),
        lambda: exported.export(project=tmp_path),
        lambda: exported.export("safetensors", project=tmp_path),
        lambda: exported.save(tmp_path / "a.pt"),
        lambda: Detector().train(weights=str(files["onnx"].parent), data=str(squares), project=tmp_path),
    ):
        with pytest.raises(UserError, match=reason):
            call()
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"device": "cuda"}, "--device cuda: {path} runs on the CPU (leave it out, or pass a checkpoint)"),
        ({"amp": "bf16"}, "--amp bf16: {path} runs in float32 on this CPU (leave it out)"),
        ({"imgsz": 96}, "--imgsz: {path} takes images of 64 x 128 pixels only (leave it out)"),
    ],
)
def test_settings_that_a_file_cannot_follow_are_refused(files, squares, given, message):
    with pytest.raises(UserError) as error:
        next(Detector(files["fixed"]).predict(squares / "val", **given))
    assert str(error.value) == message.format(path=files["fixed"])


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_automatic_precision_is_float32(files, squares, name):
    """On any CPU."""
    exported = Detector(files[name])
    scores = [next(exported.predict(squares / "val", amp=amp)).scores for amp in ("off", "auto")]
    assert torch.equal(*scores)


def test_files_of_others_and_damaged_files_are_refused(files, tmp_path):
    proto = onnx.load(str(files["onnx"]))
    del proto.metadata_props[:]
    onnx.save(proto, str(tmp_path / "foreign.onnx"))
    with pytest.raises(UserError, match=r"foreign\.onnx holds no metadata of cledet, without which its classes and"):
        Detector(tmp_path / "foreign.onnx")
    (tmp_path / "cut.onnx").write_bytes(files["onnx"].read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cut\.onnx is damaged or no file of onnx"):
        Detector(tmp_path / "cut.onnx")
    (tmp_path / "cut.xml").write_text(files["openvino"].read_text()[:5000])
    with pytest.raises(UserError, match=r"cut\.xml is damaged or no file of openvino"):
        Detector(tmp_path / "cut.xml")
    with pytest.raises(UserError, match=r"there is no file .*gone\.onnx"):
        Detector(tmp_path / "gone.onnx")


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("preprocessing", "{}", "metadata of .* are not as cledet wrote them"),
        ("category_ids", "[3]", "its classes, their ids and outputs differ in number"),
        ("architecture", '{"backbone": "r18"}', "is not as cledet wrote it: architecture.classes"),
        ("names", '["a", ', "metadata of .* are not as cledet wrote them"),
        ("format", "cledet 2", r"model\.onnx was written by a newer cledet \(cledet 2\)"),
    ],
)
def test_changed_metadata_are_refused(files, tmp_path, key, value, reason):
    proto = onnx.load(str(files["onnx"]))
    next(entry for entry in proto.metadata_props if entry.key == key).value = value
    onnx.save(proto, str(tmp_path / "model.onnx"))
    with pytest.raises(UserError, match=reason):
        Detector(tmp_path)


def test_outputs_that_contradict_the_metadata_are_refused(files, squares, tmp_path):
    proto = onnx.load(str(files["onnx"]))
    entry = next(entry for entry in proto.metadata_props if entry.key == "architecture")
    entry.value = json.dumps({**json.loads(entry.value), "anchor_ratios": [1.0]})
    onnx.save(proto, str(tmp_path / "model.onnx"))
    with pytest.raises(UserError, match=r"model\.onnx computes other outputs than its metadata say"):
        next(Detector(tmp_path).predict(squares / "val"))


def test_a_missing_runtime_is_named(files, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"model\.xml needs openvino \(pip install 'cledet\[openvino\]'\)"):
        Detector(files["openvino"])
