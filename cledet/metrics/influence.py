"""Exact AP without each image in turn (jackknife)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cledet.data.index import Floats
from cledet.metrics.bootstrap import Matches, chunk, class_ap, copied_ap


def leave_one_out(classes: Sequence[Matches], images: int, step: Callable[[], object] = lambda: None) -> Floats:
    """Compute AP [I] of a split of I = `images` images without image i; nan where no object is left.

    Equal to `weighted_ap` with weight 0 for one image and 1 for the others. The AP of a class is recomputed only
    without images that hold detections or objects of it. `step` is called after each class.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 11.
    """
    total, present = 0.0, np.full(images, len(classes))
    change = np.zeros(images)
    once = np.ones((images, 1), dtype=np.int32)
    for matches in classes:
        ap = float(class_ap(matches, once)[0])
        touched = np.union1d(matches.images, np.flatnonzero(matches.objects))
        for first in range(0, len(touched), chunk(matches)):
            part = touched[first : first + chunk(matches)]
            objects = matches.objects.sum() - matches.objects[part]
            copies = (matches.images[:, None] != part).view(np.int8)
            change[part] += copied_ap(matches, copies, objects) - ap
            present[part] -= objects == 0
        total += ap
        step()
    return np.divide(total + change, present, out=np.full(images, np.nan), where=present > 0)
