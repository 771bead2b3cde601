"""`val --predictions`: the run folder, without torch; without annotations, the zip for COCO's server."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cledet import Detector
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.report.val_folder import submissions, write_val
from cledet.evaluation.score_file import explicit_conf, is_plain, score_file
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import Limits
from cledet.metrics.results_file import encode_results, read_results


def settings(**given):
    return resolve(ValSettings, {"device": "cpu", "workers": 0, **given}, environ={})


@pytest.fixture
def perfect(squares, tmp_path):
    """Every square found, at scores from 0.5 on; and the file that says so."""
    index = open_source(squares).index("val", need_images=False)
    ids = index.image_ids[index.image_of_boxes()]
    scores = 0.5 + np.arange(len(ids)) / 100
    results = np.column_stack([ids, index.xywh, scores, index.category_ids[index.labels]])
    file = tmp_path / "results.json"
    file.write_bytes(encode_results(results).replace(b'{"image', b'{"note": "kept", "image'))
    return file


@pytest.fixture
def unlabelled(squares, tmp_path):
    """The validation split as COCO's test-dev comes: no annotations."""
    content = json.loads((squares / "annotations" / "instances_val.json").read_text())
    del content["annotations"]
    file = tmp_path / "annotations" / "image_info_test-dev2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(content))
    (tmp_path / "test-dev2017").symlink_to(squares / "val")
    return file


def written(given):
    """Evaluate a file and return its run folder."""
    found, index = score_file(given)
    run, _ = write_val(found, given, index)
    return run


def test_the_folder_holds_metrics_and_detections(squares, perfect, tmp_path):
    index = open_source(squares).index("val", need_images=False)
    wanted = read_results(perfect, index)
    whole = settings(predictions=perfect, data=str(squares), project=tmp_path, name="whole")
    run = written(whole)
    assert run == tmp_path / "val" / "whole"
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "detections.json", "metrics.json", "plots", "report.html", "suspects.json"
    }  # fmt: skip
    assert json.loads((run / "metrics.json").read_text())["VOC12"] == 1.0
    assert (run / "detections.json").read_bytes() == perfect.read_bytes()
    above = settings(predictions=perfect, data=str(squares), project=tmp_path, name="above", conf=0.52, report=False)
    run = written(above)
    kept = read_results(run / "detections.json", index)
    np.testing.assert_array_equal(kept, wanted[wanted[:, 5] > 0.52])
    assert json.loads((run / "metrics.json").read_text())["AP"] == evaluate(index, kept).metrics["AP"] < 1


def test_detections_in_another_format_become_coco_results(squares, perfect, tmp_path, capsys):
    """The folder holds the data set's ids, so that compare and pycocotools take it."""
    index = open_source(squares).index("val", need_images=False)
    wanted = read_results(perfect, index)
    stems = {number: Path(path).stem for number, path in zip(index.image_ids.tolist(), index.paths.tolist())}
    labels = {number: label for label, number in enumerate(index.category_ids.tolist())}
    entries = [
        {"image_id": stems[row[0]], "file_name": f"{stems[row[0]]}.png", "category_id": labels[row[6]] + 1,
         "bbox": row[1:5], "score": row[5]}
        for row in wanted.tolist()
    ]  # fmt: skip
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(entries))
    run = written(settings(predictions=file, data=str(squares), project=tmp_path, report=False))
    np.testing.assert_array_equal(read_results(run / "detections.json", index), wanted)
    assert json.loads((run / "metrics.json").read_text())["AP"] == 1
    assert (
        f"Ultralytics' predictions.json, {len(wanted)} detections on 3 of 4 images (1 without"
        in capsys.readouterr().err
    )


def test_without_a_report_or_with_several_methods_there_is_none(squares, perfect, tmp_path, monkeypatch):
    """Of several methods there is a table, and no method's detections; the folder is called after the split."""
    given = {"predictions": perfect, "data": str(squares), "project": tmp_path}
    run = written(settings(**given, report=False))
    assert run == tmp_path / "val" / "val"
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "detections.json", "metrics.json"]
    both = settings(**given, nms="standard,soft")
    index = Detector().split(both)
    run, found = write_val(Detector().validate(both, index), both, index)
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "metrics.json", "nms.csv", "nms.md"]
    assert list(json.loads((run / "metrics.json").read_text())["methods"]) == list(found) == ["standard", "soft"]
    assert [line[:14] for line in (run / "nms.csv").read_text().splitlines()] == [
        "NMS,AP,AP50,AP", "standard,1.0,1", "soft,1.0,1.0,1"
    ]  # fmt: skip
    assert (run / "nms.md").read_text().startswith("| NMS | AP | AP50 | AP75 |")
    monkeypatch.chdir(squares.parent)
    run = written(settings(**{**given, "data": squares.name}, report=False))
    assert f'data: "{squares}"' in (run / "config.yaml").read_text()  # so that it is found from anywhere


@pytest.mark.parametrize("nms", ["auto", "standard,soft"])
def test_an_incomplete_folder_is_removed(squares, perfect, tmp_path, monkeypatch, nms):
    """Interrupted before the last file, which is metrics.json."""

    def interrupted(path, _):
        assert path.name == "metrics.json"
        raise KeyboardInterrupt

    given = settings(predictions=perfect, data=str(squares), project=tmp_path, nms=nms, report=False)
    index = Detector().split(given)
    found = Detector().validate(given, index)
    monkeypatch.setattr("cledet.evaluation.report.val_folder.write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_val(found, given, index)
    assert list((tmp_path / "val").iterdir()) == []


def test_limits_are_those_of_the_settings(squares, perfect):
    index = open_source(squares).index("val", need_images=False)
    given = settings(predictions=perfect, data=str(squares), eval_max_dets="1,5,300", areas="20,30")
    (found,) = score_file(given)[0].values()
    assert found.evaluation.metrics == evaluate(index, found.results, Limits((1, 5, 300), (20, 30))).metrics
    assert {"AR5", "AR300"} <= found.evaluation.metrics.keys()
    assert found.evaluation.metrics["APs"] != evaluate(index, found.results).metrics["APs"]


def test_without_annotations_it_is_the_servers_zip(perfect, unlabelled, tmp_path):
    given = settings(predictions=perfect, data=str(unlabelled), split="test", project=tmp_path, name="mine")
    run = written(given)
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "detections_test-dev2017_mine_results.zip"]
    with zipfile.ZipFile(run / "detections_test-dev2017_mine_results.zip") as archive:
        entries = json.loads(archive.read("detections_test-dev2017_mine_results.json"))
    assert [entry["score"] for entry in entries] == [entry["score"] for entry in json.loads(perfect.read_text())]


def test_without_annotations_a_model_gives_the_zip_of_each_method(tiny_run, unlabelled, tmp_path):
    given = settings(data=str(unlabelled), project=tmp_path, nms="standard,soft", conf=0.01)
    index = Detector(tiny_run).split(given)
    found = Detector(tiny_run).validate(given, index)
    names = [f"detections_test-dev2017_cledet-{method}_results.zip" for method in ("standard", "soft")]
    assert list(submissions(found, given).values()) == names
    assert sorted(path.name for path in write_val(found, given, index)[0].iterdir()) == sorted(["config.yaml", *names])
    assert len(found["standard"].results)


def test_annotations_alone_are_enough(squares, perfect, tmp_path):
    """Nothing of the photos is read."""
    file = tmp_path / "a" / "b" / "instances_val.json"  # images are looked for in the folders about it too
    file.parent.mkdir(parents=True)
    file.write_bytes((squares / "annotations" / "instances_val.json").read_bytes())
    found, index = score_file(settings(predictions=perfect, data=str(file)))
    assert found["without NMS"].evaluation.metrics["AP"] == 1
    assert not any(Path(path).exists() for path in index.paths.tolist())


def test_a_file_needs_a_data_set(perfect):
    with pytest.raises(UserError, match="--predictions needs --data"):
        score_file(settings(predictions=perfect))


def test_the_default_conf_is_not_explicit():
    assert explicit_conf(settings()) is explicit_conf(ValSettings()) is None
    assert explicit_conf(settings(conf=0.05)) == 0.05  # although that is the default


@pytest.mark.slow
def test_a_file_without_nms_needs_no_torch(perfect):
    assert is_plain(settings(predictions=perfect))
    for more in ({"nms": "soft"}, {"ablation": "dc"}, {"weights": "x.pt"}):
        assert not is_plain(settings(predictions=perfect, **more))
    assert not is_plain(settings())
    needed = "cledet.cli, cledet.evaluation.score_file, cledet.evaluation.report.val_folder"
    code = f"import sys, {needed}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"eval_max_dets": "1,10"}, "three numbers that rise from 1 on, as 1,10,100, not 1,10"),
        ({"eval_max_dets": "10,10,100"}, "three numbers that rise"),
        ({"eval_max_dets": "1,10,300"}, "give --max-det 300 too"),
        ({"eval_max_dets": "1,10,300", "max_det": 300, "nms": "all", "bootstrap": 9}, "--bootstrap measures AP at 100"),
        ({"areas": "96,32"}, "0 < SMALL < MEDIUM"),
        ({"areas": "32"}, "expected SMALL,MEDIUM with .*, not 32"),
    ],
)
def test_invalid_limits_are_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        settings(**given)
