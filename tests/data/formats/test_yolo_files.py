"""YOLO labels outside images/ and labels/: whose labels they are, lists, and names of classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import contents, draw, write, write_labels

from cledet.data.formats.yolo import sniff_yolo
from cledet.data.formats.yolo_files import find_yolo_files
from cledet.data.open import open_source
from cledet.errors import UserError


@pytest.mark.parametrize(
    ("text", "yolo"),
    [
        ("0 0.5 0.5 0.1 0.1\n", True),
        ("\n 12 0.5 0.5 0.1 0.1", True),
        ("3 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\n", True),  # a polygon
        ("0 120 80 30 40\n", True),  # pixels, which the reader refuses in words
        ("0 0.5 0.5 0.1\n", False),
        ("0.5 0.5 0.5 0.1 0.1\n", False),
        ("Car 0.00 0 -1.58 587.01\n", False),  # KITTI's
        ("a photo of a nut", False),
        ("images/1.jpg\n", False),
        ("inf 0 0 0 0", False),
        ("", False),
    ],
)
def test_sniff(tmp_path: Path, text: str, yolo: bool) -> None:
    assert sniff_yolo(write(tmp_path / "a.txt", text)) == yolo


def darknet(root: Path, *, lists: dict[str, str]) -> Path:
    """CVAT's export: labels beside images, obj.names, obj.data, and lists with the prefix data/."""
    for name in "123":
        draw(root, f"obj_train_data/{name}.jpg")
        write_labels(root / f"obj_train_data/{name}.txt")
    write(root / "obj.names", "nut\n")
    write(root / "obj.data", "classes = 1\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")
    for split, names in lists.items():
        write(root / f"{split}.txt", "".join(f"data/obj_train_data/{name}.jpg\n" for name in names))
    return root


def test_an_export_of_cvat(tmp_path: Path) -> None:
    source = open_source(darknet(tmp_path / "a", lists={"train": "12", "valid": "3"}))
    images = [f"obj_train_data/{name}.jpg" for name in "123"]
    assert contents(source, tmp_path / "a") == {"train": images[:2], "valid": images[2:]}
    assert source.index("train").classes == ("nut",)
    alone = open_source(darknet(tmp_path / "b", lists={"train": "12"}))
    assert contents(alone, tmp_path / "b") == {"train": images}  # by the folder's name: one list divides nothing


def test_lists_beside_images_and_labels(tmp_path: Path) -> None:
    for name in "123":
        draw(tmp_path, f"images/{name}.jpg")
        write_labels(tmp_path / f"labels/{name}.txt")
    write(tmp_path / "train.txt", "./images/1.jpg\nimages\\3.jpg\n")
    assert list(open_source(tmp_path).splits) == ["all"]
    write(tmp_path / "val.txt", "images/2.jpg\n")
    images = [f"images/{name}.jpg" for name in "132"]
    assert contents(open_source(tmp_path), tmp_path) == {"train": images[:2], "val": images[2:]}


def test_an_image_of_a_list_that_does_not_exist_is_noted(tmp_path: Path) -> None:
    darknet(tmp_path, lists={"train": "19", "val": "2"})
    index = open_source(tmp_path).index("train")
    assert [Path(path).name for path in index.paths] == ["1.jpg"]
    assert "1 of 2 images have no file" in index.notes[0]


def test_a_list_cannot_name_images_outside(tmp_path: Path) -> None:
    darknet(tmp_path / "set", lists={"train": "1", "val": "2"})
    write(tmp_path / "set/train.txt", "data/obj_train_data/1.jpg\n/etc/passwd\n../../x.jpg\n")
    error = open_source(tmp_path / "set").index("train", allow_errors=True).annotation_errors[0]
    assert (error.kind, error.count) == ("outside", 2)


def test_roboflows_darknet_export(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        draw(tmp_path, f"{split}/1.jpg", f"{split}/2.jpg")
        write_labels(tmp_path / f"{split}/1.txt")
        write(tmp_path / f"{split}/_darknet.labels", "nut\nbolt\n")
        write(tmp_path / f"{split}/2.txt", "1 0.5 0.5 0.5 0.5")
    source = open_source(tmp_path)
    index = source.index("valid")
    assert (source.splits, index.classes) == (("train", "valid"), ("nut", "bolt"))
    assert (index.labels.tolist(), index.starts.tolist()) == ([0, 1], [0, 1, 2])
    write(tmp_path / "valid/_darknet.labels", "bolt\nnut\n")
    with pytest.raises(UserError, match=r"train/_darknet.labels and .*valid/_darknet.labels name the classes differ"):
        open_source(tmp_path)


def test_one_folder_of_labels_for_several_of_images(tmp_path: Path) -> None:
    """Masks of the same names are no images, and an image without labels has no boxes."""
    draw(tmp_path, "pics/train/1.jpg", "pics/train/2.jpg", "pics/val/3.jpg", "pics/val/9.jpg", "masks/1.png")
    for name in "123":
        write_labels(tmp_path / f"txt/{name}.txt")
    source = open_source(tmp_path)
    assert source.splits == ("train", "val")
    assert source.index("train").xywh[:, 0].round(9).tolist() == [1, 2]
    assert source.index("val").starts.tolist() == [0, 1, 1]


@pytest.mark.parametrize("folders", [("txt", "txt_old"), ("txt/train", "txt/val")])
def test_two_folders_of_labels_for_one_of_images_are_ambiguous(tmp_path: Path, folders: tuple[str, str]) -> None:
    draw(tmp_path, "pics/1.jpg", "pics/2.jpg")
    write_labels(tmp_path / folders[0] / "1.txt")
    write_labels(tmp_path / folders[1] / "2.txt")
    with pytest.raises(UserError, match=r"both hold labels of the images in .*pics \(pass a data.yaml"):
        open_source(tmp_path)


def test_labels_without_images_are_no_data_set(tmp_path: Path) -> None:
    assert find_yolo_files(tmp_path, [write_labels(tmp_path / "set/txt/1.txt")]) is None
    with pytest.raises(UserError, match=r"txt holds files like YOLO's \(1.txt\), but no images of their names"):
        open_source(tmp_path / "set")


def test_names_in_a_yaml_file_below_the_top(tmp_path: Path) -> None:
    draw(tmp_path, "v1/set/pics/1.jpg")
    write_labels(tmp_path / "v1/set/txt/1.txt")
    write(tmp_path / "v1/README.md", "")
    write(tmp_path / "v1/set/mine.yaml", "path: /content/set\ntrain: pics\nval: pics\nnames: {0: nut, 1: bolt}\n")
    write(tmp_path / "v1/other/hyp.yaml", "lr: 0.1\nnames: [a]\n")
    assert open_source(tmp_path).index("all").classes == ("nut", "bolt")


def test_xml_in_labels_is_not_yolo_but_a_folder_of_backgrounds_is(tmp_path: Path) -> None:
    draw(tmp_path, "images/1.jpg")
    (tmp_path / "labels").mkdir()
    assert open_source(tmp_path).reader.format == "YOLO"
    write(tmp_path / "labels/1.xml", "<annotation><size/></annotation>")
    assert open_source(tmp_path).reader.format == "Pascal VOC"


@pytest.mark.parametrize(
    ("image", "files"),
    [
        ("{}/images/1.jpg", ["{}/labels/classes.txt"]),
        ("images/{}/1.jpg", ["labels/{}/classes.txt"]),  # labelImg writes it beside the labels
        ("images/{}/1.jpg", ["labels/classes.txt", "classes.txt"]),
        ("images/{}/1.jpg", ["my.names"]),
        ("{}/images/1.jpg", ["{}/labels/_darknet.labels"]),
    ],
)
def test_class_names_in_the_usual_places(tmp_path: Path, image: str, files: list[str]) -> None:
    for split in ("train", "val"):
        draw(tmp_path, image.format(split))
        write_labels(tmp_path / image.format(split).replace("images", "labels").replace(".jpg", ".txt"))
        for file in files:
            write(tmp_path / file.format(split), "nut\nbolt\n")
    write(tmp_path / "elsewhere/classes.txt", "screw\n")
    source = open_source(tmp_path)
    assert contents(source, tmp_path) == {split: [image.format(split)] for split in ("train", "val")}
    assert source.index("val").classes == ("nut", "bolt")
    write(tmp_path / "classes.txt", "screw\n")
    with pytest.raises(UserError, match="name the classes differently"):
        open_source(tmp_path)


@pytest.mark.parametrize("file", ["classes.txt", "my.names", "_darknet.labels"])
@pytest.mark.parametrize("folder", ["", "images", "labels"])
def test_class_names_of_one_folder(tmp_path: Path, file: str, folder: str) -> None:
    draw(tmp_path, f"{folder and 'images/'}1.jpg")
    write_labels(tmp_path / f"{folder and 'labels/'}1.txt")
    write(tmp_path / folder / file, "nut\nbolt\n")
    assert open_source(tmp_path).index("all").classes == ("nut", "bolt")
