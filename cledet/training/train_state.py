"""Position and progress of a training run, as last.pt stores them, and the check that its data set is the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cledet.data.index import DetectionIndex
from cledet.errors import UserError
from cledet.models.checkpoint import Checkpoint

RENAMED = {"concluded": "epoch_finished", "judged": "last_eval_epoch"}
"""Keys of last.pt as cledet 0.1.0 wrote them."""
HINT = "restore the data set, or start a new run with --weights"


@dataclass
class TrainState:
    """Position and progress of a run; with the state of its `TrainStep`, everything that resuming needs."""

    step: int = 0
    best: float = -1.0
    best_epoch: int = 0
    last_eval_epoch: int = 0
    epoch_finished: bool = True
    """False between the last step of an epoch and the end of its evaluation."""
    bad_steps: int = 0
    """Consecutive steps without a finite loss."""

    @classmethod
    def from_saved(cls, saved: Mapping[str, Any]) -> TrainState:
        """Read the state from the `training` entry of a checkpoint, also of an older version."""
        values = {RENAMED.get(key, key): value for key, value in saved.items()}
        return cls(**{field.name: values[field.name] for field in fields(cls) if field.name in values})


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
