"""All real data sets through all formats: `../shared/data`, each box as it was, or its rounding error bounded."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data.convert.write import FORMATS, write_dataset
from cledet.data.formats.paths import match_split
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source

pytestmark = pytest.mark.slow
SETS = ("bccd", "coco2017_sub", "deeppcb", "voc2012_sub", "coco_val2014_100")
OFF = {"bccd": 408, "coco2017_sub": 2168, "deeppcb": 0, "voc2012_sub": 62, "coco_val2014_100": 473}
"""Boxes for which YOLO has no exact fraction, of all splits."""
LEFT_OUT = {"bccd": 4, "coco2017_sub": 40, "deeppcb": 0, "voc2012_sub": 38, "coco_val2014_100": 9}
"""Crowds, difficult and empty objects, which YOLO cannot mark."""

Splits = dict[str, DetectionIndex]


@pytest.fixture(scope="module")
def sources(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Splits]:
    """The splits of each set; those of `coco_val2014_100`, which has no photos, with blank images of their sizes."""
    sets = {name: open_source(shared_data / name).read_splits() for name in SETS[:-1]}
    file = shared_data / "coco_val2014_100" / "instances_val2014_100.json"
    index = open_source(file).index("val", need_images=False)
    blank = tmp_path_factory.mktemp("blank")
    (blank / "annotations").mkdir()
    (blank / "annotations" / file.name).write_bytes(file.read_bytes())
    for path, (width, height) in zip(index.paths.tolist(), index.sizes.tolist()):
        image = np.zeros((height, width), np.uint8)
        (blank / Path(path).name).write_bytes(cv2.imencode(".png", image)[1].tobytes())  # a PNG, whatever its name
    return sets | {"coco_val2014_100": open_source(blank).read_splits()}


def convert(splits: Splits, kind: str, folder: Path) -> Splits:
    return open_source(write_dataset(splits, kind, folder, images="link").folder).read_splits()


def pairs(before: Splits, after: Splits) -> list[tuple[DetectionIndex, DetectionIndex]]:
    """The splits of two data sets, with their images by file name."""
    names = [match_split(name, before) for name in after]
    assert sorted(map(str, names)) == sorted(before)
    both = [(before[str(name)], index) for name, index in zip(names, after.values())]
    return [tuple(index.subset(np.argsort([Path(p).name for p in index.paths])) for index in pair) for pair in both]


def assert_equal(before: Splits, after: Splits, columns: tuple[str, ...]) -> None:
    for one, other in pairs(before, after):
        assert one.classes == other.classes
        for column in ("sizes", "starts", "xywh", "labels", "ignore", *columns):
            assert getattr(one, column).tobytes() == getattr(other, column).tobytes(), (one.name, column)


@pytest.mark.parametrize(("name", "kind"), [*product(SETS, ("coco", "voc"))])
def test_coco_and_voc_keep_every_number(sources: dict[str, Splits], name: str, kind: str, tmp_path: Path) -> None:
    columns = ("area", "image_ids", "category_ids") if kind == "coco" else ()
    assert_equal(sources[name], convert(sources[name], kind, tmp_path / "out"), columns)


@pytest.mark.parametrize("name", SETS)
def test_yolo_keeps_all_but_rounding_errors(sources: dict[str, Splits], name: str, tmp_path: Path) -> None:
    back = convert(sources[name], "yolo", tmp_path / "out")
    off = left_out = 0
    for one, other in pairs(sources[name], back):
        kept = ~one.ignore
        assert one.classes == other.classes
        assert one.sizes.tobytes() == other.sizes.tobytes()
        assert one.labels[kept].tobytes() == other.labels.tobytes()
        error = np.abs(one.xywh[kept] - other.xywh)
        assert error.max() < 1.2e-13
        assert (one.xywh[kept].astype(np.float32) == other.xywh.astype(np.float32)).all()  # as training sees them
        off, left_out = off + int(error.any(axis=1).sum()), left_out + int(one.ignore.sum())
    assert (off, left_out) == (OFF[name], LEFT_OUT[name])


@pytest.mark.parametrize(("name", "kinds"), [*product(SETS, permutations(FORMATS))])
def test_after_yolo_every_path_is_exact(
    sources: dict[str, Splits], name: str, kinds: tuple[str, ...], tmp_path: Path
) -> None:
    """YOLO's own numbers survive any further conversion, so only the first conversion to YOLO rounds."""
    smallest = min(sources[name], key=lambda split: len(sources[name][split]))
    first = convert({smallest: sources[name][smallest]}, "yolo", tmp_path / "first")
    splits = first
    for step, kind in enumerate(kinds):
        splits = convert(splits, kind, tmp_path / str(step))
    assert_equal(first, splits, ())
