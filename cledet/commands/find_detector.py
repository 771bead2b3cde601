"""The detector that a command works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cledet.config.base import ModelSettings
from cledet.config.types import ablation_name
from cledet.console import say
from cledet.errors import UserError

if TYPE_CHECKING:
    from cledet.detector import Detector


def find_detector(settings: ModelSettings, published: str | None = None) -> Detector:
    """Load the detector of `--weights`, else of the newest run trained with `--ablation`, else `published` weights.

    Raises UserError if the weights were trained with other components than `--ablation`.
    """
    from cledet.detector import Detector
    from cledet.io.run_folders import find_weights

    path = find_weights(settings.project, settings.weights, settings.ablation, published)
    detector = Detector(path)
    components = detector.components
    if settings.ablation is not None and settings.ablation[0] != components:
        wanted = ablation_name(settings.ablation[0])
        raise UserError(f"{path} was trained with {ablation_name(components)}, not {wanted}")
    say(f"weights: {path}")
    return detector
