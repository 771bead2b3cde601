"""Exported files match PyTorch on other images than those of the parity check."""

from __future__ import annotations

import json
import re
import tempfile

import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.export import backends, exporter, parity
from cledet.export.parity import Parity
from cledet.export.plan import Exported
from cledet.models.backbones.deform_conv import DeformConv2d
from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Architecture, build_network
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import detect

pytestmark = pytest.mark.slow

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    return Detector(tiny_run).export(project=tmp_path_factory.mktemp("export"))


def test_the_file_matches_pytorch_for_any_number_and_size_of_images(exported, tiny_run):
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    module = Exported(Detector(tiny_run).model.network()).eval()
    for count, size in ((1, (64, 96)), (3, (128, 64)), (2, (32, 32))):
        images = np.random.default_rng(count).uniform(0, 255, (count, 3, *size)).astype(np.float32)
        boxes, scores = session.run(None, {"images": images})
        with torch.inference_mode():
            wanted_boxes, wanted_scores, *_ = module(torch.from_numpy(images))
        assert scores.shape == (count, wanted_scores.shape[1], 2)
        np.testing.assert_allclose(scores, wanted_scores.numpy(), atol=1e-4)
        np.testing.assert_allclose(boxes, wanted_boxes.numpy(), atol=1e-2)


def test_the_metadata_describe_classes_and_inputs(exported):
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["names"]) == ["blue", "red"]
    assert json.loads(metadata["category_ids"]) == [3, 7]
    assert json.loads(metadata["architecture"])["backbone"] == "r18"
    preprocessing = {"short": 64, "long": 107, "multiple": 32, "fill": [124, 116, 104]}
    assert json.loads(metadata["preprocessing"]) == preprocessing
    assert exported.inputs == (-1, 3, -1, -1)
    assert exported.max_score_error < 1e-4
    assert [path.name for path in exported.path.parent.iterdir()] == ["model.onnx"]


def test_openvino_matches_pytorch(tiny_run, tmp_path):
    openvino = pytest.importorskip("openvino")
    result = Detector(tiny_run).export("openvino", project=tmp_path)
    assert sorted(path.name for path in result.path.parent.iterdir()) == ["model.bin", "model.xml"]
    assert result.max_score_error < 1e-4
    assert result.max_box_error < 0.01
    assert openvino.Core().read_model(str(result.path)).get_rt_info(["cledet", "names"]).value == '["blue", "red"]'


@pytest.mark.parametrize("imgsz", [192, (64, 96)])
def test_pt2_matches_pytorch(tiny_run, tmp_path, imgsz):
    detector = Detector(tiny_run)
    result = detector.export("pt2", imgsz=imgsz, project=tmp_path)
    assert result.max_score_error < 1e-4
    extra = {backends.PT2_METADATA: ""}
    program = torch.export.load(result.path, extra_files=extra)
    metadata = json.loads(extra[backends.PT2_METADATA])
    assert json.loads(metadata["names"]) == ["blue", "red"]
    for count, size in ((1, (160, 256)), (3, (192, 160))) if imgsz == 192 else ((2, imgsz),):
        images = torch.from_numpy(np.random.default_rng(count).uniform(0, 255, (count, 3, *size)).astype(np.float32))
        with torch.inference_mode():
            boxes, scores, *_ = program.module()(images)
            wanted_boxes, wanted_scores, *_ = Exported(detector.model.network())(images)
        torch.testing.assert_close(scores, wanted_scores, atol=1e-4, rtol=0)
        torch.testing.assert_close(boxes, wanted_boxes, atol=1e-2, rtol=0)
    with pytest.raises(
        UserError, match=r"model\.pt2 is a network exported for another runtime, not weights \(pass the"
    ):
        Detector(result.path)
    with pytest.raises(
        UserError, match=r"--format pt2 holds no NMS and no preprocessing \(leave out --nms and --photo"
    ):
        detector.export("pt2", nms="standard", project=tmp_path)


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_file_that_differs_from_pytorch_is_not_kept(tiny_run, tmp_path, monkeypatch, format):
    spec = exporter.FORMATS[format]

    def tampered(plan, path):
        with torch.no_grad():
            plan.network.head.classification.predict.bias.add_(0.5)
            spec.write(plan, path)
            plan.network.head.classification.predict.bias.sub_(0.5)

    monkeypatch.setitem(exporter.FORMATS, format, spec._replace(write=tampered))
    with pytest.raises(UserError, match="outputs differ from PyTorch's"):
        Detector(tiny_run).export(format, project=tmp_path)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_full_temporary_disk_is_a_user_error(tiny_run, tmp_path, monkeypatch, disk, format):
    monkeypatch.setattr(tempfile, "tempdir", str(disk("64k")))
    monkeypatch.setattr(backends, "write_onnx", lambda plan, path: None)
    model = openvino_model() if format == "openvino" else None
    monkeypatch.setattr("openvino.convert_model", lambda path: model)
    full = exporter.FORMATS["onnx"]._replace(write=lambda _, path: path.write_bytes(bytes(10**6)))
    monkeypatch.setitem(exporter.FORMATS, "onnx", full)
    with pytest.raises(UserError) as raised:
        Detector(tiny_run).export(format, project=tmp_path / "runs")
    of_openvino = r"OpenVINO (reports basic_ios::clear: iostream error|wrote only a part of)"  # by its version
    assert re.search(of_openvino if format == "openvino" else "No space left on device", str(raised.value))
    assert "free some space" in str(raised.value)
    assert not list((tmp_path / "disk").iterdir())
    assert not (tmp_path / "runs").exists()


def test_an_openvino_file_of_which_a_part_is_missing_is_not_whole(tmp_path):
    pytest.importorskip("openvino")
    path = tmp_path / "model.xml"
    backends.save_openvino(openvino_model(), path)
    assert backends.is_whole(path)
    weights = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(weights[:-1])
    assert not backends.is_whole(path)
    path.with_suffix(".bin").write_bytes(weights)
    path.write_bytes(path.read_bytes()[:-9])
    assert not backends.is_whole(path)


def openvino_model():
    """One matrix of 4 MB."""
    import openvino
    from openvino import opset13

    given = opset13.parameter([1, 1000], np.float32)
    matrix = opset13.constant(np.random.default_rng(0).random((1000, 1000), np.float32))
    return openvino.Model([opset13.matmul(given, matrix, False, False)], [given])


def test_a_full_disk_leaves_no_partial_run_folder(tiny_run, disk):
    project = disk("64k")
    with pytest.raises(UserError, match=r"model\.safetensors could not be written: No space left .*free some space"):
        Detector(tiny_run).export("safetensors", project=project)
    assert not list(project.rglob("model*"))
    assert not list((project / "export").iterdir())


def test_a_read_only_folder_is_a_user_error(tiny_run, disk):
    project = disk("64k,ro")
    with pytest.raises(UserError, match=r"the run folder .* could not be made: Read-only file system"):
        Detector(tiny_run).export("safetensors", project=project)


def test_a_kill_leaves_nothing_beside_the_users_files(tiny_run, tmp_path, monkeypatch):
    """Nothing is in the working folder or the project while the file is written."""
    seen = []

    def write(plan, path):
        path.write_bytes(b"half")
        seen.extend([path.is_file(), list(tmp_path.rglob("*"))])
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setitem(exporter.FORMATS, "onnx", exporter.FORMATS["onnx"]._replace(write=write))
    with pytest.raises(KeyboardInterrupt):
        Detector(tiny_run).export()
    assert seen == [True, []]


def test_a_failure_of_the_onnx_exporter_is_a_user_error(tiny_run, tmp_path, monkeypatch):
    """As raised by torch 2.6 with onnxscript 0.7."""

    def refuse(*_):
        raise torch.onnx.errors.OnnxExporterError("Failed to convert\nthe last line")

    monkeypatch.setitem(exporter.FORMATS, "onnx", exporter.FORMATS["onnx"]._replace(write=refuse))
    with pytest.raises(UserError, match=r"cannot write this network as ONNX .*: the last line \(try a newer torch\)"):
        Detector(tiny_run).export(project=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_a_missing_package_is_named(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(UserError, match=r"export needs onnxscript \(pip install 'cledet\[onnx\]'\)"):
        Detector(tiny_run).export(project=tmp_path)
    assert not list(tmp_path.rglob("*"))


@pytest.fixture(scope="module")
def decisive(tiny_run):
    """The tiny network with its logits spread out, as after longer training: scores are far from equal."""
    detector = Detector(tiny_run)
    images = torch.from_numpy(parity.synthetic_images((64, 128)))
    with torch.inference_mode():
        spread = detector.model.network().eval()(images).logits.std()
    detector.model.model["head.classification.predict.weight"] *= 1.5 / spread
    detector.model.model["head.classification.predict.bias"] += 3  # from scores about 0.01 to 0.17
    return detector


@pytest.fixture(scope="module")
def with_nms(decisive, tmp_path_factory):
    return decisive.export(nms="cl-balanced", imgsz=(64, 128), max_det=20, project=tmp_path_factory.mktemp("nms"))


def test_a_file_with_nms_returns_the_detections_of_pytorch(with_nms, decisive):
    assert with_nms.inputs == (1, 3, 64, 128)
    assert with_nms.nms == "cl-balanced"
    assert with_nms.detections > 0
    session = onnxruntime.InferenceSession(str(with_nms.path), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["boxes", "scores", "labels"]
    image = np.random.default_rng(1).uniform(0, 255, (1, 3, 64, 128)).astype(np.float32)
    boxes, scores, labels = session.run(None, {"images": image})
    with torch.inference_mode():
        raw = decisive.model.network().eval()(torch.from_numpy(image))
    wanted = detect(raw, torch.tensor([[64, 128]]), NMSOptions(method="cl-balanced", max_det=20, cl_score="max"))[0]
    assert len(scores) > 0
    np.testing.assert_allclose(scores, wanted.scores.numpy(), atol=1e-4)
    np.testing.assert_allclose(boxes, wanted.boxes.numpy(), atol=1e-2)
    np.testing.assert_array_equal(labels, wanted.labels.numpy())


def test_the_metadata_record_the_options_of_nms(with_nms):
    session = onnxruntime.InferenceSession(str(with_nms.path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["names"]) == ["blue", "red"]
    wanted = {"nms": "cl-balanced", "conf": "0.05", "iou": "0.5", "max_det": "20", "cl_norm": "max"}
    assert {key: metadata[key] for key in wanted} == wanted
    assert json.loads(metadata["preprocessing"]) == {"canvas": [64, 128], "fill": [124, 116, 104]}
    assert session.get_inputs()[0].shape == [1, 3, 64, 128]
    assert "apply NMS" not in metadata["outputs"]


@pytest.mark.parametrize(
    "arch",
    [
        {"backbone": "lite0"},
        {"backbone": "lite0", "head_conv": "depthwise"},
        {"backbone": "r18", "head": "gfl", "anchor_scale": 8.0},
        {"backbone": "r18", "head": "fcos", "anchor_scale": 8.0},
        {"backbone": "r18", "anchors_from_image": True},
    ],
)
def test_every_kind_of_network_takes_images_of_any_size(arch, tmp_path):
    """The parity check compares landscape and portrait images."""
    torch.manual_seed(0)
    architecture = Architecture(classes=2, fpn_channels=8, **arch)
    detector = Detector()
    detector.model = Checkpoint(
        architecture=architecture, model=build_network(architecture).state_dict(), classes=("a", "b"),
        category_ids=(1, 2), imgsz=64, data="gone",
    )  # fmt: skip
    result = detector.export(nms="standard", project=tmp_path)
    assert result.inputs == (1, 3, -1, -1)
    assert result.max_score_error < 1e-4


def test_sides_of_a_fixed_input_are_multiples_of_32(tiny_run, tmp_path):
    with pytest.raises(UserError, match=r"height and width of a fixed input must be multiples of 32, as 640,672"):
        Detector(tiny_run).export(imgsz="640,656", project=tmp_path)
    with pytest.raises(UserError, match="give the short side in pixels, from 32 to 16384, or height and width"):
        Detector(tiny_run).export(imgsz="640,640,3", project=tmp_path)


def test_openvino_runs_nms(decisive, tmp_path):
    pytest.importorskip("openvino")
    result = decisive.export("openvino", nms="soft-vote", project=tmp_path)
    assert sorted(path.name for path in result.path.parent.iterdir()) == ["model.bin", "model.xml"]
    assert result.detections > 0


def test_openvino_returns_an_empty_result(tmp_path):
    pytest.importorskip("openvino")
    backends.write_suppression(NMSOptions(method="standard", conf=1.0), tmp_path / "nms.onnx")
    run = backends.open_openvino(tmp_path / "nms.onnx", ("boxes", "scores", "labels"))
    found = run(*(part.numpy() for part in parity.random_candidates(0, (64, 128), 2)))
    assert [part.shape for part in found] == [(0, 4), (0,), (0,)]


def test_a_file_whose_nms_differs_is_not_kept(decisive, tmp_path, monkeypatch):
    onnx_nms = pytest.importorskip("cledet.export.onnx_nms")
    monkeypatch.setattr(onnx_nms, "bound_of", lambda options: 0.55)
    with pytest.raises(UserError, match=r"onnx's NMS \(standard\) differs from PyTorch's in \d+ detections"):
        decisive.export(nms="standard", project=tmp_path)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"iou": 0.4}, "--iou does nothing with --nms none (choose a method, for example --nms auto)"),
        ({"max_det": 5}, "--max-det does nothing with --nms none (choose a method, for example --nms auto)"),
        ({"nms": "soft", "iou": 0.4}, "--iou does nothing with --nms soft (leave it out)"),
        ({"nms": "diou", "cl_norm": "max"}, "--cl-norm does nothing with --nms diou (leave it out)"),
    ],
)
def test_a_flag_without_effect_is_refused(tiny_run, tmp_path, given, message):
    with pytest.raises(UserError) as error:
        Detector(tiny_run).export(project=tmp_path, **given)
    assert str(error.value) == message
    assert not list(tmp_path.rglob("*"))


def test_a_parity_check_without_detections_warns(capsys):
    options = NMSOptions(method="soft")
    exporter.report_parity(Parity(0.0, 0.0, images=4, detections=0, random_detections=300), "onnx", options)
    assert "detects nothing in these images, so NMS was compared on random boxes only" in capsys.readouterr().err
    exporter.report_parity(Parity(0.0, 0.0, images=4, detections=7, random_detections=300), "onnx", options)
    assert "detects nothing" not in capsys.readouterr().err


def test_images_come_from_the_training_data_or_from_shapes_if_it_is_missing(tiny_run, squares, monkeypatch):
    model = Detector(tiny_run).model
    images = parity.dataset_images(model, 64, (64, 128))
    assert [image.shape for image in images] == [(1, 3, 64, 128)] * 3
    assert all(image[..., :53].std() > 5 and image[..., 77:].std() < 20 for image in images)
    assert [image.shape[2:] for image in parity.dataset_images(model, 64)] == [(64, 96), (96, 64), (64, 96)]
    requested = []

    def without(data):
        requested.append(data)
        return open_source("gone" if data != "shapes" else squares)

    monkeypatch.setattr(parity, "open_source", without)
    assert len(parity.dataset_images(model, 64)) == 3
    assert requested == [str(squares), "shapes"]


@pytest.fixture(scope="module")
def deformable():
    """A network with modulated deformable convolutions in C4 and C5 that are not plain ones."""
    torch.manual_seed(0)
    arch = Architecture(backbone="r18-dcnv2-c4c5", classes=2, fpn_channels=8)
    network = build_network(arch)
    for module in network.modules():
        if isinstance(module, DeformConv2d):
            torch.nn.init.normal_(module.offset.weight, std=0.05)
    found = Detector()
    found.model = Checkpoint(
        architecture=arch, model=network.state_dict(), classes=("a", "b"), category_ids=(1, 2), imgsz=64
    )
    return found


def test_deformable_convolutions_run_in_onnx(deformable, tmp_path):
    result = deformable.export(project=tmp_path)
    operators = [node.op_type for node in onnx.load(str(result.path)).graph.node]
    assert operators.count("DeformConv") == 4
    assert result.max_score_error < 1e-4


def test_openvino_refuses_deformable_convolutions(deformable, tmp_path):
    pytest.importorskip("openvino")
    with pytest.raises(UserError, match=r"OpenVINO cannot read deformable convolutions from ONNX \(use --format onnx"):
        deformable.export("openvino", project=tmp_path)
    assert not list(tmp_path.rglob("*"))


def test_an_operator_that_the_runtime_lacks_is_a_user_error(tmp_path):
    """An operator that this opset lacks, like deformable convolutions in an older onnxruntime."""
    make = onnx.helper.make_tensor_value_info
    x, y = (make(name, onnx.TensorProto.FLOAT, [1, 1, 3, 3]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("DeformConv", ["x", "x", "x"], ["y"])], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), str(tmp_path / "a.onnx"))
    with pytest.raises(UserError, match=r"onnxruntime \S+ cannot run this network: No Op registered for DeformConv"):
        backends.open_onnx(tmp_path / "a.onnx", ("y",))
