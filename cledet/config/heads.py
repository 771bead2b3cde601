"""Defaults of settings that depend on the head. Importing this file imports no torch."""

from __future__ import annotations

from typing import Any

ANCHORS, SQUARE = (
    {"anchor_scale": 4.0, "anchor_ratios": (0.5, 1.0, 2.0)},
    {"anchor_scale": 8.0, "anchor_ratios": (1.0,)},
)
HEADS: dict[str, dict[str, Any]] = {
    "retinanet": ANCHORS | {"assign": "iou", "cls_loss": "focal", "reg_loss": "smooth_l1"},
    "gfl": SQUARE | {"assign": "atss", "cls_loss": "qfl", "reg_loss": "dfl"},
    "fcos": SQUARE | {"assign": "fcos", "cls_loss": "focal", "reg_loss": "giou"},
}
"""Settings of training by head, as published."""


def of_head(head: object, name: str, value: Any) -> Any:
    """Return the value of a setting named in HEADS, or the head's own if it is None or auto; None for no such head."""
    return HEADS.get(str(head), {}).get(name) if value in (None, "auto") else value
