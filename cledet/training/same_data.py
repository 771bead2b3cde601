"""A run is resumed on the data that it was begun on, and on no other."""

from __future__ import annotations

from cledet.data.index import DetectionIndex
from cledet.errors import UserError
from cledet.models.checkpoint import Checkpoint

HINT = "restore the data set, or start a new run with --weights"


def require_same_data(model: Checkpoint, index: DetectionIndex) -> None:
    """Raise UserError where the training split has other classes, images or boxes than a run's checkpoint.

    The place of the files does not matter. A checkpoint without digests tells classes and the number of images only.
    """
    images = model.training.get("images", len(index))
    if images != len(index):
        raise UserError(f"the run was trained on {images} images and {index.name} now has {len(index)}", HINT)
    before = model.training.get("digests", {})
    changed = [name for name, digest in index.digests().items() if before.get(name, digest) != digest]
    if (*model.classes, *model.category_ids) != (*index.classes, *index.category_ids.tolist()):
        changed.insert(0, "classes")
    if changed:
        raise UserError(f"{index.name} has other {' and '.join(changed)} than the run was begun with", HINT)
