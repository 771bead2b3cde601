"""Sinks: what each writes, read back by the tool that it is for, and what an interruption leaves."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from cledet.config.types import SAVED
from cledet.data.images import read_image
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.inference.results import Results
from cledet.inference.sinks import SINKS, JsonDocumentStream, JsonLinesStream, open_sinks

NAMES, IDS = ("cat", "big, dog"), (3, 7)


def result(
    name="photos/a.png", rows=((0, 0.9, 10, 20, 30, 60), (1, 0.5, -2, 4.25, 50, 200)), number=None, size=(100, 80)
):
    boxes = torch.tensor([row[2:] for row in rows], dtype=torch.float32).reshape(-1, 4)
    scores = torch.tensor([row[1] for row in rows], dtype=torch.float32)
    labels = torch.tensor([row[0] for row in rows], dtype=torch.int64)
    image = np.full((*size, 3), 60 if number is None else 40 + 20 * (number % 8), np.uint8)
    seconds = None if number is None else number / 10
    return Results(None, image, boxes, scores, labels, NAMES, IDS, name=name, number=number, seconds=seconds)


def write(folder, kinds, *results):
    sinks = open_sinks(folder, kinds)
    for one in results:
        for sink in sinks:
            sink.write(one)
    for sink in sinks:
        sink.close()
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_the_table_has_the_kinds_of_the_flag():
    assert set(SINKS) == {"auto", *SAVED}


def test_pictures_are_drawn(tmp_path):
    assert write(tmp_path, ["pictures"], result(), result("b/a.jpg"), result("clip.mp4", number=3)) == [
        "a-2.jpg", "a.jpg", "clip-000003.jpg",
    ]  # fmt: skip
    picture = read_image(tmp_path / "a.jpg")
    assert picture.shape == (100, 80, 3)
    assert np.abs(picture.astype(int) - result().plot()).mean() < 8


def test_auto_takes_pictures_of_images_and_videos_of_videos(tmp_path):
    frames = [result("x/clip.mp4", number=i) for i in range(3)]
    files = write(tmp_path, ["auto"], result(), *frames, result("x/clip.png"))
    assert files == ["a.jpg", "clip-2.jpg", "clip.mp4", "predictions.json"]
    documents = json.loads((tmp_path / "predictions.json").read_text())
    assert [document["file"] for document in documents] == ["photos/a.png", *["x/clip.mp4"] * 3, "x/clip.png"]
    assert [document.get("frame") for document in documents] == [None, 0, 1, 2, None]


def test_json_equals_to_dict(tmp_path):
    results = [result(), result("b.png", rows=()), result("c.png")]
    write(tmp_path, ["json", "jsonl"], *results)
    wanted = [one.to_dict() for one in results]
    assert json.loads((tmp_path / "predictions.json").read_text()) == wanted
    assert [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()] == wanted


def test_json_files_are_whole_before_they_are_closed(tmp_path):
    sinks = open_sinks(tmp_path, ["json", "jsonl", "coco", "csv"])
    for count in range(3):
        assert len(json.loads((tmp_path / "predictions.json").read_text())) == count
        assert len(json.loads((tmp_path / "coco.json").read_text())) == 2 * count
        assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == count
        assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 2 * count
        for sink in sinks:
            sink.write(result())
    for sink in sinks:
        sink.close()


def test_coco_results_are_read_by_pycocotools(tmp_path):
    names = ["val/000000000139.jpg", "val/000000000285.jpg", "x.jpg", "y/000000000139.jpg", "5.png"]
    write(tmp_path, ["coco"], *(result(name) for name in names), result("e.png", rows=()))
    entries = json.loads((tmp_path / "coco.json").read_text())
    ids = [entry["image_id"] for entry in entries[::2]]
    assert ids == [139, 285, 3, 286, 5]
    assert [entry["file_name"] for entry in entries[::2]] == names
    truth = COCO()
    truth.dataset = {"images": [{"id": i} for i in ids], "annotations": [], "categories": [{"id": i} for i in IDS],
                     "info": {}}  # fmt: skip
    truth.createIndex()
    loaded = truth.loadRes(str(tmp_path / "coco.json"))
    first, second = loaded.loadAnns(loaded.getAnnIds(imgIds=[139]))
    assert (first["category_id"], first["bbox"], first["score"]) == (3, [10, 20, 20, 40], np.float32(0.9))
    assert (second["category_id"], second["bbox"], second["score"]) == (7, [-2, 4.25, 52, 195.75], 0.5)


def test_yolo_labels_are_read_as_a_data_set(tmp_path):
    rows = ((1, 0.5, 8, 10, 24, 60),)
    files = write(tmp_path, ["txt"], result("a.png", rows=rows), result("b.png", rows=()))
    assert files == ["classes.txt", "labels/a.txt", "labels/b.txt"]
    assert (tmp_path / "labels" / "a.txt").read_text() == "1 0.200000 0.350000 0.200000 0.500000 0.50000\n"
    assert (tmp_path / "labels" / "b.txt").read_text() == ""
    (tmp_path / "images").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "images" / f"{name}.png"), np.zeros((100, 80, 3), np.uint8))
    (tmp_path / "labels" / "a.txt").write_text("1 0.200000 0.350000 0.200000 0.500000\n")  # as annotations
    source = open_source(tmp_path)
    index = source.index(source.splits[0] if isinstance(source.splits, tuple | list) else next(iter(source.splits)))
    assert index.classes == NAMES
    assert index.xywh.tolist() == [[8, 10, 16, 50]]


def test_crops_by_class(tmp_path):
    rows = ((0, 0.9, 10.2, 20.8, 30.1, 60), (0, 0.8, -5, 90, 10, 200), (1, 0.7, 1, 1, 9, 9), (1, 0.1, 90, 0, 99, 9))
    files = write(tmp_path, ["crops"], result("a.png", rows=rows), result("b/a.png", rows=rows[2:3]))
    assert files == ["crops/big, dog/a-2-1.jpg", "crops/big, dog/a-3.jpg", "crops/cat/a-1.jpg", "crops/cat/a-2.jpg"]
    assert read_image(tmp_path / "crops/cat/a-1.jpg").shape == (40, 21, 3)
    assert read_image(tmp_path / "crops/cat/a-2.jpg").shape == (10, 10, 3)


def test_class_names_stay_inside_the_folder(tmp_path):
    one = result(rows=((0, 0.9, 10, 20, 30, 60),))
    for name in ("../../x", "..", "a/b", "\n"):
        run = tmp_path / str(len(list(tmp_path.iterdir())))
        run.mkdir()
        sinks = open_sinks(run, ["crops", "txt"])
        for sink in sinks:
            sink.write(replace(one, names=(name, "b")))
        assert len(list(run.glob("crops/*/a-1.jpg"))) == 1
        assert len((run / "classes.txt").read_text().split("\n")) == 3


def test_a_table_has_a_row_per_detection(tmp_path):
    write(tmp_path, ["csv"], result(), result("b.png", rows=()), result("clip.mp4", number=4))
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[1] == {
        "file": "photos/a.png", "frame": "", "seconds": "", "x1": "-2.0", "y1": "4.25", "x2": "50.0", "y2": "200.0",
        "score": "0.5", "category_id": "7", "class": "big, dog",
    }  # fmt: skip
    assert (rows[2]["file"], rows[2]["frame"], rows[2]["seconds"]) == ("clip.mp4", "4", "0.4")


def read_video(path):
    with av.open(str(path)) as container:
        return [(frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


def test_videos_have_the_frames_and_their_times(tmp_path):
    frames = [result("a/clip.mp4", number=i, rows=()) for i in range(8)]
    other = [result("b/clip.mp4", number=i, rows=(), size=(51, 41)) for i in range(2)]
    assert write(tmp_path, ["video"], result(), *frames, *other) == ["clip-2.mp4", "clip.mp4"]
    found = read_video(tmp_path / "clip.mp4")
    assert [time for time, _ in found] == pytest.approx([i / 10 for i in range(8)], abs=1e-3)
    assert [round(image.mean()) for _, image in found] == pytest.approx([40 + 20 * i for i in range(8)], abs=3)
    assert [image.shape for _, image in read_video(tmp_path / "clip-2.mp4")] == [(50, 40, 3)] * 2


def test_times_that_stand_still_and_sizes_that_change_are_written(tmp_path):
    frames = [result("clip.mp4", number=i, rows=()) for i in range(4)]
    frames[2] = replace(frames[2], seconds=0.0)
    frames[3] = replace(frames[3], image=np.zeros((30, 30, 3), np.uint8))
    write(tmp_path, ["video"], *frames)
    assert [image.shape for _, image in read_video(tmp_path / "clip.mp4")] == [(100, 80, 3)] * 4


def test_a_video_can_be_played_before_it_is_closed(tmp_path):
    """As after a kill: all but the frames that the encoder keeps back, up to one key frame, are there."""
    rng = np.random.default_rng(0)
    sinks = open_sinks(tmp_path, ["video"])
    for i in range(200):
        image = rng.integers(0, 255, (100, 80, 3), dtype=np.uint8)
        for sink in sinks:
            sink.write(replace(result("clip.mp4", number=i, rows=()), image=image))
    copy = tmp_path / "copy.mp4"
    copy.write_bytes((tmp_path / "clip.mp4").read_bytes())
    found = read_video(copy)
    assert len(found) >= 60
    for sink in sinks:
        sink.close()
    assert len(read_video(tmp_path / "clip.mp4")) == 200


@pytest.mark.parametrize("kind", SAVED)
def test_a_folder_that_is_gone_is_one_sentence(tmp_path, kind):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        write(tmp_path / "file" / "run", [kind], result("clip.mp4", number=0))


def test_streams_print_whole_documents():
    lines, document = io.StringIO(), io.StringIO()
    sinks = [JsonLinesStream(lines), JsonDocumentStream(document)]
    results = [result(), result("b.png", rows=())]
    for one in results:
        for sink in sinks:
            sink.write(one)
    for sink in sinks:
        sink.close()
    wanted = [one.to_dict() for one in results]
    assert [json.loads(line) for line in lines.getvalue().splitlines()] == wanted
    assert document.getvalue() == json.dumps(wanted, indent=2) + "\n"
    empty = io.StringIO()
    JsonDocumentStream(empty).close()
    assert json.loads(empty.getvalue()) == []
