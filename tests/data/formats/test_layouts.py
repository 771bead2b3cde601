"""Layouts recognised by content: tiny trees, and one real set under other folder names."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trees import contents, draw, write, write_coco, write_labels, write_xml

from cledet.data.formats.layouts import places
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError

VOC = {
    "images and annotations": ("images/{}.jpg", "annotations/{}.xml"),
    "annots": ("images/{}.jpg", "annots/{}.xml"),
    "labels": ("images/{}.jpg", "labels/{}.xml"),
    "xmls": ("imgs/{}.jpeg", "xmls/{}.xml"),
    "beside": ("{}.jpg", "{}.xml"),
    "JPEGImages": ("JPEGImages/{}.png", "annotations/{}.xml"),
    "Annotations and images": ("images/{}.jpg", "Annotations/{}.xml"),
    "nested": ("data/pictures/all/{}.jpg", "data/meta/xml/v1/{}.XML"),
    "below the images": ("images/{}.jpg", "images/annotations/{}.xml"),
}
YOLO = {
    "other names": ("imgs/{}.jpg", "annotations/{}.txt"),
    "nested": ("data/pictures/{}.jpg", "data/txt/{}.txt"),
    "CVAT": ("obj_data/{}.jpg", "obj_data/{}.txt"),
    "below the images": ("images/{}.jpg", "images/txt/{}.txt"),
}
SPLIT = {
    "inner folders": ("images/{split}/{}.jpg", "annotations/{split}/{}"),
    "outer folders": ("{split}/images/{}.jpg", "{split}/annots/{}"),
    "folder names": ("{split}_images/{}.jpg", "{split}_labels/{}"),
    "beside": ("{split}/{}.jpg", "{split}/{}"),
}
EVERYTHING = ["1", "2", "13"]


@pytest.mark.parametrize("layout", VOC)
def test_voc_xml_in_any_folder(tmp_path: Path, layout: str) -> None:
    image, xml = VOC[layout]
    draw(tmp_path, *map(image.format, EVERYTHING))
    for name in EVERYTHING:
        write_xml(tmp_path / xml.format(name), Path(image.format(name)).name)
    source = open_source(tmp_path)
    assert source.reader.format == "Pascal VOC"
    assert contents(source, tmp_path) == {"all": [image.format(name) for name in ("1", "13", "2")]}


@pytest.mark.parametrize("layout", YOLO)
def test_yolo_labels_in_any_folder(tmp_path: Path, layout: str) -> None:
    image, text = YOLO[layout]
    draw(tmp_path, *map(image.format, EVERYTHING))
    for name in EVERYTHING:
        write_labels(tmp_path / text.format(name))
    source = open_source(tmp_path)
    assert source.reader.format == "YOLO"
    assert contents(source, tmp_path) == {"all": [image.format(name) for name in ("1", "13", "2")]}


@pytest.mark.parametrize("write_one", [write_xml, write_labels])
@pytest.mark.parametrize("layout", SPLIT)
def test_folder_names_are_splits(tmp_path: Path, layout: str, write_one) -> None:
    """The same file names in all splits: each annotation belongs to the image of its own split."""
    image, annotation = SPLIT[layout]
    suffix = ".xml" if write_one is write_xml else ".txt"
    for split in ("train", "valid", "test"):
        for name in "12":
            draw(tmp_path, image.format(name, split=split))
            write_one(tmp_path / (annotation.format(name, split=split) + suffix))
    source = open_source(tmp_path)
    assert contents(source, tmp_path) == {
        split: [image.format(name, split=split) for name in "12"] for split in ("test", "train", "valid")
    }
    assert len(source.index("val")) == 2


COCO = {
    "custom_{}.json": {"custom_train": ["train/1.jpg"], "custom_val": ["val/2.jpg"]},
    "{}_coco.json": {"train_coco": ["train/1.jpg"], "val_coco": ["val/2.jpg"]},
    "annots/{}.json": {"train": ["train/1.jpg"], "val": ["val/2.jpg"]},
    "{}/labels.json": {"train": ["train/1.jpg"], "val": ["val/2.jpg"]},
    "meta/json/instances_{}2017.json": {"train2017": ["train/1.jpg"], "val2017": ["val/2.jpg"]},
    "annotations/my-{}.json": {"my-train": ["train/1.jpg"], "my-val": ["val/2.jpg"]},
}


@pytest.mark.parametrize("images", ["", "data/photos/"])
@pytest.mark.parametrize("pattern", COCO)
def test_coco_files_of_any_name(tmp_path: Path, pattern: str, images: str) -> None:
    draw(tmp_path, f"{images}train/1.jpg", f"{images}val/2.jpg")
    write_coco(tmp_path / pattern.format("train"), ["1.jpg"])
    write_coco(tmp_path / pattern.format("val"), ["2.jpg"])
    write(tmp_path / "package.json", '{"name": "categories"}')
    write(tmp_path / "results.json", '[{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    source = open_source(tmp_path)
    assert contents(source, tmp_path) == {
        split: [images + path for path in paths] for split, paths in COCO[pattern].items()
    }
    assert source.find("train") != source.find("val")


def test_one_coco_file_for_images_in_several_folders(tmp_path: Path) -> None:
    draw(tmp_path, "train/1.jpg", "train/2.jpg", "val/3.jpg")
    write_coco(tmp_path / "labels.json", ["1.jpg", "2.jpg", "3.jpg"])
    assert contents(open_source(tmp_path), tmp_path) == {"labels": ["train/1.jpg", "train/2.jpg", "val/3.jpg"]}


def test_the_archive_of_a_set_is_one_folder_in_another(tmp_path: Path) -> None:
    draw(tmp_path, "archive/BCCD/JPEGImages/1.jpg")
    write_xml(tmp_path / "archive/BCCD/Annotations/1.xml")
    write(tmp_path / "archive/__MACOSX/BCCD/Annotations/._1.xml", b"\0\5\x16\7")
    source = open_source(tmp_path)
    assert (source.name, contents(source, tmp_path)) == ("BCCD", {"all": ["archive/BCCD/JPEGImages/1.jpg"]})


def test_a_folder_of_annotations_alone_has_its_images_beside_it(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.jpg")
    write_xml(tmp_path / "annots/1.xml")
    write_labels(tmp_path / "txt/1.txt")
    assert contents(open_source(tmp_path / "annots"), tmp_path) == {"all": ["images/1.jpg"]}
    assert contents(open_source(tmp_path / "txt"), tmp_path) == {"all": ["images/1.jpg"]}
    assert contents(open_source(tmp_path / "annots/1.xml"), tmp_path) == {"all": ["images/1.jpg"]}


def test_two_formats_are_ambiguous(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.jpg", "images/2.jpg")
    for name in "12":
        write_xml(tmp_path / f"annots/{name}.xml")
    write_coco(tmp_path / "more/labels.json", ["1.jpg", "2.jpg"])
    words = (
        r"in several formats: COCO \(more/labels.json\) and Pascal VOC \(annots/\*.xml \(2\)\).*as --data, or a YAML"
    )
    with pytest.raises(UserError, match=words):
        open_source(tmp_path)
    images = ["images/1.jpg", "images/2.jpg"]
    assert contents(open_source(tmp_path / "more/labels.json"), tmp_path) == {"labels": images}
    assert contents(open_source(tmp_path / "annots"), tmp_path) == {"all": images}


def test_the_log_names_format_places_and_splits(tmp_path: Path) -> None:
    draw(tmp_path / "set", *(f"images/{split}/{i}.jpg" for split in ("train", "val", "test") for i in range(4)))
    for split in ("train", "val", "test"):
        write_xml(tmp_path / f"set/annots/{split}/1.xml")
    assert str(open_source(tmp_path / "set")) == (
        "set: Pascal VOC (annots/*/1.xml (3), images in images/*/*.jpg (12)), test, train, val"
    )
    write_coco(tmp_path / "other/train.json", [])
    assert str(open_source(tmp_path / "other")) == "other: COCO, train"  # a usual place


def test_places() -> None:
    root = Path(os.sep, "r")
    assert places([], root) == ""
    assert places(["/r/a/1.x"], root) == "a/1.x"
    assert places(["/r/a/1.x", "/r/b/1.x", "/r/b/2.x"], root) == "a/1.x, b/*.x (2)"
    assert places([f"/r/{i}/1.x" for i in range(3000)], root) == "*/1.x (3,000)"
    assert places([f"/r/{'a/' * i}1.x" for i in range(5)], root) == "1.x, a/1.x, a/a/1.x and 2 more"


def test_a_folder_of_no_format_is_told_what_would_be_readable(tmp_path: Path) -> None:
    draw(tmp_path, "a/1.jpg", "a/2.jpg")
    write(tmp_path / "a/1.txt", "a photo of a nut")
    write(tmp_path / "a/2.txt", "a photo of two nuts")
    write(tmp_path / "LICENSE", "free")
    with pytest.raises(UserError, match=r"holds neither COCO nor .*\(it holds 2 .jpg, 2 .txt, 1 LICENSE\)") as caught:
        open_source(tmp_path)
    known = {line.split(":")[0].strip() for line in caught.value.lines}
    assert {"readable are", "COCO", "Pascal VOC", "YOLO"} <= known


def test_sampling_finds_one_format_among_many_files(tmp_path: Path) -> None:
    """A quarter of 300 files are XML: the broken ones are annotation errors, not files of no format."""
    draw(tmp_path, *(f"images/{i}.jpg" for i in range(300)))
    for i in range(300):
        (write_xml if i % 4 == 0 else lambda file: write(file, "<annotation>"))(tmp_path / f"xml/{i}.xml")
    source = open_source(tmp_path)
    index = source.index("all", allow_errors=True)
    assert (len(index), index.annotation_errors[0].kind, index.annotation_errors[0].count) == (75, "annotation", 225)


USUAL = ("images", "labels", "annotations", "JPEGImages", "Annotations", "data", "VOC2007", "ImageSets", "x.json")
NAMES = st.sampled_from(USUAL) | st.text("aZ9 -_é", min_size=1, max_size=6)
FOLDER = st.lists(NAMES, max_size=3).map("/".join)


@given(images=FOLDER, annotations=FOLDER, kind=st.sampled_from(["voc", "yolo", "coco"]), name=NAMES)
@example(images="labels/9", annotations="images/9", kind="voc", name="images")
@example(images="images/images", annotations="labels", kind="yolo", name="images")
@settings(max_examples=60, deadline=None)
def test_the_names_of_folders_change_no_box(images: str, annotations: str, kind: str, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw(root, *(os.path.join(images, f"{i}.jpg") for i in (1, 2, 13)))
        if kind == "coco":
            write_coco(root / annotations / f"{name}.json", ["1.jpg", "2.jpg", "13.jpg"])
        for i in (1, 2, 13) if kind != "coco" else ():
            write_xml(root / annotations / f"{i}.xml") if kind == "voc" else write_labels(
                root / annotations / f"{i}.txt"
            )
        source = open_source(root)
        found = [path for paths in contents(source, root).values() for path in paths]
        assert sorted(found) == sorted(os.path.normpath(os.path.join(images, f"{i}.jpg")) for i in (1, 2, 13))
        assert source.reader.format == {"voc": "Pascal VOC", "yolo": "YOLO", "coco": "COCO"}[kind]


def kaggle(root: Path, original: Path, images: str, annotations: str) -> Path:
    (root / images).parent.mkdir(parents=True, exist_ok=True)
    (root / images).symlink_to(original / "JPEGImages")
    (root / annotations).parent.mkdir(parents=True, exist_ok=True)
    (root / annotations).symlink_to(original / "Annotations")
    return root


@pytest.fixture(scope="module")
def bccd(shared_data: Path) -> dict[str, DetectionIndex]:
    """The splits of the real set in its own folders."""
    return open_source(shared_data / "bccd").read_splits()


@pytest.mark.parametrize(
    ("images", "annotations"), [("images", "annotations"), ("images", "annots"), ("BCCD/photos", "BCCD/meta/xmls")]
)
def test_bccd_as_kaggle_has_it(
    bccd: dict[str, DetectionIndex], shared_data: Path, tmp_path: Path, images: str, annotations: str
) -> None:
    """Under other names, linked, the same columns: with the lists all splits, without them their union."""
    root = kaggle(tmp_path / "bccd", shared_data / "bccd", images, annotations)
    undivided = open_source(root).index("all")
    parts = [bccd[split] for split in ("trainval", "test")]
    assert (len(undivided), undivided.num_boxes) == (364, sum(part.num_boxes for part in parts))
    for part in parts:
        rows = np.flatnonzero(
            np.isin([Path(path).name for path in undivided.paths], [Path(p).name for p in part.paths])
        )
        same(undivided.subset(rows), part.subset(np.argsort(part.image_ids)))
    (root / "ImageSets").symlink_to(shared_data / "bccd" / "ImageSets")
    divided = open_source(root).read_splits()
    assert list(divided) == list(bccd)
    for split, index in divided.items():
        same(index, bccd[split])


def same(index, other) -> None:
    for column in ("image_ids", "sizes", "starts", "xywh", "labels", "ignore", "area", "category_ids"):
        assert np.array_equal(getattr(index, column), getattr(other, column)), column
    assert index.classes == other.classes
    assert [Path(path).resolve() for path in index.paths] == [Path(path).resolve() for path in other.paths]
