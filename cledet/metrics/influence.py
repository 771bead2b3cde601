"""Which images make AP what it is: AP without each image in turn, exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cledet.data.index import Floats
from cledet.metrics.bootstrap import Matches, chunk, class_ap, copied_ap


def leave_one_out(classes: Sequence[Matches], images: int, step: Callable[[], object] = lambda: None) -> Floats:
    """AP [I] of a split of so many images without its image i; nan where no object is left.

    The jackknife (Efron and Tibshirani, chapter 11): `weighted_ap` with weights 1, and 0 for one image. A class is
    looked at again only without the images that have detections or objects of it. `step` is called after each class.
    """
    whole, present = 0.0, np.full(images, len(classes))
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
        whole += ap
        step()
    return np.divide(whole + change, present, out=np.full(images, np.nan), where=present > 0)
