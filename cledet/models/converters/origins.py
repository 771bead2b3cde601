"""Converters of other projects' weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cledet.errors import UserError
from cledet.models.converters.detectron2 import from_detectron2, is_detectron2
from cledet.models.converters.imported import ConvertedDetector
from cledet.models.converters.mmdetection import from_mmdetection, is_mmdetection
from cledet.models.converters.mmdetection_gfl import from_gfl, is_gfl
from cledet.models.converters.torchvision import from_torchvision, is_torchvision


def convert_weights(content: dict[str, Any]) -> ConvertedDetector | None:
    """Convert the content of another project's file; return None if no converter recognizes it.

    Raises UserError for a network that cledet cannot build.
    """
    for name, (recognizes, convert) in CONVERTERS.items():
        if recognizes(content):
            try:
                return convert(content)
            except KeyError as error:
                raise UserError(
                    f"a detector of {name}: it lacks {error}", "it is another network, or incomplete"
                ) from None
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
                # Each converter takes its weights apart by shape before all of them are compared with a network's.
                reason = str(error).partition("\n")[0]
                message = f"a detector of {name} with weights of other shapes: {reason}"
                raise UserError(message, "it is another network, or incomplete") from None
    return None


CONVERTERS: dict[str, tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], ConvertedDetector]]] = {
    "torchvision": (is_torchvision, from_torchvision),
    "Detectron2": (is_detectron2, from_detectron2),
    "MMDetection": (is_mmdetection, from_mmdetection),
    "MMDetection's GFL": (is_gfl, from_gfl),
}
