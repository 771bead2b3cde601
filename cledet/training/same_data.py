"""Check that a run is resumed on the data set that it was started on."""

from __future__ import annotations

from cledet.data.index import DetectionIndex
from cledet.errors import UserError
from cledet.models.checkpoint import Checkpoint

HINT = "restore the data set, or start a new run with --weights"


def require_same_data(model: Checkpoint, index: DetectionIndex) -> None:
    """Raise UserError if classes, images or boxes of the training split differ from those of the checkpoint's run.

    The location of the files does not matter. Without digests in the checkpoint, only classes and the number of images
    are compared.
    """
    images = model.training.get("images", len(index))
    if images != len(index):
        raise UserError(f"the run was trained on {images} images and {index.name} now has {len(index)}", HINT)
    before = model.training.get("digests", {})
    changed = [name for name, digest in index.digests().items() if before.get(name, digest) != digest]
    if (*model.classes, *model.category_ids) != (*index.classes, *index.category_ids.tolist()):
        changed.insert(0, "classes")
    if changed:
        raise UserError(f"{index.name} has other {' and '.join(changed)} than at the start of the run", HINT)
