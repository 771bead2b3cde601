"""Folders of text files: YOLO's and VOC's."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from cledet.errors import UserError
from cledet.metrics.predictions.read import read_predictions


@pytest.fixture
def index(make_index):
    paths = ["/set/val/a.jpg", "/set/val/sub/000005.jpg", "/set/val/2007_000027.jpg"]
    return make_index([], [], [], paths=paths, sizes=[(100, 80), (200, 50), (10, 10)], image_ids=np.array([4, 5, 6]))


@pytest.fixture
def read(index, tmp_path):
    def read(**files):
        for name, text in files.items():
            (tmp_path / f"{name}.txt").write_text(text)
        return read_predictions(tmp_path, index)

    return read


def test_yolo_files_are_fractions_of_the_image(read):
    """0.5 0.5 0.2 0.25 of 100x80 is 40 30 20 20; a seventh number is a track."""
    found = read(a="1 0.5 0.5 0.2 0.25 0.5\n0 0.1 0.1 0.2 0.2 0.25 17\n\n", **{"000005": "0 0.5 0.5 1 1 1\n"})
    # 000005.txt is read before a.txt
    np.testing.assert_allclose(
        found.rows, [[5, 0, 0, 200, 50, 1, 1], [4, 40, 30, 20, 20, 0.5, 2], [4, 0, 0, 20, 16, 0.25, 1]], atol=1e-12
    )
    assert found.summary.endswith(
        ": YOLO text files, 3 detections on 2 of 3 images (1 without detections); images by file name; "
        "classes numbered from 0"
    )


def test_the_labels_of_a_run_folder_are_found_and_its_names_read(index, tmp_path):
    """As `cledet predict --save txt` writes them; Ultralytics joins folders to a name by "_"."""
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "sub_000005.txt").write_text("1 0.5 0.5 1 1 0.5\n")
    (tmp_path / "labels" / "a.txt").write_text("")
    assert read_predictions(tmp_path, index).rows.tolist() == [[5, 0, 0, 200, 50, 0.5, 2]]
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    found = read_predictions(tmp_path, index)
    assert found.rows.tolist() == [[5, 0, 0, 200, 50, 0.5, 1]]
    assert found.summary.endswith(f"classes by name; names from {tmp_path / 'classes.txt'}")
    (tmp_path / "classes.txt").write_text("dog\n")
    with pytest.raises(UserError, match=r"classes.txt has 1 names, and the files name class 1"):
        read_predictions(tmp_path, index)


def test_an_unknown_size_is_that_of_the_image_file(make_index, tmp_path):
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    index = make_index([], [], paths=[tmp_path / "a.png", tmp_path / "b.png"], sizes=[(0, 0), (0, 0)])
    (tmp_path / "found").mkdir()
    (tmp_path / "found" / "a.txt").write_text("0 0.5 0.5 0.5 0.5 0.5")
    assert read_predictions(tmp_path / "found", index).rows.tolist() == [[0, 10, 5, 20, 10, 0.5, 1]]
    (tmp_path / "found" / "b.txt").write_text("0 0.5 0.5 0.5 0.5 0.5")
    with pytest.raises(UserError, match=r"cannot read image .*b\.png"):
        read_predictions(tmp_path / "found", index)


@pytest.mark.parametrize("prefix", ["comp4_det_test_", "", "results_"])
def test_voc_files_are_pixels_from_1(read, prefix):
    """11 to 30 are the twenty pixels from 10 on. Scores may be any numbers, and stems look like numbers."""
    found = read(
        **{f"{prefix}dog": "000005 -1.25 11 21 30 40\n2007_000027 0.5 1.0 1.0 10.0 10.0\n", f"{prefix}cat": ""}
    )
    assert found.rows.tolist() == [[5, 10, 20, 20, 20, -1.25, 2], [6, 0, 0, 10, 10, 0.5, 2]]
    assert "VOC's files per class, 2 detections on 2 of 3 images" in found.summary
    assert found.summary.endswith("images by file name; classes by name")


def test_a_class_without_a_voc_file_is_counted_and_the_longest_name_is_taken(make_index, tmp_path):
    index = make_index([], paths=["/a.jpg"], classes=("b", "a_b", "c"))
    (tmp_path / "comp4_det_val_a_b.txt").write_text("a 0.5 1 1 10 10\n")
    found = read_predictions(tmp_path, index)
    assert found.rows.tolist() == [[0, 0, 0, 10, 10, 0.5, 2]]
    assert found.summary.endswith("classes by name; 2 classes without a file")


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"a": "1 0.5 0.5 0.2 0.25\n"}, r"a.txt has no confidences: line 1 .*save_conf=True"),
        ({"a": "1 0.5 0.5 0.2 0.25 0.5\n1 0 0 1 0 1 1 0 1 0.5\n"}, "line 2 has 10 words instead of 6"),
        ({"a": "1 50 50 20 25 0.5\n"}, "line 1 is not class x y w h confidence in fractions: 1 50 50 20 25 0.5"),
        ({"a": "1 0.5 0.5 0.2 0.25 7\n"}, "line 1 is not class x y w h confidence in fractions"),
        ({"a": "1 0.5 0.5 0.2 x 0.5\n"}, "a.txt: could not convert string to float: 'x'"),
        ({"a": "1 0.5 nan 0.2 0.2 0.5\n"}, "1 detections hold numbers that are not finite"),
        ({"a": "2 0.5 0.5 0.2 0.25 0.5\n1 0.5 0.5 0.2 0.25 0.5\n"},
         r"names 1 of 2 class numbers that set/train does not have: 2 \(each is 1 higher than one of the data set"),
        ({"a": "7 0.5 0.5 0.2 0.25 0.5\n"}, r"does not have: 7 \(its class numbers are 0, 1\)"),
        ({"a": "", "z": ""}, r"names 1 of 2 images that set/train does not have: z \(the first of the split is a.jpg"),
        ({"comp4_det_test_dog": "a 0.5 1 1 9\n"}, "line 1 has 5 words|has no confidences"),
        ({"comp4_det_test_dgo": "a 0.5 1 1 9 9\n"}, r"dgo.txt is of no class of set/train.*did you mean dog"),
        ({"comp3_det_test_dog": "a 0.5 1 1 9 9\n", "comp4_det_test_dog": "a 0.5 1 1 9 9\n"},
         "holds several files of the class dog: comp3_det_test_dog.txt, comp4_det_test_dog.txt"),
        ({"dog": "a 0.5 1 1 9 9\na x 1 1 9 9\n"}, "dog.txt: could not convert string to float: 'x'"),
        ({"dog": "a 0.5 1 1 9 9\na 0.5 1 1 9\n"}, "line 2 has 5 words instead of 6: image score"),
        ({"dog": "b 0.5 1 1 9 9\n"}, "names 1 of 1 images that set/train does not have: b"),
    ],
)  # fmt: skip
def test_other_files_are_refused(read, files, sentence):
    with pytest.raises(UserError, match=sentence):
        read(**files)


def test_other_folders_are_refused(index, tmp_path):
    with pytest.raises(UserError, match=r"holds no text files of detections.*\(it is empty\)"):
        read_predictions(tmp_path, index)
    (tmp_path / "predictions.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds no text files .*\(it holds predictions.json\)"):
        read_predictions(tmp_path, index)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe1")
    with pytest.raises(UserError, match=r"a.txt is not UTF-8 text"):
        read_predictions(tmp_path, index)
    (tmp_path / "a.txt").unlink()
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a.txt cannot be read: it is a named pipe"):
        read_predictions(tmp_path, index)
