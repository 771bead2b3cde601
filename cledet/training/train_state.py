"""Position and progress of a training run, as last.pt stores them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

RENAMED = {"concluded": "epoch_finished", "judged": "last_eval_epoch"}
"""Keys of last.pt as cledet 0.1.0 wrote them."""


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
