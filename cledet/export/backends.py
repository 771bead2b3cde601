"""The runtimes that a network is exported to: how their files are written, and opened to look at what they compute."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cledet.errors import UserError
from cledet.models.backbones.deform_conv import is_deformable
from cledet.models.network import RetinaNet
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import best_of_levels
from cledet.ops.boxes import clip_boxes

OPSET, DEFORMABLE_OPSET = 18, 19
"""Of the ONNX files; deformable convolutions are known from 19 on."""
RAW = ("logits", "deltas")
"""Values inside a file with NMS: the logits of the scores [1, A, C], and the boxes' code [1, A, K]."""
CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels")
"""And what its NMS takes: boxes [M, 4] inside the image, scores [M], labels [M] int64."""

Runner = Callable[..., list[Any]]
Open = Callable[[Path, Sequence[str]], Runner]
"""A file and the names of values in it -> a function from arrays, its inputs, to arrays, these values."""


@dataclass(frozen=True)
class Plan:
    """What is to be written: a network for images of a size (height, width), with NMS behind it or not."""

    network: RetinaNet
    size: tuple[int, int]
    post: NMSOptions | None
    facts: dict[str, str]


class Exported(nn.Module):
    """What the file computes: images to every anchor's box and class probabilities, NMS left to the caller."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB images [N, 3, H, W], 0 to 255 -> boxes [N, A, 4] in pixels, scores [N, A, C]."""
        raw = self.network(images).scored()
        return raw.boxes(), raw.logits.sigmoid()


class ExportedCandidates(nn.Module):
    """The part before NMS of a file with NMS."""

    def __init__(self, network: RetinaNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """RGB image [1, 3, H, W] -> its candidates' boxes [M, 4], scores and labels [M], and the raw outputs."""
        raw = self.network(images).scored()
        boxes, scores, labels = best_of_levels(raw)
        inside = clip_boxes(boxes[0], (images.shape[2], images.shape[3]))
        return inside, scores[0], labels[0], raw.logits, raw.deltas


def write_onnx(plan: Plan, path: Path) -> None:
    """Write an ONNX file with classes, ids, input size and NMS in its metadata."""
    import onnx

    if plan.post is None:
        count = {"images": {0: torch.export.Dim("images", min=1, max=256)}}
        _trace(Exported(plan.network), torch.zeros(2, 3, *plan.size), ["boxes", "scores"], count, path)
        proto = onnx.load(str(path))
    else:
        from cledet.export.onnx_nms import append_nms

        module = ExportedCandidates(plan.network)
        _trace(module, torch.zeros(1, 3, *plan.size), [*CANDIDATES, *RAW], None, path)
        proto = append_nms(onnx.load(str(path)), plan.post, CANDIDATES)
    for key, value in plan.facts.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save(proto, str(path))


def _trace(module: nn.Module, images: Tensor, outputs: list[str], dynamic: Any, path: Path) -> None:
    """Write what a module computes of images as ONNX, quietly."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (images,),
            str(path),
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes=dynamic,
            opset_version=DEFORMABLE_OPSET if is_deformable(module) else OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def write_suppression(post: NMSOptions, path: Path) -> None:
    """Write NMS alone as an ONNX file, which OpenVINO also reads."""
    import onnx

    from cledet.export.onnx_nms import suppression

    onnx.save(suppression(post), str(path))


def open_onnx(path: Path, names: Sequence[str]) -> Runner:
    """Values as onnxruntime computes them on the CPU; of the graph's inner values those that have their type noted."""
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as unable

    proto = onnx.load(str(path))
    there = {value.name for value in proto.graph.output}
    proto.graph.output.extend(v for v in proto.graph.value_info if v.name in names and v.name not in there)
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except (unable.NotImplemented, unable.InvalidGraph) as error:  # of an operator, as for deformable convolutions
        reason = str(error).strip().splitlines()[0].rpartition(" : ")[2].rpartition(" , Error ")[2]
        message = f"onnxruntime {onnxruntime.__version__} cannot run this network: {reason}"
        raise UserError(message, "try a newer onnxruntime") from None
    inputs = [value.name for value in session.get_inputs()]
    return lambda *arrays: session.run(list(names), dict(zip(inputs, arrays)))


def write_openvino(plan: Plan, path: Path) -> None:
    """Write OpenVINO's .xml and .bin, by way of ONNX; weights stay float32.

    Raises UserError for deformable convolutions, which OpenVINO (2026.4) does not read from ONNX: it crashes on them;
    OSError where it cannot write.
    """
    import openvino

    if is_deformable(plan.network):
        raise UserError("OpenVINO reads no deformable convolutions from ONNX", "--format onnx has them")
    onnx_path = path.with_suffix(".onnx")
    write_onnx(plan, onnx_path)
    converted = openvino.convert_model(str(onnx_path))
    for key, value in plan.facts.items():
        converted.set_rt_info(value, ["cledet", key])
    try:
        openvino.save_model(converted, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # its only one, for a full disk too, where it says "iostream error"
        raise OSError(f"OpenVINO reports {str(error).strip().splitlines()[-1]}") from None


def open_openvino(path: Path, names: Sequence[str]) -> Runner:
    """Values as OpenVINO computes them on the CPU in float32.

    In a thread of its own: to the thread that compiles, OpenVINO gives a signal stack without room to spare, so that
    Ctrl-C would crash the process where the CPU's wide registers are in use.
    """
    import openvino

    worker = ThreadPoolExecutor(1)

    def compiled() -> Any:
        core = openvino.Core()
        read = core.read_model(str(path))
        there = {name for output in read.outputs for name in output.get_names()}
        read.add_outputs([name for name in names if name not in there])
        return core.compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    model = worker.submit(compiled).result()

    def run(*arrays: Any) -> list[Any]:
        outputs = worker.submit(model, list(arrays)).result()
        return [outputs[name] for name in names]

    return run


FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Plan, Path], None], Open]] = {
    "onnx": (("onnxruntime", "onnxscript", "onnx"), (".onnx",), write_onnx, open_onnx),
    "openvino": (("onnx", "onnxscript", "openvino"), (".xml", ".bin"), write_openvino, open_openvino),
}
"""Packages needed, suffixes of the files written, how they are written, and how they are opened."""
