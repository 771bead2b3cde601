"""What dense detectors need besides the paper's components, as pure functions on tensors.

Imported when first asked for: `ops.nms` builds on `components`, which build on `ops.boxes`.
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


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


HOMES = {
    "Kept": "cledet.models.nms",
    "assign_atss": "cledet.ops.assigners.atss",
    "assign_fcos": "cledet.ops.assigners.fcos",
    "assign_max_iou": "cledet.ops.assigners.max_iou",
    "assign_tal": "cledet.ops.assigners.tal",
    "batched_nms": "cledet.models.nms",
    "box_iou": "cledet.ops.boxes",
    "centerness": "cledet.ops.assigners.fcos",
    "choose_paa": "cledet.ops.assigners.paa",
    "ciou_loss": "cledet.ops.losses",
    "clip_boxes": "cledet.ops.boxes",
    "decode": "cledet.ops.box_coder",
    "decode_distances": "cledet.ops.box_coder",
    "diou_loss": "cledet.ops.losses",
    "distribution_focal_loss": "cledet.ops.losses",
    "encode": "cledet.ops.box_coder",
    "encode_distances": "cledet.ops.box_coder",
    "focal_loss": "cledet.ops.losses",
    "ghm_loss": "cledet.ops.losses",
    "giou_loss": "cledet.ops.losses",
    "ignore_regions": "cledet.ops.assigners.max_iou",
    "match": "cledet.ops.assigners.max_iou",
    "quality_focal_loss": "cledet.ops.losses",
    "smooth_l1": "cledet.ops.losses",
    "suppress": "cledet.models.nms",
    "varifocal_loss": "cledet.ops.losses",
}
