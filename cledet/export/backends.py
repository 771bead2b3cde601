"""Formats of exported networks, ONNX, OpenVINO and pt2: functions that write, describe and run their files."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cledet.config.base import long_side
from cledet.errors import UserError
from cledet.export.plan import CANDIDATES, OUTPUTS, RAW, Format, Plan, Runner
from cledet.models.backbones.deform_conv import is_deformable
from cledet.models.nms import NMSOptions

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
# OpenVINO and nncf send usage statistics through this package if it can be imported. cledet sends nothing.

PT2_METADATA = "cledet.json"
"""Extra file of a pt2 file: the metadata as JSON."""
PT2_CELLS = 5
"""Smallest side of a pt2 file for images of any size, in multiples of 32: P7 of one row or column is a special case."""
OPSET, DEFORMABLE_OPSET = 18, 19
"""Opsets of ONNX files; deformable convolutions need 19."""


def write_onnx(plan: Plan, path: Path) -> None:
    """Write an ONNX file with the plan's metadata, without torch's log messages and warnings."""
    import onnx

    module = plan.module
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (plan.example,),
            str(path),
            input_names=["images"],
            output_names=list(plan.output_names),
            dynamic_shapes=plan.dynamic_shapes(),
            opset_version=DEFORMABLE_OPSET if is_deformable(module) else OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    proto = onnx.load(str(path))
    if plan.photo:
        from cledet.export import onnx_photo
    if plan.nms is not None:
        from cledet.export.onnx_nms import append_nms

        if plan.photo:
            onnx_photo.clip_candidates(proto.graph, CANDIDATES[0])
        proto = append_nms(proto, plan.nms, CANDIDATES)
    else:  # the raw outputs become inner values, as in a file with NMS
        proto.graph.value_info.extend(value for value in proto.graph.output if value.name in RAW)
        outputs = [value for value in proto.graph.output if value.name in OUTPUTS]
        del proto.graph.output[:]
        proto.graph.output.extend(outputs)
    if plan.photo:
        onnx_photo.scale_boxes(proto.graph, "boxes")
        proto = onnx_photo.prepend_photo(proto, plan.short, long_side(plan.short), plan.canvas)
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


def open_onnx(path: Path, names: Sequence[str], *, precision: str = "f32", network_only: bool = False) -> Runner:
    """Run a file with onnxruntime on the CPU, with torch's number of threads, in float32.

    `names` are outputs, or inner values whose type the graph records. Raises UserError for an unsupported operator.
    """
    import onnx
    import onnx.utils
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    proto = onnx.load(str(path))
    if network_only:
        proto = onnx.utils.Extractor(proto).extract_model(["images"], list(names))
    else:
        outputs = {value.name for value in proto.graph.output}
        proto.graph.output.extend(v for v in proto.graph.value_info if v.name in names and v.name not in outputs)
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
    save_openvino(converted, path)


def save_openvino(graph: Any, path: Path) -> None:
    """Write a graph as .xml and .bin without rounding its weights. Raises OSError if the file cannot be written."""
    import openvino

    try:
        openvino.save_model(graph, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # raised for every failure; "iostream error" for a full disk
        raise OSError(f"OpenVINO reports {str(error).strip().splitlines()[-1]}") from None
    if not is_whole(path):  # not every version reports a full disk
        raise OSError(f"OpenVINO wrote only a part of {path.name}")


def is_whole(path: Path) -> bool:
    """Check that a .xml file of OpenVINO is complete, and that the .bin beside it holds all weights that it names."""
    text = path.read_text(encoding="utf-8", errors="replace")
    ends = [int(offset) + int(size) for offset, size in re.findall(r'offset="(\d+)" size="(\d+)"', text)]
    return text.rstrip().endswith("</net>") and path.with_suffix(".bin").stat().st_size >= max(ends, default=0)


def read_openvino_metadata(path: Path) -> dict[str, str]:
    """Read the metadata of a file, empty if another program wrote it. Raises ValueError for a damaged file."""
    import openvino

    try:
        graph = openvino.Core().read_model(str(path))
        entries = graph.get_rt_info("cledet").astype(dict) if graph.has_rt_info("cledet") else {}
        return {key: value.astype(str) for key, value in entries.items()}
    except RuntimeError as error:
        raise ValueError(str(error).strip().splitlines()[-1]) from None


def open_openvino(path: Path, names: Sequence[str], *, precision: str = "f32", network_only: bool = False) -> Runner:
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
        inputs = graph.get_parameters()
        if network_only and values["images"].get_node().get_type_name() != "Parameter":
            inputs = [openvino.opset13.parameter(values["images"].get_partial_shape(), np.float32)]
            for target in values["images"].get_target_inputs():
                target.replace_source_output(inputs[0].output(0))
        wanted = openvino.Model([values[name] for name in names], inputs)
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
        return core.compile_model(wanted, "CPU", settings)

    model = worker.submit(compile_model).result()

    def run(*arrays: Any) -> list[Any]:
        outputs = worker.submit(model, list(arrays)).result()
        return [outputs[name] for name in names]

    return run


def write_pt2(plan: Plan, path: Path) -> None:
    """Write a program of `torch.export` with the plan's metadata as an extra file.

    Raises UserError for NMS and for preprocessing, which are written in ONNX, and for small images of any size.
    """
    if plan.nms is not None or plan.photo:
        raise UserError("--format pt2 holds no NMS and no preprocessing", "leave out --nms and --photo-input")
    least = 32 * PT2_CELLS
    if plan.canvas is None and plan.short <= least - 32:
        raise UserError(f"--format pt2 for images of any size needs --imgsz {least} or more", "or give --imgsz H,W")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(plan.module, (plan.example,), dynamic_shapes=plan.dynamic_shapes(PT2_CELLS))
        torch.export.save(program, path, extra_files={PT2_METADATA: json.dumps(plan.metadata)})


def open_pt2(path: Path, names: Sequence[str], *, precision: str = "f32", network_only: bool = False) -> Runner:
    """Run a file that this process wrote: `torch.export.load` runs pickled code, so others are not to be opened."""
    module = torch.export.load(str(path)).module()

    def run(images: Any) -> list[Any]:
        outputs = dict(zip((*OUTPUTS, *RAW), module(torch.from_numpy(images))))
        return [outputs[name].numpy() for name in names]

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
        precisions=("f32", "bf16"),
    ),
    "pt2": Format((), (), (".pt2",), write_pt2, open_pt2),
}
