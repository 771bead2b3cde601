"""Reader of COCO annotation files (`instances_*.json` and exports in that format)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.coco_images import find_foreign, find_images, own_folder, search_images
from cledet.data.formats.coco_masks import image_sizes, with_mask_box
from cledet.data.formats.paths import locate, not_found_error
from cledet.data.index import DetectionIndex, Ints, group_by_image
from cledet.errors import UserError, nearest

Id = Annotated[int, msgspec.Meta(ge=-(2**62), le=2**62)]
Side = Annotated[int, msgspec.Meta(ge=-(10**9), le=10**9)]


class Image(msgspec.Struct, gc=False):
    """The fields read from an image's entry."""

    id: Id
    file_name: str
    width: Side | None = None
    height: Side | None = None


class Category(msgspec.Struct, gc=False):
    """The fields read from a category's entry."""

    id: Id
    name: str
    supercategory: str | None = None


class Annotation(msgspec.Struct, gc=False):
    """The fields read from an annotation's entry; its mask is read only where it has no box."""

    image_id: Id
    category_id: Id
    bbox: tuple[float, float, float, float]
    id: int | str | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0


class Content(msgspec.Struct):
    """A COCO annotation file; files of COCO's test splits have no `annotations`."""

    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation] | None = None


Record = TypeVar("Record", Image, Category, Annotation)
DECODER = msgspec.json.Decoder(Content, strict=False)


@dataclass(frozen=True, slots=True)
class CocoFiles:
    """A data set of COCO annotation files: the file of each split, and its image folder if known."""

    splits: dict[str, tuple[Path, Path | None]]
    names: tuple[str, ...] = ()
    """Class names in label order; by default ordered by category id."""
    root: Path | None = None
    """A folder that may hold images, besides the image folder; None: images may be anywhere."""
    format = "COCO"

    def read(self, split: str) -> DetectionIndex:
        """Read one split without opening its image files; the index is named after the split."""
        annotations, images = self.splits[split]
        return read_coco(annotations, images, self.names, split, self.root, alone=len(self.splits) == 1)

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the annotation files that `read` parses, and its other inputs as text: none."""
        return [self.splits[split][0]], ""


def read_coco(
    file: Path,
    images: Path | None = None,
    names: Sequence[str] = (),
    split: str = "",
    root: Path | None = None,
    alone: bool = False,
) -> DetectionIndex:
    """Read one annotation file; without `images`, its image folder is searched for.

    If the usual folders have none of the images, they are searched for by name in all folders below `root`. So are
    those that are missing if the data set is this file `alone`, as its images may be divided, and those with absolute
    paths of another machine.

    The index holds every image of the file, with or without boxes, whether its file exists or not. Boxes are
    unchanged, so evaluation on the index equals evaluation on the file. Malformed entries, boxes of unknown classes
    and, if `root` is given, images outside both folders become annotation errors of the index.

    Raises UserError for a file that is not COCO: invalid JSON, missing lists, duplicate images or classes.
    """
    errors = ErrorLog()
    content = _load(file, errors)
    names_of_files = [image.file_name for image in content.images]
    near = own_folder(file, split)
    folder = images or find_images(file, names_of_files[:256], split, near, root)
    names_of_files = names_of_files if root is None else find_foreign(names_of_files, (folder, root), near, root)
    rows, paths = locate(names_of_files, folder, None if root is None else (folder, root), file, errors)
    if images is None and root is not None:
        paths = search_images([names_of_files[row] for row in rows], paths, near, root, alone)
    records = [content.images[row] for row in rows]
    image_ids = np.array([record.id for record in records], dtype=np.int64)
    ids, counts = np.unique(image_ids, return_counts=True)
    if (counts > 1).any():
        raise UserError(f"{file}: image id {ids[counts > 1][0]} is given to several images")

    classes, category_ids, by_category = _classes(content, names, file)
    boxes = content.annotations or []
    position = _positions(image_ids, np.array([box.image_id for box in boxes], dtype=np.int64))
    label = _positions(category_ids[by_category], np.array([box.category_id for box in boxes], dtype=np.int64))
    known = ", ".join(map(str, np.sort(category_ids)[:20]))
    for row in np.flatnonzero((position >= 0) & (label < 0)).tolist():
        errors.add("class", f"annotation {boxes[row].id} has class {boxes[row].category_id}, of {known}")
    kept = np.flatnonzero((position >= 0) & (label >= 0))
    order, starts = group_by_image(position[kept], len(image_ids))
    kept = kept[order]
    xywh = np.array([box.bbox for box in boxes], dtype=np.float64).reshape(-1, 4)[kept]
    with np.errstate(over="ignore", invalid="ignore"):  # degenerate boxes
        box_area = xywh[:, 2] * xywh[:, 3]
    area = np.array([np.nan if box.area is None else box.area for box in boxes], dtype=np.float64)[kept]
    return DetectionIndex(
        name=split or file.stem,
        classes=classes,
        category_ids=category_ids,
        paths=np.array(paths, dtype=np.str_),
        image_ids=image_ids,
        sizes=np.array([(i.width or 0, i.height or 0) for i in records], dtype=np.int32).reshape(-1, 2),
        starts=starts,
        xywh=xywh,
        labels=by_category[label[kept]],
        ignore=np.array([bool(box.iscrowd) for box in boxes], dtype=np.bool_)[kept],
        area=np.where(np.isnan(area), box_area, area),
        notes=_notes(content, file, int((position < 0).sum())),
        annotation_errors=errors.records(),
    )


def _load(file: Path, errors: ErrorLog) -> Content:
    """Parse a file; malformed entries are dropped and logged."""
    if not file.is_file():
        raise not_found_error("annotation file", file)
    data = file.read_bytes()
    try:
        return DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _load_entrywise(file, data, errors)


def _load_entrywise(file: Path, data: bytes, errors: ErrorLog) -> Content:
    """Parse a malformed file entry by entry, which is slower, and log each malformed entry."""
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
        images=_convert(content["images"], Image, "images", errors),
        categories=_convert(content["categories"], Category, "categories", errors),
        annotations=_convert(content["annotations"], Annotation, "annotations", errors, image_sizes(content["images"])),
    )


def _convert(
    entries: list[Any], kind: type[Record], key: str, errors: ErrorLog, sizes: dict[Any, tuple[Any, Any]] | None = None
) -> list[Record]:
    """Convert the well-formed entries of the list `key` to records, and log the others.

    `sizes` are the images' widths and heights by id, for annotations that have a mask and no box.
    """
    records = []
    for row, entry in enumerate(entries):
        try:
            record = msgspec.convert(entry if sizes is None else with_mask_box(entry, sizes), kind, strict=False)
            getattr(record, "name", "").encode()
            records.append(record)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            reason = "a lone surrogate in its name" if isinstance(error, UnicodeEncodeError) else str(error)
            error_kind = "box" if "$.bbox" in reason or "`bbox`" in reason else "entry"
            has_id = isinstance(entry, dict) and isinstance(entry.get("id", []), int | str | None)
            name = f"{kind.__name__.lower()} {entry['id']!s:.40}" if has_id else f"{key}[{row}]"
            errors.add(error_kind, f"{name}: {reason.lower().replace('`', '')}")
    return records


def _classes(content: Content, names: Sequence[str], file: Path) -> tuple[tuple[str, ...], Ints, Ints]:
    """Return class names [C] and category ids [C] by label, and the labels [C] sorted by category id.

    Labels are ordered as `names`, by default by category id. A name without a category gets the next free id.
    """
    categories = sorted(_without_roboflow_parent(content), key=lambda category: category.id)
    by_id = {category.id: category.name for category in categories}
    if not by_id:
        raise UserError(f"{file} has no categories")
    id_of, expected = {name: category for category, name in by_id.items()}, set(names)
    for category, name in by_id.items():
        if id_of[name] != category:
            raise UserError(f"{file}: categories {category} and {id_of[name]} are both called '{name}'", "rename one")
        if names and name not in expected:
            raise UserError(f"{file} has a class '{name}' that `names` lacks", nearest(name, names))
    unlisted = dict.fromkeys(name for name in names if name not in id_of)
    id_of |= zip(unlisted, count(max(by_id) + 1))
    classes = tuple(names) or tuple(by_id.values())
    ids = np.array([id_of[name] for name in classes], dtype=np.int64)
    return classes, ids, np.argsort(ids)


def _without_roboflow_parent(content: Content) -> Iterable[Category]:
    """Yield all categories except Roboflow's first, the parent of the others, which has no boxes."""
    parents = {category.supercategory for category in content.categories}
    used = {box.category_id for box in content.annotations or ()}
    for category in content.categories:
        if category.name not in parents or category.supercategory != "none" or category.id in used:
            yield category


def _positions(ids: Ints, wanted: Ints) -> Ints:
    """Return the position of each wanted id in an array of distinct ids; -1 if absent."""
    if not len(ids):
        return np.full(len(wanted), -1, dtype=np.int64)
    order = np.argsort(ids)
    position = order[np.searchsorted(ids, wanted, sorter=order).clip(max=len(order) - 1)]
    return np.where(ids[position] == wanted, position, -1)


def _notes(content: Content, file: Path, orphans: int) -> tuple[str, ...]:
    notes = []
    if orphans:
        notes.append(f"{file}: {orphans} boxes belong to images that it does not list: skipped.")
    if content.annotations is None:
        notes.append(f"{file} has no list 'annotations': its images count as unlabelled.")
    return tuple(notes)
