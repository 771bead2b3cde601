"""Formats of exported networks, ONNX and OpenVINO: functions that write, describe and run their files."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
"""Inner values of every file: logits [N, A, C] of the scores, and box deltas [N, A, K]."""
OUTPUTS = ("boxes", "scores")
"""Outputs of a file without NMS."""
CANDIDATES = ("candidate_boxes", "candidate_scores", "candidate_labels")
"""Inputs of its NMS: boxes [M, 4] clipped to the image, scores [M], labels [M] int64."""

Runner = Callable[..., list[Any]]
Open = Callable[..., Runner]
"""Opens a file and the named values in it, as a function from input arrays to these values.

Only what these values depend on is computed. `precision` is f32, or bf16 where the format has it.
"""


class Format(NamedTuple):
    """A file format."""

    write_packages: tuple[str, ...]
    """Packages that writing needs; the last one names the extra of cledet that installs them."""
    run_packages: tuple[str, ...]
    suffixes: tuple[str, ...]
    """Suffixes of the files, the one to open first."""
    write: Callable[[Plan, Path], None]
    open: Open
    read_metadata: Callable[[Path], dict[str, str]]
    precisions: tuple[str, ...] = ("f32",)


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
        """Predict from RGB images [N, 3, H, W], 0 to 255: boxes [N, A, 4] in pixels, scores [N, A, C], raw outputs.

        With NMS, from one image: candidate boxes [M, 4], scores [M], labels [M] and the raw outputs.
        """
        raw = self.network(images).scored()
        if not self.with_nms:
            return raw.boxes(), raw.logits.sigmoid(), raw.logits, raw.deltas
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
            output_names=[*(CANDIDATES if with_nms else OUTPUTS), *RAW],
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
    else:  # the raw outputs become inner values, as in a file with NMS
        proto.graph.value_info.extend(value for value in proto.graph.output if value.name in RAW)
        outputs = [value for value in proto.graph.output if value.name in OUTPUTS]
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
    onnx.helper.set_model_props(proto, plan.metadata)
    onnx.save(proto, str(path))


def write_suppression(options: NMSOptions, path: Path) -> None:
    """Write NMS alone as an ONNX file, which OpenVINO reads too."""
    import onnx

    from cledet.export.onnx_nms import suppression

    onnx.save(suppression(options), str(path))


def read_onnx_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file. Raises ValueError for a damaged file."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        return {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
    except DecodeError as error:
        raise ValueError(str(error)) from None


def open_onnx(path: Path, names: Sequence[str], precision: str = "f32") -> Runner:
    """Run a file with onnxruntime on the CPU, with torch's number of threads, in float32.

    `names` are outputs, or inner values whose type the graph records. Raises UserError for an unsupported operator.
    """
    import onnx
    import onnx.utils
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    proto = onnx.load(str(path))
    if [value.name for value in proto.graph.output] != list(names):
        given = [value.name for value in proto.graph.input]
        proto = onnx.utils.Extractor(proto).extract_model(given, list(names))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
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


def read_openvino_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file, empty if another program wrote it. Raises ValueError for a damaged file."""
    import openvino

    try:
        graph = openvino.Core().read_model(str(path))
        entries = graph.get_rt_info("cledet").astype(dict) if graph.has_rt_info("cledet") else {}
        return {key: value.astype(str) for key, value in entries.items()}
    except RuntimeError as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from None


def open_openvino(path: Path, names: Sequence[str], precision: str = "f32") -> Runner:
    """Run a file with OpenVINO on the CPU, with torch's number of threads, in float32 or bfloat16.

    OpenVINO gives the thread that compiles a small signal stack, on which Ctrl-C would crash the process if the CPU
    uses wide registers. So a worker thread compiles and runs the model.
    """
    import openvino

    worker, threads = ThreadPoolExecutor(1), torch.get_num_threads()

    def compile_model() -> Any:
        core = openvino.Core()
        graph = core.read_model(str(path))
        nodes = [node for node in graph.get_ops() if node.get_type_name() != "Result"]
        values = {name: value for node in nodes for value in node.outputs() for name in value.get_names()}
        wanted = openvino.Model([values[name] for name in names], graph.get_parameters())
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        return core.compile_model(wanted, "CPU", settings)

    model = worker.submit(compile_model).result()

    def run(*arrays: Any) -> list[Any]:
        outputs = worker.submit(model, list(arrays)).result()
        return [outputs[name] for name in names]

    return run


def require_packages(packages: tuple[str, ...], purpose: str, extra: str) -> None:
    """Raise UserError for packages that are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"{purpose} needs {', '.join(missing)}", f"pip install 'cledet[{extra}]'")


FORMATS = {
    "onnx": Format(
        ("onnxruntime", "onnxscript", "onnx"),
        ("onnxruntime", "onnx"),
        (".onnx",),
        write_onnx,
        open_onnx,
        read_onnx_metadata,
    ),
    "openvino": Format(
        ("onnx", "onnxscript", "openvino"),
        ("openvino",),
        (".xml", ".bin"),
        write_openvino,
        open_openvino,
        read_openvino_metadata,
        ("f32", "bf16"),
    ),
}
