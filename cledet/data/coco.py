"""Reads COCO annotation files (`instances_*.json` and their kin)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cledet.data.index import DetectionIndex, Ints, group_by_image
from cledet.data.paths import missing
from cledet.errors import UserError, nearest

Record = dict[str, Any]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """A data set of COCO annotation files: per split the file, and its image folder if that is known."""

    splits: dict[str, tuple[Path, Path | None]]
    names: tuple[str, ...] = ()
    """The order of the classes, if not that of the category ids."""

    def read(self, split: str) -> DetectionIndex:
        """The index of one split, named after the split alone; image files are not looked at."""
        annotations, images = self.splits[split]
        return read_coco(annotations, images, self.names, split)


def find_coco(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """The splits of a folder of COCO files, none if it holds no such thing.

    Looked for: annotations/instances_SPLIT.json, annotations/SPLIT.json, SPLIT.json,
    SPLIT/_annotations.coco.json.
    """
    for pattern in ("annotations/instances_*.json", "annotations/*.json", "*.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return {file.stem.removeprefix("instances_"): (file, None) for file in found}
    exported = sorted(folder.glob("*/_annotations.coco.json"))
    return {file.parent.name: (file, file.parent) for file in exported}


def read_coco(file: Path, images: Path | None = None, names: Sequence[str] = (), split: str = "") -> DetectionIndex:
    """Read one annotation file; its image folder is searched for where it is not given.

    Every image of the file is in the index, with boxes or without, on disk or not. Boxes are as in the file, so
    evaluation on the index equals evaluation on the file.

    Raises UserError for what is not COCO: no JSON, keys that lack, unknown classes or images given twice.
    """
    content = _load(file)
    where = str(file)
    records: list[Record] = content["images"]
    image_ids = np.array(_column(records, "id", where, int), dtype=np.int64)
    _refuse_duplicates(image_ids, where)
    files = _column(records, "file_name", where, str)
    folder = images if images is not None else find_images(file, files, split)

    classes, category_ids, label_of = _classes(content["categories"], names, where)
    boxes, orphans = _known_images(content["annotations"], image_ids, where)
    labels = _labels(boxes, label_of, where)
    xywh = np.array([_bbox(box, where) for box in boxes], dtype=np.float64).reshape(-1, 4)
    areas = [box.get("area") for box in boxes]
    area = np.array([w * h if a is None else a for a, (w, h) in zip(areas, xywh[:, 2:])], dtype=np.float64)
    order, starts = group_by_image(_positions(boxes, image_ids), len(image_ids))
    return DetectionIndex(
        name=split or file.stem,
        classes=classes,
        category_ids=category_ids,
        paths=np.array([str(folder / name) for name in files], dtype=np.str_),
        image_ids=image_ids,
        sizes=np.array([_size(record) for record in records], dtype=np.int32).reshape(-1, 2),
        starts=starts,
        xywh=xywh[order],
        labels=labels[order],
        ignore=np.array([bool(box.get("iscrowd", 0)) for box in boxes], dtype=np.bool_)[order],
        area=area[order],
        notes=(f"{where}: {orphans} boxes of images that it does not list: left out.",) if orphans else (),
    )


def find_images(file: Path, names: Sequence[str], split: str = "") -> Path:
    """The folder that holds most of these file names, of those where COCO data sets keep their images.

    Falls back on the annotation file's own folder.
    """
    sample = names[:: max(1, len(names) // 16)]
    home, stem = file.parent, file.stem.removeprefix("instances_")
    roots = (home, home.parent)
    likely = [home, *(root / name for root in roots for name in (stem, split, "images") if name)]
    likely += [home.parent, home.parent / "images" / stem, home.parent / "images" / split]
    likely += [entry for root in roots for entry in sorted(root.iterdir()) if entry.is_dir()]
    return max(likely, key=lambda folder: sum((folder / name).is_file() for name in sample))


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise missing("annotation file", file)
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    if isinstance(content, list):
        raise UserError(f"{file} is a list, as detections are", "a COCO annotation file is an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{file} is not a COCO annotation file: it has no list '{key}'")
    return content


def _column(records: Sequence[Record], key: str, where: str, kind: Callable[[Any], Value]) -> list[Value]:
    try:
        return [kind(record[key]) for record in records]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: an entry has no proper '{key}'") from error


def _refuse_duplicates(image_ids: Ints, where: str) -> None:
    ids, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{where}: image id {ids[counts > 1][0]} is given to several images")


def _classes(
    categories: Sequence[Record], names: Sequence[str], where: str
) -> tuple[tuple[str, ...], Ints, dict[int, int]]:
    """Class names and category ids by label, and the label of every category id.

    Ordered by category id, else as `names`; a name without category gets the next free id.
    """
    by_id = dict(sorted(zip(_column(categories, "id", where, int), _column(categories, "name", where, str))))
    if not by_id:
        raise UserError(f"{where} has no categories")
    if not names:
        label_of = {category: label for label, category in enumerate(by_id)}
        return tuple(by_id.values()), np.array(list(by_id), dtype=np.int64), label_of
    for name in by_id.values():
        if name not in names:
            raise UserError(f"{where} has a class '{name}' that `names` lacks", nearest(name, names))
    id_of = {name: category for category, name in by_id.items()}
    for name in names:
        id_of.setdefault(name, max(id_of.values()) + 1)
    ids = np.array([id_of[name] for name in names], dtype=np.int64)
    return tuple(names), ids, {category: names.index(name) for category, name in by_id.items()}


def _known_images(annotations: Sequence[Record], image_ids: Ints, where: str) -> tuple[list[Record], int]:
    """The annotations of listed images, and how many others there are."""
    known = set(image_ids.tolist())
    images = _column(annotations, "image_id", where, int)
    kept = [box for box, image in zip(annotations, images) if image in known]
    return kept, len(annotations) - len(kept)


def _labels(boxes: Sequence[Record], label_of: dict[int, int], where: str) -> Ints:
    ids = _column(boxes, "category_id", where, int)
    unknown = next((row for row, category in enumerate(ids) if category not in label_of), None)
    if unknown is not None:
        annotation = f"{where}: annotation {boxes[unknown].get('id')}"
        known = ", ".join(map(str, list(label_of)[:20]))
        raise UserError(f"{annotation} has unknown class {ids[unknown]}", f"its categories are {known}")
    return np.array([label_of[category] for category in ids], dtype=np.int64)


def _positions(boxes: Sequence[Record], image_ids: Ints) -> Ints:
    position = {image: row for row, image in enumerate(image_ids.tolist())}
    return np.array([position[int(box["image_id"])] for box in boxes], dtype=np.int64)


def _bbox(box: Record, where: str) -> list[float]:
    try:
        left, top, width, height = (float(number) for number in box["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        message = f"{where}: annotation {box.get('id')} has no bbox of four numbers"
        raise UserError(message, "bbox is [left, top, width, height]") from error
    return [left, top, width, height]


def _size(record: Record) -> tuple[int, int]:
    return int(record.get("width") or 0), int(record.get("height") or 0)
