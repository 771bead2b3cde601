"""The settings of the commands that judge detections."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from cledet.choices import NMS_METHODS, AmpName, MethodList, Positive
from cledet.config import DetectionSettings, ModelSettings


class ValSettings(DetectionSettings, ModelSettings):
    """`cledet val`."""

    amp: AmpName = Field("off", description="mixed precision: off (exact), auto, bf16 or fp16")
    nms: MethodList = Field(  # type: ignore[assignment]
        "auto",
        description="auto (what the model's components ask for; predictions as they are), all, "
        f"or some of {','.join(NMS_METHODS)}",
    )
    data: str | None = Field(None, description="data set; by default the one that was trained on")
    split: str = Field("val", description="the split to evaluate")
    predictions: Path | None = Field(None, description="score this COCO results file instead of a model")
    bootstrap: int = Field(
        0, ge=0, description="resamples of the images, for intervals of the gain over the first NMS method; 0: none"
    )
    report: bool = Field(True, description="write what went wrong, of one NMS method, as report.html and plots/*.png")
    batch: Positive = Field(8, description="images a step")
    workers: int = Field(2, ge=0, description="processes that load images")

    @model_validator(mode="after")
    def _check_bootstrap(self) -> ValSettings:
        if self.bootstrap and len(self.nms_methods(())) < 2:
            raise ValueError("--bootstrap compares NMS methods: name several with --nms, or all")
        return self

    def nms_methods(self, components: tuple[str, ...]) -> tuple[str, ...]:
        """The methods to try on the same candidates, the first being what the others are compared with."""
        if self.nms == "all":
            return NMS_METHODS
        return tuple(self.nms.split(",")) if self.nms != "auto" else super().nms_methods(components)
