"""Converters of other projects' weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cledet.models.converters.detectron2 import from_detectron2, is_detectron2
from cledet.models.converters.imported import ConvertedDetector
from cledet.models.converters.mmdetection import from_mmdetection, is_mmdetection
from cledet.models.converters.mmdetection_gfl import from_gfl, is_gfl
from cledet.models.converters.torchvision import from_torchvision, is_torchvision


def convert_weights(content: dict[str, Any]) -> ConvertedDetector | None:
    """Convert the content of another project's file; return None if no converter recognizes it.

    Raises UserError for a network that cledet cannot build.
    """
    for recognizes, convert in CONVERTERS.values():
        if recognizes(content):
            return convert(content)
    return None


CONVERTERS: dict[str, tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], ConvertedDetector]]] = {
    "torchvision": (is_torchvision, from_torchvision),
    "Detectron2": (is_detectron2, from_detectron2),
    "MMDetection": (is_mmdetection, from_mmdetection),
    "MMDetection's GFL": (is_gfl, from_gfl),
}
