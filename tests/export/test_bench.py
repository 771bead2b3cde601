"""`cledet bench`: rows in processes of their own, their reasons, the table, the document and the plot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cledet import Detector
from cledet.commands import bench as command
from cledet.config.evaluate import BENCH_ROWS, BenchSettings
from cledet.config.loading import resolve
from cledet.errors import ProcessFailed, UserError
from cledet.export import bench, bench_report, bench_worker
from cledet.export.bench import Bench, Measured
from cledet.export.bench_worker import Row

pytestmark = pytest.mark.slow

RUN = Path(__file__).parents[1] / "fixtures" / "run-0.1"


def given(**more):
    return resolve(BenchSettings, {"weights": str(RUN), "device": "cpu", "rounds": 2, **more}, environ={})


@pytest.fixture(scope="module")
def written(squares, tmp_path_factory):
    """The run folder, result and document of two rows, of one that cannot be had and of a file that is missing."""
    pytest.importorskip("onnxruntime")
    project = tmp_path_factory.mktemp("bench")
    formats = "pytorch,onnx,pt2,torchvision"
    more = {"imgsz": 160, "files": "gone.onnx", "project": str(project)}
    return command.bench_to_folder(given(data=str(squares), formats=formats, **more))


def test_each_row_has_times_and_the_ap_of_val(written, squares):
    _, result, document = written
    rows = {row["name"]: row for row in document["rows"]}
    assert [*rows] == ["pytorch", "onnx", "pt2", "torchvision", "gone.onnx"]
    wanted = Detector(RUN).val(data=str(squares), workers=0, device="cpu", amp="off", imgsz=160).metrics["AP"]
    assert wanted > 0
    for name in ("pytorch", "onnx", "pt2"):
        row = rows[name]
        assert len(row["times_ms"]) == 2 * 4
        assert row["median_ms"] == pytest.approx(np.median(row["times_ms"]))
        assert 0 < row["median_ms"] <= row["p90_ms"] <= max(row["times_ms"])
        assert row["images_per_second"] == pytest.approx(8000 / sum(row["times_ms"]))
        assert row["first_photo_seconds"] > 0
        assert row["memory_mb"] > row["file_mb"]
        assert row["file_mb"] > 0.3
        assert row["AP"] == pytest.approx(wanted, abs=1e-3)
    assert "torchvision has no retinanet of" in rows["torchvision"]["reason"]
    assert rows["gone.onnx"]["reason"] == "--files: there is no exported file at gone.onnx (check the path)"
    assert result.sizes == [(80, 96)] * 4


def test_the_folder_holds_document_and_plot(written):
    folder, result, document = written
    assert sorted(path.name for path in folder.iterdir()) == ["bench.json", "bench.png"]
    assert json.loads((folder / "bench.json").read_text()) == document
    assert (folder / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert document["machine"]["load_before"] >= 0
    lines = bench_report.sentences(result)
    assert lines[0] == "photo in memory to boxes: 4 photos of 96x80, short side 160 px, in turns"
    assert lines[2].startswith("torchvision was not measured: torchvision has no")


def test_the_table_compares_with_the_first_row():
    rows = [
        Measured(Row("pytorch", "a", size=2_000_000), "cpu", times=[4.0, 2.0, 2.0], memory=5_000_000, ap=0.5),
        Measured(Row("onnx", "b"), "cpu", "no package"),
        Measured(Row("openvino", "c"), "cpu", times=[1.0, 1.0], first=1.25),
    ]
    columns, cells = bench_report.table(Bench(rows, 64, [(8, 9)], None, (0.5, 1.5)))
    assert len(columns) == len(cells[0])
    assert cells[0] == ["pytorch", "cpu", "2.0", "3.6", "375.0", "1.00", "0.0", "5", "2.0", 0.5]
    assert cells[1] == ["openvino", "cpu", "1.0", "1.0", "1000.0", "2.00", "1.2", "0", None, None]


def test_without_data_the_photos_are_noise_of_both_orientations():
    landscape, portrait = bench.choose_photos(None, 64)
    assert landscape.shape == (64, 80, 3)
    np.testing.assert_array_equal(portrait, landscape.transpose(1, 0, 2))
    assert landscape.std() > 50


def test_a_missing_package_is_the_reason_of_a_row(tmp_path, monkeypatch):
    def missing(packages, purpose, extra):
        raise UserError(f"{purpose} needs {packages[0]}", f"pip install 'cledet[{extra}]'")

    monkeypatch.setattr("cledet.export.exporter.require_packages", missing)
    monkeypatch.setattr(bench, "amp_dtype", lambda device, amp: None)
    rows = bench.plan_rows(Detector(RUN).model, str(RUN), given(formats="pytorch,onnx,openvino-bf16"), tmp_path)
    assert [row.reason for row in rows] == [
        "", "export needs onnxruntime (pip install 'cledet[onnx]')", "cpu has no instructions for bfloat16",
    ]  # fmt: skip
    assert rows[0].row.size == (tmp_path / "model.safetensors").stat().st_size


def test_rows_of_torchvision(tmp_path):
    model = Detector(RUN).model
    assert bench.torchvision_row(model, "coco-v1").weights == "torchvision:retinanet_resnet50_fpn"
    wide = model.architecture.model_copy(update={"backbone": "r18", "fpn_channels": 256})
    model.architecture = wide
    row = bench.torchvision_row(model, "x.pt")
    assert (row.weights, row.classes, row.is_trained) == ("torchvision-random:resnet18", 2, False)
    detect, names = bench_worker.open_row(row, given(conf=0.0, max_det=7), 64)
    found = detect(np.zeros((48, 64, 3), np.uint8))
    assert names == ()
    assert found.boxes.shape == (7, 4)
    assert {*found.labels.tolist()} <= {0, 1, 2}


def test_a_row_that_crashes_ends_the_command_with_its_traceback(tmp_path):
    np.savez(tmp_path / "photos.npz", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "model.pt").mkdir()
    rows = [
        Measured(Row("broken", str(tmp_path / "gone.pt")), "cpu"),
        Measured(Row("crash", f"torchvision-random:{0}"), "cpu"),
    ]
    reasons = []
    for one in rows:
        process = bench.RowProcess(one, given(), 64, tmp_path / "photos.npz")
        try:
            process.receive()
        except (UserError, ProcessFailed) as error:
            reasons.append(error)
        finally:
            process.close()
    assert isinstance(reasons[0], UserError)
    assert "there are no weights at" in str(reasons[0])
    assert isinstance(reasons[1], ProcessFailed)
    assert str(reasons[1]).startswith("crash failed:\nTraceback")


def test_names_of_rows():
    assert given(formats="all", files="a.onnx").rows == (*BENCH_ROWS, "a.onnx")
    assert {*BENCH_ROWS} == {*bench.KINDS, "torchvision"}
    with pytest.raises(UserError, match=r"unknown row 'onx' \(did you mean onnx\?\)"):
        given(formats="onx")


def test_the_peak_of_this_process_grows_with_an_array():
    before = bench_worker.peak_memory()
    held = np.ones(2 * before // 8)  # twice the peak in bytes
    assert bench_worker.peak_memory() >= held.nbytes
