"""Settings of training: one run, or a grid of runs. Importing this file imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cledet.config.base import DetectionSettings
from cledet.config.components import ComponentSettings
from cledet.config.heads import of_head
from cledet.config.schedule import ScheduleSettings
from cledet.config.types import (
    AUTO,
    COMPONENTS,
    LARGEST,
    LARGEST_SEED,
    Ablation,
    Ablations,
    AnchorRatios,
    AutoAnchorScale,
    ClassWeights,
    Component,
    Count,
    Factor,
    Jitter,
    LoggerList,
    PixelRange,
    Positive,
    Side,
    Subsets,
    Unit,
    Workers,
)


class TrainingSettings(DetectionSettings, ScheduleSettings, ComponentSettings):
    """Settings of training without the ablation."""

    device: str = Field(
        "auto",
        description="Devices: cpu, mps, or GPUs as 0,2, with a process each. auto: every idle CUDA GPU, else MPS, else "
        "the CPU.",
    )
    data: str = Field("shapes", description="Data set: YAML, folder, annotation file, .zip, or a shipped name.")
    split: str = Field("train", description="Split to train on.")
    val_split: str = Field(
        "val", description="Split to evaluate during training, or none. train: the training images themselves."
    )
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.2,
        description="Fraction of the training images that is held out for evaluation if the data set has no val split, "
        "chosen by content. 0: none.",
    )
    few: Count = Field(0, description="Number of images to train on, the first of the split. 0: all.")
    sampler: Literal["uniform", "repeat-factor"] = Field(
        "uniform",
        description="Sampling: uniform, each image once per epoch; or repeat-factor (LVIS), rare classes more often.",
    )
    repeat_threshold: Unit = Field(
        0.001,
        description="--sampler repeat-factor: share of images below which a class is rare. 0.001 is LVIS's; small data "
        "sets need more, as 0.1.",
    )
    class_weights: ClassWeights = Field(
        "none",
        description="Weights of the classes in the classification loss of positive anchors, with a mean of 1 over all "
        "objects. inverse-sqrt: by one over the square root of the number of objects. Unnamed classes have 1.",
    )
    val_every: Positive = Field(1, description="Epochs between evaluations.")
    weights: str | None = Field(
        None,
        description="Initial weights: checkpoint, run folder, detector of torchvision, Detectron2 or MMDetection, "
        "coco, coco-v1, torchvision:NAME (RetinaNet, FCOS), or hf:OWNER/REPO@REVISION.",
    )
    backbone: str = Field(
        "r50",
        description="Backbone: r18, r34, r50, r101, r152, x50, x101, x101-32x4d, x101-64x4d, lite0, lite2, or "
        "timm:NAME. Suffixes of ResNets and ResNeXts: -dcn or -dcnv2 (deformable convolutions), then -c4c5 (in C4 and "
        "C5 only).",
    )
    backbone_weights: str = Field("auto", description="Backbone weights: none, a file or a URL. auto: ImageNet.")
    head: Literal["retinanet", "gfl", "fcos"] = Field(
        "retinanet", description="Detection head. gfl: FCOS with generalized focal loss; fcos: with centerness."
    )
    fpn_channels: Annotated[int, Field(ge=1, le=4096)] = Field(256, description="Channels of feature pyramid and head.")
    head_conv: Literal["standard", "depthwise"] = Field("standard", description="Head's kind of convolution.")
    head_init: Literal["normal", "he"] = Field(
        "normal", description="Initialization of the head: normal (deviation 0.01, as published), he (narrow heads)."
    )
    anchor_scale: AutoAnchorScale = Field(
        None,
        description="Smallest side of an anchor in strides of its level. auto: chosen for the training split. Default: "
        "4; 8 with --head gfl or fcos.",
    )
    anchor_ratios: AnchorRatios | Literal["auto"] | None = Field(
        None,
        description="Aspect ratios (height / width) of the anchors. auto: chosen for the training split. Default: "
        "0.5,1,2; heads gfl and fcos have none.",
    )
    assign: Literal["auto", "iou", "atss", "fcos", "paa", "tal"] = Field(
        "auto",
        description="Assignment of anchors to objects: iou, atss, fcos (points only), or by the predictions: paa, tal. "
        "auto: iou; atss with --head gfl; fcos with --head fcos.",
    )
    center_sampling: Factor = Field(1.5, description="--assign fcos: sampling radius in strides. 0: the whole box.")
    cls_loss: Literal["auto", "focal", "ghm", "mal", "qfl", "varifocal"] = Field(
        "auto",
        description="Classification loss: focal, ghm (gradient-harmonized), mal (matchability-aware), qfl (quality "
        "focal) or varifocal. auto: focal; qfl with --head gfl.",
    )
    norm: Literal["auto", "frozen", "batch", "sync", "group"] = Field(
        "auto",
        description="Normalization in the backbone: frozen, batch, sync (batch norm over all GPUs) or group. "
        "auto: frozen if pretrained, else batch.",
    )
    freeze: Annotated[int, Field(ge=0, le=5)] | None = Field(
        None, description="Number of backbone stages that are not trained. Default: 2 if pretrained, else 0."
    )
    reg_loss: Literal["auto", "smooth_l1", "l1", "giou", "diou", "ciou", "dfl"] = Field(
        "auto",
        description="Box regression loss: smooth_l1, l1, giou, diou, ciou, or dfl (2 giou + 0.25 distribution focal "
        "loss). auto: smooth_l1; dfl with --head gfl; giou with --head fcos.",
    )
    accumulate: Positive = Field(1, description="Number of parts in which a step's batch is computed.")
    imgsz: Side = Field(800, description="Short side of images in pixels. The long side is at most 1333/800 of it.")
    flip: Unit = Field(0.5, description="Probability of a horizontal flip.")
    vflip: Unit = Field(0.0, description="Probability of a vertical flip.")
    scale_jitter: Jitter = Field((1.0, 1.0), description="Range of the random scale.")
    photometric: Unit = Field(0.0, description="Strength of random brightness, contrast, saturation and hue.")
    multi_scale: PixelRange = Field((0, 0), description="Range of a random short side in pixels. 0,0: --imgsz.")
    crop: Unit = Field(0.0, description="Probability of a random crop that contains a whole object.")
    mosaic: Unit = Field(0.0, description="Probability of a mosaic of four images, in place of crop and scale.")
    mosaic_until: Unit = Field(0.9, description="End of mosaics, as a fraction of the run. 1: until the end.")
    copy_paste: Count = Field(0, description="Maximum number of objects pasted from another image. 0: none.")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="Seed of every random choice.")
    deterministic: bool = Field(False, description="Use only deterministic algorithms, on CUDA too; slower there.")
    compile: bool = Field(False, description="Compile the network with torch.compile. Pays off in long runs.")
    workers: Workers = Field(2, description="Processes that load images.")
    logger: LoggerList = Field("none", description="Log to tensorboard, wandb or mlflow too, or to several of them.")
    callback: str | None = Field(None, description="Function called with each event (step, epoch, end) and its data.")
    save_steps: Count = Field(0, description="Iterations between saves of last.pt. 0: none.")
    save_minutes: Factor = Field(10.0, description="Minutes between saves of last.pt. 0: none.")
    nnodes: Positive = Field(1, description="Number of machines. Start the same command on each.")
    node_rank: Count = Field(0, description="Number of this machine, from 0.")
    rdzv_endpoint: str = Field("", description="Address of the machine with --node-rank 0.")
    max_restarts: Count = Field(0, description="Restarts from the last checkpoint after a process failed.")

    @property
    def loggers(self) -> tuple[str, ...]:
        """Return the loggers beside results.csv."""
        return () if self.logger == "none" else tuple(self.logger.split(","))

    def of_head(self, name: str) -> Any:
        """Return a setting named in HEADS, or the head's own if it is left at its default."""
        return of_head(self.head, name, getattr(self, name))

    @property
    def possible(self) -> tuple[Component, ...]:
        """Return the components that can be on: IAC requires an assignment by IoU."""
        return tuple(name for name in COMPONENTS if name != "iac" or self.of_head("assign") == "iou")

    def steps(self, images: int) -> int:
        """Count the optimizer steps of a run of `images` images per epoch; LARGEST if --hours alone ends it."""
        if self.iters is not None or self.epochs is None:
            return self.iters or LARGEST
        return -(-self.epochs * self.epoch_images(images) // self.batch)

    def epoch_images(self, images: int) -> int:
        """Count the images of an epoch over `images` training images: all of them, or one batch if that is more.

        An epoch has at least one step, so that each has an end and a row in results.csv.
        """
        return max(images, self.batch)

    @model_validator(mode="before")
    @classmethod
    def _default_ablation(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Turn on all possible components if none are named."""
        by_iou = of_head(values.get("head", "retinanet"), "assign", values.get("assign")) == "iou"
        return values if by_iou or "ablation" in values else values | {"ablation": "dc,clb"}

    @model_validator(mode="before")
    @classmethod
    def _default_epochs(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Set the number of epochs if it is not named: the default, or None if a time budget ends the run."""
        if values.get("epochs") is not None:
            return values
        return values | {"epochs": cls.model_fields["epochs"].default if values.get("hours") is None else None}

    def _refuse_impossible(self, subsets: Subsets) -> None:
        if any(set(components) - set(self.possible) for components in subsets):
            raise ValueError(
                f"--ablation iac needs --assign iou, not {self.of_head('assign')}; "
                "choose others, as --ablation dc,clb or --ablation 'none;dc;clb;dc,clb'"
            )

    @model_validator(mode="after")
    def _check_parts(self) -> TrainingSettings:
        if self.batch != AUTO and self.batch % self.accumulate:
            raise ValueError(f"--batch {self.batch} cannot be divided into {self.accumulate} parts (--accumulate)")
        if self.iters is not None and any(isinstance(at, str) for at in self.lr_steps):
            raise ValueError("--lr-steps counts epochs, but the run's length is given by --iters; give --epochs")
        if self.hours is not None and any(isinstance(at, str) or at > 1 for at in self.lr_steps):
            steps = ",".join(map(str, self.lr_steps))
            raise ValueError(
                f"--lr-steps {steps} may lie beyond the end of --hours; give fractions of the run, as 0.75"
            )
        return self

    @model_validator(mode="after")
    def _check_head(self) -> TrainingSettings:
        if self.head == "retinanet" and self.assign == "fcos":
            raise ValueError("--assign fcos is for points, and --head retinanet has nine anchors at each")
        if self.head != "retinanet" and (self.anchor_ratios is not None or self.anchor_scale == "auto"):
            flag = "--anchor-ratios" if self.anchor_ratios is not None else "--anchor-scale auto"
            raise ValueError(f"{flag} is for --head retinanet: --head {self.head} has one square at each point")
        coded = {"smooth_l1": "retinanet", "l1": "retinanet", "dfl": "gfl"}
        if coded.get(self.reg_loss, self.head) != self.head:
            raise ValueError(f"--reg-loss {self.reg_loss} does not fit --head {self.head} and its box encoding")
        return self

    @model_validator(mode="after")
    def _check_readings(self) -> TrainingSettings:
        loss = self.of_head("cls_loss")
        if loss == "ghm" and self.dc_scope == "class":
            raise ValueError("--dc-scope class needs a loss that is a sum over classes, not --cls-loss ghm")
        if loss != "focal" and self.recall_target == "soft":
            raise ValueError(f"--recall-target soft changes the target of --cls-loss focal, not of {loss}")
        if 0 < self.recall_relative * 0.5 <= self.recall_min_iou:
            raise ValueError(
                f"--recall-relative {self.recall_relative:g} has no effect beside --recall-min-iou "
                f"{self.recall_min_iou:g}, which is the higher floor; add --recall-min-iou 0"
            )
        return self

    @model_validator(mode="after")
    def _check_nodes(self) -> TrainingSettings:
        if self.nnodes > 1 and not self.rdzv_endpoint:
            raise ValueError(f"--nnodes {self.nnodes} needs --rdzv-endpoint, the machine of --node-rank 0")
        if self.node_rank >= self.nnodes:
            raise ValueError(f"--node-rank {self.node_rank} is not under --nnodes {self.nnodes}: ranks count from 0")
        return self


class TrainSettings(TrainingSettings):
    """Settings of one training run."""

    ablation: Ablation = Field(COMPONENTS, description="Components that are on: none, or some of iac,dc,clb.")

    @model_validator(mode="after")
    def _check_ablation(self) -> TrainSettings:
        self._refuse_impossible((self.ablation,))
        return self


class GridSettings(TrainingSettings):
    """`cledet train`: one run, or a grid of runs that differ in components and seed only."""

    ablation: Ablations = Field(
        (COMPONENTS,),
        min_length=1,
        description="Components that are on: none, or some of iac,dc,clb. A grid of runs: several ablations, separated "
        "by a semicolon, all (the four of Table 2), or every (all eight).",
    )
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(1, description="Runs per ablation: --seed, --seed + 1 ...")

    @model_validator(mode="after")
    def _check_ablation(self) -> GridSettings:
        self._refuse_impossible(self.ablation)
        if self.seed + self.seeds - 1 > LARGEST_SEED:
            raise ValueError(f"--seed {self.seed} and {self.seeds} --seeds go beyond the largest seed, {LARGEST_SEED}")
        return self

    @classmethod
    def default_recipe(cls, flags: Mapping[str, Any]) -> str | None:
        """Return the embedded data set's recipe if no data set is named."""
        return None if "data" in flags or "CLEDET_DATA" in os.environ else "shapes"

    def runs(self) -> list[TrainSettings]:
        """List the settings of the runs, seed by seed."""
        shared = self.model_dump(exclude={"ablation", "seeds"})
        seeds = range(self.seed, self.seed + self.seeds)
        own = [{"ablation": components, "seed": seed} for seed in seeds for components in self.ablation]
        runs = [TrainSettings(**shared | values) for values in own]
        for run in runs:
            run._origins.update({key: self._origins.get(key, "default") for key in TrainSettings.model_fields})
        return runs
