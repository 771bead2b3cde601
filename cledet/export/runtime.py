"""Exported networks as models: onnxruntime and OpenVINO compute what `RetinaNet` does, for `val` and `predict`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cledet.config.base import PredictSettings
from cledet.config.evaluate import EvaluationSettings
from cledet.data.dataset import pad_images
from cledet.distributed.devices import amp_dtype
from cledet.errors import UserError
from cledet.export.backends import FORMATS, require_packages
from cledet.export.plan import RAW, Runner
from cledet.io.weight_files import exported_error
from cledet.models.anchors import STRIDES
from cledet.models.checkpoint import FORMAT, Checkpoint, newer_error, parse_checkpoint
from cledet.models.heads import HEADS
from cledet.models.network import Network, RawOutputs, RetinaNet, build_anchors

CPU = torch.device("cpu")
FIELDS = {
    "classes": "names",
    "category_ids": "category_ids",
    "architecture": "architecture",
    "data": "data",
    "best_conf": "best_conf",
    "class_confs": "class_confs",
}
"""Entries of a checkpoint that a file's metadata hold as JSON, and their keys there."""


@dataclass(kw_only=True)
class ExportedModel(Checkpoint):
    """A network in a file for another runtime, with the metadata of its checkpoint but without weights for PyTorch."""

    path: Path
    format: str
    canvas: tuple[int, int] | None
    """Height and width of a fixed input; None: all multiples of 32."""
    batched: bool
    """The file takes any number of images; else one."""

    def network(self) -> RetinaNet:
        """Raise UserError: there are no weights for PyTorch."""
        raise exported_error(self.path)

    def content(self) -> dict[str, Any]:
        """Raise UserError: there are no weights to save."""
        raise exported_error(self.path)

    @cached_property
    def runtime(self) -> RuntimeNetwork:
        """The network, run by the file's runtime; it is compiled at the first call."""
        return RuntimeNetwork(self)

    def place(self, settings: EvaluationSettings | PredictSettings) -> tuple[torch.device, torch.dtype | None]:
        """Return the device and the precision for the settings of a command.

        Raises UserError for another device than the CPU, for a precision that the runtime lacks here, and for images of
        another size than that of a fixed input.
        """
        device, amp = settings.device, settings.amp
        if device not in ("auto", "cpu"):
            raise UserError(f"--device {device}: {self.path} runs on the CPU", "leave it out, or pass a checkpoint")
        if settings.imgsz is not None and self.canvas is not None:
            size = "{} x {}".format(*self.canvas)
            raise UserError(f"--imgsz: {self.path} takes images of {size} pixels only", "leave it out")
        dtype = amp_dtype(CPU, "off" if amp == "auto" else amp)  # OpenVINO's bfloat16 costs more AP than PyTorch's
        if dtype is not None and (amp_dtype(CPU, "auto") is None or "bf16" not in FORMATS[self.format].precisions):
            raise UserError(f"--amp {amp}: {self.path} runs in float32 on this CPU", "leave it out")
        return CPU, dtype


class RuntimeNetwork(Network):
    """An exported network: images to raw outputs, computed by the file's runtime on the CPU.

    A file with NMS gives the raw outputs before it. Under autocast to bfloat16, the runtime computes in it too.
    Several threads may use it.
    """

    def __init__(self, model: ExportedModel) -> None:
        super().__init__()
        self.model, self.canvas, self.anchors = model, model.canvas, build_anchors(model.architecture)
        self.runners: dict[str, Runner] = {}
        """Functions from images to RAW by precision, f32 or bf16; each is compiled at its first use."""
        self._lock = Lock()

    @torch.inference_mode()
    def forward(self, images: Tensor) -> RawOutputs:
        """Compute raw outputs of RGB images [N, 3, H, W], 0 to 255, with sides that are multiples of 32.

        Images for a fixed input may be smaller: they are padded at the right and the bottom.
        """
        if self.canvas is not None and images.shape[2:] != self.canvas:
            images = pad_images(list(images), sides=self.canvas)
        batch = images.float().contiguous().numpy()
        parts = [batch] if self.model.batched else np.split(batch, len(batch))
        run = self._runner("bf16" if torch.is_autocast_enabled("cpu") else "f32")
        logits, deltas = (torch.cat([torch.from_numpy(value) for value in values]) for values in zip(*map(run, parts)))
        height, width = images.shape[2:]
        shapes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        anchors, strides = self.anchors(shapes, (height, width))
        if logits.shape[1:] != (len(anchors), len(self.model.classes)) or deltas.shape[1] != len(anchors):
            raise UserError(f"{self.model.path} computes other outputs than its metadata say", "export it again")
        levels = [rows * columns * self.anchors.per_position for rows, columns in shapes]
        coder = HEADS[self.model.architecture.head].coder
        return RawOutputs(logits, deltas, anchors, strides, levels, coder, self.anchors.per_position)

    def _runner(self, precision: str) -> Runner:
        """Compile the network in a precision once."""
        with self._lock:
            if precision not in self.runners:
                self.runners[precision] = FORMATS[self.model.format].open(
                    self.model.path, RAW, precision=precision, network_only=True
                )
            return self.runners[precision]


def describe_model(model: Checkpoint) -> dict[str, str]:
    """Return the entries of a file's metadata that describe the model, most of them as JSON."""
    entries = {field: getattr(model, field) for field in FIELDS}
    entries["architecture"] = model.architecture.model_dump(exclude_none=True)
    written = {FIELDS[field]: json.dumps(value) for field, value in entries.items()}
    return {"format": FORMAT, **written, "components": ",".join(model.components)}


def open_exported(path: Path) -> ExportedModel:
    """Open a file that `cledet export` wrote: its metadata now, its network when it is first run.

    Raises UserError for a damaged file, one that another program wrote, and for missing packages.
    """
    name, spec = next((name, spec) for name, spec in FORMATS.items() if path.suffix in spec.suffixes)
    require_packages(spec.run_packages, str(path), name)
    if not path.is_file():
        raise UserError(f"there is no file {path}", "check the path")
    assert spec.read_metadata is not None  # else the suffix is not among RUNNABLE
    try:
        metadata = spec.read_metadata(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged or no file of {name}: {error}"[:300]) from None
    if "architecture" not in metadata:
        message = f"{path} holds no metadata of cledet, without which its classes and preprocessing are unknown"
        raise UserError(message, f"write it with `cledet export --format {name}`")
    if metadata.get("format", FORMAT) != FORMAT:
        raise newer_error(path, metadata)
    try:
        content = {field: json.loads(metadata[key]) for field, key in FIELDS.items()}
        rule = json.loads(metadata["preprocessing"])
        canvas = (int(rule["canvas"][0]), int(rule["canvas"][1])) if "canvas" in rule else None
        content["imgsz"] = rule["short"] if canvas is None else min(canvas)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        message = f"the metadata of {path} are not as cledet wrote them: {error!r}"[:300]
        raise UserError(message, "export it again") from None
    content["components"] = tuple(filter(None, metadata.get("components", "").split(",")))
    model = parse_checkpoint(path, {"format": FORMAT, "model": {}, **content})
    batched = not (rule.get("in_file") or "nms" in metadata)
    return ExportedModel(**vars(model), path=path, format=name, canvas=canvas, batched=batched)
