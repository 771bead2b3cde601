"""The objects and the settings of an explanation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cledet import Detector
from cledet.commands.explain import explain_to_folder
from cledet.config.base import ExplainSettings
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.explain.explainer import as_trained
from cledet.models.checkpoint import load_checkpoint


def test_annotated_objects_are_found_by_path_in_any_split(tiny_run, squares, capsys):
    detector = Detector(tiny_run)
    for split in ("train", "val"):
        found = detector.explain(str(squares / split / "1.png"), device="cpu")
        index = open_source(squares).index(split)
        np.testing.assert_allclose(found.objects.boxes, index.boxes(1), atol=1e-3)
        assert [found.names[k] for k in found.objects.labels] == [index.classes[k] for k in index.labels[index.rows(1)]]
        assert found.objects.source.endswith(f"/{split}")
        assert "objects: the 2 annotated in" in capsys.readouterr().err
    assert found.image.shape == (80, 96, 3)
    assert found.peaks.iou.shape == (64, 77)  # height and width of the network's input
    assert found.positives.gt.unique().tolist() == [0, 1]


def test_labels_are_matched_by_name(tiny_run, squares):
    detector = Detector(tiny_run)
    plain = detector.explain(squares / "val" / "1.png", device="cpu")
    detector.model.classes = tuple(reversed(detector.model.classes))
    swapped = detector.explain(squares / "val" / "1.png", device="cpu")
    assert swapped.objects.labels.tolist() == [1 - k for k in plain.objects.labels.tolist()]


def test_an_image_elsewhere_has_no_annotations(tiny_run, squares, tmp_path, capsys):
    shutil.copy(squares / "train" / "5.png", tmp_path / "5.png")
    assert Detector(tiny_run).explain(tmp_path / "5.png", device="cpu").objects.source == ""
    assert "has no annotations of 5.png: the model's own detections" in capsys.readouterr().err


def test_an_image_that_is_annotated_as_empty_has_no_objects(tiny_run, squares):
    found = Detector(tiny_run).explain(squares / "val" / "0.png", device="cpu")
    assert found.objects.source.endswith("/val")
    assert len(found.objects.boxes) == len(found.positives.gt) == 0


def test_without_annotations_the_detections_are_used_as_objects(tiny_run, squares, capsys, monkeypatch):
    image = read_image(squares / "val" / "1.png")
    assert len(Detector(tiny_run).explain(image, device="cpu").objects.boxes) == 0  # four steps find nothing at 0.3
    detector = Detector(tiny_run)
    wanted = next(detector.predict(image, conf=0.0, device="cpu", amp="off"))
    monkeypatch.setattr("cledet.explain.explainer.SHOWN_SCORE", float(wanted.scores[4]))
    shown = int((wanted.scores >= wanted.scores[4]).sum())
    found = detector.explain(image, device="cpu", conf=0.0)
    assert found.objects.source == ""
    np.testing.assert_allclose(found.objects.boxes, wanted.boxes[:shown], atol=1e-3)
    assert found.objects.labels.tolist() == wanted.labels[:shown].tolist()
    assert found.to_dict()["objects_from"] == "detections"
    assert "no data set is known for this image: the model's own" in capsys.readouterr().err


def test_a_missing_data_set_is_logged_and_is_an_error_if_it_was_requested(tiny_run, squares, capsys):
    detector = Detector(tiny_run)
    detector.model = replace(detector.model, data="/nowhere/data.yaml")
    assert detector.explain(squares / "val" / "1.png", device="cpu").objects.source == ""
    assert "cannot be read (data set not found: /nowhere/data.yaml)" in capsys.readouterr().err
    assert detector.explain(squares / "val" / "1.png", data=str(squares), device="cpu").objects.source
    with pytest.raises(UserError, match=r"data set not found: /elsewhere"):
        detector.explain(squares / "val" / "1.png", data="/elsewhere", device="cpu")


def test_options_default_to_those_of_training(tiny_run):
    model = load_checkpoint(tiny_run)
    model.settings |= {"alpha": 0.6, "recall_min_iou": 0.1, "iou": 0.45}
    model.components = ("dc",)
    settings = as_trained(model, ExplainSettings(alpha=0.9, conf=0.2, cl_norm="diagonal"))
    assert (settings.alpha, settings.recall_min_iou, settings.iou) == (0.9, 0.1, 0.45)
    assert (settings.conf, settings.cl_norm, settings.localization) == (0.2, "diagonal", "proximity")
    assert settings.ablation == ("dc",)
    assert (settings.dc_form, settings.recall_target) == ("zero-based", "soft")
    del model.settings["dc_form"], model.settings["recall_target"]  # as cledet 0.1 stored them
    settings = as_trained(model, ExplainSettings())
    assert (settings.dc_form, settings.recall_target) == ("as-printed", "hard")


def test_a_checkpoint_without_settings_has_the_defaults(tiny_run):
    model = replace(load_checkpoint(tiny_run), settings={}, components=())
    settings = as_trained(model, ExplainSettings())
    assert (settings.alpha, settings.ablation) == (0.75, ())


def test_the_run_folder_holds_the_picture_and_the_numbers(tiny_run, squares, tmp_path):
    settings = ExplainSettings(project=tmp_path, device="cpu")
    run, document = explain_to_folder(Detector(tiny_run), str(squares / "val" / "2.png"), settings)
    assert run == tmp_path / "explain" / "2"
    assert sorted(path.name for path in run.iterdir()) == ["explain.json", "explain.png"]
    assert len(document["objects"]) == 2
    with pytest.raises(UserError, match="nowhere"):
        explain_to_folder(Detector(tiny_run), "nowhere.png", settings)
    assert [path.name for path in Path(tmp_path, "explain").iterdir()] == ["2"]


def test_a_batch_is_refused(tiny_run):
    with pytest.raises(UserError, match=r"explain takes one image, not a batch of 2 \(explain them one by one\)"):
        Detector(tiny_run).explain(np.zeros((2, 32, 32, 3), np.uint8), device="cpu")


def test_invalid_settings_in_a_checkpoint_are_a_user_error(tiny_run):
    model = load_checkpoint(tiny_run)
    model.settings["alpha"] = "much"
    with pytest.raises(UserError, match="the model's settings are invalid: alpha: Input should be a"):
        as_trained(model, ExplainSettings())
