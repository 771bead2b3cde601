"""Files of the suspected label errors: suspects.json, and review/ for Label Studio, CVAT and FiftyOne.

review/ holds the suspect images alone, the most suspicious first, each with all its labels, and with the detections
that the report shows and those of its suspects.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from cledet.console import printable, warn
from cledet.data.convert.write_coco import coco_document
from cledet.data.images import image_size
from cledet.data.index import DetectionIndex, Ints
from cledet.errors import UserError
from cledet.io.atomic import write_whole
from cledet.metrics.analysis import Analysis
from cledet.metrics.suspects import Suspect

Ranked = list[tuple[int, Suspect]]
"""Suspects of an image with their ranks, from 1."""


def write_suspects(analysis: Analysis, run: Path) -> None:
    """Write suspects.json into the run folder, and review/ if there are suspects."""
    o, suspects = analysis.overlaps, analysis.suspects or []
    _write(run / "suspects.json", [{"rank": rank, **one.to_dict(o)} for rank, one in enumerate(suspects, 1)])
    if not suspects:
        return
    images: dict[int, Ranked] = defaultdict(list)
    for rank, one in enumerate(suspects, 1):
        images[one.image].append((rank, one))
    shown = detections_of(analysis, images)
    _write(run / "review" / "annotations.json", coco_annotations(analysis, images))
    _write(run / "review" / "detections.json", coco_detections(analysis, images, shown))
    _write(run / "review" / "label_studio.json", label_studio_tasks(analysis, images, shown))
    write_whole(run / "review" / "label_studio.xml", label_studio_config(analysis.index.classes))


def _write(path: Path, document: list[Any] | dict[str, Any]) -> None:
    write_whole(path, json.dumps(document, allow_nan=False))


def detections_of(analysis: Analysis, images: dict[int, Ranked]) -> dict[int, Ints]:
    """Return the detections of each image that the report shows, and those of its suspects, highest score first."""
    o, chosen = analysis.overlaps, np.zeros(len(analysis.index), dtype=np.bool_)
    chosen[list(images)] = True
    shown = o.score >= analysis.confidence
    shown[[one.detection for ranked in images.values() for _, one in ranked if one.detection >= 0]] = True
    rows = np.flatnonzero(shown & chosen[o.image])
    return {image: rows[o.image[rows] == image] for image in images}


def coco_annotations(analysis: Analysis, images: dict[int, Ranked]) -> dict[str, Any]:
    """Build a COCO annotation file: CVAT's "COCO 1.0", and the dataset of FiftyOne.

    Paths are relative to the folder that holds all images of the split. Suspect labels have the extra keys `suspect`,
    their kind, and `rank`.
    """
    index, chosen = analysis.index, list(images)
    names, sizes = relative_paths(index), np.array([_size(index, image) or (0, 0) for image in chosen], dtype=np.int32)
    own = replace(index.subset(chosen), sizes=sizes)
    document = coco_document(own, [names[image] for image in chosen])
    marks = {one.gt: {"suspect": one.kind, "rank": rank} for ranked in images.values() for rank, one in ranked}
    rows = np.concatenate([np.arange(*index.rows(image).indices(index.num_boxes)) for image in chosen]).tolist()
    document["images"] = [{"width": 0, "height": 0, **image} for image in document["images"]]
    finite = np.flatnonzero(np.isfinite(own.xywh).all(axis=1)).tolist()
    document["annotations"] = [
        {**document["annotations"][i], "id": rows[i] + 1, "segmentation": [], **marks.get(rows[i], {})} for i in finite
    ]
    return {"info": {"description": f"suspected label errors of {index.name}"}, **document}


def coco_detections(analysis: Analysis, images: dict[int, Ranked], shown: dict[int, Ints]) -> list[dict[str, Any]]:
    """Build a file in COCO's results format; detections of suspects have the extra keys `suspect` and `rank`."""
    o, index = analysis.overlaps, analysis.index
    marks = {one.detection: {"suspect": one.kind, "rank": rank} for ranked in images.values() for rank, one in ranked}
    return [
        {"image_id": int(index.image_ids[image]), "category_id": int(index.category_ids[o.label[i]]),
         "bbox": o.xywh[i].tolist(), "score": float(o.score[i]), **marks.get(i, {})}
        for image, rows in shown.items() for i in rows.tolist()
    ]  # fmt: skip


def relative_paths(index: DetectionIndex) -> list[str]:
    """Return the image paths [I] relative to their common folder, or as they are without one."""
    paths = index.paths.tolist()
    try:
        folder = os.path.commonpath({os.path.dirname(path) for path in paths})
    except ValueError:  # several drives
        return paths
    return [os.path.relpath(path, folder).replace(os.sep, "/") for path in paths]


def label_studio_tasks(analysis: Analysis, images: dict[int, Ranked], shown: dict[int, Ints]) -> list[dict[str, Any]]:
    """Build Label Studio's tasks: labels as annotations, detections as predictions, suspects as text.

    Coordinates are percent of the image. Images are paths for Label Studio's local file serving with the default
    document root, /. Images of unknown size are left out with a warning.
    """
    o, index, tasks, unknown = analysis.overlaps, analysis.index, [], []
    degenerate = index.degenerate()
    for image, ranked in images.items():
        path = str(index.paths[image])
        size = _size(index, image)
        if size is None:
            unknown.append(path)
            continue
        texts = [f"{rank}. {one.text(o)}" for rank, one in ranked]
        of_label, of_detection = (
            {getattr(one, name): text for (_, one), text in zip(ranked, texts)} for name in ("gt", "detection")
        )
        labels = [
            _region(f"label-{row}", index.classes[index.labels[row]], index.xywh[row].tolist(), size, of_label.get(row))
            for row in range(*index.rows(image).indices(index.num_boxes))
            if not degenerate[row]
        ]
        found = [
            {**_region(f"detection-{i}", index.classes[o.label[i]], o.xywh[i].tolist(), size, of_detection.get(i)),
             "score": float(o.score[i])}
            for i in shown[image].tolist()
        ]  # fmt: skip
        data = {"image": _local_file(path), "rank": ranked[0][0], "suspects": printable("; ".join(texts))}
        prediction = {"model_version": "detections", "score": ranked[0][1].score, "result": found}
        tasks.append({"data": data, "annotations": [{"result": labels}], "predictions": [prediction]})
    if unknown:
        count = "1 image" if len(unknown) == 1 else f"{len(unknown)} images"
        warn(f"review/label_studio.json lacks {count} of unknown size: {unknown[0]}{' ...' if unknown[1:] else ''}")
    return tasks


def _size(index: DetectionIndex, image: int) -> tuple[int, int] | None:
    try:
        return index.size(image) or image_size(str(index.paths[image]))
    except UserError:
        return None


def _region(name: str, label: str, box: list[float], size: tuple[int, int], text: str | None) -> dict[str, Any]:
    """Build a rectangle in percent of the image from a box left, top, width, height in pixels.

    The part outside the image is cut off: Label Studio refuses percentages below 0 and above 100.
    """
    left, top = (min(max(start, 0), side) for start, side in zip(box, size))
    right, bottom = (min(max(start + length, 0), side) for start, length, side in zip(box, box[2:], size))
    width, height = size
    x, y, w, h = 100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [printable(label)]}
    of = {"type": "rectanglelabels", "from_name": "label", "to_name": "image"}
    region = {"id": name, **of, "original_width": width, "original_height": height, "image_rotation": 0, "value": value}
    return region if text is None else {**region, "meta": {"text": [printable(text)]}}


def _local_file(path: str) -> str:
    """Return the URL of a file for Label Studio's local file serving with the document root /."""
    absolute = Path(path).absolute()
    relative = os.fsencode(absolute.relative_to(absolute.anchor).as_posix())
    return f"/data/local-files/?d={quote(relative)}"


def label_studio_config(classes: tuple[str, ...]) -> str:
    """Build the labeling configuration of Label Studio for the tasks."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Header", value="$suspects")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in dict.fromkeys(map(printable, classes)):
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
