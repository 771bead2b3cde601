"""Detectors with random weights of a fixed seed, whose scores and boxes vary from place to place."""

from __future__ import annotations

import torch

from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Architecture, build_network


@torch.no_grad()
def untrained(
    classes: tuple[str, ...] = ("blue", "red"),
    ids: tuple[int, ...] | None = None,
    *,
    head: str = "retinanet",
    imgsz: int = 64,
    seed: int = 0,
) -> Checkpoint:
    """A small network that nothing was taught; on noise, its logits have a deviation of 2 and its box codes of 0.3."""
    torch.manual_seed(seed)
    arch = Architecture(backbone="r18", classes=len(classes), fpn_channels=16, norm="batch", head=head)
    network = build_network(arch).eval()
    towers = (network.head.classification, network.head.regression)
    for tower in towers:
        for weight in tower.parameters():
            if weight.ndim == 4:
                torch.nn.init.kaiming_normal_(weight)
        tower.predict.bias.zero_()
    raw = network(torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8))
    for tower, values, wanted in zip(towers, (raw.logits, raw.deltas), (2, 0.3)):
        tower.predict.weight.mul_(wanted / values.std())
    state = {name: value.clone() for name, value in network.state_dict().items()}
    ids = ids or tuple(range(1, len(classes) + 1))
    return Checkpoint(architecture=arch, model=state, classes=classes, category_ids=ids, imgsz=imgsz)
