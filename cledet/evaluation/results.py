"""Detections of a split as one array, and the file format that they are exchanged in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cledet.data.index import DetectionIndex
from cledet.errors import UserError

Results = NDArray[np.float64]
"""Detections [D, 7] as pycocotools takes them: image id, x, y, w, h, score, category id."""


def read_results(path: Path, index: DetectionIndex) -> Results:
    """Detections from a file in COCO's results format; ids that the split does not have are refused by name."""
    try:
        content = json.loads(path.read_text())
        rows = [(d["image_id"], *d["bbox"], d["score"], d["category_id"]) for d in content]
        results = np.array(rows, dtype=np.float64).reshape(-1, 7)
    except FileNotFoundError:
        raise UserError(f"there is no predictions file {path}", "check the path") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not in COCO's results format ({type(error).__name__}: {error})",
            'a list of {"image_id", "category_id", "bbox": [x, y, w, h], "score"}',
        ) from None
    for what, column, known in (("image", 0, index.image_ids), ("category", 6, index.category_ids)):
        strange = np.setdiff1d(results[:, column], known)
        if len(strange):
            first = strange[:5].astype(int).tolist()
            raise UserError(f"{path} names {what} ids that {index.name} does not have: {first}")
    return results


def to_coco_results(results: Results) -> list[dict[str, Any]]:
    """Detections in COCO's results format, unrounded; `read_results` reads them back the same."""
    return [
        {"image_id": int(image), "category_id": int(category), "bbox": box, "score": score}
        for image, *box, score, category in results.tolist()
    ]
