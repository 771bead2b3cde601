"""Settings of training: one run, or a grid of runs. Importing this file imports no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cledet.config.base import DetectionSettings
from cledet.config.types import (
    AUTO,
    COMPONENTS,
    LARGEST_SEED,
    Ablation,
    Ablations,
    AnchorScale,
    Batch,
    Component,
    Count,
    Factor,
    Jitter,
    LoggerList,
    Milestones,
    PixelRange,
    Positive,
    Side,
    Subsets,
    Unit,
    Workers,
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
    weights: str | None = Field(
        None, description="start from a checkpoint, or a detector of torchvision, Detectron2 or MMDetection"
    )
    backbone: str = Field(
        "r50",
        description="r18, r34, r50, r101, r152, x50, x101, x101-32x4d, x101-64x4d, each also with -dcn or -dcnv2 "
        "(deformable; -c4c5 behind it: not in c3); lite0, or timm:NAME",
    )
    backbone_weights: str = Field("auto", description="auto (ImageNet), none, a file or a URL")
    head: Literal["retinanet", "gfl", "fcos"] = Field(
        "retinanet",
        description="the detection head: retinanet, gfl (FCOS with generalized focal loss) or fcos (with centerness)",
    )
    fpn_channels: Annotated[int, Field(ge=1, le=4096)] = Field(256, description="width of the pyramid and the head")
    head_init: Literal["normal", "he"] = Field(
        "normal", description="the head's first weights: normal (0.01, as published), or he, better for narrow ones"
    )
    anchor_scale: AnchorScale | None = Field(
        None, description="an anchor's smallest side in strides of its level; by default 4, of gfl and fcos 8"
    )
    assign: Literal["auto", "iou", "atss", "fcos", "paa", "tal"] = Field(
        "auto",
        description="what anchors answer for: by iou, atss, fcos (points only), paa or tal (both by what the "
        "network says); auto: iou, with gfl atss, with fcos fcos",
    )
    center_sampling: Factor = Field(
        1.5, description="assignment fcos: how near to an object's centre, in strides; 0: anywhere in it"
    )
    cls_loss: Literal["auto", "focal", "ghm", "qfl", "varifocal"] = Field(
        "auto",
        description="classification loss: focal, ghm (gradient-harmonized), qfl (quality focal) or varifocal; "
        "auto: focal, with gfl qfl",
    )
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
    recall_cap: Count = Field(0, description="IAC: most anchors recalled for an object; 0 for any number")
    recall_start: Unit = Field(0.0, description="IAC: fraction of the run before which nothing is recalled")
    normalizer: Literal["positives", "matched"] = Field(
        "positives", description="what losses are divided by: all positives, or matched by IoU only"
    )
    center_unit: Literal["pixel", "stride", "size"] = Field(
        "size", description="DC: what Eq. 2's centre distance is measured in"
    )
    reg_loss: Literal["auto", "smooth_l1", "giou", "diou", "ciou", "dfl"] = Field(
        "auto",
        description="box regression loss: smooth_l1, giou, diou, ciou, or dfl (2 giou + 0.25 distribution focal loss); "
        "auto: smooth_l1, with gfl dfl, with fcos giou",
    )
    epochs: Positive = Field(12, description="passes over the training split, a step each at least")
    iters: Positive | None = Field(None, description="optimizer steps; goes before epochs")
    batch: Batch = Field(8, description="images a step, of all devices together; auto: as many as fit into memory")
    accumulate: Positive = Field(1, description="parts that a step's batch is computed in, one after the other")
    imgsz: Side = Field(800, description="short side in pixels; the long side is at most 1333/800 of it")
    flip: Unit = Field(0.5, description="probability of a horizontal flip")
    vflip: Unit = Field(0.0, description="probability of a vertical flip")
    scale_jitter: Jitter = Field((1.0, 1.0), description="range of the random scale, as LOW,HIGH")
    photometric: Unit = Field(0.0, description="strength of random brightness, contrast, saturation and hue")
    multi_scale: PixelRange = Field(
        (0, 0), description="range of each training image's random short side, as LOW,HIGH in pixels; 0,0: imgsz"
    )
    crop: Unit = Field(0.0, description="probability of a random crop that holds a whole object")
    mosaic: Unit = Field(
        0.0, description="probability that parts of four images are joined, in place of crop and scale"
    )
    copy_paste: Count = Field(0, description="the most objects of another image pasted onto each; 0: none")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd or adamw")
    lr: Annotated[Factor, Field(gt=0)] | None = Field(
        None, description="learning rate; by default 0.01 x batch/16 (sgd), 2e-4 x batch/16 (adamw)"
    )
    backbone_lr: Factor = Field(1.0, description="the backbone's learning rate, times lr")
    momentum: Unit = Field(0.9, description="of sgd")
    weight_decay: Factor = Field(1e-4, description="of all weights but biases and norms")
    schedule: Literal["step", "cosine", "onecycle"] = Field(
        "step",
        description="step (a tenth at each of lr_steps), cosine, or onecycle (up for 30 %, then down, by cosines)",
    )
    lr_steps: Milestones = Field(
        (0.75, 0.8333), description="where step decays: fractions of the run, iterations, or epochs written 8e"
    )
    warmup: Count | None = Field(
        None, description="iterations of linear warm-up; by default 500, at most a fifth of the run"
    )
    clip: Factor = Field(10.0, description="largest gradient norm; 0 for no clipping")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="decay of the weights' moving average; 0: none")
    patience: Count = Field(0, description="stop after so many epochs without a better AP; 0: never")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="of every random choice")
    deterministic: bool = Field(False, description="only algorithms that repeat to the bit, on CUDA too; slower there")
    compile: bool = Field(False, description="compile the network with torch.compile; pays on long runs")
    workers: Workers = Field(2, description="processes that load images")
    logger: LoggerList = Field("none", description="also write figures for: tensorboard, wandb, mlflow; one or several")
    callback: str | None = Field(
        None, description="module:function that is called with the name and the facts of each step, epoch and the end"
    )
    save_steps: Count = Field(0, description="also save last.pt every so many iterations")
    save_minutes: Factor = Field(10.0, description="and every so many minutes; 0: not")
    nnodes: Positive = Field(1, description="machines that train together; start the same command on each")
    node_rank: Count = Field(0, description="this machine's number among them, from 0, which leads")
    rdzv_endpoint: str = Field("", description="HOST or HOST:PORT where they meet: the machine of --node-rank 0")
    max_restarts: Count = Field(0, description="new starts from the last checkpoint when a process has failed")

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

    def of_head(self, name: str) -> Any:
        """A setting's value, or what its default stands for with this head: a key of HEADS' rows."""
        value = getattr(self, name)
        return HEADS[self.head][name] if value in (None, "auto") else value

    @property
    def possible(self) -> tuple[Component, ...]:
        """The components that can be on: IAC adds to an assignment by IoU, and to no other."""
        return tuple(name for name in COMPONENTS if name != "iac" or self.of_head("assign") == "iou")

    def steps(self, images: int) -> int:
        """Optimizer steps of the whole run over so many training images."""
        return self.iters or -(-self.epochs * self.epoch_images(images) // self.batch)

    def epoch_images(self, images: int) -> int:
        """Images of an epoch over a set of so many: all of them, or one step's batch if that is more.

        A step is the shortest epoch that can be evaluated, so each of --epochs has an end, and a row in results.csv.
        """
        return max(images, self.batch)

    @model_validator(mode="before")
    @classmethod
    def _default_ablation(cls, values: dict[str, Any]) -> dict[str, Any]:
        """All components that are possible, where none are named."""
        head, assign = values.get("head", "retinanet"), values.get("assign", "auto")
        by_iou = assign == "iou" or (assign == "auto" and HEADS.get(str(head), {}).get("assign") == "iou")
        return values if by_iou or "ablation" in values else values | {"ablation": "dc,clb"}

    def _refuse_impossible(self, subsets: Subsets) -> None:
        if any(set(components) - set(self.possible) for components in subsets):
            raise ValueError(
                f"--ablation asks for iac, which adds to --assign iou and not to {self.of_head('assign')}; "
                "name others, as --ablation dc,clb or --ablation 'none;dc;clb;dc,clb'"
            )

    @model_validator(mode="after")
    def _check_parts(self) -> TrainingSettings:
        if self.batch != AUTO and self.batch % self.accumulate:
            raise ValueError(f"--batch {self.batch} cannot be divided into {self.accumulate} parts (--accumulate)")
        if self.iters is not None and any(isinstance(at, str) for at in self.lr_steps):
            raise ValueError("--lr-steps counts epochs, but the run's length is given by --iters; give --epochs")
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> TrainingSettings:
        if self.weights is not None and self.weights.startswith("torchvision:"):
            raise ValueError(f"--weights {self.weights} cannot be trained further; only val and predict take it")
        return self

    @model_validator(mode="after")
    def _check_head(self) -> TrainingSettings:
        if self.head == "retinanet" and self.assign == "fcos":
            raise ValueError("--assign fcos is for points, and --head retinanet has nine anchors at each")
        coded = {"smooth_l1": "retinanet", "dfl": "gfl"}
        if coded.get(self.reg_loss, self.head) != self.head:
            raise ValueError(
                f"--reg-loss {self.reg_loss} does not fit --head {self.head}, whose boxes are coded another way"
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
    """One run."""

    ablation: Ablation = Field(COMPONENTS, description="components that are on: none, or some of iac,dc,clb")

    @model_validator(mode="after")
    def _check_ablation(self) -> TrainSettings:
        self._refuse_impossible((self.ablation,))
        return self


class GridSettings(TrainingSettings):
    """`cledet train`: one run, or a grid of runs that differ by components and seed only."""

    ablation: Ablations = Field(
        (COMPONENTS,),
        min_length=1,
        description="components that are on: none, or some of iac,dc,clb; a grid of runs: all (Table 2's four), every "
        "(all eight), or several with ; between",
    )
    seeds: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="runs of each, of the seeds --seed, --seed + 1 ..."
    )

    @model_validator(mode="after")
    def _check_ablation(self) -> GridSettings:
        self._refuse_impossible(self.ablation)
        if self.seed + self.seeds - 1 > LARGEST_SEED:
            raise ValueError(f"--seed {self.seed} and {self.seeds} --seeds go beyond the largest seed, {LARGEST_SEED}")
        return self

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


HEADS: dict[str, dict[str, Any]] = {
    "retinanet": {"anchor_scale": 4.0, "assign": "iou", "cls_loss": "focal", "reg_loss": "smooth_l1"},
    "gfl": {"anchor_scale": 8.0, "assign": "atss", "cls_loss": "qfl", "reg_loss": "dfl"},
    "fcos": {"anchor_scale": 8.0, "assign": "fcos", "cls_loss": "focal", "reg_loss": "giou"},
}
"""What differs between the heads in training, as published: what the defaults of these settings stand for."""
