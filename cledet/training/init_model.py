"""Initial model of a run: architecture, initial weights, criterion, frozen stages."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from cledet.components.iac import IACOptions
from cledet.config.train import TrainSettings
from cledet.config.types import LARGEST, ablation_name, format_numbers
from cledet.console import say
from cledet.data.class_balance import class_weights
from cledet.data.index import DetectionIndex
from cledet.distributed import collectives
from cledet.distributed.devices import describe, precision
from cledet.errors import UserError
from cledet.models.backbones.weights import load_imagenet
from cledet.models.checkpoint import Checkpoint
from cledet.models.criterion import Criterion
from cledet.models.heads import he_initialize
from cledet.models.network import Architecture, RetinaNet, build_network
from cledet.models.weights import load_weights
from cledet.training.train_step import TrainStep


@collectives.main_process_first()  # it downloads weights for the others
def init_model(
    settings: TrainSettings, index: DetectionIndex, given: Checkpoint | None
) -> tuple[Checkpoint, RetinaNet]:
    """Build a network for the data set's classes, with weights from a checkpoint, ImageNet or a random generator.

    `given` is a checkpoint in memory, which is preferred to that of the settings.
    Returns the checkpoint that describes the network and shares its weights, and the network in evaluation mode.
    Random weights are a function of the seed. Raises UserError for weights that do not fit their architecture.
    """
    class_weights(index, settings.class_weights)  # raises UserError for an unknown class
    torch.manual_seed(settings.seed)
    start = load_weights(settings.weights) if given is None and settings.weights is not None else given
    architecture = build_architecture(settings, len(index.classes), start)
    if start is not None:
        start.require_fit()
    network = build_network(architecture).eval()
    if settings.head_init == "he":
        he_initialize(network.head)
    if start is not None:
        weights, known = transfer_weights(start, network, index.classes)
        network.load_state_dict(weights)
        say(
            f"initial weights: a {start.architecture.backbone} trained on {', '.join(start.classes[:6])}; "
            f"{known} of {len(index.classes)} classes taken over"
        )
    elif settings.backbone_weights != "none":
        load_imagenet(network, settings.backbone, settings.backbone_weights, say)
    model = Checkpoint(
        architecture=architecture,
        model=network.state_dict(),
        classes=tuple(index.classes),
        category_ids=tuple(int(i) for i in index.category_ids),
        components=settings.ablation,
        imgsz=settings.imgsz,
        data=settings.data,
        settings=settings.model_dump(mode="json"),
    )
    return model, network


def build_architecture(settings: TrainSettings, classes: int, start: Checkpoint | None) -> Architecture:
    """Return the architecture that the settings describe, or that of the checkpoint to start from.

    Raises UserError for a flag or environment variable that contradicts the checkpoint.
    """
    if start is not None:
        _refuse_contradictions(settings, start.architecture)
        return start.architecture.model_copy(update={"classes": classes})
    untrained = settings.backbone_weights == "none"
    if settings.norm == "group" and not untrained:
        raise UserError("--norm group has no trained weights to start from", "add --backbone-weights none")
    norm = ("batch" if untrained else "frozen") if settings.norm == "auto" else _stored_norm(settings)
    return Architecture(
        backbone=settings.backbone,
        classes=classes,
        fpn_channels=settings.fpn_channels,
        anchor_scale=settings.of_head("anchor_scale"),
        anchor_ratios=settings.of_head("anchor_ratios"),
        norm=norm,
        head=settings.head,
        head_conv=None if settings.head_conv == "standard" else settings.head_conv,
    )


def _stored_norm(settings: TrainSettings) -> str:
    """Return the norm as an architecture stores it: batch for sync, which is a way to train it."""
    return "batch" if settings.norm == "sync" else settings.norm


def _refuse_contradictions(settings: TrainSettings, arch: Architecture) -> None:
    """Raise UserError for a setting that given weights overrule; other values of a recipe than the head give way."""
    if settings.head != arch.head:
        raise UserError(f"the given weights have the head {arch.head}, not {settings.head}", f"add --head {arch.head}")
    own = arch.model_dump() | {"anchor_ratios": arch.ratios, "head_conv": arch.head_conv or "standard"}
    if settings.norm == "auto" or _stored_norm(settings) == arch.norm:
        own["norm"] = settings.norm
    kept = settings.backbone_weights in ("auto", "none")
    own["backbone_weights"] = settings.backbone_weights if kept else "their own"
    for name in ("backbone", "fpn_channels", "head_conv", "anchor_scale", "anchor_ratios", "norm", "backbone_weights"):
        wanted, actual, origin = getattr(settings, name), own[name], settings.origins.get(name)
        if origin in ("flag", "environment") and wanted != actual:
            flag = f"--{name.replace('_', '-')}"
            shown = [format_numbers(value) if isinstance(value, tuple) else value for value in (wanted, actual)]
            hint = f"leave {flag} out" if origin == "flag" else f"unset CLEDET_{name.upper()}"
            raise UserError(f"{flag} {shown[0]} does not fit the given weights, which have {shown[1]}", hint)


def transfer_weights(
    start: Checkpoint, network: RetinaNet, classes: tuple[str, ...]
) -> tuple[dict[str, torch.Tensor], int]:
    """Return the checkpoint's weights for these classes, and the number of classes that it knows.

    If the classes differ, the rows of the last classification layer are those of the classes of the same name. The
    other classes keep the rows of the network.
    """
    if tuple(start.classes) == tuple(classes):
        return start.model, len(classes)
    places = {name: place for place, name in reversed(list(enumerate(start.classes)))}
    known = [place for place, name in enumerate(classes) if name in places]
    rows = [places[classes[place]] for place in known]
    weights = {}
    for name, value in network.state_dict().items():
        if name.startswith("head.classification.predict"):  # rows [anchors of a position * classes, ...]
            value = value.unflatten(0, (-1, len(classes))).clone()
            value[:, known] = start.model[name].unflatten(0, (-1, len(start.classes)))[:, rows]
            weights[name] = value.flatten(0, 1)
        else:
            weights[name] = start.model[name]
    return weights, len(known)


def build_criterion(
    settings: TrainSettings, index: DetectionIndex | None = None, device: torch.device | str = "cpu"
) -> Criterion:
    """Build the criterion that the settings describe, with class weights for the training split `index` if it is given.

    `device` is that of the network.
    """
    weights = None if index is None else class_weights(index, settings.class_weights)
    iac = IACOptions(
        alpha=settings.alpha,
        score_threshold=settings.score_threshold,
        min_iou=settings.recall_min_iou,
        center=settings.recall_center,
        cap=settings.recall_cap,
        fill=settings.recall_fill,
        relative=settings.recall_relative,
        decoded=settings.recall_overlap == "predicted",
        box_loss=settings.recall_box_loss,
        soft_target=settings.recall_target == "soft",
        fade=settings.recall_fade,
    )
    return Criterion(
        iac=iac if "iac" in settings.ablation else None,
        dc="dc" in settings.ablation,
        assignment=settings.of_head("assign"),
        cls_loss=settings.of_head("cls_loss"),
        reg_loss=settings.of_head("reg_loss"),
        normalizer=settings.normalizer,
        center_unit=settings.center_unit,
        dc_form=settings.dc_form,
        dc_scope=settings.dc_scope,
        dc_balance=settings.dc_balance,
        correlation=settings.correlation,
        center_sampling=settings.center_sampling,
        class_weights=None if weights is None else torch.tensor(weights, dtype=torch.float32, device=device),
    )


def make_deterministic() -> None:
    """Restrict torch to deterministic algorithms; torch warns of an operation that has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def frozen_stages(settings: TrainSettings, backbone: str) -> int:
    """Return the number of frozen backbone stages: by default 2 if the backbone is pretrained, as is customary."""
    if settings.freeze is not None:
        return settings.freeze
    pretrained = settings.backbone_weights != "none" or settings.weights is not None
    return 2 if pretrained and not backbone.startswith("timm:") else 0


def startup_summary(
    settings: TrainSettings, index: DetectionIndex, model: Checkpoint, train_step: TrainStep, run: Path
) -> list[str]:
    """Describe the model, the data and the schedule of a run in three lines."""
    trained = sum(p.numel() for p in train_step.network.parameters() if p.requires_grad) / 1e6
    processes = f", {collectives.world_size()} processes" if collectives.world_size() > 1 else ""
    parts = f" in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    left_out = "" if "iac" in settings.possible else f" (iac has no part in --assign {settings.of_head('assign')})"
    head = "" if model.architecture.head == "retinanet" else f" with the head {model.architecture.head}"
    scaled = "" if settings.lr is not None else f" = {settings.base_lr:g} x {settings.batch}/16"
    steps = "steps" if train_step.total_steps == LARGEST else f"{train_step.total_steps} steps"
    budget = "" if settings.hours is None else f" within {settings.hours:g} h"
    return [
        f"{model.architecture.backbone}{head} on {describe(train_step.device)}{processes}, "
        f"{precision(train_step.dtype)}; {trained:.1f}M trained parameters; "
        f"components on: {ablation_name(settings.ablation)}"
        f"{left_out if settings.origins.get('ablation') == 'default' else ''}",
        f"{index.name}: {len(index)} images, {index.num_boxes} boxes, {len(index.classes)} classes; "
        f"{steps} of {settings.batch}{parts}{budget} at {settings.imgsz} px, "
        f"lr {settings.learning_rate:g}{scaled}",
        f"run folder: {run}",
    ]
