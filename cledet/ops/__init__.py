"""Public tensor functions of a dense detector, except the paper's components.

Names are imported on first use, because `cledet.models.nms` builds on `components`, which builds on `ops.boxes`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cledet.models.nms import Kept, batched_nms, suppress
    from cledet.ops.assigners.atss import assign_atss
    from cledet.ops.assigners.fcos import assign_fcos, centerness
    from cledet.ops.assigners.max_iou import assign_max_iou, ignore_regions, match
    from cledet.ops.assigners.paa import choose_paa
    from cledet.ops.assigners.tal import assign_tal
    from cledet.ops.box_coder import decode, decode_distances, encode, encode_distances
    from cledet.ops.boxes import box_iou, clip_boxes
    from cledet.ops.losses import (
        ciou_loss,
        diou_loss,
        distribution_focal_loss,
        focal_loss,
        ghm_loss,
        giou_loss,
        quality_focal_loss,
        smooth_l1,
        varifocal_loss,
    )

__all__ = [
    "Kept",
    "assign_atss",
    "assign_fcos",
    "assign_max_iou",
    "assign_tal",
    "batched_nms",
    "box_iou",
    "centerness",
    "choose_paa",
    "ciou_loss",
    "clip_boxes",
    "decode",
    "decode_distances",
    "diou_loss",
    "distribution_focal_loss",
    "encode",
    "encode_distances",
    "focal_loss",
    "ghm_loss",
    "giou_loss",
    "ignore_regions",
    "match",
    "quality_focal_loss",
    "smooth_l1",
    "suppress",
    "varifocal_loss",
]

_MODULES = (
    "cledet.ops.boxes",
    "cledet.ops.box_coder",
    "cledet.ops.losses",
    "cledet.ops.assigners.max_iou",
    "cledet.ops.assigners.atss",
    "cledet.ops.assigners.fcos",
    "cledet.ops.assigners.paa",
    "cledet.ops.assigners.tal",
    "cledet.models.nms",
)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, from the first module that defines it."""
    for module in map(import_module, _MODULES if name in __all__ else ()):
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
