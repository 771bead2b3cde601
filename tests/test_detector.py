"""The Python API and the choice of weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from untrained import untrained

import cledet
from cledet import Detector
from cledet.commands.find_detector import find_detector
from cledet.config.base import PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.distributed import devices
from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


def val_settings(**given):
    return resolve(ValSettings, {"device": "cpu", "amp": "off", "workers": 0, **given}, environ={})


def test_val_repeats_the_metrics_of_training(tiny_run, tiny):
    metrics = load_checkpoint(tiny_run).metrics
    found = Detector(tiny_run).val(workers=0, device="cpu", amp="off", batch=2).to_dict()
    assert {key: found.pop(key) for key in ("nms_ms", "misalignment", "seconds")}["nms_ms"] > 0
    assert found == metrics


@pytest.mark.parametrize("flags", ["avx2", "avx512f avx512_bf16"])
def test_val_and_predict_take_bfloat16_where_the_cpu_has_it(tiny_run, squares, flags, monkeypatch, tmp_path, capsys):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(devices, "CPU_FEATURES", tmp_path / "cpuinfo")
    used = ("bfloat16", "bf16") if "bf16" in flags else ("float32", "off")
    detector = Detector(tiny_run)
    detector.val(workers=0, device="cpu")
    assert f"4 images on cpu ({torch.get_num_threads()} threads), {used[0]}, NMS cl-balanced" in capsys.readouterr().err
    image = squares / "val" / "1.png"
    found, other = (detector.predict_one(image, device="cpu", conf=0.01, **more) for more in ({}, {"amp": used[1]}))
    assert torch.equal(found.scores, other.scores)


def test_val_of_a_file_of_predictions_needs_no_model(squares, tmp_path):
    (tmp_path / "r.json").write_text('[{"image_id": 101, "category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}]')
    found = Detector().val(predictions=tmp_path / "r.json", data=str(squares))
    assert found.metrics["AP"] == 0.0
    with pytest.raises(UserError, match="--predictions needs --data"):
        Detector().val(predictions=tmp_path / "r.json")


def test_a_model_of_other_classes_is_refused_by_name(tiny_run, shared_data):
    with pytest.raises(UserError, match="the model does not know Platelets, RBC, WBC of bccd/test"):
        Detector(tiny_run).val(data=str(shared_data / "bccd"), split="test")


def test_splits_that_share_images_are_warned_about(tiny, tmp_path, squares, capsys):
    data = squares / "annotations" / "instances_train.json"
    Detector().train(**{**tiny, "data": str(data), "iters": 1}, val_fraction=0, project=tmp_path)
    assert "shares images with" in capsys.readouterr().err


def test_a_val_split_of_other_classes_is_refused_before_training(tiny, tmp_path, squares):
    content = json.loads((squares / "annotations" / "instances_val.json").read_text())
    content["categories"][0]["name"] = "green"
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "data.yaml").write_text(
        f"train: {{images: {squares}/train, annotations: {squares}/annotations/instances_train.json}}\n"
        f"val: {{images: {squares}/val, annotations: {tmp_path}/val.json}}\n"
    )
    with pytest.raises(UserError, match="/train does not: green"):
        Detector().train(**{**tiny, "data": str(tmp_path / "data.yaml")}, project=tmp_path)
    assert not (tmp_path / "train").exists()


def test_a_run_works_from_another_folder(tiny, tmp_path, squares, monkeypatch):
    monkeypatch.chdir(squares.parent)
    settings = {**tiny, "data": squares.name, "iters": 1, "val_split": "none"}
    run = Detector().train(**settings, project=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert len(Detector(run).val(workers=0, device="cpu").per_class) == 2
    assert Detector().train(resume=run) == run


def test_the_newest_run_and_the_one_with_these_components(tiny, tmp_path):
    short = {**tiny, "iters": 1, "val_split": "none", "project": tmp_path}
    for name, ablation, age in (("a", "iac,dc", 30), ("b", "none", 20), ("c", "iac,dc", 10)):
        run = Detector().train(**short, name=name, ablation=ablation)
        stamp = (run / "weights" / "best.pt").stat().st_mtime - age
        os.utime(run / "weights" / "best.pt", (stamp, stamp))
    newest = find_detector(val_settings(project=tmp_path))
    assert newest.model.components == ("iac", "dc")
    assert find_detector(val_settings(project=tmp_path, ablation="none")).model.components == ()
    with pytest.raises(
        UserError, match=r"no run was trained with exactly clb \(there is c: iac,dc; b: none; a: iac,dc\)"
    ):
        find_detector(val_settings(project=tmp_path, ablation="clb"))
    with pytest.raises(UserError, match="was trained with none, not dc"):
        find_detector(val_settings(weights=str(tmp_path / "train" / "b"), ablation="dc"))


def test_without_a_run_the_error_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"there is no trained run in .*train \(run `cledet train`, or pass --weights"):
        find_detector(val_settings(project=tmp_path))


def test_a_backbone_name_makes_a_detector_to_train(tiny, tmp_path):
    det = Detector("r18")
    with pytest.raises(UserError, match="has no weights yet"):
        det.val()
    settings = {key: value for key, value in tiny.items() if key != "backbone"}
    det.train(**{**settings, "iters": 1}, project=tmp_path)
    assert det.model.architecture.backbone == "r18"


def test_a_wrong_name_suggests_the_nearest():
    with pytest.raises(
        UserError, match=r"'r50x' is neither a file, a name of weights nor a backbone \(did you mean r50\?\)"
    ):
        Detector("r50x")


def test_save_and_load(tiny_run, tmp_path):
    path = Detector(tiny_run).save(tmp_path / "copy.pt")
    a, b = Detector(path).model.model, Detector(tiny_run).model.model
    assert all(torch.equal(a[key], b[key]) for key in b)


def test_the_package_exports_its_names_lazily():
    code = "import sys, cledet; print(*dir(cledet)); print('torch' in sys.modules, 'cledet.detector' in sys.modules)"
    names, imported = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert set(cledet.__all__) <= set(names.split())
    assert imported == "False False"
    assert cledet.Detector is Detector
    assert set(cledet._HOME) == set(cledet.__all__) - {"__version__"}
    for name in cledet.__all__:
        assert getattr(cledet, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        cledet.Nothing  # noqa: B018


def test_a_detector_says_what_it_is(tiny_run, tmp_path):
    assert repr(Detector()) == "Detector(r50, not trained)"
    assert repr(Detector("r18")) == "Detector(r18, not trained)"
    assert repr(Detector(tiny_run)) == "Detector(retinanet r18, 2 classes: blue, red; trained with iac, dc, clb)"
    assert Detector(tiny_run).names == ("blue", "red")
    untrained(tuple("abcdefg"), head="fcos").save(tmp_path / "m.pt")
    assert repr(Detector(tmp_path / "m.pt")) == "Detector(fcos r18, 7 classes: a, b, c, d, e ...)"
    foreign = Detector("torchvision:ssd300_vgg16")
    assert repr(foreign) == "Detector(torchvision:ssd300_vgg16, 91 classes)"
    assert foreign.names[1] == "person"


def test_val_and_predict_keep_their_networks(tiny_run, squares):
    """That of predict has folded batch norms."""
    detector, cpu = Detector(tiny_run), torch.device("cpu")
    for _ in range(2):
        detector.val(workers=0, device="cpu", batch=2)
        network = detector.network("cpu")
        list(detector.predict(squares / "val", device="cpu"))
        folded = detector.predictor(resolve(PredictSettings, {"device": "cpu"})).network
        assert detector._networks == {(cpu, False): network, (cpu, True): folded}
    assert not network.training
    assert not folded.training


def test_the_origin_of_the_confidence_is_said_once(tiny_run, squares, capsys):
    detector = Detector(tiny_run)
    for conf in ("auto", "auto", 0.2, "auto"):
        detector.predict_one(squares / "val" / "1.png", device="cpu", conf=conf)
    assert capsys.readouterr().err.count("confidence 0.3: the weights hold none of best F1") == 1
