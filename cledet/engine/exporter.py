"""Export: the network as a file for another runtime, proved there to compute the same."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cledet.config import ExportSettings, long_side
from cledet.console import say
from cledet.engine.checkpoint import Checkpoint
from cledet.errors import UserError
from cledet.models.network import RetinaNet
from cledet.ops.coder import decode

OPSET = 18
MAX_BOX_ERROR, MAX_SCORE_ERROR = 0.5, 1e-3
"""What a runtime's boxes (pixels) and scores may differ by."""

Pixels = NDArray[np.float32]
Runtime = Callable[[Path, Pixels], tuple[Pixels, Pixels]]


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


def export(model: Checkpoint, folder: Callable[[], Path], settings: ExportSettings) -> Export:
    """Write the file into a folder, made when all is proved, and compare the runtime's outputs with PyTorch's.

    It takes any number of images of one size. Raises UserError where the two differ; then nothing is written.
    """
    packages, suffixes, write, run = FORMATS[settings.format]
    need(packages)
    short = settings.imgsz or model.imgsz
    height, width = _multiple(short), _multiple(long_side(short))
    module = Exported(model.network()).eval()
    with tempfile.TemporaryDirectory(dir=_existing(settings.project)) as draft:
        path = Path(draft) / f"model{suffixes[0]}"
        try:
            write(module, model, (height, width), path)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = f"torch {torch.__version__} cannot write this network as ONNX with the onnxscript installed"
            raise UserError(f"{reason}: {str(error).strip().splitlines()[-1]}", "try a newer torch") from None
        boxes, scores = compare(module, run, path, (height, width))
        if boxes > MAX_BOX_ERROR or scores > MAX_SCORE_ERROR:
            raise UserError(
                f"{settings.format}'s outputs differ from PyTorch's by {boxes:g} px and {scores:g} in score"
            )
        target = folder()
        for suffix in suffixes:
            path.with_suffix(suffix).replace(target / f"model{suffix}")
    say(f"{settings.format} agrees with PyTorch to {boxes:.2g} px and {scores:.2g} in score (3 images, one blank)")
    return Export(target / path.name, (-1, 3, height, width), boxes, scores)


def need(packages: tuple[str, ...]) -> None:
    """Raise UserError for packages that are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}", f"pip install 'cledet[{packages[-1]}]'")


@torch.inference_mode()
def compare(module: nn.Module, run: Runtime, path: Path, size: tuple[int, int]) -> tuple[float, float]:
    """The largest differences of boxes (px, of anchors scored over 0.01) and of scores between file and module."""
    height, width = size
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (1, 3, height // 16, width // 16)).repeat(16, 2).repeat(16, 3)
    images = np.concatenate([np.full((1, 3, height, width), 114), coarse, rng.integers(0, 256, (1, 3, height, width))])
    images = images.astype(np.float32)
    boxes, scores = run(path, images)
    wanted_boxes, wanted_scores = (output.numpy() for output in module(torch.from_numpy(images)))
    sure = wanted_scores.max(-1) > 0.01
    box_error = np.abs(boxes - wanted_boxes)[sure].max(initial=0.0)
    return float(box_error), float(np.abs(scores - wanted_scores).max())


def write_onnx(module: nn.Module, model: Checkpoint, size: tuple[int, int], path: Path) -> None:
    """Write an ONNX file with classes, ids and input size in its metadata."""
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(2, 3, *size),),
            str(path),
            input_names=["images"],
            output_names=["boxes", "scores"],
            dynamic_shapes={"images": {0: torch.export.Dim("images", min=1, max=256)}},
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    proto = onnx.load(str(path))
    for key, value in facts(model, size).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(proto, str(path))


def run_onnx(path: Path, images: Pixels) -> tuple[Pixels, Pixels]:
    """Boxes and scores as onnxruntime computes them on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    boxes, scores = session.run(None, {"images": images})
    return boxes, scores


def write_openvino(module: nn.Module, model: Checkpoint, size: tuple[int, int], path: Path) -> None:
    """Write OpenVINO's .xml and .bin, by way of ONNX; weights stay float32."""
    import openvino

    onnx_path = path.with_suffix(".onnx")
    write_onnx(module, model, size, onnx_path)
    converted = openvino.convert_model(str(onnx_path))
    for key, value in facts(model, size).items():
        converted.set_rt_info(value, ["cledet", key])
    openvino.save_model(converted, str(path), compress_to_fp16=False)


def run_openvino(path: Path, images: Pixels) -> tuple[Pixels, Pixels]:
    """Boxes and scores as OpenVINO computes them on the CPU in float32."""
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = compiled([images])
    return outputs["boxes"], outputs["scores"]


def facts(model: Checkpoint, size: tuple[int, int]) -> dict[str, str]:
    """What a user of the file must know."""
    return {
        "names": json.dumps(list(model.classes)),
        "category_ids": json.dumps(list(model.category_ids)),
        "components": ",".join(model.components),
        "input": f"RGB, 0 to 255, [N, 3, {size[0]}, {size[1]}]; pad at the right and the bottom",
        "outputs": "boxes x1 y1 x2 y2 in input pixels, scores after the sigmoid; apply NMS",
    }


def _multiple(side: int, of: int = 32) -> int:
    return -(-side // of) * of


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[..., None], Runtime]] = {
    "onnx": (("onnxruntime", "onnxscript", "onnx"), (".onnx",), write_onnx, run_onnx),
    "openvino": (("onnx", "onnxscript", "openvino"), (".xml", ".bin"), write_openvino, run_openvino),
}
"""Packages needed, suffixes of the files written, how they are written, and how they are run."""
