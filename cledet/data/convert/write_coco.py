"""Writer of COCO annotation files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cledet.data.index import DetectionIndex


def coco_document(index: DetectionIndex, names: Sequence[str]) -> dict[str, Any]:
    """Build the content of an annotation file; `names` [I] are the images' file names.

    Ids of images and classes, crowds and areas are those of the index. Annotations are numbered from 1. Sizes that are
    unknown are left out.
    """
    images = []
    for number, name, (width, height) in zip(index.image_ids.tolist(), names, index.sizes.tolist()):
        size = {"width": width, "height": height} if width > 0 and height > 0 else {}
        images.append({"id": number, "file_name": name, **size})
    image_ids = index.image_ids[index.image_of_boxes()].tolist()
    categories = index.category_ids[index.labels].tolist()
    columns = zip(image_ids, categories, index.xywh.tolist(), index.area.tolist(), index.ignore.tolist())
    annotations = [
        {"id": row, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for row, (image, category, box, area, crowd) in enumerate(columns, 1)
    ]
    categories_of = zip(index.category_ids.tolist(), index.classes)
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in categories_of],
    }


def write_coco(folder: Path, split: str, index: DetectionIndex, names: Sequence[str]) -> dict[str, str]:
    """Write annotations/instances_SPLIT.json; return the split's entry for data.yaml."""
    file = f"annotations/instances_{split}.json"
    (folder / "annotations").mkdir(exist_ok=True)
    document = coco_document(index, names)
    for row in np.flatnonzero(~np.isfinite(index.area)).tolist():  # of boxes without a limit; JSON has no such numbers
        del document["annotations"][row]["area"]
    (folder / file).write_bytes(msgspec.json.encode(document))
    return {"images": f"images/{split}", "annotations": file}
