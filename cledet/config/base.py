"""Settings: one typed class per command. Each field is a flag, a key of a recipe and an environment variable.

`cledet.config.loading` merges them. Importing this file imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from cledet.config.types import (
    Ablations,
    AmpName,
    AnchorRatios,
    AnchorScale,
    ClassNames,
    Confidence,
    Images,
    InputSize,
    NMSName,
    Positive,
    Project,
    RunName,
    SaveList,
    Side,
    Unit,
    Workers,
    rename_choice,
)

DEVICE = "Device: cpu, mps, cuda:1, or a GPU's number. auto: the least busy CUDA GPU, else MPS, else the CPU."

METHODS = (
    "standard, soft (Gaussian), soft-linear, soft-vote (linear Soft-NMS with box voting: Bodla et al. 2017; Gidaris "
    "and Komodakis 2015), agreement (soft-vote whose scores are lowered where boxes disagree), diou, weighted, or "
    "cl-balanced (the paper's)"
)


def long_side(short: int) -> int:
    """Return the limit of the long side in pixels, in RetinaNet's ratio of 800 to 1333."""
    return round(short * 1333 / 800)


class Settings(BaseModel):
    """Base of the settings of all commands."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, defer_build=True)
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _rename_choices(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Accept the names that choices had in cledet 0.1.0, with a notice."""
        return {key: rename_choice(key, value) for key, value in values.items()}

    @classmethod
    def default_recipe(cls, flags: Mapping[str, Any]) -> str | None:
        """Return the recipe that applies if none is named; none for most commands."""
        return None

    @property
    def explicit(self) -> dict[str, Any]:
        """Return the values that were given as flags."""
        return {key: getattr(self, key) for key, origin in self._origins.items() if origin == "flag"}

    @property
    def origins(self) -> dict[str, str]:
        """Return the origin of each value: default, recipe, environment or flag."""
        return self._origins

    def to_yaml(self) -> str:
        """Write the settings as YAML for `--recipe`, with each value's origin as a comment."""
        values = self.model_dump(mode="json")  # a JSON value is a YAML value
        return "".join(f"{key}: {json.dumps(value)}  # {self._origins[key]}\n" for key, value in values.items())


class RunSettings(Settings):
    """Settings of the commands that write a run folder."""

    project: Project = Field(Path("runs"), description="Parent of the run folders.")
    name: RunName | None = Field(None, description="Name of the run folder. If it exists, -2, -3 ... is added.")


class SuppressionSettings(RunSettings):
    """Settings of post-processing: score threshold and NMS."""

    nms: Literal["auto", NMSName] = Field(
        "auto", description=f"NMS method: {METHODS}. auto: cl-balanced for models with clb, else standard."
    )
    conf: Unit = Field(0.05, description="Discard detections with a lower score.")
    iou: Unit = Field(0.5, description="IoU threshold of NMS.")
    max_det: Positive = Field(100, description="Maximum number of detections per image.")
    localization: Literal["proximity", "as-printed"] = Field(
        "proximity", description="CL-B: localization score of Eq. 9: proximity (1 - d), or d as printed in the paper."
    )
    cl_norm: Literal["max", "diagonal"] = Field(
        "max", description="CL-B: divisor of the distance in Eq. 9: its maximum, or the enclosing box's diagonal."
    )
    cl_score: Literal["own", "max"] = Field(
        "max", description="CL-B: score of the kept box: its own, or the highest of its cluster."
    )

    def nms_for(self, components: tuple[str, ...]) -> str:
        """Resolve `auto` to an NMS method, given the components of a model."""
        if self.nms != "auto":
            return self.nms
        return "cl-balanced" if "clb" in components else "standard"

    def nms_methods(self, components: tuple[str, ...]) -> tuple[str, ...]:
        """Return the NMS methods to run, here the one of `nms_for`."""
        return (self.nms_for(components),)


class DetectionSettings(SuppressionSettings):
    """Settings of inference: device, precision and post-processing."""

    device: str = Field("auto", description=DEVICE)
    amp: AmpName = Field("auto", description="Mixed precision. auto: bf16 if the device supports it.")


class ModelSettings(RunSettings):
    """Settings that select a trained model."""

    weights: str | None = Field(
        None,
        description="Checkpoint (.pt, .safetensors), run folder, detector of torchvision, Detectron2 or MMDetection, "
        "coco or coco-v1 (published), hf:OWNER/REPO@REVISION, or torchvision:NAME; for val and predict also a file or "
        "folder of cledet export. Default: best.pt of the newest run.",
    )
    ablation: Ablations | None = Field(
        None,
        min_length=1,
        description="Use the newest run trained with exactly these components: none, or some of iac,dc,clb.",
    )
    imgsz: Side | None = Field(None, description="Short side of images in pixels. Default: as trained.")


class PredictSettings(DetectionSettings, ModelSettings):
    """`cledet predict`."""

    amp: AmpName = Field(
        "auto", description="Mixed precision. auto: bf16 if the device supports it, float32 for exported files."
    )
    conf: Confidence = Field(  # type: ignore[assignment]
        "auto",
        description="Discard detections with a lower score. auto: the confidence of best F1 in training's evaluation; "
        "per-class: that of each class; 0.3 for weights without it.",
    )
    classes: ClassNames | None = Field(None, description="Detect these classes only, as person,dog. Default: all.")
    agnostic: bool = Field(False, description="Let boxes of different classes suppress each other.")
    batch: Images = Field(1, description="Images per forward pass; only those of one resized shape share it.")
    recursive: bool = Field(False, description="Include the subfolders of folders.")
    save: SaveList = Field(
        "auto",
        description="Files to write: some of pictures, video, json, jsonl, coco (results format), txt (YOLO labels "
        "with scores), crops, csv; or none. auto: json, pictures of images, and videos of videos.",
    )
    slice: Side | None = Field(
        None,
        description="Also detect in slices of this side in pixels, for small objects in large images. Each is resized "
        "like an image; NMS merges their detections with those of the whole image. Default: off.",
    )
    overlap: Annotated[float, Field(ge=0, le=0.9)] = Field(0.2, description="--slice: overlap as a share of the side.")
    tta: bool = Field(
        False,
        description="Test-time augmentation: also detect in mirrored images at 0.8, 1 and 1.25 times the size, and "
        "merge all detections by NMS.",
    )

    @model_validator(mode="after")
    def _check_overlap(self) -> PredictSettings:
        if self.slice is None and self.overlap != PredictSettings.model_fields["overlap"].default:
            raise ValueError(f"--overlap {self.overlap:g} needs --slice, the side of the slices in pixels")
        return self

    @property
    def saved(self) -> tuple[str, ...]:
        """Return the kinds of files to write; empty for none."""
        return () if self.save == "none" else tuple(self.save.split(","))


class ExplainSettings(ModelSettings):
    """`cledet explain`."""

    data: str | None = Field(None, description="Data set with the image's annotations. Default: the training data set.")
    device: str = Field("auto", description=DEVICE)
    alpha: Unit | None = Field(None, description="IAC: weight of the probability in Eq. 6. Default: as trained.")
    score_threshold: Unit | None = Field(None, description="IAC: score threshold of Eq. 7. Default: as trained.")
    recall_min_iou: Unit | None = Field(None, description="IAC: minimum IoU of a recalled anchor. Default: as trained.")
    center_unit: Literal["pixel", "stride", "size"] | None = Field(
        None, description="DC: unit of the center distance in Eq. 2. Default: as trained."
    )
    conf: Unit | None = Field(None, description="Score threshold before NMS. Default: as trained.")
    iou: Unit | None = Field(None, description="IoU threshold of NMS. Default: as trained.")
    localization: Literal["proximity", "as-printed"] | None = Field(
        None, description="CL-B: localization score of Eq. 9: proximity (1 - d), or d as printed. Default: as trained."
    )
    cl_norm: Literal["max", "diagonal"] | None = Field(
        None, description="CL-B: divisor of the distance in Eq. 9. Default: as trained."
    )


class ExportSettings(SuppressionSettings, ModelSettings):
    """`cledet export`."""

    nms: Literal["none", "auto", NMSName] = Field(  # type: ignore[assignment]
        "none",
        description=f"NMS in the file: none (raw outputs), {METHODS}. auto: by the components.",
    )
    imgsz: InputSize | None = Field(  # type: ignore[assignment]
        None,
        description="Short side in pixels to which images are resized; the file takes images of any height and width. "
        "H,W: the only size that it takes. Default: as trained.",
    )
    photo_input: bool = Field(
        False,
        description="The file takes a photo of any size, RGB, uint8 [H, W, 3], and gives boxes in its pixels: it "
        "resizes and pads the photo itself.",
    )
    format: Literal["onnx", "openvino", "pt2", "safetensors"] = Field(
        "onnx",
        description="File format. pt2 is a program of torch.export; safetensors holds the weights only, for --weights.",
    )
    int8: bool = Field(
        False,
        description="--format openvino: quantize the network to int8, but not NMS, with training images, and compare "
        "AP on the val split. Needs cledet[int8].",
    )
    max_drop: Annotated[float, Field(gt=0, le=100)] = Field(
        0.5, description="--int8: largest drop in AP, in points. Layers that cost more stay in float32."
    )
    data: str | None = Field(None, description="--int8: data set. Default: the training data set.")

    @model_validator(mode="after")
    def _check_int8(self) -> ExportSettings:
        if self.int8 and self.format != "openvino":
            raise ValueError(f"--int8 quantizes networks for OpenVINO, not {self.format}: give --format openvino too")
        if self.int8 and self.photo_input:
            raise ValueError("--int8 quantizes networks without preprocessing: leave out --photo-input")
        if not self.int8 and (self.data is not None or self.max_drop != type(self).model_fields["max_drop"].default):
            flag = "--max-drop" if self.data is None else "--data"
            raise ValueError(f"{flag} does nothing without --int8: add it, or leave {flag} out")
        return self


class CheckSettings(Settings):
    """`cledet check`."""

    split: str | None = Field(None, description="Splits to check, as train,val. Default: all.")
    imgsz: Side = Field(800, description="Short side in pixels for the statistics, as --imgsz of `cledet train`.")
    anchor_scale: AnchorScale = Field(4.0, description="Anchor scale, as --anchor-scale of `cledet train`.")
    anchor_ratios: AnchorRatios = Field(
        (0.5, 1.0, 2.0), description="Aspect ratios of the anchors, as --anchor-ratios of `cledet train`."
    )
    html: Path | None = Field(None, description="Also write a report with pictures to this .html file.")
    workers: Annotated[Workers, Field(ge=1)] | None = Field(
        None, description="Threads that read images. Default: two per CPU."
    )

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names in `split`; empty means all splits."""
        return tuple(split.strip() for split in (self.split or "").split(",") if split.strip())
