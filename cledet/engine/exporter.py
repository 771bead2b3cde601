"""Export: the network as a file for another runtime, proved there to compute the same."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cledet.config import ExportSettings, long_side
from cledet.console import say
from cledet.engine.checkpoint import Checkpoint
from cledet.errors import UserError
from cledet.models.network import RetinaNet
from cledet.ops.coder import decode

OPSET = 18


@dataclass(frozen=True)
class Export:
    """A file written, and how far its outputs are from PyTorch's on the same images."""

    path: Path
    inputs: tuple[int, ...]
    max_box_error: float  # pixels
    max_score_error: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


class Exported(nn.Module):
    """What the file computes: images to every anchor's box and class probabilities, NMS left to the caller."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB images [N, 3, H, W], 0 to 255 -> boxes [N, A, 4] in pixels, scores [N, A, C]."""
        raw = self.network(images)
        return decode(raw.deltas, raw.anchors), raw.logits.sigmoid()


def export_onnx(model: Checkpoint, path: Path, settings: ExportSettings) -> Export:
    """Write an ONNX file for any number of images of one size, and compare onnxruntime's outputs with PyTorch's."""
    _need("onnx", "onnxruntime", "onnxscript")
    short = settings.imgsz or model.imgsz
    height, width = _multiple(short), _multiple(long_side(short))
    module = Exported(model.network()).eval()
    part = path.with_name("part.onnx")
    _write(module, torch.zeros(2, 3, height, width), part)
    _describe(part, model, height, width)
    boxes, scores = _compare(module, part, height, width)
    if boxes > 0.5 or scores > 1e-3:
        part.unlink()
        raise UserError(f"onnxruntime's outputs differ from PyTorch's by {boxes:g} px and {scores:g} in score")
    part.replace(path)
    say(f"onnxruntime agrees with PyTorch to {boxes:.2g} px and {scores:.2g} in score (3 images, one of them blank)")
    return Export(path, (-1, 3, height, width), boxes, scores)


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}", "pip install 'cledet[onnx]'")


def _multiple(side: int, of: int = 32) -> int:
    return -(-side // of) * of


def _write(module: nn.Module, images: Tensor, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (images,),
            str(path),
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes={"images": {0: torch.export.Dim("images", min=1, max=256)}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def _describe(path: Path, model: Checkpoint, height: int, width: int) -> None:
    """Write classes, ids and input size into the file's metadata."""
    import onnx

    proto = onnx.load(str(path))
    facts = {
        "names": json.dumps(list(model.classes)),
        "category_ids": json.dumps(list(model.category_ids)),
        "components": ",".join(model.components),
        "input": f"RGB, 0 to 255, [N, 3, {height}, {width}]; pad at the right and the bottom",
        "outputs": "boxes x1 y1 x2 y2 in input pixels, scores after the sigmoid; apply NMS",
    }
    for key, value in facts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(proto, str(path))


@torch.inference_mode()
def _compare(module: nn.Module, path: Path, height: int, width: int) -> tuple[float, float]:
    """The largest differences of boxes (px, of anchors scored over 0.01) and scores between the two runtimes."""
    import onnxruntime

    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, 3, height // 16, width // 16)).repeat(16, 2).repeat(16, 3)
    images = np.concatenate([np.full((1, 3, height, width), 114), coarse, rng.integers(0, 256, (1, 3, height, width))])
    images = images.astype(np.float32)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    boxes, scores = session.run(None, {"images": images})
    wanted_boxes, wanted_scores = (output.numpy() for output in module(torch.from_numpy(images)))
    sure = wanted_scores.max(-1) > 0.01
    box_error = np.abs(boxes - wanted_boxes)[sure].max(initial=0.0)
    return float(box_error), float(np.abs(scores - wanted_scores).max())
