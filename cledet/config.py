"""Settings: one typed class a command, each field a flag, a recipe's key and an environment variable.

They are merged by `cledet.resolve`. Importing this file imports no torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from cledet.choices import (
    AUTO,
    COMPONENTS,
    NMS_METHODS,
    Ablation,
    Ablations,
    AmpName,
    Batch,
    LoggerList,
    MethodList,
    Milestones,
    NMSName,
    PixelRange,
    Positive,
    Range,
    Unit,
)


def long_side(short: int) -> int:
    """The longest that a side may be, in RetinaNet's proportion of 800 to 1333."""
    return round(short * 1333 / 800)


class Settings(BaseModel):
    """What every command has."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

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

    project: Path = Field(Path("runs"), description="the folder that holds the runs")
    name: str | None = Field(None, description="the run's name; a second run of the name gets -2")


class SuppressionSettings(RunSettings):
    """How raw outputs become detections."""

    nms: Literal["auto", NMSName] = Field(
        "auto",
        description="auto (cl-balanced if clb is on, else standard), standard, soft, soft-linear, soft-mean, diou, "
        "weighted or cl-balanced",
    )
    conf: Unit = Field(0.05, description="drop detections of lower score")
    iou: Unit = Field(0.5, description="IoU over which NMS suppresses")
    max_det: Positive = Field(100, description="detections an image at most")
    localization: Literal["proximity", "literal"] = Field(
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


class TrainingSettings(DetectionSettings):
    """How a model is trained, but for the paper's components that are on."""

    device: str = Field(
        "auto", description="auto (every idle CUDA GPU, else MPS, else the CPU), cpu, mps, 1, or a process each: 0,2"
    )
    data: str = Field("shapes", description="data set: YAML, folder, COCO annotation file, or a shipped name")
    split: str = Field("train", description="the split to train on")
    val_split: str = Field("val", description="the split that is evaluated while training; none to skip")
    val_every: Positive = Field(1, description="epochs between evaluations")
    weights: str | None = Field(None, description="start from a checkpoint or a torchvision RetinaNet .pth")
    backbone: str = Field("r50", description="r18, r34, r50, r101, r152, lite0 or timm:NAME")
    backbone_weights: str = Field("auto", description="auto (ImageNet), none, or a file")
    head: Literal["retinanet"] = Field("retinanet", description="the detection head")
    fpn_channels: Positive = Field(256, description="width of the pyramid and the head")
    head_init: Literal["normal", "he"] = Field(
        "normal", description="the head's first weights: normal (0.01, as published), or he, better for narrow ones"
    )
    anchor_scale: float = Field(4.0, gt=0, description="an anchor's smallest side in strides of its level")
    norm: Literal["auto", "frozen", "batch", "sync", "group"] = Field(
        "auto",
        description="the backbone's: frozen, batch, sync (batch norm over all GPUs) or group; "
        "auto: frozen if pretrained, else batch",
    )
    freeze: int | None = Field(
        None, ge=0, le=5, description="backbone stages kept fixed; by default 2 if pretrained, else 0"
    )
    alpha: Unit = Field(0.75, description="IAC: weight of the probability in Eq. 6")
    score_threshold: Unit = Field(0.5, description="IAC: Eq. 7's threshold")
    recall_min_iou: Unit = Field(0.4, description="IAC: recalled anchors have a higher IoU; 0 is the paper's letter")
    recall_center: bool = Field(False, description="IAC: recalled anchors have their centre in the object")
    recall_cap: int = Field(0, ge=0, description="IAC: most anchors recalled for an object; 0 for any number")
    recall_start: Unit = Field(0.0, description="IAC: fraction of the run before which nothing is recalled")
    normalizer: Literal["positives", "matched"] = Field(
        "positives", description="what losses are divided by: all positives, or matched by IoU only"
    )
    center_unit: Literal["pixel", "stride", "size"] = Field(
        "size", description="DC: what Eq. 2's centre distance is measured in"
    )
    reg_loss: Literal["smooth_l1", "giou"] = Field("smooth_l1", description="box regression loss")
    epochs: Positive = Field(12, description="passes over the training split")
    iters: int | None = Field(None, ge=1, description="optimizer steps; goes before epochs")
    batch: Batch = Field(8, description="images a step, of all devices together; auto: as many as fit into memory")
    accumulate: Positive = Field(1, description="parts that a step's batch is computed in, one after the other")
    imgsz: int = Field(800, ge=32, description="short side in pixels; the long side is at most 1333/800 of it")
    flip: Unit = Field(0.5, description="probability of a horizontal flip")
    vflip: Unit = Field(0.0, description="probability of a vertical flip")
    scale_jitter: Range = Field((1.0, 1.0), description="range of the random scale, as LOW,HIGH")
    photometric: Unit = Field(0.0, description="strength of random brightness, contrast, saturation and hue")
    multi_scale: PixelRange = Field(
        (0, 0), description="range of each training image's random short side, as LOW,HIGH in pixels; 0,0: imgsz"
    )
    crop: Unit = Field(0.0, description="probability of a random crop that holds a whole object")
    mosaic: Unit = Field(
        0.0, description="probability that parts of four images are joined, in place of crop and scale"
    )
    copy_paste: int = Field(0, ge=0, description="the most objects of another image pasted onto each; 0: none")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd or adamw")
    lr: float | None = Field(
        None, gt=0, description="learning rate; by default 0.01 x batch/16 (sgd), 2e-4 x batch/16 (adamw)"
    )
    backbone_lr: float = Field(1.0, ge=0, description="the backbone's learning rate, times lr")
    momentum: Unit = Field(0.9, description="of sgd")
    weight_decay: float = Field(1e-4, ge=0, description="of all weights but biases and norms")
    schedule: Literal["step", "cosine", "onecycle"] = Field(
        "step",
        description="step (a tenth at each of lr_steps), cosine, or onecycle (up for 30 %, then down, by cosines)",
    )
    lr_steps: Milestones = Field(
        (0.75, 0.8333), description="where step decays: fractions of the run, iterations, or epochs written 8e"
    )
    warmup: int | None = Field(
        None, ge=0, description="iterations of linear warm-up; by default 500, at most a fifth of the run"
    )
    clip: float = Field(10.0, ge=0, description="largest gradient norm; 0 for no clipping")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of the weights' moving average; 0: none")
    patience: int = Field(0, ge=0, description="stop after so many epochs without a better AP; 0: never")
    seed: int = Field(0, ge=0, description="of every random choice")
    deterministic: bool = Field(False, description="only algorithms that repeat to the bit, on CUDA too; slower there")
    compile: bool = Field(False, description="compile the network with torch.compile; pays on long runs")
    workers: int = Field(2, ge=0, description="processes that load images")
    logger: LoggerList = Field("none", description="also write figures for: tensorboard, wandb, mlflow; one or several")
    callback: str | None = Field(
        None, description="module:function that is called with the name and the facts of each step, epoch and the end"
    )
    save_steps: int = Field(0, ge=0, description="also save last.pt every so many iterations")
    save_minutes: float = Field(10.0, ge=0, description="and every so many minutes; 0: not")
    nnodes: Positive = Field(1, description="machines that train together; start the same command on each")
    node_rank: int = Field(0, ge=0, description="this machine's number among them, from 0, which leads")
    rdzv_endpoint: str = Field("", description="HOST or HOST:PORT where they meet: the machine of --node-rank 0")
    max_restarts: int = Field(0, ge=0, description="new starts from the last checkpoint when a process has failed")

    @property
    def learning_rate(self) -> float:
        """The learning rate, scaled linearly with the batch unless it was given."""
        return self.lr if self.lr is not None else self.base_lr * self.batch / 16

    @property
    def base_lr(self) -> float:
        """The learning rate of a batch of 16."""
        return {"sgd": 0.01, "adamw": 2e-4}[self.optimizer]

    @property
    def loggers(self) -> tuple[str, ...]:
        """Where figures go beside results.csv."""
        return () if self.logger == "none" else tuple(self.logger.split(","))

    def steps(self, images: int) -> int:
        """Optimizer steps of the whole run over so many training images."""
        return self.iters or max(1, -(-self.epochs * images // self.batch))

    @model_validator(mode="after")
    def _check_parts(self) -> TrainingSettings:
        if self.batch != AUTO and self.batch % self.accumulate:
            raise ValueError(f"--batch {self.batch} cannot be divided into {self.accumulate} parts (--accumulate)")
        if self.iters is not None and any(isinstance(at, str) for at in self.lr_steps):
            raise ValueError("--lr-steps counts epochs, but the run's length is given by --iters; give --epochs")
        return self

    @model_validator(mode="after")
    def _check_nodes(self) -> TrainingSettings:
        if self.nnodes > 1 and not self.rdzv_endpoint:
            raise ValueError(f"--nnodes {self.nnodes} needs --rdzv-endpoint, the machine of --node-rank 0")
        if self.node_rank >= self.nnodes:
            raise ValueError(f"--node-rank {self.node_rank} is not under --nnodes {self.nnodes}: ranks count from 0")
        return self

    @model_validator(mode="after")
    def _check_jitter(self) -> TrainingSettings:
        low, high = self.scale_jitter
        if not 0.1 <= low <= high <= 4:
            raise ValueError(f"scale_jitter: expected LOW,HIGH with 0.1 <= LOW <= HIGH <= 4, not {low:g},{high:g}")
        return self


class TrainSettings(TrainingSettings):
    """One run."""

    ablation: Ablation = Field(COMPONENTS, description="components that are on: none, or some of iac,dc,clb")


class GridSettings(TrainingSettings):
    """`cledet train`: one run, or a grid of runs that differ by components and seed only."""

    ablation: Ablations = Field(
        (COMPONENTS,),
        min_length=1,
        description="components that are on: none, or some of iac,dc,clb; a grid of runs: all (Table 2's four), every "
        "(all eight), or several with ; between",
    )
    seeds: Positive = Field(1, description="runs of each, of the seeds --seed, --seed + 1 ...")

    def runs(self) -> list[TrainSettings]:
        """The runs one by one, seed by seed."""
        shared = self.model_dump(exclude={"ablation", "seeds"})
        return [
            self._one(shared | {"ablation": components, "seed": self.seed + i})
            for i in range(self.seeds)
            for components in self.ablation
        ]

    def _one(self, values: dict[str, Any]) -> TrainSettings:
        run = TrainSettings(**values)
        run._origins.update({key: self._origins.get(key, "default") for key in values})
        return run


class ModelSettings(RunSettings):
    """Which trained model a command means."""

    weights: str | None = Field(
        None,
        description="checkpoint (.pt, .safetensors), run folder or torchvision RetinaNet .pth; by default the newest "
        "run's best.pt",
    )
    ablation: Ablations | None = Field(
        None,
        min_length=1,
        description="take the newest run trained with exactly these components; val also takes all, every, or several "
        "with ; between, for the table of the newest grid",
    )
    imgsz: int | None = Field(None, ge=32, description="short side in pixels; by default what was trained with")


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
    localization: Literal["proximity", "literal"] | None = Field(
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
    imgsz: int = Field(800, ge=32, description="the --imgsz of `cledet train` that objects and anchors are measured at")
    anchor_scale: float = Field(
        4.0, gt=0, allow_inf_nan=False, description="the --anchor-scale of `cledet train` that is measured"
    )
    html: Path | None = Field(None, description="also write a page with pictures to this .html file")
    workers: int | None = Field(None, ge=1, description="threads that read images; by default two a CPU")

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that are asked for; none for all."""
        return tuple(split.strip() for split in (self.split or "").split(",") if split.strip())
