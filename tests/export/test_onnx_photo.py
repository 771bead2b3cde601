"""Files that take a photo: preprocessing in the file, and boxes in the photo's pixels."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.config.base import long_side
from cledet.data.dataset import fit_canvas, preprocess
from cledet.errors import UserError
from cledet.export import exporter
from cledet.export.parity import Parity
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Architecture, build_network

pytestmark = pytest.mark.slow

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
onnx_photo = pytest.importorskip("cledet.export.onnx_photo")


SIZES = [(160, 200), (200, 150), (333, 500), (321, 555), (640, 480), (1000, 700), (90, 60)]


def noise(height, width, seed=0):
    """Draw a photo of smooth noise; a small one of fine noise."""
    rng = np.random.default_rng(seed)
    if min(height, width) < 40:
        return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module", params=[None, (256, 320)], ids=["any", "canvas"])
def prepare(request):
    """Preprocessing alone, and cledet's own, for a short side of 160 or a canvas."""
    canvas = request.param
    function = onnx_photo.preparation(160, long_side(160), canvas)
    types = [onnx_photo.UINT8["H", "W", 3]], [onnx_photo.FLOAT[1, 3, "Hp", "Wp"], *[onnx_photo.FLOAT[4]] * 2]
    proto = function.to_model_proto(input_types=types[0], output_types=types[1], ir_version=10)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])

    def own(photo):
        if canvas is not None:
            return fit_canvas(photo, canvas), min(256 / photo.shape[0], 320 / photo.shape[1])
        return preprocess(photo, 160, long_side(160))[0], min(160 / min(photo.shape[:2]), 267 / max(photo.shape[:2]))

    return lambda photo: session.run(None, {"photo": photo}), own


@pytest.mark.parametrize(
    "size",
    [(160, 200), (200, 150), (333, 500), (321, 555), (640, 480), (90, 60), (30, 500), (1, 7), (1, 1), (1000, 700)],
)
def test_pixels_differ_by_one_level_at_most(prepare, size):
    """By area and bilinear, enlarged, unchanged, and photos of one row or pixel."""
    run, own = prepare
    photo = noise(*size)
    images, limits, factors = run(photo)
    wanted, scale = own(photo)
    assert images.shape == tuple(wanted.shape)
    error = np.abs(images - wanted.numpy().astype(np.float32))
    assert error.max() <= 1
    assert error.mean() < 0.2
    resized = [max(1, round(side * scale)) for side in size]
    assert limits.tolist() == [*resized[::-1], *resized[::-1]]
    np.testing.assert_allclose(factors, [size[1] / resized[1], size[0] / resized[0]] * 2, rtol=1e-6)


def test_a_photo_shrunk_by_area_has_the_mean_of_its_pixels(prepare):
    run, _ = prepare
    photo = np.zeros((1600, 1600, 3), np.uint8)
    photo[:, ::2] = (200, 100, 50)
    images, limits, _ = run(photo)
    inside = images[0, :, : int(limits[1]), : int(limits[0])]
    np.testing.assert_allclose(inside.mean((1, 2)), [100, 50, 25], atol=0.5)


@pytest.fixture(scope="module")
def detector(squares):
    torch.manual_seed(0)
    architecture = Architecture(backbone="r18", classes=2, fpn_channels=16, norm="batch")
    network = build_network(architecture).eval()
    image = torch.from_numpy(noise(64, 96))[None].permute(0, 3, 1, 2)
    with torch.inference_mode():
        spread = network(image).logits.std()
        network.head.classification.predict.weight *= 1.5 / spread
        network.head.classification.predict.bias += 3
    found = Detector()
    found.model = Checkpoint(
        architecture=architecture, model=network.state_dict(), classes=("blue", "red"), category_ids=(3, 7), imgsz=64,
        data=str(squares),
    )  # fmt: skip
    return found


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_photo_in_and_its_boxes_out(detector, tmp_path, format):
    """A landscape and a portrait photo, smaller and larger than the input, beside cledet's own prediction."""
    pytest.importorskip("openvino")
    settings = {"nms": "standard", "conf": 0.2, "max_det": 10}
    result = detector.export(format, photo_input=True, project=tmp_path, **settings)
    assert result.inputs == (-1, -1, 3)
    assert result.detections > 0
    run = exporter.FORMATS[format].open(result.path, ("boxes", "scores", "labels"))
    for size in ((60, 80), (90, 70), (200, 330)):
        photo = noise(*size)
        boxes, scores, labels = run(photo)
        own = detector.predict_one(photo, device="cpu", amp="off", **settings)
        assert len(scores) == len(own) == 10
        np.testing.assert_allclose(scores, own.scores, atol=0.03)
        assert (boxes >= 0).all()
        assert (boxes <= [*size[::-1], *size[::-1]]).all()
        near = np.abs(boxes[:, None] - own.boxes.numpy()).max(-1) + 1000 * (labels[:, None] != own.labels.numpy())
        assert (near.min(1) < 1.5).mean() >= 0.8  # one level may change which of two near boxes is kept
    metadata = exporter.FORMATS[format].read_metadata(result.path)
    assert json.loads(metadata["preprocessing"])["in_file"] is True
    assert "photo" in metadata["outputs"]
    exported = Detector(result.path)  # from the network's own input on, as any file
    wanted, actual = (one.predict_one(photo, device="cpu", amp="off", **settings) for one in (detector, exported))
    np.testing.assert_allclose(actual.scores, wanted.scores, atol=1e-4)
    np.testing.assert_allclose(actual.boxes, wanted.boxes, atol=0.02)


def test_a_fixed_input_without_nms(detector, tmp_path):
    """Boxes of all anchors, letterboxed, in pixels of the photo."""
    result = detector.export(photo_input=True, imgsz=(64, 128), project=tmp_path)
    photo = noise(90, 70)
    session = onnxruntime.InferenceSession(str(result.path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["photo"]
    boxes, scores = session.run(None, {"photo": photo})
    with torch.inference_mode():
        raw = detector.network("cpu")(fit_canvas(photo, (64, 128)))
    np.testing.assert_allclose(scores, raw.logits.sigmoid(), atol=0.03)
    sure = raw.logits.sigmoid().amax(-1)[0] > 0.1
    wanted = raw.boxes()[0][sure] * torch.tensor([70 / 50, 90 / 64] * 2)
    np.testing.assert_allclose(boxes[0][sure.numpy()], wanted, atol=2)


def test_a_file_that_prepares_photos_otherwise_is_not_kept(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_photo, "GREY", 0.0)
    monkeypatch.setattr(
        onnx_photo, "FILL", onnx.numpy_helper.from_array(np.full((1, 3, 1, 1), 114, np.float32), "fill")
    )
    with pytest.raises(UserError, match=r"onnx's preprocessing differs from cledet's by 10 of 255 levels"):
        detector.export(photo_input=True, project=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_the_difference_of_preprocessing_is_printed(capsys):
    exporter.report_parity(Parity(0.0, 0.0, images=4, max_pixel_error=1.0, own_score_error=0.004), "onnx", None)
    assert "as cledet does within 1 of 255 levels, which changes scores by up to 0.004" in capsys.readouterr().err
