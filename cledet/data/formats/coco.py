"""Reads COCO annotation files (`instances_*.json` and their kin)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from cledet.data.formats.annotation_errors import Faults
from cledet.data.formats.coco_masks import image_sizes, with_mask_box
from cledet.data.formats.paths import lies_in, missing, path_fault, place
from cledet.data.index import Bools, DetectionIndex, Ints, group_by_image
from cledet.errors import UserError, nearest

Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Side = Annotated[int, msgspec.Meta(ge=-(10**9), le=10**9)]


class Image(msgspec.Struct, gc=False):
    """What is read of an image's entry."""

    id: Id
    file_name: str
    width: Side | None = None
    height: Side | None = None


class Category(msgspec.Struct, gc=False):
    """What is read of a category's entry."""

    id: Id
    name: str
    supercategory: str | None = None


class Annotation(msgspec.Struct, gc=False):
    """What is read of a box's entry; a mask is read where there is no box."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    id: int | str | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0


class Content(msgspec.Struct):
    """A COCO annotation file; without `annotations` it is one of images only, as those of COCO's test splits."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation] | None = None


Record = TypeVar("Record", Image, Category, Annotation)
DECODER = msgspec.json.Decoder(Content, strict=False)


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """A data set of COCO annotation files: per split the file, and its image folder if that is known."""

    splits: dict[str, tuple[Path, Path | None]]
    names: tuple[str, ...] = ()
    """The order of the classes, if not that of the category ids."""
    root: Path | None = None
    """The folder that images must lie in, beside their image folder; None: anywhere."""
    format = "COCO"

    def read(self, split: str) -> DetectionIndex:
        """The index of one split, named after the split alone; image files are not looked at."""
        annotations, images = self.splits[split]
        return read_coco(annotations, images, self.names, split, self.root)

    def sources(self, split: str) -> list[Path]:
        """The files that `read` reads."""
        return [self.splits[split][0]]

    def state(self, split: str) -> str:
        """What else a split depends on: nothing."""
        return ""


def find_coco(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """The splits of a folder of COCO files, none if it holds no such thing.

    Looked for: annotations/instances_SPLIT.json, annotations/SPLIT.json, SPLIT.json (as Label Studio's
    result.json), SPLIT/_annotations.coco.json (Roboflow).
    """
    for pattern in ("annotations/instances_*.json", "annotations/*.json", "*.json"):
        found = sorted(folder.glob(pattern))
        if found:
            return {file.stem.removeprefix("instances_"): (file, None) for file in found}
    exported = sorted(folder.glob("*/_annotations.coco.json"))
    return {file.parent.name: (file, file.parent) for file in exported}


def read_coco(
    file: Path,
    images: Path | None = None,
    names: Sequence[str] = (),
    split: str = "",
    root: Path | None = None,
) -> DetectionIndex:
    """Read one annotation file; its image folder is searched for where it is not given.

    Every image of the file is in the index, with boxes or without, on disk or not. Boxes are as in the file, so
    evaluation on the index equals evaluation on the file. Images outside of their folder and of `root`, where that
    is given, entries that are not as they should be and boxes of unknown classes are the index's faults.

    Raises UserError for what is not COCO: no JSON, lists that lack, images or classes given twice.
    """
    faults = Faults()
    content = _load(file, faults)
    named = _named(content.images, faults)
    folder = images if images is not None else find_images(file, [i.file_name for i in named[:256]], split)
    records, paths = _allowed(named, folder, root, faults)
    image_ids = np.array([record.id for record in records], dtype=np.int64)
    _refuse_duplicates(image_ids, file)

    classes, category_ids, by_category = _classes(content, names, file)
    boxes = content.annotations or []
    position = _find(image_ids, np.array([box.image_id for box in boxes], dtype=np.int64))
    label = _find(category_ids[by_category], np.array([box.category_id for box in boxes], dtype=np.int64))
    _blame_classes(boxes, (position >= 0) & (label < 0), category_ids, faults)
    kept = np.flatnonzero((position >= 0) & (label >= 0))
    order, starts = group_by_image(position[kept], len(image_ids))
    rows = kept[order]
    xywh = np.array([box.bbox for box in boxes], dtype=np.float64).reshape(-1, 4)[rows]
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes that are degenerate
        whole = xywh[:, 2] * xywh[:, 3]
    area = np.array([np.nan if box.area is None else box.area for box in boxes], dtype=np.float64)[rows]
    return DetectionIndex(
        name=split or file.stem,
        classes=classes,
        category_ids=category_ids,
        paths=np.array(paths, dtype=np.str_),
        image_ids=image_ids,
        sizes=np.array([(i.width or 0, i.height or 0) for i in records], dtype=np.int32).reshape(-1, 2),
        starts=starts,
        xywh=xywh,
        labels=by_category[label[rows]],
        ignore=np.array([bool(box.iscrowd) for box in boxes], dtype=np.bool_)[rows],
        area=np.where(np.isnan(area), whole, area),
        notes=_notes(content, file, int((position < 0).sum())),
        faults=faults.all(),
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
    return max(likely, key=lambda folder: sum(os.path.isfile(path) for path in place(folder, sample)))


def _load(file: Path, faults: Faults) -> Content:
    """The file's content; entries that are not as they should be are left out and blamed."""
    if not file.is_file():
        raise missing("annotation file", file)
    data = file.read_bytes()
    try:
        return DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # what is wrong, and where, takes a second look
        return _salvage(file, data, faults)


def _salvage(file: Path, data: bytes, faults: Faults) -> Content:
    try:
        content = json.loads(data)
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error
    except RecursionError:
        raise UserError(f"{file} is not a COCO annotation file: it is nested too deeply") from None
    if isinstance(content, list):
        raise UserError(f"{file} is a list, as detections are", "a COCO annotation file is an object")
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a COCO annotation file, which is an object")
    content.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{file} is not a COCO annotation file: it has no list '{key}'")
    return Content(
        images=_convert(content["images"], Image, "images", faults),
        categories=_convert(content["categories"], Category, "categories", faults),
        annotations=_convert(content["annotations"], Annotation, "annotations", faults, image_sizes(content["images"])),
    )


def _convert(
    entries: list[Any],
    kind: type[Record],
    place: str,
    faults: Faults,
    sizes: dict[Any, tuple[Any, Any]] | None = None,
) -> list[Record]:
    """Convert the entries of the kind; of annotations without a box, `sizes` are those of the images."""
    records = []
    for row, entry in enumerate(entries):
        try:
            record = msgspec.convert(entry if sizes is None else with_mask_box(entry, sizes), kind, strict=False)
            getattr(record, "name", "").encode()
            records.append(record)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            said = "a lone surrogate in its name" if isinstance(error, UnicodeEncodeError) else str(error)
            fault = "box" if "$.bbox" in said or "`bbox`" in said else "entry"
            numbered = isinstance(entry, dict) and isinstance(entry.get("id", []), int | str | None)
            name = f"{kind.__name__.lower()} {entry['id']!s:.40}" if numbered else f"{place}[{row}]"
            faults.add(fault, f"{name}: {said.lower().replace('`', '')}")
    return records


def _named(images: list[Image], faults: Faults) -> list[Image]:
    """The images whose name a file can have."""
    strange = {row: fault for row, image in enumerate(images) if (fault := path_fault(image.file_name))}
    for row, fault in strange.items():
        faults.add("entry", f"images[{row}]: file_name {images[row].file_name[:40]!r}: {fault}")
    return [image for row, image in enumerate(images) if row not in strange] if strange else images


def _allowed(images: list[Image], folder: Path, root: Path | None, faults: Faults) -> tuple[list[Image], list[str]]:
    """The images that lie where they may, and their paths."""
    paths = place(folder, (image.file_name for image in images))
    if root is None:
        return images, paths
    allowed = [lies_in(path, (folder, root)) for path in paths]
    for image, ok in zip(images, allowed):
        if not ok:
            faults.add("outside", image.file_name)
    pairs = [(image, path) for image, path, ok in zip(images, paths, allowed) if ok]
    return [image for image, _ in pairs], [path for _, path in pairs]


def _refuse_duplicates(image_ids: Ints, file: Path) -> None:
    ids, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{file}: image id {ids[counts > 1][0]} is given to several images")


def _classes(content: Content, names: Sequence[str], file: Path) -> tuple[tuple[str, ...], Ints, Ints]:
    """Class names and category ids by label, and the labels in the order of the category ids.

    Ordered by category id, else as `names`; a name without category gets the next free id.
    """
    by_id = {category.id: category.name for category in sorted(_real(content), key=lambda category: category.id)}
    if not by_id:
        raise UserError(f"{file} has no categories")
    id_of, expected = {name: category for category, name in by_id.items()}, set(names)
    for category, name in by_id.items():
        if id_of[name] != category:
            raise UserError(f"{file}: categories {category} and {id_of[name]} are both called '{name}'", "rename one")
        if names and name not in expected:
            raise UserError(f"{file} has a class '{name}' that `names` lacks", nearest(name, names))
    free = max(by_id) + 1
    for name in names:
        if name not in id_of:
            id_of[name], free = free, free + 1
    classes = tuple(names) or tuple(by_id.values())
    ids = np.array([id_of[name] for name in classes], dtype=np.int64)
    return classes, ids, np.argsort(ids)


def _real(content: Content) -> Iterable[Category]:
    """The categories without Roboflow's first, which has no boxes and is but the parent of the others."""
    parents = {category.supercategory for category in content.categories}
    used = {box.category_id for box in content.annotations or ()}
    for category in content.categories:
        if category.name not in parents or category.supercategory != "none" or category.id in used:
            yield category


def _find(numbers: Ints, wanted: Ints) -> Ints:
    """The position of each wanted number in distinct numbers; -1 where it is not there."""
    if not len(numbers):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(numbers)
    place = order[np.searchsorted(numbers, wanted, sorter=order).clip(max=len(order) - 1)]
    return np.where(numbers[place] == wanted, place, -1)


def _blame_classes(boxes: Sequence[Annotation], strange: Bools, category_ids: Ints, faults: Faults) -> None:
    known = ", ".join(map(str, np.sort(category_ids)[:20]))
    for row in np.flatnonzero(strange).tolist():
        faults.add("class", f"annotation {boxes[row].id} has class {boxes[row].category_id}, of {known}")


def _notes(content: Content, file: Path, orphans: int) -> tuple[str, ...]:
    notes = []
    if orphans:
        notes.append(f"{file}: {orphans} boxes of images that it does not list: left out.")
    if content.annotations is None:
        notes.append(f"{file} has no list 'annotations': its images count as unlabelled.")
    return tuple(notes)
