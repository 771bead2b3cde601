"""The model that a run starts from."""

from __future__ import annotations

from pathlib import Path

import torch

from cledet.config import TrainSettings
from cledet.console import say
from cledet.data.index import DetectionIndex
from cledet.engine.checkpoint import Checkpoint, load_checkpoint
from cledet.errors import UserError
from cledet.models.heads import he_initialize
from cledet.models.network import Architecture, build_network
from cledet.models.weights import load_imagenet


def initial_model(settings: TrainSettings, index: DetectionIndex, given: Checkpoint | None) -> Checkpoint:
    """A network for the data set's classes: from a checkpoint, or with an ImageNet or a random backbone."""
    torch.manual_seed(settings.seed)
    start = load_checkpoint(Path(settings.weights)) if settings.weights is not None else given
    arch = architecture(settings, len(index.classes), start)
    network = build_network(arch)
    if settings.head_init == "he":
        he_initialize(network.head)
    if start is not None:
        kept = transfer(start, arch, network.state_dict(), index.classes)
        network.load_state_dict(kept)
        say(f"starting from the weights of a {start.architecture.backbone} trained on {', '.join(start.classes[:6])}")
    elif settings.backbone_weights != "none":
        load_imagenet(network, settings.backbone, settings.backbone_weights)
    return Checkpoint(
        architecture=arch,
        model=network.state_dict(),
        classes=tuple(index.classes),
        category_ids=tuple(int(i) for i in index.category_ids),
        components=settings.ablation,
        imgsz=settings.imgsz,
        data=settings.data,
        settings=settings.model_dump(mode="json"),
    )


def architecture(settings: TrainSettings, classes: int, start: Checkpoint | None) -> Architecture:
    """What to build: as the settings say, or as the checkpoint that is trained further."""
    if start is not None:
        for name in ("backbone", "fpn_channels", "anchor_scale"):
            wanted, there = getattr(settings, name), getattr(start.architecture, name)
            if settings.origins.get(name) == "flag" and wanted != there:
                flag = f"--{name.replace('_', '-')}"
                raise UserError(
                    f"{flag} {wanted} does not fit the given weights, which have {there}", f"leave {flag} out"
                )
        return start.architecture.model_copy(update={"classes": classes})
    fresh = settings.backbone_weights == "none"
    norm = settings.norm if settings.norm != "auto" else ("batch" if fresh else "frozen")
    return Architecture(
        backbone=settings.backbone,
        classes=classes,
        fpn_channels=settings.fpn_channels,
        anchor_scale=settings.anchor_scale,
        norm=norm,
    )


def transfer(
    start: Checkpoint, arch: Architecture, fresh: dict[str, torch.Tensor], classes: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    """The checkpoint's weights, but for a last classification layer of other classes, which starts afresh."""
    if tuple(start.classes) == tuple(classes):
        return start.model
    return {key: fresh[key] if key.startswith("head.classification.predict") else start.model[key] for key in fresh}
