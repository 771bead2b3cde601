"""CSV files: TensorFlow's, keras-retinanet's and Open Images', each by hand."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trees import draw, write

from cledet.data.formats.csv_files import CsvFiles, find_csv, read_names, sniff
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError

TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
OPEN_IMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)


def make(folder: Path, files: dict[str, str], images: tuple[str, ...] = ()) -> CsvFiles:
    """Write files and 40x30 images, and return the reader of the sniffed ones."""
    for name, text in files.items():
        write(folder / name, text)
    draw(folder, *images)
    reader = find_csv(folder, [folder / name for name in sorted(files) if sniff(folder / name)])
    assert reader is not None
    return reader


def names(index: DetectionIndex, root: Path) -> list[str]:
    return [Path(path).relative_to(root).as_posix() for path in index.paths.tolist()]


def test_tensorflow(tmp_path: Path) -> None:
    train = "a.jpg,40,30,dog,1,2,11,22\nb.jpg,40,30,cat,0,0,40,30\na.jpg,40,30,cat,0.5,0,4,4\n"
    files = {
        "data/train_labels.csv": TENSORFLOW + train,
        "data/test_labels.csv": f"{TENSORFLOW}c.jpg,40,30,emu,5,5,5,9",
    }
    reader = make(tmp_path, files, ("images/a.jpg", "images/b.jpg", "images/c.jpg"))
    assert list(reader.splits) == ["test", "train"]
    index = reader.read("train")
    assert index.name == "train"
    assert index.classes == ("cat", "dog", "emu")
    assert names(index, tmp_path) == ["images/a.jpg", "images/b.jpg"]
    assert (index.sizes.tolist(), index.upright.tolist()) == ([[40, 30], [40, 30]], [False, False])
    assert index.starts.tolist() == [0, 2, 3]
    assert index.xywh.tolist() == [[1, 2, 10, 20], [0.5, 0, 3.5, 4], [0, 0, 40, 30]]
    assert index.labels.tolist() == [1, 0, 0]
    assert not index.ignore.any()
    assert not index.annotation_errors
    index = reader.read("test")
    assert index.xywh.tolist() == [[5, 5, 0, 4]]
    assert index.ignore.tolist() == [True]
    assert [file.name for file in reader.inputs("test")[0]] == ["test_labels.csv", "train_labels.csv"]


def test_roboflow_has_a_file_in_each_splits_folder_and_images_of_one_name_are_not_confused(tmp_path: Path) -> None:
    files = {f"{split}/_annotations.csv": f"{TENSORFLOW}1.jpg,40,30,dog,1,2,11,22\n" for split in ("train", "valid")}
    reader = make(tmp_path, files, ("train/1.jpg", "valid/1.jpg"))
    assert {split: names(reader.read(split), tmp_path) for split in reader.splits} == {
        "train": ["train/1.jpg"],
        "valid": ["valid/1.jpg"],
    }


def test_a_splits_name_decides_among_images_of_one_name(tmp_path: Path) -> None:
    files = {f"{split}_labels.csv": f"{TENSORFLOW}1.jpg,40,30,dog,1,2,11,22\n" for split in ("train", "test")}
    reader = make(tmp_path, files, ("images/test/1.jpg", "images/train/1.jpg"))
    for split in ("train", "test"):
        assert names(reader.read(split), tmp_path) == [f"images/{split}/1.jpg"]


def test_a_missing_image_is_not_taken_from_another_split(tmp_path: Path) -> None:
    files = {f"{split}_labels.csv": f"{TENSORFLOW}1.jpg,40,30,dog,1,2,11,22\n" for split in ("train", "test")}
    reader = make(tmp_path, files, ("images/test/1.jpg", "images/train/2.jpg"))
    assert names(reader.read("test"), tmp_path) == ["images/test/1.jpg"]
    assert names(reader.read("train"), tmp_path) == ["1.jpg"]  # no such file


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("image,xmin,ymin,xmax,ymax\na.jpg,1,2,11,22\n", ("object",)),  # Kaggle's cars have no class
        ("image_id;x_min;y_min;x_max;y_max;label\na;1;2;11;22;7\n", ("7",)),
        ('path\tleft\ttop\tright\tbottom\tclass_name\n"a.jpg"\t1\t2\t11\t22\t"a, b"\n', ("a, b",)),
        ("\ufeffImage , XMin, YMin, XMax, YMax, Class\r\n a.jpg , 1, 2, 11, 22, dog\r\n\r\n", ("dog",)),
    ],
)
def test_columns_are_found_by_their_titles(tmp_path: Path, text: str, classes: tuple[str, ...]) -> None:
    index = make(tmp_path, {"boxes.csv": text}, ("a.jpg",)).read("all")
    assert (index.classes, index.notes) == (classes, ())
    assert index.xywh.tolist() == [[1, 2, 10, 20]]
    assert index.sizes.tolist() == [[0, 0]]
    assert names(index, tmp_path) == ["a.jpg"]


@pytest.mark.parametrize(
    ("title", "value"),
    [("name", "cat"), ("category_name", "cat"), ("Class_ID", "3"), ("category_id", "3"), ("label_id", "3")],
)
def test_a_column_of_names_is_the_class_before_one_of_numbers(tmp_path: Path, title: str, value: str) -> None:
    text = f"filename,xmin,ymin,xmax,ymax,{title}\na.jpg,1,2,11,22,{value}\n"
    index = make(tmp_path, {"boxes.csv": text}, ("a.jpg",)).read("all")
    assert (index.classes, index.notes) == ((value,), ())
    text = f"filename,xmin,ymin,xmax,ymax,class_id,{title},class_name\na.jpg,1,2,11,22,4,{value},dog\n"
    assert make(tmp_path, {"boxes.csv": text}).read("all").classes == ("dog",)


def test_a_file_without_a_known_column_of_classes_is_noted(tmp_path: Path) -> None:
    text = "filename,xmin,ymin,xmax,ymax,kind,id\na.jpg,1,2,11,22,cat,7\n"
    index = make(tmp_path, {"boxes.csv": text}, ("a.jpg",)).read("all")
    assert index.classes == ("object",)
    assert index.notes == (f"{tmp_path}/boxes.csv: no class column among kind, id: all boxes are 'object'.",)


def test_keras_retinanet(tmp_path: Path) -> None:
    rows = "/data/imgs/1.jpg,1,2,11,22,cow\n/data/imgs/2.jpg,0,0,40,30,bird\n/data/imgs/3.jpg,,,,,\n"
    files = {"annotations.csv": rows, "classes.csv": "cow,1\nbird,2\ncat,0\n", "epochs.csv": "epoch,loss\n1,0.5\n"}
    reader = make(tmp_path, files, ("imgs/1.jpg", "imgs/2.jpg", "imgs/3.jpg"))
    assert reader.classes == tmp_path / "classes.csv"
    index = reader.read("all")
    assert index.classes == ("cat", "cow", "bird")
    assert index.labels.tolist() == [1, 2]
    assert index.starts.tolist() == [0, 1, 2, 2]
    assert names(index, tmp_path) == ["imgs/1.jpg", "imgs/2.jpg", "imgs/3.jpg"]
    assert reader.inputs("all")[0] == [tmp_path / "annotations.csv", tmp_path / "classes.csv"]


def test_keras_retinanet_without_a_classes_file(tmp_path: Path) -> None:
    reader = make(tmp_path, {"val.csv": "1.png,,,,,\n2.png,1,2,11,22,cow\n", "train.csv": "3.png,1,2,11,22,ant\n"})
    assert reader.read("val").classes == ("ant", "cow")
    assert reader.read("val").starts.tolist() == [0, 0, 1]


def test_a_class_that_the_classes_file_lacks_is_an_error(tmp_path: Path) -> None:
    reader = make(tmp_path, {"boxes.csv": "1.jpg,1,2,11,22,caw\n1.jpg,1,2,11,22,cow\n", "classes.csv": "cow,0\n"})
    index = reader.read("all")
    (error,) = index.annotation_errors
    assert (error.kind, error.count) == ("class", 1)
    assert error.examples == ("1.jpg: 'caw' (did you mean cow?)",)
    assert index.labels.tolist() == [0]


def test_several_classes_files_are_ambiguous(tmp_path: Path) -> None:
    files = {"boxes.csv": "1.jpg,1,2,11,22,cow\n", "classes.csv": "cow,0\n", "old.csv": "cow,1\ncat,0\n"}
    with pytest.raises(UserError, match=r"holds several lists of classes, classes\.csv and old\.csv"):
        make(tmp_path, files)


@pytest.mark.parametrize("text", ["cow,0\ncat,0\n", "cow,0\ncow,1\n", "cow,0,1\n", "cow,-1\n", "", '"', "cow,x\n"])
def test_invalid_lists_of_classes(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(UserError, match="classes"):
        read_names(tmp_path / "classes.csv")


def test_open_images(tmp_path: Path) -> None:
    rows = (
        "0001eeaf4aed83f9,xclick,/m/0cmf2,1,0.025,0.5,0.1,0.9,0,0,0,0,0\n"
        "000595fe6fee6369,xclick,/m/02wbm,1,0.0,1.0,0.0,1.0,0,0,1,0,0\n"
        "0001eeaf4aed83f9,xclick,/m/02wbm,1,0.25,0.75,0.5,0.6,-1,-1,-1,-1,-1\n"
    )
    descriptions = "LabelName,DisplayName\n/m/0pcr,Alpaca\n/m/0cmf2,Airplane\n/m/02wbm,Food\n"
    files = {
        "annotations/oidv6-train-annotations-bbox.csv": OPEN_IMAGES + rows,
        "annotations/validation-annotations-bbox.csv": OPEN_IMAGES,
        "class-descriptions-boxable.csv": descriptions,
    }
    reader = make(tmp_path, files, ("train/0001eeaf4aed83f9.jpg", "train/000595fe6fee6369.jpg"))
    assert list(reader.splits) == ["train", "validation"]
    index = reader.read("train")
    assert index.classes == ("Airplane", "Food")  # in the file's order; Alpaca has no box in any split
    assert names(index, tmp_path) == ["train/0001eeaf4aed83f9.jpg", "train/000595fe6fee6369.jpg"]
    assert (index.sizes.tolist(), index.upright.tolist()) == ([[40, 30], [40, 30]], [True, True])
    assert index.xywh == pytest.approx(np.array([[1, 3, 19, 24], [10, 15, 20, 3], [0, 0, 40, 30]]))
    assert index.labels.tolist() == [0, 1, 1]
    assert index.ignore.tolist() == [False, False, True]
    assert not index.annotation_errors
    assert len(reader.read("validation")) == 0


def test_the_state_of_relative_coordinates_changes_with_an_image(tmp_path: Path) -> None:
    row = "a,xclick,/m/0cmf2,1,0.025,0.5,0.1,0.9,0,0,0,0,0\n"
    reader = make(tmp_path, {"boxes.csv": OPEN_IMAGES + row}, ("a.png",))
    before = reader.inputs("all")[1]
    assert reader.inputs("all")[1] == before
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((60, 80, 3), np.uint8))
    assert reader.inputs("all")[1] != before
    assert reader.read("all").xywh == pytest.approx(np.array([[2, 6, 38, 48]]))


@pytest.mark.parametrize(
    ("row", "kind", "words"),
    [
        ("a.jpg,40,30,dog,1,2,11", "entry", ":2: 7 columns instead of 8"),
        ("a.jpg,40,30,dog,1,two,11,22", "box", ":2: 1, two, 11, 22"),
        ("a.jpg,40,30,dog,1,,11,22", "box", ":2: 1, , 11, 22"),
        ("a.jpg,40,30,dog,nan,2,11,22", "box", "nan"),
        ("a.jpg,40,30,dog,1,2,1e10,22", "box", "1e+10"),
        ("a.jpg,40,30,,1,2,11,22", "class", "no class name"),
        ("a.jpg,wide,30,dog,1,2,11,22", "entry", "'wide' and '30'"),
        ("a.jpg,1e400,30,dog,1,2,11,22", "entry", "'1e400'"),
        ("a.jpg,-1,30,dog,1,2,11,22", "entry", "width and height are -1 and 30"),
        ("a.jpg,40,30,dog,1,2,11,22\na.jpg,41,30,dog,1,2,11,22", "entry", ":3: a.jpg has another size"),
        (",40,30,dog,1,2,11,22", "entry", "it is empty"),
        ("../../secret.jpg,40,30,dog,1,2,11,22", "outside", "../../secret.jpg"),
        (f"{'x' * 300}.jpg,40,30,dog,1,2,11,22", "entry", "longer than a path"),
        ('a.jpg,40,30,"' + "x" * 200_000, "annotation", "field larger than field limit"),
    ],
)
def test_invalid_rows_are_errors(tmp_path: Path, row: str, kind: str, words: str) -> None:
    (tmp_path / "secret.jpg").write_text("")
    index = make(tmp_path / "set" / "sub", {"boxes.csv": f"{TENSORFLOW}{row}\n"}).read("all")
    (error,) = index.annotation_errors
    assert (error.kind, error.count) == (kind, 1)
    assert words in error.examples[0]


def test_a_file_that_is_not_utf_8_and_one_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_bytes(TENSORFLOW.encode() + b"\xff.jpg,40,30,dog,1,2,11,22\n")
    reader = find_csv(tmp_path, [tmp_path / "boxes.csv"])
    assert reader is not None
    assert "can't decode byte 0xff" in reader.read("all").annotation_errors[0].text
    (tmp_path / "boxes.csv").unlink()
    assert "no columns of images and boxes" in reader.read("all").annotation_errors[0].text


def test_images_without_a_file_keep_their_place(tmp_path: Path) -> None:
    reader = make(tmp_path, {"boxes.csv": "/home/me/a/1.jpg,1,2,11,22,cow\n/home/me/b/1.jpg,1,2,11,22,cow\n"})
    index = reader.read("all")
    assert names(index, tmp_path) == ["home/me/a/1.jpg", "home/me/b/1.jpg"]
    assert not index.annotation_errors


def test_images_that_no_file_lists_are_noted(tmp_path: Path) -> None:
    files = {f"{split}.csv": f"{name},1,2,11,22,cow\n" for split, name in (("train", "a.jpg"), ("val", "b.v2.jpg"))}
    images = ("photos/a.jpg", "photos/b.v2.jpg", "photos/c.jpg", "photos/d.jpg", "masks/e.jpg")
    reader = make(tmp_path, files, images)
    first = tmp_path / "photos" / "c.jpg"
    for split in ("train", "val"):
        note = f"{split}: 2 images are in no annotation file, the first is {first}: left out."
        assert reader.read(split).notes == (note,)
    (tmp_path / "val.csv").write_text("c.jpg,,,,,\nb.v2,1,2,11,22,cow\nother/d.png,,,,,\n")
    assert reader.read("train").notes == ()


def test_an_image_in_two_files_of_a_split_is_an_error(tmp_path: Path) -> None:
    reader = make(tmp_path, {"a.csv": "1.jpg,1,2,11,22,cow\n", "b.csv": "1.jpg,1,2,11,22,cow\n"}, ("1.jpg",))
    (error,) = reader.read("all").annotation_errors
    assert error.examples == (f"{tmp_path}: 1.jpg is listed twice",)


@pytest.mark.parametrize(
    "text",
    ["", "a,b,c\n1,2,3\n", "image_id,category,bbox\n", "1,2,3,4,5,6\n", "a.jpg,1,2,3,x,dog\n", "a.jpg,cat\n", "\0\0"],
)
def test_other_files_are_not_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    assert not sniff(tmp_path / "a.csv")
    (tmp_path / "a.txt").write_text(f"{TENSORFLOW}a.jpg,40,30,dog,1,2,11,22\n")
    assert not sniff(tmp_path / "a.txt")


def test_a_single_file_with_other_columns_is_told_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,x,y,w,h\n")
    with pytest.raises(UserError, match=r"a\.csv is no data set \(expected a \.csv file with the columns file"):
        open_source(tmp_path / "a.csv")


corner = st.integers(0, 10**6).map(lambda n: n / 64)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["x", "y, z", 'q"']), corner, corner, corner, corner))
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float, float, float, float]]
) -> None:

    folder = tmp_path_factory.mktemp("csv")
    with (folder / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(TENSORFLOW.strip().split(","))
        writer.writerows([f"{image}.jpg", "", "", name, x, y, x + w, y + h] for image, name, x, y, w, h in rows)
    reader = find_csv(folder, [folder / "boxes.csv"])
    assert reader is not None
    index = reader.read("all")
    order = list(dict.fromkeys(row[0] for row in rows))
    expected = sorted(rows, key=lambda row: order.index(row[0]))
    assert names(index, folder) == [f"{image}.jpg" for image in order]
    assert [index.classes[label] for label in index.labels] == [row[1] for row in expected]
    assert index.xywh.tolist() == [list(row[2:]) for row in expected]
    assert index.ignore.tolist() == [row[4] == 0 or row[5] == 0 for row in expected]
