"""Checkpoints: written whole or not at all, read without running code."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cledet.errors import UserError
from cledet.models.network import Architecture, RetinaNet, build_network
from cledet.models.weights import COCO_IDS, COCO_NAMES, from_torchvision, is_torchvision, read_file

FORMAT = "cledet 1"


@dataclass(kw_only=True)
class Checkpoint:
    """A trained model and all that is needed to use it; with `training`, all that is needed to go on."""

    architecture: Architecture
    model: dict[str, Tensor]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    components: tuple[str, ...] = ()
    imgsz: int = 800
    data: str = ""
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def network(self) -> RetinaNet:
        """The network with these weights."""
        network = build_network(self.architecture)
        network.load_state_dict(self.model)
        return network

    def save(self, path: Path) -> None:
        """Write to a temporary file beside `path`, then rename: readers see the old file or the new one."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content |= {"format": FORMAT, "architecture": self.architecture.model_dump()}
        content |= {"versions": {"torch": str(torch.__version__)}, "written": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise UserError(f"{path} could not be written: {error.strerror or error}") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint from a file of ours, a run's folder, or a torchvision RetinaNet .pth."""
    if path.is_dir():
        path = path / "weights" / "best.pt"
    if not path.is_file():
        raise UserError(f"there are no weights at {path}", _beside(path))
    content = read_file(path)
    if content.get("format") == FORMAT:
        known = {name: content[name] for name in Checkpoint.__dataclass_fields__}
        return Checkpoint(**known | {"architecture": Architecture(**content["architecture"])})
    if not is_torchvision(content):
        raise UserError(f"{path} is neither a cledet checkpoint nor a torchvision RetinaNet", "pass a best.pt")
    network, arch = from_torchvision(content)
    coco = arch.classes == len(COCO_NAMES)
    return Checkpoint(
        architecture=arch,
        model=network.state_dict(),
        classes=COCO_NAMES if coco else tuple(f"class {i}" for i in range(arch.classes)),
        category_ids=COCO_IDS if coco else tuple(range(arch.classes)),
    )


def _beside(path: Path) -> str:
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
    return f"{folder} holds {found or 'nothing'}"
