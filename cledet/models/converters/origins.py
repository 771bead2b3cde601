"""Where the origin of a file of weights is recognised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cledet.errors import UserError
from cledet.models.converters.detectron2 import from_detectron2, is_detectron2
from cledet.models.converters.imported import Imported
from cledet.models.converters.mmdetection import from_mmdetection, is_mmdetection
from cledet.models.converters.mmdetection_gfl import from_gfl, is_gfl
from cledet.models.converters.torchvision import from_torchvision, is_torchvision


def from_elsewhere(content: dict[str, Any]) -> Imported | None:
    """A detector of another project from a file's content; None if no known project writes such files.

    Raises UserError for a network of theirs that ours cannot be.
    """
    for name, (recognise, read) in ORIGINS.items():
        if recognise(content):
            try:
                return read(content)
            except KeyError as error:
                raise UserError(
                    f"a detector of {name}: it lacks {error}", "it is another network, or not whole"
                ) from None
            except (AttributeError, IndexError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
                # Each origin takes its weights apart by shape before anything compares all of them with a network's.
                reason = str(error).partition("\n")[0]
                message = f"a detector of {name} with weights of other shapes: {reason}"
                raise UserError(message, "it is another network, or not whole") from None
    return None


ORIGINS: dict[str, tuple[Callable[[dict[str, Any]], bool], Callable[[dict[str, Any]], Imported]]] = {
    "torchvision": (is_torchvision, from_torchvision),
    "Detectron2": (is_detectron2, from_detectron2),
    "MMDetection": (is_mmdetection, from_mmdetection),
    "MMDetection's GFL": (is_gfl, from_gfl),
}
