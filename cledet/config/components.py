"""Settings of the paper's components in training, and of rivals. Importing this file imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cledet.config.base import Settings
from cledet.config.heads import of_head
from cledet.config.types import Count, Factor, Unit


class ComponentSettings(Settings):
    """Settings of DC (Eq. 2-4) and IAC (Eq. 5-7), and of losses with the same aim."""

    center_unit: Literal["pixel", "stride", "size"] = Field("size", description="DC: unit of the distance in Eq. 2.")
    dc_form: Literal["as-printed", "zero-based", "iou"] = Field(
        "zero-based",
        description="DC: coefficient: zero-based (its terms are 0 for an accurate box, so small errors count), "
        "as-printed (Eq. 2), or iou (IoU^1.5: Wu et al. 2019, a rival).",
    )
    dc_scope: Literal["row", "class"] = Field(
        "row", description="DC: weight the loss of all classes of an anchor (row), or of its ground truth's class only."
    )
    dc_balance: Literal["batch", "class"] = Field(
        "batch", description="DC: keep the sum of the losses (Eq. 3) of the whole batch, or of each class in it."
    )
    dc_start: Unit = Field(0.0, description="DC: start, as a fraction of the run.")
    alpha: Unit = Field(0.75, description="IAC: weight of the probability in Eq. 6.")
    score_threshold: Unit = Field(0.5, description="IAC: score threshold of Eq. 7.")
    recall_min_iou: Unit = Field(
        0.0,
        description="IAC: minimum IoU of a recalled anchor. 0: as printed. With --recall-target hard, 0.4 by default.",
    )
    recall_relative: Unit = Field(
        0.0,
        description="IAC: minimum IoU of a recalled anchor as a share of the object's best IoU, or of 0.5 if that is "
        "less. 0: none.",
    )
    recall_center: bool = Field(False, description="IAC: recall only anchors whose center is inside the object.")
    recall_overlap: Literal["anchor", "predicted"] = Field(
        "anchor",
        description="IAC: box of the overlap in Eq. 6: the anchor, or the predicted box, whose IoU must then be 0.5.",
    )
    recall_cap: Count = Field(0, description="IAC: maximum number of recalled anchors per object. 0: no limit.")
    recall_fill: Count = Field(
        0, description="IAC: recall anchors only up to this number of positives per object. 0: no limit."
    )
    recall_start: Unit = Field(0.0, description="IAC: start of recalling, as a fraction of the run.")
    recall_box_loss: bool = Field(True, description="IAC: recalled anchors have a box loss.")
    recall_target: Literal["soft", "hard"] = Field(
        "soft",
        description="IAC: target score of recalled anchors: soft (the IoU of the predicted box), or hard (1, as "
        "printed). With a --cls-loss other than focal, hard by default.",
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

    @model_validator(mode="before")
    @classmethod
    def _default_recall(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Choose the target of recalled anchors by the loss, and their minimum IoU by the target, if not given."""
        loss = of_head(values.get("head", "retinanet"), "cls_loss", values.get("cls_loss"))
        values = {"recall_target": "soft" if loss == "focal" else "hard"} | values
        return {"recall_min_iou": 0.4 if values["recall_target"] == "hard" else 0.0} | values


EARLIER = {"dc_form": "as-printed", "recall_target": "hard"}
"""Settings that a run of cledet 0.1 does not name, because it had no other values."""
