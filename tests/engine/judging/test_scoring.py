"""`val --predictions`: what it leaves in its folder, without torch; without annotations, the server's zip."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from cledet import Detector
from cledet.data.source import open_source
from cledet.engine.judging.scoring import is_plain, score_file
from cledet.engine.reporting.val_folder import submissions, write_val
from cledet.errors import UserError
from cledet.eval_config import ValSettings
from cledet.evaluation.coco import evaluate
from cledet.evaluation.figures import Limits
from cledet.evaluation.results import encode_results, read_results
from cledet.resolve import resolve


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
    """The run folder of a file's figures."""
    found, index = score_file(given)
    run, _ = write_val(found, given, index)
    return run


def test_the_folder_holds_the_figures_and_the_detections(squares, perfect, tmp_path):
    index = open_source(squares).index("val", need_images=False)
    wanted = read_results(perfect, index)
    whole = settings(predictions=perfect, data=str(squares), project=tmp_path, name="whole")
    run = written(whole)
    assert json.loads((run / "metrics.json").read_text())["VOC12"] == 1.0
    assert (run / "detections.json").read_bytes() == perfect.read_bytes()
    above = settings(predictions=perfect, data=str(squares), project=tmp_path, name="above", conf=0.52)
    run = written(above)
    kept = read_results(run / "detections.json", index)
    np.testing.assert_array_equal(kept, wanted[wanted[:, 5] > 0.52])
    assert json.loads((run / "metrics.json").read_text())["AP"] == evaluate(index, kept).metrics["AP"] < 1


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


def test_only_a_file_as_it_is_goes_without_torch(perfect):
    assert is_plain(settings(predictions=perfect))
    for more in ({"nms": "soft"}, {"ablation": "dc"}, {"weights": "x.pt"}):
        assert not is_plain(settings(predictions=perfect, **more))
    assert not is_plain(settings())
    needed = "cledet.cli, cledet.engine.judging.scoring, cledet.engine.reporting.val_folder"
    code = f"import sys, {needed}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"eval_max_dets": "1,10"}, "three numbers, as 1,10,100, not 1,10"),
        ({"eval_max_dets": "10,10,100"}, "three numbers that rise"),
        ({"eval_max_dets": "1,10,300"}, "give --max-det 300 too"),
        ({"eval_max_dets": "1,10,300", "max_det": 300, "nms": "all", "bootstrap": 9}, "--bootstrap measures AP at 100"),
        ({"areas": "96,32"}, "0 < SMALL < MEDIUM"),
        ({"areas": "32"}, "LOW,HIGH"),
    ],
)
def test_limits_that_make_no_sense_are_refused(given, sentence):
    with pytest.raises(UserError, match=sentence):
        settings(**given)
