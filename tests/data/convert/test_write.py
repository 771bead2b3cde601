"""Written data sets as the readers read them: number for number, or with a count of all that was lost."""

from __future__ import annotations

import json
import os
import stat
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cledet.data.convert.write import FORMATS, write_dataset
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.errors import UserError

Make = Callable[..., DetectionIndex]
WIDTH, HEIGHT = 100, 80


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three images of 100x80 px: two of one name, one with a space in its name."""
    root = tmp_path_factory.mktemp("photos")
    paths = [root / "b" / "1.png", root / "a" / "1.png", root / "a" / "x y ü.jpg"]
    for value, path in enumerate(paths):
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), 80 * value, np.uint8))
    return paths


@pytest.fixture
def index(make_index: Make, photos: list[Path]) -> DetectionIndex:
    """Four boxes on the images, one of them ignored, and classes not in the order of their ids."""
    rows = [(1, 0, 0, 100, 80), (0, 12.34, 5.67, 8.9, 0.1 + 0.2 + 1)], [], [(0, 0.5, 0.25, 2.5, 64), (1, 9, 9, 9, 9)]
    return make_index(
        *rows, paths=photos, ignore=[3], classes=("dog", "Ampel, grün"), category_ids=np.array([9, 2]),
        image_ids=np.array([7, 5, 900]), area=np.array([1.5, 2.5, 3.5, 4.5]),
    )  # fmt: skip


def by_content(index: DetectionIndex) -> DetectionIndex:
    """The images in the order of their content."""
    return index.subset(np.argsort([Path(path).read_bytes() for path in index.paths], kind="stable"))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_round_trip(index: DetectionIndex, kind: str, tmp_path: Path) -> None:
    written = write_dataset({"train": index, "extra": index.subset([2])}, kind, tmp_path / "out")
    source = open_source(written.folder)
    assert source.splits == ("train", "extra")
    back, given_ = by_content(source.index("train")), by_content(index)
    kept = ~given_.ignore if kind == "yolo" else np.ones(4, bool)
    assert back.classes == index.classes
    assert back.sizes.tolist() == [[100, 80]] * 3
    assert np.diff(back.starts).tolist() == ([2, 0, 1] if kind == "yolo" else [2, 0, 2])
    assert back.labels.tolist() == given_.labels[kept].tolist()
    assert back.ignore.tolist() == given_.ignore[kept].tolist()
    error = np.abs(back.xywh - given_.xywh[kept]).max()
    assert error == 0 if kind != "yolo" else error < 1e-14
    assert len(source.index("extra")) == 1


def test_coco_keeps_ids_and_areas(index: DetectionIndex, tmp_path: Path) -> None:
    written = write_dataset({"train": index}, "coco", tmp_path / "out")
    back = open_source(written.folder).index("train")
    for column in ("category_ids", "image_ids", "sizes", "starts", "xywh", "labels", "ignore", "area"):
        assert (getattr(back, column) == getattr(index, column)).all(), column
    assert [Path(path).name for path in back.paths] == ["b_1.png", "a_1.png", "x y ü.jpg"]
    assert written.notes == ("2 images have a new file name, so that each has one of its own",)
    document = json.loads((written.folder / "annotations" / "instances_train.json").read_text())
    assert document["annotations"][3] == {
        "id": 4, "image_id": 900, "category_id": 2, "bbox": [9, 9, 9, 9], "area": 4.5, "iscrowd": 1,
    }  # fmt: skip


def test_voc_says_what_it_lost(index: DetectionIndex, tmp_path: Path) -> None:
    tiny = replace(index, xywh=np.array([[5, 5, 1, 3], [5, 5, 0, 3], [2e9, 1, 2, 2], [9, 9, 9, 9]]))
    written = write_dataset({"train": tiny}, "voc", tmp_path / "out")
    assert written.notes == (
        "1 boxes lie beyond 1,000,000,000 pixels: left out",
        "1 boxes are at most one pixel wide or high: written as one pixel, which is read as empty",
        "1 boxes without width or height are read as difficult",
        "3 areas (of masks) are not held: read as width times height",
        "3 images get other ids, which are read from the file names",
        "1 classes get other ids, which are numbered from 1",
        "3 images have a new file name, so that each has one of its own",
    )
    back = open_source(written.folder).index("train")
    assert back.xywh.tolist() == [[5, 5, 0, 3], [5, 5, 0, 3], [9, 9, 9, 9]]
    assert [Path(path).name for path in back.paths] == ["b_1.png", "a_1.png", "x_y_ü.jpg"]


def test_voc_is_what_other_programs_expect(index: DetectionIndex, tmp_path: Path) -> None:
    folder = write_dataset({"val": index}, "voc", tmp_path / "out").folder
    root = ElementTree.parse(folder / "Annotations" / "x_y_ü.xml").getroot()
    assert root.findtext("filename") == "x_y_ü.jpg"
    assert [[side.tag, side.text] for side in root.findall("size/*")] == [["width", "100"], ["height", "80"]]
    assert [item.findtext("difficult") for item in root.findall("object")] == ["0", "1"]
    assert [corner.text for corner in root.findall("object/bndbox/*")] == [
        "1.5",
        "1.25",
        "3",
        "64.25",
        *("10", "10", "18", "18"),
    ]
    assert (folder / "ImageSets" / "Main" / "val.txt").read_text().split() == ["b_1", "a_1", "x_y_ü"]


def test_yolo_is_what_other_programs_expect(index: DetectionIndex, tmp_path: Path) -> None:
    written = write_dataset({"valid": index, "train2017": index}, "yolo", tmp_path / "out")
    folder = written.folder
    assert (folder / "labels" / "valid" / "b_1.txt").read_text().splitlines()[0] == "1 0.5 0.5 1.0 1.0"
    assert (folder / "labels" / "valid" / "a_1.txt").read_text() == ""
    assert yaml.safe_load((folder / "data.yaml").read_text()) == {
        "format": "yolo", "train": "images/train2017", "val": "images/valid", "names": ["dog", "Ampel, grün"],
    }  # fmt: skip
    assert "2 crowds, difficult and empty objects are left out, as YOLO has none" in written.notes
    far = replace(index, xywh=np.array([[-60, 0, 20, 9], [140, 0, 10, 9], [149, 0, 1.5, 9], [9, 9, 9, 9]]))
    written = write_dataset({"train": far}, "yolo", tmp_path / "far")
    assert "2 boxes reach out of their image by more than half of it: left out" in written.notes
    assert open_source(written.folder).index("train").xywh.tolist() == [[140, 0, 10, 9]]


def test_an_image_of_two_splits_is_written_once_in_voc(index: DetectionIndex, tmp_path: Path) -> None:
    other = replace(index, xywh=index.xywh + 1)
    folder = write_dataset({"train": index, "trainval": index, "val": other}, "voc", tmp_path / "out").folder
    assert len(list((folder / "Annotations").iterdir())) == len(list((folder / "JPEGImages").iterdir())) == 6 - 1
    back = open_source(folder).read_splits()
    assert (back["train"].xywh == index.xywh).all()
    assert (back["trainval"].xywh == index.xywh).all()
    assert (back["val"].xywh == other.xywh).all()


def test_an_image_that_is_listed_twice_stays_two(make_index: Make, photos: list[Path], tmp_path: Path) -> None:
    index = make_index([(0, 1, 2, 3, 4)], [(0, 1, 2, 3, 4)], paths=[photos[0]] * 2)
    for kind in FORMATS:
        back = open_source(write_dataset({"train": index}, kind, tmp_path / kind).folder).index("train")
        assert back.xywh.tolist() == [[1, 2, 3, 4]] * 2
        assert len(set(back.paths.tolist())) == 2


@pytest.mark.parametrize("images", ["copy", "link", "hardlink", "none"])
def test_images_are_placed(index: DetectionIndex, images: str, tmp_path: Path, photos: list[Path]) -> None:
    calls = []
    source = replace(index, paths=np.array([str(tmp_path / f"{i}.png") for i in range(3)]))
    for old, new in zip(photos, source.paths):
        Path(new).write_bytes(old.read_bytes())
    out = tmp_path / "new" / "out"
    write_dataset({"val": source}, "coco", out, images=images, progress=lambda *done: calls.append(done))
    files = sorted((out / "images" / "val").iterdir())
    assert [file.name for file in files] == ([] if images == "none" else ["0.png", "1.png", "2.png"])
    assert calls == [(done, 3) for done in range(1, len(files) + 1)]
    for file, old in zip(files, source.paths):
        assert file.is_symlink() == (images == "link")
        assert os.path.samefile(file, old) == (images != "copy")
        assert file.read_bytes() == Path(old).read_bytes()
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~umask
    assert [entry.name for entry in out.parent.iterdir()] == ["out"]


def test_unknown_sizes_are_read_from_the_files(index: DetectionIndex, tmp_path: Path) -> None:
    unsized = replace(index, sizes=np.array([[0, 0], [100, 80], [0, 0]], np.int32))
    for kind in FORMATS:
        back = open_source(write_dataset({"train": unsized}, kind, tmp_path / kind).folder).index("train")
        assert back.sizes.tolist() == [[100, 80]] * 3
    back = open_source(write_dataset({"train": unsized}, "voc", tmp_path / "o", images="none").folder)
    assert back.index("train", need_images=False).sizes.tolist() == unsized.sizes.tolist()
    with pytest.raises(UserError, match=r"set/train: 2 images have no annotated size, the first: .*b/1\.png"):
        write_dataset({"train": unsized}, "yolo", tmp_path / "p", images="none")


def test_a_wrong_size_is_refused_for_yolo(index: DetectionIndex, tmp_path: Path) -> None:
    wrong = replace(index, sizes=np.array([[100, 80], [80, 100], [100, 80]], np.int32))
    with pytest.raises(UserError, match=r"1 images have another size.*a/1\.png is 100x80 upright, annotated as 80x100"):
        write_dataset({"train": wrong}, "yolo", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_images_that_the_orientation_turns_in_place_are_read_alike_in_the_copy(
    make_index: Make, tmp_path: Path
) -> None:
    """A size in the copy would mean that the boxes are on the image as stored."""
    paths, exif = [tmp_path / name for name in ("turned.png", "plain.png")], Image.Exif()
    exif[274] = 3
    Image.new("RGB", (WIDTH, HEIGHT)).save(paths[0], exif=exif)
    Image.new("RGB", (WIDTH, HEIGHT)).save(paths[1])
    index = make_index([(0, 1, 2, 3, 4)], [], paths=paths, sizes=[(WIDTH, HEIGHT)] * 2)
    upright = replace(index, upright=np.ones(2, np.bool_))
    for kind, images in (("coco", "copy"), ("voc", "copy"), ("coco", "none")):
        folder = write_dataset({"train": upright}, kind, tmp_path / f"{kind}-{images}", images=images).folder
        back = open_source(folder).index("train", need_images=False)
        assert sorted(back.sizes.tolist()) == [[0, 0], [WIDTH, HEIGHT]]
        folder = write_dataset({"train": index}, kind, tmp_path / f"{kind}-{images}-stored", images=images).folder
        assert open_source(folder).index("train", need_images=False).sizes.tolist() == index.sizes.tolist()
    back = open_source(write_dataset({"train": upright}, "yolo", tmp_path / "yolo").folder).index("train")
    assert (back.sizes.tolist(), back.upright.tolist()) == ([[WIDTH, HEIGHT]] * 2, [True, True])
    with pytest.raises(UserError, match=r"1 images are annotated as stored, but have an EXIF.*turned\.png"):
        write_dataset({"train": index}, "yolo", tmp_path / "out")


def test_nothing_is_overwritten(index: DetectionIndex, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_dataset({"train": index}, "coco", tmp_path / "empty")
    assert (tmp_path / "empty" / "data.yaml").is_file()
    (tmp_path / "file").touch()
    for name in ("empty", "file"):
        with pytest.raises(UserError, match=f"{name} exists, and nothing is overwritten"):
            write_dataset({"train": index}, "voc", tmp_path / name)


@pytest.mark.parametrize("kind", FORMATS)
def test_nothing_is_left_half_written(index: DetectionIndex, kind: str, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset({"train": index}, kind, tmp_path / "out", progress=stop)
    assert list(tmp_path.iterdir()) == []
    gone = replace(index, paths=np.array([*index.paths[:2], "/nowhere/x.jpg"]))
    with pytest.raises(UserError, match=r"/nowhere/x\.jpg"):
        write_dataset({"train": gone}, kind, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(index: DetectionIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(UserError, match=r"out could not be written: No space left on device \(free some space\)"):
        write_dataset({"train": index}, "coco", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_names_that_a_format_cannot_hold(make_index: Make, photos: list[Path], tmp_path: Path) -> None:
    strange = make_index([(1, 1, 1, 5, 5)], paths=photos[:1], classes=("<&>'\"", "no: yes", "1", "1e3", "null", "~"))
    for kind in FORMATS:
        back = open_source(write_dataset({"val": strange}, kind, tmp_path / kind).folder).index("val")
        assert back.classes == strange.classes
    for name in ("a\nb", " a", "a\x00"):
        index = make_index([(0, 1, 1, 5, 5)], paths=photos[:1], classes=(name,))
        with pytest.raises(UserError, match=r"VOC cannot hold the class name|holds a NUL character"):
            write_dataset({"val": index}, "voc", tmp_path / "out")
        if "\0" not in name:
            folder = write_dataset({"val": index}, "yolo", tmp_path / repr(name)).folder
            assert open_source(folder).index("val").classes == (name,)


def test_splits_of_other_classes_get_all(make_index: Make, photos: list[Path], tmp_path: Path) -> None:
    one = make_index([(0, 1, 1, 5, 5)], paths=photos[:1], classes=("cat",))
    other = make_index([(0, 1, 1, 5, 5)], paths=photos[:1], classes=("dog",))
    back = open_source(write_dataset({"train": one, "val": other}, "yolo", tmp_path / "out").folder).read_splits()
    assert [(index.classes, index.labels.tolist()) for index in back.values()] == [
        (("cat", "dog"), [0]), (("cat", "dog"), [1]),
    ]  # fmt: skip


numbers = st.one_of(st.integers(-40, 120).map(float), st.floats(-40, 120), st.floats(-1e9 + 3, 9e8), st.just(5e-324))
boxes = st.tuples(st.integers(0, 1), numbers, numbers, numbers, numbers)


@given(rows=st.lists(boxes, max_size=5), kind=st.sampled_from(["coco", "voc", "yolo"]))
@example(rows=[(0, 0.0, 0.0, 5e-324, -41.0)], kind="yolo")
@example(rows=[(0, 5e-324, 5e-324, 5e-324, -1e-200)], kind="voc")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
def test_any_box_comes_back_or_is_counted(
    rows: list[tuple[float, ...]],
    kind: str,
    make_index: Make,
    photos: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    index = make_index(rows, paths=photos[:1])
    out = tmp_path_factory.mktemp("any") / "out"
    written = write_dataset({"val": index}, kind, out, images="link")
    back = open_source(out).index("val")
    left_out = sum(int(note.split()[0].replace(",", "")) for note in written.notes if "left out" in note)
    assert back.num_boxes == index.num_boxes - left_out == written.splits["val"].num_boxes
    assert (back.labels == written.splits["val"].labels).all()
    wanted = written.splits["val"].xywh
    if kind == "coco":
        assert left_out == 0
        assert back.xywh.tobytes() == index.xywh.tobytes()
    elif kind == "voc":
        held = (wanted[:, 2:] <= 0) | (wanted[:, 2:] > 1)
        assert (back.xywh[:, :2] == wanted[:, :2]).all()
        assert (back.xywh[:, 2:] == np.where(held, wanted[:, 2:], 0)).all()
    else:
        assert (np.abs(back.xywh - wanted) < 1e-13).all()
    again = write_dataset({"val": back}, kind, out.with_name("again"), images="link")
    assert (open_source(again.folder).index("val").xywh == back.xywh).all()
