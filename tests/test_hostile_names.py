"""Names that are no plain words, of images and classes, through the commands: no traceback, nothing raw, JSON whole."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet import cli

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")]
IMAGES = [
    b"a\nerror: b.jpg",
    b"\x1b[31mred.jpg",
    b"caf\xe9.jpg",
    b"x" * 251 + b".jpg",
    b"\xe2\x80\xaegpj.jpg",
    b"$x_{.jpg",
]
CLASSES = ["a\x1b[31mb\nc", "$x_{$ <b>&|`q`"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of one split."""
    root = tmp_path_factory.mktemp("hostile")
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    picture = np.full((80, 96, 3), 110, np.uint8)
    cv2.rectangle(picture, (20, 10), (50, 40), (40, 40, 230), cv2.FILLED)
    images, boxes = [], []
    for number, name in enumerate(IMAGES, 1):
        (root / "train" / os.fsdecode(name)).write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
        images.append({"id": number, "file_name": os.fsdecode(name), "width": 96, "height": 80})
        boxes.append({"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [20, 10, 31, 31],
                      "area": 961, "iscrowd": 0})  # fmt: skip
    classes = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": boxes, "categories": classes}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs `cledet ARGS` in an empty folder; stdout, after a look at what must not be there."""
    monkeypatch.chdir(tmp_path)

    def run(*args: object) -> str:
        monkeypatch.setattr(sys, "argv", ["cledet", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert not ended.value.code, err
        for text in (out, err):
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert not [line for line in text.splitlines() if line.startswith("error: b")]
            text.encode()
        return out

    return run


def test_a_data_set_is_examined_and_trained_on(hostile, tiny, command, tmp_path):
    assert r"a\x1b[31mb\nc: 3" in command("check", hostile, "--html", "page.html")
    assert r"a\x1b[31mb\nc" in json.dumps(json.loads(command("check", hostile, "--json"))).replace(r"\u001b", r"\x1b")
    flags = {**tiny, "data": hostile, "val_split": "train"}
    words = [word for key, value in flags.items() for word in (f"--{key.replace('_', '-')}", value)]
    assert command("train", *words).endswith("weights/best.pt\n")
    assert r"a\x1b[31mb\nc" in command("val", "--split", "train", "--amp", "off")
    command("tune", "--split", "train", "--amp", "off", "--nms", "standard", "--bootstrap", 100)


def test_images_are_predicted_and_explained(hostile, tiny_run, command):
    out = command("predict", hostile / "train", "--weights", tiny_run, "--conf", 0.9)
    assert len(out.splitlines()) == len(IMAGES)
    assert f"{hostile}/train/a\\nerror: b.jpg: nothing over 0.90; the highest score is 0." in out
    assert f"{hostile}/train/caf\\udce9.jpg: nothing over 0.90; the highest score is 0." in out
    documents = json.loads(command("predict", hostile / "train", "--weights", tiny_run, "--json"))
    assert {os.fsencode(Path(one["file"]).name) for one in documents} == set(IMAGES)
    for name in (b"caf\xe9.jpg", b"\x1b[31mred.jpg"):
        shown = command("explain", hostile / "train" / os.fsdecode(name), "--weights", tiny_run)
        assert shown.endswith("/explain.png\n")
