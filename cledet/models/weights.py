"""Weights by path or by name: checkpoints, published detectors of torchvision, repositories on the Hugging Face Hub."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torchvision.models import detection, get_model_weights, list_models

from cledet.console import say
from cledet.errors import UserError, nearest
from cledet.models.backbones.weights import fetch
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.converters.torchvision import with_eps
from cledet.models.hub import PREFIX, fetch_from_hub

TORCHVISION = "torchvision:"
CONVERTIBLE = ("retinanet_resnet50_fpn_v2", "retinanet_resnet50_fpn", "fcos_resnet50_fpn")
"""Torchvision's detectors that our network computes."""
NAMES = {
    "coco": CONVERTIBLE[0],
    "coco-v1": CONVERTIBLE[1],
    **{f"{TORCHVISION}{name}": name for name in CONVERTIBLE},
}
"""Names of published weights, and torchvision's names of them."""


class Published(NamedTuple):
    """A file of weights that torchvision publishes."""

    url: str
    description: str


def load_weights(source: str | Path, others: Iterable[str] = ()) -> Checkpoint:
    """Load a checkpoint, a run folder, another project's file, a name of `NAMES`, or hf:OWNER/REPO[@REVISION].

    A file or run folder of that name is preferred to the published weights. `others` are names that the caller takes,
    for the hint on a misspelt one. Raises UserError.
    """
    name, path = str(source), Path(source)
    if name.startswith(PREFIX):
        return load_checkpoint(fetch_from_hub(name))
    if os.path.isfile(path) or os.path.isdir(path / "weights"):
        return load_checkpoint(path)
    if name in NAMES:
        return _load_published(NAMES[name])
    if name.startswith(TORCHVISION) and name.removeprefix(TORCHVISION) in list_models(module=detection):
        message = f"{name} is used as published, and cannot be trained, saved, explained or exported"
        raise UserError(message, f"{', '.join(CONVERTIBLE)} can; val and predict take it")
    if not os.path.exists(path) and path.suffix == "" and path.parent == Path():
        kinds = "a file, a name of weights nor a backbone" if others else "a file nor a name of weights"
        raise UserError(f"{name!r} is neither {kinds}", nearest(name, [*NAMES, *others]))
    return load_checkpoint(path)


def published(name: str) -> Published:
    """Describe the newest weights of a torchvision detector."""
    weights = get_model_weights(name).DEFAULT
    ap = weights.meta["_metrics"]["COCO-val2017"]["box_map"]
    size = f"{weights.meta['_file_size']:.0f} MB"
    note = f"{size}, BSD-3-Clause, trained on COCO, AP {ap:g} as published"
    return Published(weights.url, f"torchvision's {name} ({note})")


def _load_published(name: str) -> Checkpoint:
    """Load torchvision's weights from torch.hub's cache, downloaded if they are missing."""
    file = published(name)
    path = fetch(file.url, say, file.description, "pass --weights FILE or RUN")
    model = load_checkpoint(path)
    # Torchvision runs this file alone with an eps of 0 in its batch norms.
    return replace(model, model=with_eps(model.model)) if name == "retinanet_resnet50_fpn" else model
