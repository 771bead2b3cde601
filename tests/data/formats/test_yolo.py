"""YOLO folders and an Ultralytics data.yaml as it is: boxes by hand, lists, names, and what is wrong with a line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.walk import walk_folder
from cledet.data.formats.yolo import label_file, read_labels
from cledet.data.formats.yolo_files import find_yolo
from cledet.data.open import open_source
from cledet.errors import UserError


def draw(file: Path, size: tuple[int, int] = (40, 20), orientation: int = 1) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", size).save(file, exif=exif)
    return file


def label(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """images/ and labels/ with two splits: an image of two boxes, one without, one without a label file."""
    root = tmp_path / "set"
    for name in ("train/000000000009.jpg", "train/deep/12.png", "val/7.jpg"):
        draw(root / "images" / name)
    label(root / "labels/train/000000000009.txt", "1 0.5 0.5 0.5 0.5\n0 0.1 0.2 0.2 0.4\n\n")
    label(root / "labels/train/deep/12.txt", "")
    return root


def test_boxes_are_fractions_of_the_image(yolo: Path) -> None:
    """Of 40 x 20 pixels: half the sides about the middle; and 8 x 8 in the corner."""
    index = find_yolo(yolo).read("train")  # type: ignore[union-attr]
    assert index.image_ids.tolist() == [9, 12]
    assert np.allclose(index.xywh, [[10, 5, 20, 10], [0, 0, 8, 8]], atol=1e-12)
    assert index.labels.tolist() == [1, 0]
    assert index.starts.tolist() == [0, 2, 2]
    assert index.sizes.tolist() == [[40, 20], [40, 20]]
    assert (index.classes, index.category_ids.tolist()) == (("0", "1"), [0, 1])
    assert np.allclose(index.area, [200, 64])
    assert not index.ignore.any()


def test_an_image_without_a_label_file_has_no_boxes(yolo: Path) -> None:
    index = open_source(yolo).index("val")
    assert (len(index), index.num_boxes, index.classes) == (1, 0, ("0", "1"))
    label = next((yolo / "images/val").iterdir()).stem
    note = f"val: none of its 1 images has a label file, the first would be {yolo}/labels/val/{label}.txt."
    assert index.notes == (note,)
    assert open_source(yolo).index("train").notes == ()


DATA = """
train: images/train
val: images/val
test:
nc: 2
names: [cat, dog]
roboflow: {workspace: x}
download: https://example.org/x.zip
"""


@pytest.mark.parametrize("name", ["data.yaml", "other.yaml"])
def test_a_data_yaml(yolo: Path, name: str) -> None:
    (yolo / name).write_text(DATA)
    source = open_source(yolo / name)
    assert (source.name, source.reader.format) == ("set" if name == "data.yaml" else "other", "YOLO")
    assert source.splits == ("train", "val")
    assert source.index("train").classes == ("cat", "dog")
    assert len(source.index("train")) == 2


def test_a_folder_with_a_data_yaml_is_read_by_it(yolo: Path) -> None:
    (yolo / "data.yaml").write_text(DATA)
    assert open_source(yolo).index("train").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("[cat, dog]", "{0: cat, 1: dog}"),
        ("train: images/train", "train: [images/train]"),
        ("train: images/train", "path: .\ntrain: images/train"),
        ("train: images/train", "path: /content/datasets/mine\ntrain: images/train"),  # another machine's
        ("train: images/train", "train: ../images/train"),  # Roboflow's
        ("train: images/train", "train: images\\train"),
        ("train: images/train", "train: list.txt"),
        ("val: images/val", "valid: images/val"),
        ("nc: 2\n", ""),
    ],
)
def test_ways_to_write_a_data_yaml(yolo: Path, old: str, new: str) -> None:
    (yolo / "data.yaml").write_text(DATA.replace(old, new))
    (yolo / "list.txt").write_text("./images/train/000000000009.jpg\nimages\\train\\deep\\12.png\n")
    source = open_source(yolo / "data.yaml")
    index = source.index("train")
    assert (index.image_ids.tolist(), index.classes, index.num_boxes) == ([9, 12], ("cat", "dog"), 2)
    assert len(source.index("val")) == 1
    assert bool(index.notes) == ("/content" in new)


def test_several_folders_and_a_file_are_one_split(yolo: Path) -> None:
    (yolo / "data.yaml").write_text(DATA.replace("images/train", "[images/train/deep, images/val, images/val/7.jpg]"))
    assert open_source(yolo).index("train").image_ids.tolist() == [12, 7]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("train: images/train", "trian: images/train", "unknown key 'trian'.*did you mean train"),
        ("nc: 2", "nc: 3", "nc is 3, but there are 2 names"),
        ("[cat, dog]", "{1: cat, 2: dog}", "'names' is invalid.*numbered from 0 to 1"),
        ("[cat, dog]", "[yes, no]", "put quotes around them"),
        ("images/train", "images/trian", r"images not found.*images/trian.*did you mean train"),
        ("train: images/train", "path: /nowhere\ntrain: images/trian", "the data set's `path` not found: /nowhere"),
    ],
)
def test_a_wrong_data_yaml_is_explained(yolo: Path, old: str, new: str, words: str) -> None:
    (yolo / "data.yaml").write_text(DATA.replace(old, new))
    with pytest.raises(UserError, match=words):
        open_source(yolo / "data.yaml").index("train")


def test_a_list_cannot_name_files_outside_its_folder_unless_the_yaml_allows_it(yolo: Path) -> None:
    other = draw(yolo.parent / "elsewhere.jpg")
    (yolo / "list.txt").write_text(f"images/val/7.jpg\n{other}\n../../x.jpg\n")
    (yolo / "data.yaml").write_text(DATA.replace("images/train", "list.txt"))
    with pytest.raises(UserError, match=r"2 images lie outside.*elsewhere\.jpg.*outside: true"):
        open_source(yolo).index("train")
    (yolo / "data.yaml").write_text(DATA.replace("images/train", "list.txt") + "outside: true\n")
    index = open_source(yolo).index("train")
    assert index.paths.tolist() == [str(yolo / "images/val/7.jpg"), str(other)]
    assert "1 of 3 images have no file" in index.notes[1]


def test_other_layouts_without_a_yaml(tmp_path: Path) -> None:
    for place in ("a/train/images/x.jpg", "a/valid/images/x.jpg", "b/images/x.jpg", "c/x.jpg"):
        draw(tmp_path / place)
        label(Path(label_file(str(tmp_path / place))), "0 0.5 0.5 1 1")
    (tmp_path / "b" / "classes.txt").write_text("leaf\n\nroot\n")
    assert open_source(tmp_path / "a").splits == ("train", "valid")
    assert len(open_source(tmp_path / "a").index("val")) == 1
    assert open_source(tmp_path / "b").index("train").classes == ("leaf", "root")
    index = open_source(tmp_path / "c").index("val")
    assert (index.name, index.xywh.tolist()) == ("c/all", [[0, 0, 40, 20]])


def test_the_label_file_of_an_image() -> None:
    assert label_file("/images/d/images/train/a.b.jpg") == "/images/d/labels/train/a.b.txt"
    assert label_file("/d/photos/a.jpg") == "/d/photos/a.txt"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_sizes_are_those_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    """Boxes are drawn on what a viewer shows, as Ultralytics reads it too."""
    draw(tmp_path / "images/a.jpg", (40, 20), orientation)
    label(tmp_path / "labels/a.txt", "0 0.5 0.25 0.5 0.5")
    index = open_source(tmp_path).index("train")
    width, height = (20, 40) if orientation >= 5 else (40, 20)
    assert index.sizes.tolist() == [[width, height]]
    assert index.xywh.tolist() == [[width / 4, 0, width / 2, height / 2]]


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("0 0.5 0.5 0.5", "box", "4 numbers instead of 5"),
        ("0 0.5 0.5 0.5 0.5 0.9", "box", "6 numbers instead of 5"),
        ("0 0.5 0.5 0.5 half", "box", "'half'"),
        ("0 120 80 30 40", "box", "not fractions of the image's sides"),
        ("0 1.3 0.5 0.5 0.5", "box", "not fractions of the image's sides"),  # to 1.55
        ("0 0.5 -0.3 0.5 0.5", "box", "not fractions of the image's sides"),  # from -0.55
        ("0 nan 0.5 0.1 0.1", "box", "not fractions of the image's sides"),
        ("0.5 0.5 0.5 0.5 0.5", "class", "class 0.5"),
        ("-1 0.5 0.5 0.5 0.5", "class", "class -1"),
        ("inf 0.5 0.5 0.5 0.5", "class", "class inf"),
    ],
)
def test_invalid_lines(tmp_path: Path, line: str, kind: str, words: str) -> None:
    label(tmp_path / "a.txt", f"0 0.5 0.5 0.1 0.1\n{line}\n")
    errors = ErrorLog()
    rows = read_labels(str(tmp_path / "a.txt"), False, errors)
    (error,) = errors.records()
    assert (len(rows), error.kind, error.count) == (1, kind, 1)
    assert error.examples[0].startswith(f"{tmp_path / 'a.txt'}:2: ")
    assert words in error.examples[0]


def test_a_class_without_a_name_is_an_annotation_error(yolo: Path) -> None:
    (yolo / "data.yaml").write_text(DATA.replace("nc: 2", "").replace("[cat, dog]", "[cat]"))
    with pytest.raises(UserError, match=r"1 boxes are of an unknown class.*9\.txt: class 1, but there are 1"):
        open_source(yolo).index("train")
    index = open_source(yolo).index("train", allow_errors=True)
    assert (index.labels.tolist(), index.starts.tolist()) == ([0], [0, 1, 1])


def test_a_box_may_reach_out_of_the_image_by_half_of_it(tmp_path: Path) -> None:
    label(tmp_path / "a.txt", "0 1.2 0.5 0.5 0.5\n0 0.5 -0.2 0.5 0.5\n")
    errors = ErrorLog()
    assert len(read_labels(str(tmp_path / "a.txt"), False, errors)) == 2
    assert errors.records() == ()


def test_polygons_become_boxes_and_keypoints_are_no_polygon(tmp_path: Path) -> None:
    label(tmp_path / "a.txt", "2 0.1 0.2 0.5 0.2 0.3 0.6\n2.0 0.5 0.5 0.2 0.2\n")
    assert np.allclose(read_labels(str(tmp_path / "a.txt"), False, ErrorLog())[0], [2, 0.3, 0.4, 0.4, 0.4])
    label(tmp_path / "b.txt", "0 0.5 0.5 0.2 0.2 0.4 0.4 0.6 0.6\n")
    assert np.allclose(read_labels(str(tmp_path / "b.txt"), True, ErrorLog()), [[0, 0.5, 0.5, 0.2, 0.2]])


def test_an_image_that_cannot_be_read_is_an_annotation_error(yolo: Path) -> None:
    (yolo / "images/val/7.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 images cannot be read.*7\.jpg"):
        open_source(yolo).index("val")


def test_labels_in_another_encoding_are_annotation_errors(yolo: Path) -> None:
    (yolo / "labels/train/deep/12.txt").write_bytes(b"\xff\xfe0 0.5")
    with pytest.raises(UserError, match=r"1 annotation files cannot be read.*12\.txt"):
        open_source(yolo).index("train")


@pytest.mark.parametrize("number", ["1e300", "300000000", "32768", "inf", "9" * 400])
def test_a_class_number_beyond_every_data_set_is_an_annotation_error(yolo: Path, number: str) -> None:
    label(yolo / "labels/train/deep/12.txt", f"{number} 0.5 0.5 0.1 0.1\n")
    index = open_source(yolo).index("train", allow_errors=True)
    assert index.classes == ("0", "1")
    assert (index.annotation_errors[0].kind, index.annotation_errors[0].count) == ("class", 1)
    assert index.annotation_errors[0].examples[0].endswith(f"12.txt:1: class {number[:40]}")


def test_the_highest_allowed_class(yolo: Path) -> None:
    label(yolo / "labels/train/deep/12.txt", "32767 0.5 0.5 0.1 0.1\n")
    assert len(open_source(yolo).index("train").classes) == 32768


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [(b"0 .5 .5 .1 .1\n\xff", "annotation", "12.txt: 'utf-8' codec"), (b"0 .5 .5 .1 \0", "box", "12.txt:1: could not")],
)
def test_labels_that_are_no_text_are_annotation_errors(yolo: Path, data: bytes, kind: str, words: str) -> None:
    (yolo / "labels/train/deep/12.txt").write_bytes(data)
    error = open_source(yolo).index("train", allow_errors=True).annotation_errors[0]
    assert error.kind == kind
    assert words in error.examples[0]


def test_a_folder_in_the_place_of_labels_is_an_annotation_error(yolo: Path) -> None:
    (yolo / "labels/train/deep/12.txt").unlink()
    (yolo / "labels/train/deep/12.txt").mkdir()
    error = open_source(yolo).index("train", allow_errors=True).annotation_errors[0]
    assert (error.kind, "Is a directory" in error.examples[0]) == ("annotation", True)


def test_lists_and_class_names_that_are_not_utf_8(yolo: Path) -> None:
    (yolo / "classes.txt").write_bytes(b"cat\n\xe9\n")
    with pytest.raises(UserError, match=r"classes\.txt is not UTF-8 text"):
        open_source(yolo)
    (yolo / "classes.txt").unlink()
    (yolo / "list.txt").write_bytes(b"images/train/deep/12.png\n\xff")
    (yolo / "data.yaml").write_text("train: list.txt\nnames: [a, b]")
    with pytest.raises(UserError, match=r"list\.txt is not UTF-8 text"):
        open_source(yolo).index("train")
    (yolo / "list.txt").write_bytes(b"images/train/deep/12.png\na\0.png\n" + b"x" * 2000)
    error = open_source(yolo).index("train", allow_errors=True).annotation_errors[0]
    assert (error.kind, error.count) == ("entry", 2)


@pytest.mark.parametrize("root", ["/", "/../", "../" * 40])
def test_the_root_of_the_file_system_is_refused_as_a_split(yolo: Path, root: str) -> None:
    (yolo / "data.yaml").write_text(f"train: {root}\nnames: [a, b]")
    with pytest.raises(UserError, match="is the whole file system, /"):
        open_source(yolo).index("train")


def test_a_folder_of_too_many_files_is_refused(yolo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The split's folder holds two files and a folder, `deep`; other files count too."""
    (yolo / "data.yaml").write_text("train: images/train\nnames: [a, b]")
    monkeypatch.setattr(walk_folder, "__defaults__", (3,))
    assert len(open_source(yolo).index("train")) == 2
    (yolo / "images/train/deep/notes.txt").touch()
    with pytest.raises(
        UserError, match=r"images/train holds more than 3 files and folders \(name the data set's folder"
    ):
        open_source(yolo).index("train")


def test_hidden_folders_are_left_out(yolo: Path) -> None:
    before = len(open_source(yolo).index("train"))
    image = next((yolo / "images" / "train").rglob("*.png"))
    (image.parent / ".thumbnails").mkdir()
    (image.parent / ".thumbnails" / "small.png").write_bytes(image.read_bytes())
    assert len(open_source(yolo).index("train")) == before
