"""`cledet predict`: what is printed and written, what is skipped, and how the command ends."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clips import write_clip
from PIL import Image

from cledet import Detector, cli
from cledet.commands.predict import Unread, _run_folder, describe, predict_sources
from cledet.config.base import PredictSettings
from cledet.config.loading import resolve
from cledet.errors import UserError
from cledet.inference.sinks import JsonLinesStream


@pytest.fixture
def photos(squares, tmp_path, monkeypatch):
    """Four photos in the current folder's `photos`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(squares / "val", tmp_path / "photos")
    return tmp_path / "photos"


@pytest.fixture
def predict(tiny_run, photos, monkeypatch, capsys):
    """Runs `cledet predict ARGS` with the tiny run; returns exit code, stdout, stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        words = ["predict", *map(str, args), "--weights", str(tiny_run), "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", ["cledet", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def written(run="runs/predict/photos"):
    return sorted(path for path in os.listdir(run))


def documents_in(run):
    return json.loads(Path(run, "predictions.json").read_text())


def test_a_folder_becomes_pictures_json_and_lines(predict):
    code, out, err = predict("photos", "--conf", 0)
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == [f"photos/{i}.png" for i in range(4)]
    assert written() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "predictions.json"]
    documents = documents_in("runs/predict/photos")
    assert [len(document["detections"]) for document in documents] == [100] * 4
    assert err.splitlines()[-1] == "results: runs/predict/photos"


def test_several_sources_and_a_second_run(predict, photos):
    (photos / "deep").mkdir()
    (photos / "0.png").rename(photos / "deep" / "0.png")
    code, out, _ = predict("photos/1.png", "photos/[23].png", "photos/deep", "--save", "json")
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == [
        "photos/1.png", "photos/2.png", "photos/3.png", "photos/deep/0.png",
    ]  # fmt: skip
    code, out, _ = predict("-r", "photos", "--save", "json", "--name", "1")
    assert len(out.splitlines()) == 4
    assert sorted(os.listdir("runs/predict")) == ["1", "1-2"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://admin:s3cret@192.168.1.5:554", "192.168.1"),
        ("rtsp://admin:s3cret@camera", "camera"),
        ("https://host/a/photo.jpg?key=s3cret", "photo"),
        ("photos/*.png", "images"),
        ("photos/a?.png", "a"),
    ],
)
def test_the_folder_has_no_password_in_its_name(tmp_path, source, name):
    settings = resolve(PredictSettings, {"project": str(tmp_path)}, environ={})
    assert _run_folder(settings, source) == tmp_path / "predict" / name


def test_where_nothing_passes_the_highest_score_is_said(predict):
    _, out, _ = predict("photos/1.png", "--conf", 0.99, "--save", "none")
    assert out.startswith("photos/1.png: nothing over 0.99; the highest score is 0.")
    assert not os.path.exists("runs")


def test_broken_images_are_named_and_the_rest_goes_on(predict, photos):
    data = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(data[: len(data) // 2])
    (photos / "2.png").write_bytes(b"")
    code, out, err = predict("photos", "gone.jpg", "--save", "pictures")
    assert code == 1
    assert [line.partition(":")[0] for line in out.splitlines()] == ["photos/0.png", "photos/3.png"]
    assert written() == ["0.jpg", "3.jpg"]
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert "cannot decode image photos/1.png" in warnings[0]
    assert "photos/2.png: the file is empty" in warnings[1]
    assert "gone.jpg" in warnings[2]
    assert warnings[3] == "warning: 2 images were read, 3 could not be read: photos/1.png, photos/2.png, gone.jpg"


def test_a_single_broken_image_is_the_error(predict):
    code, out, err = predict("gone.jpg")
    assert (code, out) == (2, "")
    assert err.startswith("error: image or folder not found: ") or "\nerror: image or folder not found: " in err
    assert "warning" not in err
    assert not os.path.exists("runs")


def test_no_image_at_all_is_an_error(predict):
    code, out, err = predict("gone.jpg", "lost.jpg")
    assert (code, out) == (2, "")
    assert "warning: image or folder not found" in err
    assert err.splitlines()[-1] == "error: no image could be read; 2 could not be read: gone.jpg, lost.jpg"


def test_many_unread_images_are_counted():
    unread = Unread()
    for i in range(1200):
        unread.add(f"{i}.jpg", UserError("bad"))
    with pytest.raises(UserError) as raised:
        unread.report()
    assert str(raised.value).endswith("1,200 could not be read: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg and 1,195 more")


def test_json_is_one_document_and_with_a_dash_one_object_a_line(predict):
    _, out, _ = predict("photos", "--conf", 0, "--json")
    _, plain, _ = predict("photos", "--conf", 0, "--json", "--save", "none")
    _, lines, _ = predict("photos", "--conf", 0, "--save", "jsonl", "--json", "-", "--name", "lines")
    documents = json.loads(out)
    assert out == plain == json.dumps(documents, indent=2) + "\n"
    assert [json.loads(line) for line in lines.splitlines()] == documents
    assert Path("runs/predict/lines/predictions.jsonl").read_text() == lines


def test_json_takes_no_other_value(predict):
    code, _, err = predict("photos", "--json=x")
    assert code == 2
    assert "--json takes no value, or - for JSON Lines, not 'x'" in err


def test_the_order_of_flags_and_sources_is_free(predict, photos):
    (photos / "deep").mkdir()
    for words in (["-r", "photos", "--json", "-"], ["--json", "-", "--recursive", "photos"], ["--json", "-", "photos"],
                  ["--recursive", "off", "photos", "--json", "-"]):  # fmt: skip
        code, out, err = predict(*words, "--save", "none")
        assert code == 0, err
        assert len(out.splitlines()) == 4


def test_a_video_becomes_a_video(predict, tmp_path):
    write_clip(tmp_path / "clip.mp4", 5)
    code, out, _ = predict("clip.mp4", "--conf", 0.9)
    assert code == 0
    assert [line.partition(":")[0] for line in out.splitlines()] == [f"clip.mp4, frame {i}" for i in range(5)]
    assert written("runs/predict/clip") == ["clip.mp4", "predictions.json"]


def test_all_kinds_of_files_at_once(predict, tmp_path):
    write_clip(tmp_path / "clip.mp4", 2)
    kinds = "csv,pictures,video,json,jsonl,coco,txt,crops"
    code, _, err = predict("photos", "clip.mp4", "--conf", 0, "--max-det", 3, "--save", kinds)
    assert code == 0, err
    assert {name.partition(".")[2] for name in written()} == {"", "jpg", "mp4", "json", "jsonl", "csv", "txt"}
    assert written("runs/predict/photos/labels")[-1] == "clip-000001.txt"


def test_classes_and_agnostic(predict):
    _, out, _ = predict("photos", "--conf", 0, "--classes", "red", "--json", "-", "--save", "none")
    found = {d["name"] for line in out.splitlines() for d in json.loads(line)["detections"]}
    assert found == {"red"}
    code, _, err = predict("photos", "--classes", "reed")
    assert code == 2
    assert "red" in err
    _, both, _ = predict("photos/1.png", "--conf", 0, "--max-det", 10000, "--json", "-", "--save", "none")
    _, one, _ = predict("photos/1.png", "--conf", 0, "--max-det", 10000, "--json", "-", "--save", "none", "--agnostic")
    assert 0 < len(json.loads(one)["detections"]) < len(json.loads(both)["detections"])


@pytest.mark.parametrize("batch", [2, 3, 16])
def test_a_batch_finds_what_single_images_find(tiny_run, photos, batch):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 150, 3), dtype=np.uint8)).save(photos / "1b.png")
    single, several = (
        list(Detector(tiny_run).predict(photos, conf=0.0, device="cpu", batch=size)) for size in (1, batch)
    )
    assert [one.name for one in several] == [one.name for one in single]
    for one, other in zip(single, several, strict=True):
        assert len(one) == len(other)
        assert np.allclose(one.scores, other.scores, atol=1e-4)
        assert np.allclose(one.boxes, other.boxes, atol=1e-2)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("picture", "did you mean pictures?"),
        ("", "unknown kind of file ''"),
        ("json,none", "unknown kind of file 'none'"),
    ],
)
def test_unknown_kinds_of_files(value, sentence):
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        resolve(PredictSettings, {"save": value}, environ={})


def test_kinds_of_files_are_a_list_or_words():
    def saved(value):
        return resolve(PredictSettings, {"save": value}, environ={}).saved

    assert saved("json, csv,json") == saved(["json", "csv"]) == ("json", "csv")
    assert saved("none") == ()
    assert saved("auto") == ("auto",)


def test_a_full_disk_is_one_sentence_and_the_rest_is_kept(tiny_run, photos, monkeypatch):
    from cledet.inference.sinks import Pictures

    write = Pictures.write

    def full(self, result):
        if result.name.endswith("2.png"):
            raise UserError("the disk is full")
        write(self, result)

    monkeypatch.setattr(Pictures, "write", full)
    settings = resolve(PredictSettings, {"save": "json,pictures", "device": "cpu"}, environ={})
    stream = io.StringIO()
    with pytest.raises(UserError, match="the disk is full"):
        predict_sources(Detector(tiny_run), ["photos"], settings, lambda conf: JsonLinesStream(stream))
    assert written() == ["0.jpg", "1.jpg", "predictions.json"]
    assert len(documents_in("runs/predict/photos")) == 3
    assert len(stream.getvalue().splitlines()) == 2


def test_an_interruption_keeps_what_was_found(tiny_run, photos, monkeypatch):
    detector = Detector(tiny_run)
    predictor = detector.predictor(resolve(PredictSettings, {"device": "cpu"}, environ={}))

    class Interrupting:
        conf = predictor.conf

        def stream(self, frames, batch):
            for i, result in enumerate(predictor.stream(frames, batch)):
                if i == 3:
                    raise KeyboardInterrupt
                yield result

    monkeypatch.setattr(Detector, "predictor", lambda self, settings: Interrupting())
    settings = resolve(PredictSettings, {"device": "cpu"}, environ={})
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        predict_sources(detector, ["photos"], settings, lambda conf: JsonLinesStream(stream))
    assert written() == ["0.jpg", "1.jpg", "2.jpg", "predictions.json"]
    assert len(documents_in("runs/predict/photos")) == 3
    assert len(stream.getvalue().splitlines()) == 3


def test_lines_describe_results(tiny_run, photos):
    (result,) = Detector(tiny_run).predict(photos / "1.png", conf=0.0, max_det=3, device="cpu")
    text = describe(result, 0.0)
    assert text.startswith(f"{photos}/1.png: ")
    nothing = replace(result, boxes=result.boxes[:0], scores=result.scores[:0], labels=result.labels[:0])
    nothing = replace(nothing, highest_score=0.134, name="a.png")
    assert describe(nothing, 0.3) == "a.png: nothing over 0.30; the highest score is 0.13"
    assert describe(nothing, None) == "a.png: nothing over the minimum score of its class; the highest score is 0.13"
    assert describe(nothing, 0.1) == "a.png: nothing over 0.10"  # it is of a class that was not asked for
    assert describe(replace(nothing, highest_score=None), 0.3) == "a.png: nothing over 0.30"
    assert sum(int(part.split()[0]) for part in text.partition(": ")[2].split(", ")) == 3
