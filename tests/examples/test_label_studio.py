"""Detections that are accepted in Label Studio come back as annotations."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import cv2
import numpy as np
from scripts import load_script
from untrained import untrained

from cledet import Detector
from cledet.data.open import open_source

NAMES = ("blue & <green>", 'the "red"')


def test_the_round_trip(tmp_path, monkeypatch):
    """An annotator who submits each prediction as it is; the photos are in a folder whose name is quoted in URLs."""
    monkeypatch.chdir(tmp_path)
    photos = tmp_path / "my photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i, size in enumerate(((60, 80), (90, 70))):
        cv2.imwrite(str(photos / f"{i}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    untrained(NAMES).save(tmp_path / "best.pt")
    load_script("label_studio")["main"](str(photos), "best.pt", conf=0.2)

    tasks = json.loads((tmp_path / "tasks.json").read_text())
    labels = [one.get("value") for one in ElementTree.fromstring((tmp_path / "labels.xml").read_text()).iter("Label")]
    assert labels == [*NAMES]
    export = [{"data": one["data"], "annotations": one["predictions"]} for one in tasks]
    (photos / "export.json").write_text(json.dumps(export))
    index = open_source(photos / "export.json").index("train")

    wanted = list(Detector("best.pt").predict(photos, conf=0.2))
    assert len(wanted[0]) > 0
    assert [path.rsplit("/", 1)[1] for path in index.paths.tolist()] == ["0.png", "1.png"]
    for i, result in enumerate(wanted):
        boxes, rows = index.boxes(i), index.rows(i)
        order, expected = np.lexsort(boxes.T), np.lexsort(result.boxes.numpy().T)
        np.testing.assert_allclose(boxes[order], result.boxes.numpy()[expected], atol=0.01)
        names = [index.classes[label] for label in index.labels[rows][order]]
        assert names == [result.class_names[k] for k in expected]
