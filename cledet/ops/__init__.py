"""What dense detectors need besides the paper's components, as pure functions on tensors.

Imported when first asked for: `ops.nms` builds on `components`, which build on `ops.boxes`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cledet.ops.assign import assign_max_iou, ignore_regions, match
    from cledet.ops.atss import assign_atss
    from cledet.ops.boxes import box_iou, clip_boxes
    from cledet.ops.coder import decode, decode_distances, encode, encode_distances
    from cledet.ops.fcos import assign_fcos, centerness
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
    from cledet.ops.nms import Kept, batched_nms, suppress
    from cledet.ops.paa import choose_paa
    from cledet.ops.tal import assign_tal

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
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)


HOMES = {
    "Kept": "nms",
    "assign_atss": "atss",
    "assign_fcos": "fcos",
    "assign_max_iou": "assign",
    "assign_tal": "tal",
    "batched_nms": "nms",
    "box_iou": "boxes",
    "centerness": "fcos",
    "choose_paa": "paa",
    "ciou_loss": "losses",
    "clip_boxes": "boxes",
    "decode": "coder",
    "decode_distances": "coder",
    "diou_loss": "losses",
    "distribution_focal_loss": "losses",
    "encode": "coder",
    "encode_distances": "coder",
    "focal_loss": "losses",
    "ghm_loss": "losses",
    "giou_loss": "losses",
    "ignore_regions": "assign",
    "match": "assign",
    "quality_focal_loss": "losses",
    "smooth_l1": "losses",
    "suppress": "nms",
    "varifocal_loss": "losses",
}
