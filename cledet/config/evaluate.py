"""Settings of the commands that evaluate detections."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cledet.config.base import DEVICE, METHODS, DetectionSettings, ModelSettings, RunSettings, SuppressionSettings
from cledet.config.types import (
    COCO_MAX_DETS,
    NMS_METHODS,
    Ablations,
    AmpName,
    Areas,
    ClassNames,
    Count,
    Images,
    MaxDets,
    MethodList,
    Positive,
    Resamples,
    Unit,
    Workers,
    parse_words,
)

BENCH_ROWS = (
    *("pytorch", "pytorch-bf16", "pytorch-compiled", "onnx", "openvino", "openvino-bf16", "openvino-int8", "pt2"),
    "torchvision",
)
"""Rows of `cledet bench`."""
RowList = Annotated[str, BeforeValidator(lambda value: parse_words(value, "row", BENCH_ROWS, ("all",)))]


class EvaluationSettings(DetectionSettings, ModelSettings):
    """Settings of the commands that evaluate NMS methods on a split."""

    amp: AmpName = Field(
        "auto", description="Mixed precision. auto: bf16 if the device supports it, float32 for exported files."
    )
    nms: MethodList = Field(  # type: ignore[assignment]
        "auto",
        description=f"NMS methods: {METHODS}; all, or several separated by commas. auto: the model's own.",
    )
    data: str | None = Field(
        None, description="Data set: YAML, folder, annotation file, or a shipped name. Default: the training data set."
    )
    split: str = Field("val", description="Split to evaluate.")
    predictions: Path | None = Field(
        None,
        description="Detections of any detector instead of a model: COCO results, the files of Ultralytics, "
        "supervision or cledet, a folder of YOLO or VOC text files. val applies only a given --nms to them.",
    )
    batch: Images = Field(8, description="Images per batch.")
    workers: Workers = Field(2, description="Processes that load images.")

    def nms_methods(self, components: tuple[str, ...]) -> tuple[str, ...]:
        """Return the NMS methods to run on the same candidates; in val the first is the baseline of the others."""
        if self.nms == "all":
            return NMS_METHODS
        return tuple(self.nms.split(",")) if self.nms != "auto" else super().nms_methods(components)


class ValSettings(EvaluationSettings):
    """`cledet val`."""

    ablation: Ablations | None = Field(
        None,
        min_length=1,
        description="Evaluate the newest run trained with exactly these components: none, or some of iac,dc,clb. "
        "Several, separated by a semicolon, all (the four of Table 2), or every (all eight): the newest grid of these.",
    )
    bootstrap: Resamples = Field(
        0, description="Bootstrap resamples for confidence intervals of the gain over the first NMS method. 0: none."
    )
    eval_max_dets: MaxDets = Field(
        COCO_MAX_DETS,
        description="Detections per image and class at which AR is computed. AP uses the largest.",
    )
    areas: Areas = Field(
        (32, 96), description="Side in pixels up to which objects are small, and up to which they are medium."
    )
    evaluator: Literal["fast", "pycocotools"] = Field(
        "fast", description="Evaluator of the COCO metrics. pycocotools: the reference, compared with the fast one."
    )
    report: bool = Field(
        True, description="Write the error analysis as report.html and plots/*.png, if one NMS method is evaluated."
    )

    suspects: Count = Field(
        500,
        description="Largest number of suspected label errors in suspects.json and review/, a part of the report. "
        "0: none.",
    )

    @model_validator(mode="after")
    def _check_bootstrap_and_counts(self) -> ValSettings:
        suppressed = self.predictions is None or self.nms != "auto"
        if suppressed and self.eval_max_dets != COCO_MAX_DETS and self.eval_max_dets[-1] > self.max_det:
            raise ValueError(
                f"--eval-max-dets counts up to {self.eval_max_dets[-1]} detections, of which --max-det leaves "
                f"{self.max_det} an image: give --max-det {self.eval_max_dets[-1]} too"
            )
        if self.bootstrap and self.eval_max_dets[-1] != COCO_MAX_DETS[-1]:
            raise ValueError("--bootstrap measures AP at 100 detections: leave it out, or --eval-max-dets")
        if self.bootstrap and len(self.nms_methods(())) < 2:
            raise ValueError("--bootstrap compares NMS methods: name several with --nms, or all")
        return self


class CompareSettings(RunSettings):
    """`cledet compare`."""

    data: str | None = Field(None, description="Data set to compare on. Default: that of the runs.")
    split: str | None = Field(None, description="Split to compare on. Default: that of the runs, else val.")
    per_side: Positive = Field(
        1,
        description="Runs per side, as of several seeds: the first N against the next N, paired in order, with one "
        "interval over seeds and images.",
    )
    classes: ClassNames | None = Field(None, description="Compare on these classes only, as person,dog. Default: all.")
    bootstrap: Annotated[Resamples, Field(ge=1)] = Field(1000, description="Bootstrap resamples for the intervals.")
    pictures: Count = Field(10, description="Pictures of the images that differ most. 0, and with --per-side: none.")
    conf: Unit = Field(0.3, description="Score threshold of the pictures. The metrics use all detections.")
    device: str = Field("auto", description="Device for weights that are evaluated first: auto, cpu, mps, cuda:1.")
    batch: Images = Field(8, description="Images per batch, for weights that are evaluated first.")
    workers: Workers = Field(2, description="Processes that load images, for weights that are evaluated first.")


class TuneSettings(EvaluationSettings):
    """`cledet tune`."""

    nms: MethodList = Field(
        "all",
        description=f"NMS methods to search: {METHODS}; all, or several separated by commas. auto: the model's own.",
    )
    conf: Unit = Field(
        0.01, description="Lowest score threshold to search. A file's detections are all used unless this is given."
    )
    metric: Literal["AP", "AP50", "AP75", "APs", "APm", "APl"] = Field("AP", description="Metric to maximize.")
    tolerance: Unit = Field(
        0.001, description="Loss of the metric that is accepted for a higher --conf and fewer detections."
    )
    bootstrap: Annotated[Resamples, Field(ge=1)] = Field(1000, description="Bootstrap resamples for the intervals.")
    repeats: Annotated[Resamples, Field(ge=1)] = Field(
        10, description="Random halvings of the images, to choose on one half and test on the other."
    )


class BenchSettings(SuppressionSettings, ModelSettings):
    """`cledet bench`."""

    device: str = Field("auto", description=f"{DEVICE} Exported files run on the CPU.")
    data: str | None = Field(
        None, description="Data set of the photos and of AP. Default: the training data set. none: noise, without AP."
    )
    split: str = Field("val", description="Split of the photos and of AP.")
    formats: RowList = Field(
        "pytorch,pytorch-bf16,onnx,openvino,openvino-bf16,pt2,torchvision",
        description="Rows: pytorch, pytorch-bf16, pytorch-compiled, onnx, openvino, openvino-bf16, openvino-int8, "
        "pt2, torchvision; or all. Files are exported for it.",
    )
    files: str | None = Field(None, description="Exported files to measure too, separated by commas.")
    rounds: Positive = Field(10, description="Rounds over the photos, in which the rows take turns.")

    @property
    def rows(self) -> tuple[str, ...]:
        """Return the names of the rows to measure, and the exported files."""
        named = BENCH_ROWS if self.formats == "all" else tuple(self.formats.split(","))
        return *named, *(self.files.split(",") if self.files else ())
