"""Settings of the paper's components in training, and of rivals. Importing this file imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cledet.config.base import Settings
from cledet.config.types import Count, Factor, Unit


class ComponentSettings(Settings):
    """Settings of DC (Eq. 2-4) and IAC (Eq. 5-7), and of losses with the same aim."""

    center_unit: Literal["pixel", "stride", "size"] = Field("size", description="DC: unit of the distance in Eq. 2.")
    dc_form: Literal["as-printed", "zero-based", "iou"] = Field(
        "as-printed",
        description="DC: coefficient: as-printed (Eq. 2), zero-based (0 for an accurate box, so small errors count), "
        "or iou (IoU^1.5: Wu et al. 2019, a rival).",
    )
    dc_scope: Literal["row", "class"] = Field(
        "row", description="DC: weight the loss of all classes of an anchor (row), or of its ground truth's class only."
    )
    alpha: Unit = Field(0.75, description="IAC: weight of the probability in Eq. 6.")
    score_threshold: Unit = Field(0.5, description="IAC: score threshold of Eq. 7.")
    recall_min_iou: Unit = Field(0.4, description="IAC: minimum IoU of a recalled anchor. 0: as printed in the paper.")
    recall_relative: Unit = Field(
        0.0,
        description="IAC: minimum IoU of a recalled anchor as a share of the object's best IoU, or of 0.5 if that is "
        "less. 0: none. Give --recall-min-iou 0 with it.",
    )
    recall_center: bool = Field(False, description="IAC: recall only anchors whose center is inside the object.")
    recall_overlap: Literal["anchor", "predicted"] = Field(
        "anchor",
        description="IAC: box of the overlap in Eq. 6: the anchor, or the predicted box, whose IoU must then be 0.5.",
    )
    recall_cap: Count = Field(0, description="IAC: maximum number of recalled anchors per object. 0: no limit.")
    recall_start: Unit = Field(0.0, description="IAC: start of recalling, as a fraction of the run.")
    recall_box_loss: bool = Field(True, description="IAC: recalled anchors have a box loss.")
    recall_target: Literal["hard", "soft"] = Field(
        "hard", description="IAC: target score of recalled anchors: hard (1), or soft (the IoU of the predicted box)."
    )
    recall_fade: bool = Field(
        False, description="IAC: weight the losses of recalled anchors by how far their score exceeds the threshold."
    )
    normalizer: Literal["positives", "matched"] = Field(
        "positives", description="Normalizer of the losses: all positives, or only those matched by IoU."
    )
    correlation: Factor = Field(
        0.0,
        description="Weight of the correlation loss (Kahraman et al. 2023), which ties scores to the IoU of boxes. 0: "
        "none.",
    )
