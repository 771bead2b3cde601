"""Export backends, ONNX and OpenVINO: functions that write their files, and that run them for the parity check."""

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
from torch.export import Dim

from cledet.errors import UserError
from cledet.models.backbones.deform_conv import is_deformable
from cledet.models.network import RetinaNet
from cledet.models.nms import NMSOptions
from cledet.models.postprocess import best_of_levels
from cledet.ops.boxes import clip_boxes

OPSET, DEFORMABLE_OPSET = 18, 19
"""Opsets of ONNX files; deformable convolutions need 19."""
TRACED, MOST_CELLS = (192, 256), 1024
"""Height and width with which a network for images of any size is traced, and its largest side in multiples of 32."""
RAW = ("logits", "deltas")
"""Inner values of a file with NMS: logits [1, A, C] and box deltas [1, A, K]."""
CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels")
"""Inputs of its NMS: boxes [M, 4] clipped to the image, scores [M], labels [M] int64."""

Runner = Callable[..., list[Any]]
Open = Callable[[Path, Sequence[str]], Runner]
"""Opens a file and the named values in it as a function from input arrays to these values."""


@dataclass(frozen=True)
class Plan:
    """A network to export, its inputs, NMS and metadata.

    The inputs are images resized to the `short` side and padded, or of one fixed `canvas` (height, width).
    """

    network: RetinaNet
    short: int
    canvas: tuple[int, int] | None
    nms: NMSOptions | None
    metadata: dict[str, str]


class Exported(nn.Module):
    """The network of a file: images to boxes and class probabilities of all anchors, or to the candidates of NMS."""

    def __init__(self, network: RetinaNet, *, with_nms: bool = False) -> None:
        super().__init__()
        self.network, self.with_nms = network, with_nms

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Predict from RGB images [N, 3, H, W], 0 to 255: boxes [N, A, 4] in pixels and scores [N, A, C].

        With NMS, from one image: candidate boxes [M, 4], scores [M], labels [M] and the raw outputs.
        """
        raw = self.network(images).scored()
        if not self.with_nms:
            return raw.boxes(), raw.logits.sigmoid()
        boxes, scores, labels = best_of_levels(raw)
        clipped = clip_boxes(boxes[0], (images.shape[2], images.shape[3]))
        return clipped, scores[0], labels[0], raw.logits, raw.deltas


def write_onnx(plan: Plan, path: Path) -> None:
    """Write an ONNX file with the plan's metadata, without torch's log messages and warnings."""
    import onnx

    with_nms = plan.nms is not None
    module = Exported(plan.network, with_nms=with_nms).eval()
    dynamic: dict[int, Any] = {} if with_nms else {0: Dim("images", min=1, max=256)}
    if plan.canvas is None:
        dynamic |= {2: 32 * Dim("rows", min=1, max=MOST_CELLS), 3: 32 * Dim("columns", min=1, max=MOST_CELLS)}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1 if with_nms else 2, 3, *(plan.canvas or TRACED)),),
            str(path),
            input_names=["images"],
            output_names=[*CANDIDATES, *RAW] if with_nms else ["boxes", "scores"],
            dynamic_shapes={"images": dynamic} if dynamic else None,
            opset_version=DEFORMABLE_OPSET if is_deformable(module) else OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    proto = onnx.load(str(path))
    if plan.nms is not None:
        from cledet.export.onnx_nms import append_nms

        proto = append_nms(proto, plan.nms, CANDIDATES)
    onnx.helper.set_model_props(proto, plan.metadata)
    onnx.save(proto, str(path))


def write_suppression(options: NMSOptions, path: Path) -> None:
    """Write NMS alone as an ONNX file, which OpenVINO reads too."""
    import onnx

    from cledet.export.onnx_nms import suppression

    onnx.save(suppression(options), str(path))


def open_onnx(path: Path, names: Sequence[str]) -> Runner:
    """Run a file with onnxruntime on the CPU.

    `names` are outputs, or inner values whose type the graph records. Raises UserError for an unsupported operator.
    """
    import onnx
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    proto = onnx.load(str(path))
    outputs = {value.name for value in proto.graph.output}
    proto.graph.output.extend(v for v in proto.graph.value_info if v.name in names and v.name not in outputs)
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    except (errors.NotImplemented, errors.InvalidGraph) as error:  # an operator, such as DeformConv, is not supported
        reason = str(error).strip().splitlines()[0].rpartition(" : ")[2].rpartition(" , Error ")[2]
        message = f"onnxruntime {onnxruntime.__version__} cannot run this network: {reason}"
        raise UserError(message, "try a newer onnxruntime") from None
    inputs = [value.name for value in session.get_inputs()]
    return lambda *arrays: session.run(list(names), dict(zip(inputs, arrays)))


def write_openvino(plan: Plan, path: Path) -> None:
    """Write OpenVINO's .xml and .bin with float32 weights, converted from ONNX.

    Raises UserError for deformable convolutions, on which OpenVINO's ONNX reader (2026.4) crashes, and OSError if
    the file cannot be written.
    """
    import openvino

    if is_deformable(plan.network):
        raise UserError("OpenVINO cannot read deformable convolutions from ONNX", "use --format onnx")
    onnx_path = path.with_suffix(".onnx")
    write_onnx(plan, onnx_path)
    converted = openvino.convert_model(str(onnx_path))
    for key, value in plan.metadata.items():
        converted.set_rt_info(value, ["cledet", key])
    try:
        openvino.save_model(converted, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # raised for every failure; "iostream error" for a full disk
        raise OSError(f"OpenVINO reports {str(error).strip().splitlines()[-1]}") from None


def open_openvino(path: Path, names: Sequence[str]) -> Runner:
    """Run a file with OpenVINO on the CPU in float32.

    OpenVINO gives the thread that compiles a small signal stack, on which Ctrl-C would crash the process if the CPU
    uses wide registers. So a worker thread compiles and runs the model.
    """
    import openvino

    worker = ThreadPoolExecutor(1)

    def compile_model() -> Any:
        core = openvino.Core()
        graph = core.read_model(str(path))
        outputs = {name for output in graph.outputs for name in output.get_names()}
        graph.add_outputs([name for name in names if name not in outputs])
        return core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    model = worker.submit(compile_model).result()

    def run(*arrays: Any) -> list[Any]:
        outputs = worker.submit(model, list(arrays)).result()
        return [outputs[name] for name in names]

    return run


FORMATS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Plan, Path], None], Open]] = {
    "onnx": (("onnxruntime", "onnxscript", "onnx"), (".onnx",), write_onnx, open_onnx),
    "openvino": (("onnx", "onnxscript", "openvino"), (".xml", ".bin"), write_openvino, open_openvino),
}
"""Per format: required packages, suffixes of its files, the function that writes them and the one that opens them."""
