"""Quantized files: the bound on AP, NMS that stays float32, and refusals in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cledet import Detector
from cledet.config.base import ExportSettings
from cledet.config.loading import resolve
from cledet.errors import UserError
from cledet.export import exporter, int8

pytestmark = pytest.mark.slow

RUN = Path(__file__).parents[1] / "fixtures" / "run-0.1"
"""A run on the squares that finds most of them."""


@pytest.fixture(scope="module")
def openvino():
    return pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def floating(openvino, squares, tmp_path_factory):
    """The float32 file of the run with NMS."""
    return Detector(RUN).export("openvino", nms="standard", project=tmp_path_factory.mktemp("floating"))


def kinds(openvino, graph):
    return [node.get_type_name() for node in graph.get_ordered_ops()]


def test_the_parts_joined_again_compute_the_same(openvino, floating):
    """And all convolutions are in the network, all of NMS in the rest."""
    whole = openvino.Core().read_model(str(floating.path))
    network, rest = int8.read_parts(floating.path)
    count = kinds(openvino, whole).count("Convolution")
    assert count > 20
    assert (kinds(openvino, network).count("Convolution"), kinds(openvino, rest).count("Convolution")) == (count, 0)
    assert {"Loop", "TopK"} <= {*kinds(openvino, rest)} - {*kinds(openvino, network)}
    joined = int8.join_parts(network, rest)
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    wanted, found = (openvino.compile_model(graph, "CPU")([image]) for graph in (whole, joined))
    assert len(wanted["scores"]) > 0
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(found[name], wanted[name])


def test_an_int8_file_holds_the_bound(openvino, floating, squares, tmp_path, capsys):
    pytest.importorskip("nncf", reason="nncf is not installed: pip install 'cledet[int8]'")
    result = Detector(RUN).export(
        "openvino", int8=True, max_drop=3, data=str(squares), nms="standard", project=tmp_path
    )
    measured, said = result.int8, capsys.readouterr().err
    assert f"AP {measured.ap_float32:.4f} in float32\nAP " in said
    assert said.count(" with all layers in int8\n") == 1
    assert (measured.split, measured.images, measured.calibration_images) == (f"{squares.name}/val", 4, 6)
    assert measured.ap_float32 > 0.3
    assert measured.ap_int8 >= measured.ap_float32 - 0.03
    given = {"data": str(squares), "workers": 0, "nms": "standard"}
    assert Detector(result.path).val(**given).metrics["AP"] == pytest.approx(measured.ap_int8, abs=1e-9)
    assert Detector(RUN).val(**given, device="cpu").metrics["AP"] == pytest.approx(measured.ap_float32, abs=1e-3)
    graph = openvino.Core().read_model(str(result.path))
    assert json.loads(graph.get_rt_info(["cledet", "int8"]).astype(str))["ap_int8"] == measured.ap_int8
    assert kinds(openvino, graph).count("FakeQuantize") > 20
    assert {path.name for path in result.path.parent.iterdir()} == {"model.xml", "model.bin"}
    assert result.path.with_suffix(".bin").stat().st_size < 0.4 * floating.path.with_suffix(".bin").stat().st_size
    assert json.loads(json.dumps(result.to_dict()))["int8"]["images"] == 4


def test_a_drop_over_the_bound_keeps_no_file(openvino, squares, tmp_path, monkeypatch):
    """Whatever nncf returns, here a measurement of a large drop, the file itself is measured."""
    monkeypatch.setattr(int8, "require_packages", lambda *names: None)
    large = int8.Int8("squares/val", 4, 6, ap_float32=0.6, ap_int8=0.5, ms_float32=2.0, ms_int8=1.0)
    monkeypatch.setattr(int8, "_quantize", lambda *given: large)
    with pytest.raises(UserError, match=r"int8 lowers AP by 10\.00 points, more than --max-drop 0\.5 \(raise"):
        Detector(RUN).export("openvino", int8=True, data=str(squares), project=tmp_path)
    assert not list(tmp_path.rglob("*"))
    assert "AP 0.5000 on squares/val (4 images), 0.6000 in float32, a drop of 10.00 points" in large.sentence()
    assert "1.0 ms instead of 2.0 (2.00x as fast)" in large.sentence()


def test_without_nncf_the_extra_is_named(tmp_path, squares, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = resolve(ExportSettings, {"format": "openvino", "int8": True, "data": str(squares)})
    with pytest.raises(UserError, match=r"--int8 needs nncf \(pip install 'cledet\[int8\]'\)"):
        int8.quantize_file(tmp_path / "model.xml", Detector(RUN).model, settings)


def test_without_a_data_set_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "require_packages", lambda *names: None)
    model = Detector(RUN).model
    model.data = ""
    settings = resolve(ExportSettings, {"format": "openvino", "int8": True})
    with pytest.raises(UserError, match=r"--int8 measures AP, and these weights name no data set \(pass --data\)"):
        int8.quantize_file(tmp_path / "model.xml", model, settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"int8": True}, "--int8 quantizes networks for OpenVINO, not onnx: give --format openvino too"),
        ({"int8": True, "format": "openvino", "photo_input": True}, "--int8 quantizes networks without preprocessing"),
        ({"format": "openvino", "max_drop": 2}, "--max-drop does nothing without --int8"),
        ({"format": "openvino", "data": "shapes"}, "--data does nothing without --int8"),
        ({"format": "openvino", "int8": True, "max_drop": 0}, "--max-drop 0 (from the flag): input should be greater"),
    ],
)
def test_flags_that_do_nothing_are_refused(given, message):
    with pytest.raises(UserError) as raised:
        resolve(ExportSettings, given)
    assert str(raised.value).startswith(message)


def test_the_export_without_int8_measures_nothing(floating):
    assert floating.int8 is None
    assert "quantize_file" in vars(exporter)
