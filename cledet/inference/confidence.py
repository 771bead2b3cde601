"""Confidence threshold of prediction: a given number, or that of the highest F1 in training's evaluation."""

from __future__ import annotations

from cledet.config.base import PredictSettings
from cledet.errors import UserError
from cledet.models.checkpoint import Checkpoint

UNKNOWN = 0.3
"""Threshold of weights without a confidence of best F1: those of other projects, and of runs without evaluation."""


def resolve_conf(settings: PredictSettings, model: Checkpoint | None) -> tuple[float | tuple[float, ...], str]:
    """Resolve `conf` of the settings to a threshold, or to one per class, and a sentence about its origin.

    The sentence is empty for a given number. `model` is None for a detector without a checkpoint. A class without a
    true positive in the evaluation has the threshold of all classes. Raises UserError for `per-class` if the
    checkpoint has no thresholds per class.
    """
    if isinstance(settings.conf, float):
        return settings.conf, ""
    best = None if model is None else model.best_conf
    if model is None or best is None:
        if settings.conf == "per-class":
            message = "--conf per-class needs weights that training evaluated, and these hold no confidence per class"
            raise UserError(message, "give a number, or leave --conf out")
        return UNKNOWN, f"confidence {UNKNOWN:g}: the weights hold none of best F1"
    origin = "best F1 in training's evaluation"
    if settings.conf == "auto":
        return best, f"confidence {best:.3g}: {origin}"
    confs = tuple(best if conf is None else conf for conf in model.class_confs)
    shown = ", ".join(f"{name} {conf:.3g}" for name, conf in list(zip(model.classes, confs))[:5])
    more = f" and {len(confs) - 5} more" if len(confs) > 5 else ""
    return confs, f"confidence per class, {shown}{more}: {origin}"
