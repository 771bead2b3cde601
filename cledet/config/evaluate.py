"""The settings of the commands that judge detections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cledet.config.base import DetectionSettings, ModelSettings, RunSettings
from cledet.config.types import (
    COCO_MAX_DETS,
    NMS_METHODS,
    AmpName,
    Areas,
    Count,
    Images,
    MaxDets,
    MethodList,
    Resamples,
    Unit,
    Workers,
)


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
    bootstrap: Resamples = Field(
        0, description="resamples of the images, for intervals of the gain over the first NMS method; 0: none"
    )
    eval_max_dets: MaxDets = Field(
        COCO_MAX_DETS, description="detections an image and class that AR is measured at; AP is at the last"
    )
    areas: Areas = Field((32, 96), description="the sides in pixels of the largest small and the largest medium object")
    evaluator: Literal["fast", "pycocotools"] = Field(
        "fast", description="fast, or pycocotools: compute the twelve COCO metrics with it too, and compare both"
    )
    report: bool = Field(True, description="write what went wrong, of one NMS method, as report.html and plots/*.png")
    batch: Images = Field(8, description="images a step")
    workers: Workers = Field(2, description="processes that load images")

    @model_validator(mode="after")
    def _check_counts(self) -> ValSettings:
        suppressed = self.predictions is None or self.nms != "auto"
        if suppressed and self.eval_max_dets != COCO_MAX_DETS and self.eval_max_dets[-1] > self.max_det:
            raise ValueError(
                f"--eval-max-dets counts up to {self.eval_max_dets[-1]} detections, of which --max-det leaves "
                f"{self.max_det} an image: give --max-det {self.eval_max_dets[-1]} too"
            )
        if self.bootstrap and self.eval_max_dets[-1] != COCO_MAX_DETS[-1]:
            raise ValueError("--bootstrap measures AP at 100 detections: leave it out, or --eval-max-dets")
        return self

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


class CompareSettings(RunSettings):
    """`cledet compare`."""

    data: str | None = Field(None, description="data set to compare on; by default the one that the runs were made on")
    split: str | None = Field(None, description="the split; by default that of the runs, else val")
    bootstrap: Annotated[Resamples, Field(ge=1)] = Field(1000, description="resamples of the images, for the intervals")
    pictures: Count = Field(10, description="how many of the images that differ most to draw; 0: none")
    conf: Unit = Field(0.3, description="pictures show no detections of lower score; figures count them all")
    device: str = Field("auto", description="where models run that are to be validated first: auto, cpu, cuda:1, mps")
    batch: Images = Field(8, description="images a step, there")
    workers: Workers = Field(2, description="processes that load images, there")


class TuneSettings(DetectionSettings, ModelSettings):
    """`cledet tune`."""

    amp: AmpName = Field("off", description="mixed precision: off (exact), auto, bf16 or fp16")
    nms: MethodList = Field(  # type: ignore[assignment]
        "all", description=f"the methods to try: all, auto (the model's own), or some of {','.join(NMS_METHODS)}"
    )
    conf: Unit = Field(
        0.01, description="detections of lower score are not looked at; a file's are all, unless this is given"
    )
    data: str | None = Field(None, description="data set; by default the one that was trained on")
    split: str = Field("val", description="the split to tune on; report figures of another one")
    predictions: Path | None = Field(
        None, description="tune on this COCO results file of raw detections instead of a model"
    )
    metric: Literal["AP", "AP50", "AP75", "APs", "APm", "APl"] = Field("AP", description="the figure to raise")
    tolerance: Unit = Field(0.001, description="of the best figure may be lost for a higher conf, so fewer boxes")
    bootstrap: Annotated[Resamples, Field(ge=1)] = Field(1000, description="resamples of the images, for the intervals")
    repeats: Annotated[Resamples, Field(ge=1)] = Field(
        10, description="times that the images are halved, to choose on one half, both ways"
    )
    batch: Images = Field(8, description="images a step")
    workers: Workers = Field(2, description="processes that load images")

    def nms_methods(self, components: tuple[str, ...]) -> tuple[str, ...]:
        """The methods to try."""
        if self.nms == "all":
            return NMS_METHODS
        return tuple(self.nms.split(",")) if self.nms != "auto" else super().nms_methods(components)
