"""Reader of Label Studio's JSON and JSON-MIN exports."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec

from cledet.data.formats.enclosing_boxes import Box, box_of_ellipse, box_of_points, box_of_rectangle
from cledet.data.formats.image_table import ImageTable, TableFiles
from cledet.data.formats.paths import read_bytes
from cledet.data.formats.walk import ImageFiles, divide, read_head, walk_folder
from cledet.data.images import IMAGE_SUFFIXES
from cledet.data.index import FARTHEST

LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "labels")
"""Keys of a region's class names; in the JSON export also the types of results with a box and classes."""
UNLABELLED = ("rectangle", "polygon", "ellipse")
"""Types of results with a box whose classes, if any, are in a result of the same id."""


class Region(msgspec.Struct, gc=False):
    """The fields read from a region: percents of the image's sides, and degrees clockwise."""

    x: float = 0
    y: float = 0
    width: float | None = None
    height: float | None = None
    radius_x: float | None = msgspec.field(default=None, name="radiusX")
    radius_y: float | None = msgspec.field(default=None, name="radiusY")
    rotation: float | None = 0
    points: list[tuple[float, float]] | None = None
    rectanglelabels: list[str] | None = None
    polygonlabels: list[str] | None = None
    ellipselabels: list[str] | None = None
    labels: list[str] | None = None
    original_width: float | None = None
    original_height: float | None = None

    @property
    def names(self) -> list[str]:
        """Return the class names."""
        return next(filter(None, (getattr(self, key) for key in LABELS)), [])


class Result(msgspec.Struct, gc=False):
    """One result of an annotation: a region, or of another type."""

    type: str
    id: str | None = None
    value: Any = None
    original_width: float | None = None
    original_height: float | None = None


class Annotation(msgspec.Struct, gc=False):
    """The results of one annotator; `skipped` in the first versions of Label Studio."""

    result: list[Any]
    was_cancelled: bool | None = False
    skipped: bool | None = False
    ground_truth: bool | None = False
    created_at: str | int | None = None


class Task(msgspec.Struct, gc=False):
    """A task of the JSON export; annotations were called completions."""

    data: dict[str, Any]
    annotations: list[Annotation] | None = None
    completions: list[Annotation] | None = None


class Labelled(NamedTuple):
    """An annotated image: where it is in the file, its name, its regions, and when it was annotated."""

    where: str
    image: str
    regions: list[Region]
    created: str


@dataclass(frozen=True, slots=True)
class LabelStudioFiles(TableFiles):
    """A data set of Label Studio's exports. Of several annotations of an image, the latest is used.

    `x`, `y`, `width` and `height` are percents of the image's sides. A rectangle is rotated clockwise about its
    top left corner, whose place does not change: https://labelstud.io/tags/rectanglelabels.
    """

    format = "Label Studio"

    def read_table(self, split: str) -> ImageTable:
        table, images = ImageTable(), walk_folder(self.root).images()
        for file in self.splits[split]:
            try:
                tasks = msgspec.json.decode(read_bytes(file).removeprefix(b"\xef\xbb\xbf"), type=list[Any])
            except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                table.errors.add("annotation", f"{file}: {error}")
                continue
            latest, several = _latest(_labelled(file, tasks, table))
            table.note(several, f"{file}: {several} images have several annotations: the latest of each is used.")
            for labelled in latest:
                _add_image(file, labelled, images, table)
        return table

    def opens_images(self, split: str) -> bool:
        return True


def sniff(file: Path) -> bool:
    """Return whether a JSON file is Label Studio's, by the keys at its beginning."""
    head = read_head(file) if file.suffix.lower() == ".json" else b""
    keys = rb'"(annotations|completions|annotation_id|original_width|rectanglelabels)"\s*:'
    return re.match(rb"(\xef\xbb\xbf)?\s*\[\s*\{", head) is not None and re.search(keys, head) is not None


def find_label_studio(root: Path, files: Sequence[Path]) -> LabelStudioFiles:
    """Return the reader of Label Studio's exports, divided into splits by their names or folders."""
    return LabelStudioFiles(root, divide(files, root))


def _latest(entries: Iterable[Labelled]) -> tuple[list[Labelled], int]:
    """Return the latest entry of each image, in order of first occurrence, and the number of images with several."""
    latest, several = dict[str, Labelled](), set[str]()
    for entry in entries:
        if entry.image in latest:
            several.add(entry.image)
        if entry.image not in latest or entry.created >= latest[entry.image].created:
            latest[entry.image] = entry
    return list(latest.values()), len(several)


def _labelled(file: Path, tasks: Sequence[Any], table: ImageTable) -> Iterator[Labelled]:
    """Yield the annotations of all tasks; tasks without one are noted, as their images may hold unlabelled objects."""
    unlabelled = 0
    for number, fields in enumerate(tasks):
        where = f"{file}: task {number}"
        try:
            minimal = isinstance(fields, dict) and "data" not in fields
            entries = list((_of_record if minimal else _of_task)(fields, where, table))
            unlabelled += not entries
            yield from entries
        except msgspec.ValidationError as error:
            table.errors.add("entry", f"{where}: {_reason(error)}")
    table.note(unlabelled, f"{file}: {unlabelled} tasks are not annotated: their images are skipped.")


def _of_task(fields: Any, where: str, table: ImageTable) -> Iterator[Labelled]:
    """Yield the annotations of a task of the JSON export that were not cancelled, or those that are ground truth."""
    task = msgspec.convert(fields, Task)
    given = [
        annotation
        for annotation in task.annotations or task.completions or ()
        if not (annotation.was_cancelled or annotation.skipped)
    ]
    for annotation in [one for one in given if one.ground_truth] or given:
        regions = list(_regions(annotation.result, where, table))
        yield Labelled(where, _image_name(task.data), regions, str(annotation.created_at or ""))


def _of_record(fields: dict[str, Any], where: str, table: ImageTable) -> Iterator[Labelled]:
    """Yield the annotation of a record of the JSON-MIN export, whose lists of objects are regions under any key."""
    if fields.get("annotation_id", 0) is None:
        return
    lists = [value for value in fields.values() if isinstance(value, list)]
    objects = [value for values in lists for value in values if isinstance(value, dict)]
    regions = [region for value in objects for region in _region(value, where, table)]
    yield Labelled(where, _image_name(fields), regions, str(fields.get("created_at", "")))


def _regions(results: Sequence[Any], where: str, table: ImageTable) -> Iterator[Region]:
    """Yield the regions of an annotation's results that have a box; others are counted or logged."""
    decoded = []
    for result in results:
        try:
            decoded.append(msgspec.convert(result, Result, strict=False))
        except msgspec.ValidationError as error:
            table.errors.add("entry", f"{where}: {_reason(error)}")
    labelled = {result.id for result in decoded if result.type in LABELS}
    for result in decoded:
        if result.type in LABELS or (result.type in UNLABELLED and result.id not in labelled):
            for region in _region(result.value, where, table):
                region.original_width = result.original_width or region.original_width
                region.original_height = result.original_height or region.original_height
                yield region
        elif result.type not in UNLABELLED:
            table.without_box[result.type] += 1


def _region(value: Any, where: str, table: ImageTable) -> Iterator[Region]:
    """Yield a region; none if it cannot be read, which is logged, or has no box, which is counted."""
    try:
        region = msgspec.convert(value, Region, strict=False)
    except msgspec.ValidationError as error:
        table.errors.add("box", f"{where}: {_reason(error)}")
        return
    if region.names or region.height is not None or region.radius_x is not None:
        yield region
    else:
        table.without_box["region"] += 1


def _image_name(data: dict[str, Any]) -> str:
    """Return the image's name in a task's data: the first value that names an image file, else that of "image"."""
    values = [value for value in data.values() if isinstance(value, str)]
    names = [name for name in map(_file_name, values) if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    image = data.get("image")
    return names[0] if names else _file_name(image) if isinstance(image, str) else ""


def _file_name(url: str) -> str:
    """Return the path in an address of Label Studio's: /data/upload/1/a.jpg, /data/local-files/?d=a.jpg, s3://b/a.jpg."""
    if not url.startswith("/data/") and "://" not in url:
        return url
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return (parse_qs(parts.query).get("d", [""])[0] or unquote(parts.path)).lstrip("/")


def _add_image(file: Path, labelled: Labelled, images: ImageFiles, table: ImageTable) -> None:
    """Add an image and its regions to a table; files that were uploaded have a prefix, which the folder's may lack."""
    name, folder, where = labelled.image, str(file.parent), labelled.where
    if not name:
        table.errors.add("entry", f"{where}: it names no image")
        return
    if images.find(name, folder) is None:
        name = re.sub(r"(^|/)[0-9a-f]{8}-([^/]+)$", r"\1\2", name)
    sizes = [(region.original_width or 0, region.original_height or 0) for region in labelled.regions]
    width, height = next((size for size in sizes if all(0 < side <= FARTHEST for side in size)), (0, 0))
    image = table.add_image(name, folder, (int(width), int(height)), relative=not width, where=where)
    for region in labelled.regions:
        try:
            box = box_of_region(region, width, height)
        except ValueError as error:
            table.errors.add("box", f"{where}: {error}")
            continue
        for label in region.names or [""]:
            table.add_box(image, label, box, where)


def box_of_region(region: Region, width: float, height: float) -> Box:
    """Return the box of a region in pixels of an image of this size, or in fractions if `width` is 0.

    Raises ValueError for a region without extent, and for a rotated one without a size.
    """
    degrees = region.rotation or 0
    if not width and degrees % 360:
        raise ValueError("a region is rotated, but original_width and original_height are missing")
    x_unit, y_unit = (width / 100, height / 100) if width else (0.01, 0.01)
    x, y = region.x * x_unit, region.y * y_unit
    if region.points is not None:
        return box_of_points([x * x_unit for x, _ in region.points], [y * y_unit for _, y in region.points])
    if region.radius_x is not None and region.radius_y is not None:
        return box_of_ellipse((x, y), (region.radius_x * x_unit, region.radius_y * y_unit), degrees)
    if region.width is None or region.height is None:
        raise ValueError("a region has neither width and height, nor points, nor radii")
    return box_of_rectangle((x, y, region.width * x_unit, region.height * y_unit), degrees, (x, y))


def _reason(error: Exception) -> str:
    return str(error).lower().replace("`", "")
