"""CVAT's files: shapes by hand, subsets, labels, invalid entries."""

from __future__ import annotations

from pathlib import Path

import pytest
from trees import draw, write

from cledet.data.formats.cvat import CvatFiles, find_cvat, sniff
from cledet.data.open import open_source
from cledet.errors import UserError

LABELS = ("dog", "cat")
BOX = '<box label="dog" source="manual" occluded="1" xtl="1.50" ytl="2" xbr="11.50" ybr="22" z_order="0"></box>'


def meta(*names: str, more: str = "", owner: str = "task") -> str:
    labels = "".join(f"<label><name>{name}</name><type>any</type></label>" for name in names)
    return f"<meta><{owner}><name>t</name><labels>{labels}{more}</labels></{owner}><dumped>now</dumped></meta>"


def image(name: str, *shapes: str, size: str = 'width="40" height="30"', more: str = "") -> str:
    return f'<image id="0" name="{name}" {more} {size}>{"".join(shapes)}</image>'


def document(*images: str, head: str | None = None) -> str:
    head = meta(*LABELS) if head is None else head
    content = f"<version>1.1</version>{head}{''.join(images)}"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>{content}</annotations>'


def make(folder: Path, files: dict[str, str], images: tuple[str, ...] = ()) -> CvatFiles:
    for name, text in files.items():
        write(folder / name, text)
    draw(folder, *images)
    reader = find_cvat(folder, [folder / name for name in sorted(files)])
    assert reader is not None
    return reader


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        (BOX, [1.5, 2, 10, 20]),
        ('<box label="dog" xtl="10" ytl="20" xbr="50" ybr="50" rotation="90.0"/>', [15, 15, 30, 40]),
        ('<polygon label="dog" points="5.00,2.00;9.00,12.00;1.00,7.00"/>', [1, 2, 8, 10]),
        ('<ellipse label="dog" cx="10" cy="20" rx="4" ry="3"/>', [6, 17, 8, 6]),
        ('<ellipse label="dog" cx="10" cy="20" rx="4" ry="3" rotation="90"/>', [7, 16, 6, 8]),
        ('<mask label="dog" rle="3, 5" left="4" top="3" width="8" height="2"/>', [4, 3, 8, 2]),
        (
            '<cuboid label="dog" xtl1="5" ytl1="6" xbl1="5" ybl1="16" xtr1="9" ytr1="6" xbr1="9" ybr1="16" '
            'xtl2="8" ytl2="4" xbl2="8" ybl2="14" xtr2="12" ytr2="4" xbr2="12" ybr2="14"/>',
            [5, 4, 7, 12],
        ),
        ('<box label="dog" xtl="9" ytl="2" xbr="5" ybr="3"/>', [9, 2, -4, 1]),
    ],
)
def test_shapes(tmp_path: Path, shape: str, box: list[float]) -> None:
    reader = make(tmp_path, {"annotations.xml": document(image("a.jpg", shape))}, ("images/a.jpg",))
    index = reader.read("all")
    assert index.xywh[0] == pytest.approx(box)
    assert index.labels.tolist() == [0]
    assert index.ignore.tolist() == [box[2] < 0]  # occluded objects count
    assert index.sizes.tolist() == [[40, 30]]
    assert index.paths.tolist() == [str(tmp_path / "images" / "a.jpg")]
    assert not index.annotation_errors


@pytest.mark.parametrize("owner", ["task", "project", "job"])
def test_classes_are_in_the_order_of_the_labels(tmp_path: Path, owner: str) -> None:
    more = (
        "<label><name>pose</name><type>skeleton</type></label>"
        "<label><name>nose</name><type>points</type><parent>pose</parent></label>"
    )
    head = meta("zebra", "dog", "ant", more=more, owner=owner)
    index = make(tmp_path, {"annotations.xml": document(image("a.jpg", BOX), head=head)}).read("all")
    assert index.classes == ("zebra", "dog", "ant")
    assert index.labels.tolist() == [1]


def test_without_labels_classes_are_sorted(tmp_path: Path) -> None:
    shapes = [BOX.replace("dog", name) for name in ("b", "c", "a")]
    index = make(tmp_path, {"a.xml": document(image("a.jpg", *shapes), head="")}).read("all")
    assert index.classes == ("a", "b", "c")


def test_shapes_without_a_box_and_outside_ones_are_noted(tmp_path: Path) -> None:
    others = (
        '<points label="dog" points="1,2"/>', '<tag label="dog"/>', '<tag label="cat"/>',
        BOX.replace('occluded="1"', 'outside="1"'), '<polyline label="dog" points="1,2;3,4"/>',
    )  # fmt: skip
    index = make(tmp_path, {"a.xml": document(image("a.jpg", BOX, *others))}).read("all")
    assert index.num_boxes == 1
    assert index.notes == ("all: shapes without a box are skipped: 1 outside, 1 points, 1 polyline, 2 tag.",)


def test_subsets_are_splits(tmp_path: Path) -> None:
    images = [image(f"{name}/1.jpg", BOX, more=f'subset="{name}"') for name in ("Train", "Validation")]
    images.append(image("2.jpg", more='subset="Train"'))
    reader = make(
        tmp_path, {"annotations.xml": document(*images)}, ("images/Train/1.jpg", "images/Validation/1.jpg", "2.jpg")
    )
    assert list(reader.splits) == ["Train", "Validation"]
    assert reader.read("Train").paths.tolist() == [str(tmp_path / "images/Train/1.jpg"), str(tmp_path / "2.jpg")]
    assert reader.read("Validation").paths.tolist() == [str(tmp_path / "images/Validation/1.jpg")]
    assert reader.inputs("Train")[0] == [tmp_path / "annotations.xml"]


def test_a_single_file_has_its_subsets(tmp_path: Path) -> None:
    images = [image(f"{name}.jpg", BOX, more=f'subset="{name}"') for name in ("Train", "Validation")]
    make(tmp_path, {"annotations.xml": document(*images)}, ("Train.jpg", "Validation.jpg"))
    source = open_source(tmp_path / "annotations.xml")
    assert source.splits == ("Train", "Validation")
    assert source.index("val").paths.tolist() == [str(tmp_path / "Validation.jpg")]


def test_images_of_the_default_subset_are_a_split_beside_others_only(tmp_path: Path) -> None:
    images = [image("1.jpg", more='subset="default"'), image("2.jpg")]
    assert list(make(tmp_path / "a", {"a.xml": document(*images)}).splits) == ["all"]
    images.append(image("3.jpg", more='subset="Train"'))
    reader = make(tmp_path / "b", {"a.xml": document(*images)})
    assert {split: len(reader.read(split)) for split in reader.splits} == {"Train": 1, "default": 2}


def test_files_of_several_tasks(tmp_path: Path) -> None:
    files = {f"{split}/annotations.xml": document(image("1.jpg", BOX)) for split in ("train", "val")}
    reader = make(tmp_path, files, ("train/images/1.jpg", "val/images/1.jpg"))
    for split in ("train", "val"):
        assert reader.read(split).paths.tolist() == [str(tmp_path / split / "images" / "1.jpg")]


def test_a_video_is_refused(tmp_path: Path) -> None:
    text = document(head=meta("dog") + '<track id="0" label="dog"><box frame="0" xtl="1"/></track>')
    with pytest.raises(UserError, match=r"tracks of a video.*CVAT for images"):
        make(tmp_path, {"annotations.xml": text})


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("<annotations><image", "annotation", "unclosed token"),
        ("<annotations>&a;</annotations>", "annotation", "undefined entity"),
        ('<?xml version="1.0" encoding="klingon"?><annotations/>', "annotation", "klingon"),
        (document(image("a.jpg", size='width="40"')), "entry", "height is missing"),
        (document(image("a.jpg", size='width="40" height="high"')), "entry", "high"),
        (document(image("a.jpg", size='width="inf" height="1"')), "entry", "infinity"),
        (document(image("", BOX)), "entry", "it is empty"),
        (document(image("a.jpg"), image("a.jpg")), "entry", "a.jpg is listed twice"),
        (document(image("a.jpg", '<blob label="dog"/>')), "entry", "blob is no shape"),
        (document(image("a.jpg", '<box label="dog" xtl="1" ytl="2" xbr="3"/>')), "box", "ybr is missing"),
        (document(image("a.jpg", '<box label="dog" xtl="1" ytl="2" xbr="3" ybr="nan"/>')), "box", "nan"),
        (document(image("a.jpg", '<box label="dog" xtl="1" ytl="2" xbr="3" ybr="4" rotation="inf"/>')), "box", "math"),
        (document(image("a.jpg", '<polygon label="dog" points="1,2;3"/>')), "box", "not x,y"),
        (document(image("a.jpg", '<polygon label="dog" points="1,2"/>')), "box", "two points"),
        (document(image("a.jpg", '<polygon label="dog"/>')), "box", "not x,y"),
        (document(image("a.jpg", '<box xtl="1" ytl="2" xbr="3" ybr="4"/>')), "class", "no class name"),
        (document(image("a.jpg", BOX.replace("dog", "dig"))), "class", "'dig' (did you mean dog?)"),
    ],
)
def test_invalid_files_and_shapes(tmp_path: Path, text: str, kind: str, words: str) -> None:
    (error,) = make(tmp_path, {"a.xml": text}).read("all").annotation_errors
    assert (error.kind, error.count) == (kind, 1)
    assert words in error.examples[0]


def test_files_are_recognised_by_their_root(tmp_path: Path) -> None:
    texts = {
        "a.xml": document(),
        "comment.xml": "\ufeff<?xml version='1.0'?>\n<!-- a > b -->\n<annotations >",
        "voc.xml": "<annotation><object/></annotation>",
        "inner.xml": "<a><annotations/></a>",
        "a.txt": document(),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert {name for name in texts if sniff(tmp_path / name)} == {"a.xml", "comment.xml"}
