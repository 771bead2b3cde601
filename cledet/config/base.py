"""Settings: one typed class a command, each field a flag, a recipe's key and an environment variable.

They are merged by `cledet.config.loading`. Importing this file imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from cledet.config.types import (
    Ablations,
    AmpName,
    AnchorScale,
    NMSName,
    Positive,
    Project,
    RunName,
    Side,
    Unit,
    Workers,
    rename_choice,
)


def long_side(short: int) -> int:
    """The longest that a side may be, in RetinaNet's proportion of 800 to 1333."""
    return round(short * 1333 / 800)


class Settings(BaseModel):
    """What every command has."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, protected_namespaces=()
    )
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _rename_choices(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Accept the names that choices had in cledet 0.1.0, with a notice."""
        return {key: rename_choice(key, value) for key, value in values.items()}

    @property
    def origins(self) -> dict[str, str]:
        """Where each value came from: default, recipe, environment or flag."""
        return self._origins

    def to_yaml(self) -> str:
        """The settings as YAML that `--recipe` reads back, each value's origin behind it."""
        values = self.model_dump(mode="json")  # a JSON value is a YAML value
        return "".join(f"{key}: {json.dumps(value)}  # {self._origins[key]}\n" for key, value in values.items())


class RunSettings(Settings):
    """What every command has that leaves a run's folder."""

    project: Project = Field(Path("runs"), description="the folder that holds the runs")
    name: RunName | None = Field(None, description="the run's name; a second run of the name gets -2")


class SuppressionSettings(RunSettings):
    """How raw outputs become detections."""

    nms: Literal["auto", NMSName] = Field(
        "auto",
        description="auto (cl-balanced if clb is on, else standard), standard, soft, soft-linear, soft-vote, diou, "
        "weighted or cl-balanced",
    )
    conf: Unit = Field(0.05, description="drop detections of lower score")
    iou: Unit = Field(0.5, description="IoU over which NMS suppresses")
    max_det: Positive = Field(100, description="detections an image at most")
    localization: Literal["proximity", "as-printed"] = Field(
        "proximity", description="Eq. 9's localization score: 1 - d, or d to the letter"
    )
    cl_norm: Literal["max", "diagonal"] = Field(
        "max", description="what Eq. 9's distance is divided by: the cluster's largest, or its enclosing diagonal"
    )
    cl_score: Literal["own", "max"] = Field(
        "max", description="the score that the box kept by CL-B leaves with: its own, or its cluster's highest"
    )

    def nms_for(self, components: tuple[str, ...]) -> str:
        """The NMS method that `auto` stands for, given the components a model has."""
        if self.nms != "auto":
            return self.nms
        return "cl-balanced" if "clb" in components else "standard"

    def nms_methods(self, components: tuple[str, ...]) -> tuple[str, ...]:
        """All methods that are to be tried; here the one of `nms_for`."""
        return (self.nms_for(components),)


class DetectionSettings(SuppressionSettings):
    """Where a network runs, and how its raw outputs become detections."""

    device: str = Field("auto", description="auto (the idlest CUDA GPU, else MPS, else the CPU), cpu, cuda:1, 1 or mps")
    amp: AmpName = Field(
        "auto", description="mixed precision: auto (where the device computes bf16), off, bf16 or fp16"
    )


class ModelSettings(RunSettings):
    """Which trained model a command means."""

    weights: str | None = Field(
        None,
        description="checkpoint (.pt, .safetensors), run folder, a RetinaNet or GFL of torchvision, Detectron2 or "
        "MMDetection, or torchvision:NAME (val and predict only); by default the newest run's best.pt",
    )
    ablation: Ablations | None = Field(
        None,
        min_length=1,
        description="take the newest run trained with exactly these components; val also takes all, every, or several "
        "with ; between, for the table of the newest grid",
    )
    imgsz: Side | None = Field(None, description="short side in pixels; by default what was trained with")


class PredictSettings(DetectionSettings, ModelSettings):
    """`cledet predict`."""

    amp: AmpName = Field("off", description="mixed precision: off (exact), auto, bf16 or fp16")
    conf: Unit = Field(0.3, description="drop detections of lower score")


class ExplainSettings(ModelSettings):
    """`cledet explain`."""

    data: str | None = Field(None, description="data set with the image's annotations; by default what was trained on")
    device: str = Field("auto", description="auto (the idlest CUDA GPU, else MPS, else the CPU), cpu, cuda:1, 1 or mps")
    alpha: Unit | None = Field(None, description="IAC: weight of the probability in Eq. 6; by default as trained")
    score_threshold: Unit | None = Field(None, description="IAC: Eq. 7's threshold; by default as trained")
    recall_min_iou: Unit | None = Field(
        None, description="IAC: recalled anchors have a higher IoU; by default as trained"
    )
    center_unit: Literal["pixel", "stride", "size"] | None = Field(
        None, description="DC: what Eq. 2's centre distance is measured in; by default as trained"
    )
    conf: Unit | None = Field(None, description="candidates of lower score do not reach NMS; by default as trained")
    iou: Unit | None = Field(None, description="IoU over which NMS suppresses; by default as trained")
    localization: Literal["proximity", "as-printed"] | None = Field(
        None, description="CL-B: Eq. 9's localization score, 1 - d or d; by default as trained"
    )
    cl_norm: Literal["max", "diagonal"] | None = Field(
        None, description="CL-B: what Eq. 9's distance is divided by; by default as trained"
    )


class ExportSettings(SuppressionSettings, ModelSettings):
    """`cledet export`."""

    nms: Literal["none", "auto", NMSName] = Field(  # type: ignore[assignment]
        "none", description="NMS inside the file: none (raw outputs, NMS left to the caller), auto or a method's name"
    )
    format: Literal["onnx", "openvino", "safetensors"] = Field(
        "onnx", description="the file's format: onnx, openvino, or safetensors (weights alone, for --weights)"
    )


class CheckSettings(Settings):
    """`cledet check`."""

    split: str | None = Field(None, description="the splits to check, as train,val; by default all")
    imgsz: Side = Field(800, description="the --imgsz of `cledet train` that objects and anchors are measured at")
    anchor_scale: AnchorScale = Field(4.0, description="the --anchor-scale of `cledet train` that is measured")
    html: Path | None = Field(None, description="also write a page with pictures to this .html file")
    workers: Annotated[Workers, Field(ge=1)] | None = Field(
        None, description="threads that read images; by default two a CPU"
    )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are asked for; none for all."""
        return tuple(split.strip() for split in (self.split or "").split(",") if split.strip())
