"""Export of a network, with or without NMS, to a file for another runtime, verified against PyTorch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cledet.config.base import ExportSettings, SuppressionSettings, long_side
from cledet.console import say, warn
from cledet.data.dataset import PADDING
from cledet.errors import UserError
from cledet.evaluation.evaluator import nms_options
from cledet.evaluation.tune.search import PARAMETERS
from cledet.export.backends import FORMATS, require_packages
from cledet.export.int8 import Int8, quantize_file
from cledet.export.parity import Parity, check_parity
from cledet.export.plan import Plan
from cledet.export.runtime import describe_model
from cledet.io.atomic import write_whole
from cledet.io.locks import temporary_folder
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.nms import NMSOptions
from cledet.models.safetensors import digest, pack

NewFolder = Callable[[], AbstractContextManager[Path]]
"""Makes a folder that is removed if filling it fails."""
MAX_PIXEL_ERROR = 1.0
"""Largest allowed difference of a pixel that the file prepares from cledet's, in levels of 255."""
MAX_BOX_ERROR, MAX_SCORE_ERROR = 0.5, 1e-3
"""Largest allowed differences of a runtime's boxes (pixels) and scores from PyTorch's."""
NMS_SETTINGS = {"conf", "iou", "max_det", "localization", "cl_norm", "cl_score"}


@dataclass(frozen=True)
class Export:
    """An exported file, and the largest differences of its outputs from PyTorch's on the same images."""

    path: Path
    inputs: tuple[int, ...]  # -1: any number, or any multiple of 32; empty for weights alone
    max_box_error: float  # pixels
    max_score_error: float
    nms: str = "none"
    detections: int = 0  # compared detections, all equal to PyTorch's
    int8: Int8 | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


def export(model: Checkpoint, folder: NewFolder, settings: ExportSettings) -> Export:
    """Export a model, verify the file against PyTorch, and copy it into a new folder.

    Without NMS the file takes any number of images, with NMS one image, whose sides are multiples of 32; of one size if
    `imgsz` is a height and width. Raises UserError if the outputs differ; then no folder is made.
    """
    if settings.format == "safetensors":
        return export_weights(model, folder, settings)
    options = _nms_options(model, settings)
    spec = FORMATS[settings.format]
    require_packages(spec.write_packages, "export", settings.format)
    size = settings.imgsz or model.imgsz
    short, canvas = (min(size), size) if isinstance(size, tuple) else (size, None)
    metadata = file_metadata(model, short, canvas, options, settings.photo_input)
    plan = Plan(model.network(), short, canvas, options, metadata, settings.photo_input)
    try:  # among temporary files, so that a kill leaves nothing beside the user's
        with temporary_folder() as temporary:
            path = temporary / f"model{spec.suffixes[0]}"
            spec.write(plan, path)
            parity = check_parity(plan, model, spec.open, path)
            report_parity(parity, settings.format, options)
            int8 = quantize_file(path, model, settings) if settings.int8 else None
            content = {f"model{suffix}": path.with_suffix(suffix).read_bytes() for suffix in spec.suffixes}
    except torch.onnx.errors.OnnxExporterError as error:
        reason = f"torch {torch.__version__} cannot write this network as ONNX with the onnxscript installed"
        raise UserError(f"{reason}: {str(error).strip().splitlines()[-1]}", "try a newer torch") from None
    except OSError as error:
        reason = f"the temporary file could not be written: {error.strerror or error}"
        raise UserError(reason, "free some space, or set TMPDIR to another folder") from None
    with folder() as target:
        for name, data in content.items():
            write_whole(target / name, data)
    return Export(
        path=target / path.name,
        inputs=(-1, -1, 3) if plan.photo else (1 if options else -1, 3, *(canvas or (-1, -1))),
        max_box_error=parity.max_box_error,
        max_score_error=parity.max_score_error,
        nms=options.method if options else "none",
        detections=parity.detections,
        int8=int8,
    )


def export_weights(model: Checkpoint, folder: NewFolder, settings: ExportSettings) -> Export:
    """Write the weights with classes and architecture as safetensors, and check that they read back identical.

    Raises UserError for flags that have no effect on weights.
    """
    unused = {*SuppressionSettings.model_fields, "imgsz", "photo_input"} - {"project", "name"}
    _refuse_flags(settings, unused, "--format safetensors, which holds weights alone")
    with folder() as target:
        path = target / "model.safetensors"
        write_whole(path, pack(model.content()))
        read = load_checkpoint(path)
        same = (read.classes, read.architecture) == (model.classes, model.architecture)
        if not same or digest(read.model, {}) != digest(model.model, {}):
            raise UserError("the weights read back from safetensors differ from the model")
    say(f"all {len(model.model)} tensors read back from safetensors are identical")
    return Export(path, (), 0.0, 0.0)


def _nms_options(model: Checkpoint, settings: ExportSettings) -> NMSOptions | None:
    """Return the options of NMS inside the file, None without NMS. Raises UserError for a flag without effect."""
    method = settings.nms_for(model.components)
    hint = "choose a method, for example --nms auto" if method == "none" else "leave it out"
    _refuse_flags(settings, NMS_SETTINGS - {*used_settings(method)}, f"--nms {method}", hint)
    return None if method == "none" else nms_options(settings, model.components)


def _refuse_flags(settings: ExportSettings, unused: set[str], reason: str, hint: str = "leave it out") -> None:
    """Raise UserError if one of the unused settings was passed as a flag."""
    flags = [key for key, origin in settings.origins.items() if origin == "flag" and key in unused]
    if flags:
        raise UserError(f"--{flags[0].replace('_', '-')} does nothing with {reason}", hint)


def used_settings(method: str) -> tuple[str, ...]:
    """Return the settings that an NMS method uses; none for a file without NMS."""
    return () if method == "none" else ("conf", "max_det", *PARAMETERS[method])


def report_parity(parity: Parity, format: str, options: NMSOptions | None) -> None:
    """Print the parity of a file with PyTorch. Raises UserError if it is outside the tolerances."""
    box, score = parity.max_box_error, parity.max_score_error
    if box > MAX_BOX_ERROR or score > MAX_SCORE_ERROR:
        raise UserError(f"{format}'s outputs differ from PyTorch's by {box:g} px and {score:g} in score")
    if parity.unmatched and options:
        raise UserError(f"{format}'s NMS ({options.method}) differs from PyTorch's in {parity.unmatched} detections")
    if parity.max_pixel_error > MAX_PIXEL_ERROR:
        raise UserError(f"{format}'s preprocessing differs from cledet's by {parity.max_pixel_error:g} of 255 levels")
    say(f"{format} matches PyTorch within {box:.2g} px and {score:.2g} in score on {parity.images} images")
    if parity.own_score_error:
        levels, change = f"{parity.max_pixel_error:g} of 255 levels", f"{parity.own_score_error:.2g}"
        say(f"it prepares photos as cledet does within {levels}, which changes scores by up to {change}")
    if options:
        counts = f"{parity.detections} in the images and {parity.random_detections} among random boxes"
        say(f"its NMS ({options.method}) keeps the same detections as PyTorch's: {counts}")
        if not parity.detections:
            warn("the network detects nothing in these images, so NMS was compared on random boxes only")


def file_metadata(
    model: Checkpoint, short: int, canvas: tuple[int, int] | None, options: NMSOptions | None, photo: bool
) -> dict[str, str]:
    """Return the metadata of a file: the model's, preprocessing, format of outputs, and options of NMS."""
    height, width = canvas or ("H", "W")
    count, pixels = "1" if options else "N", "pixels of the photo" if photo else "input pixels"
    size = f"{height} x {width}" if canvas else "multiples of 32"
    limits = {"canvas": canvas} if canvas else {"short": short, "long": long_side(short), "multiple": 32}
    metadata = {
        **describe_model(model),
        "input": f"RGB, 0 to 255, [{count}, 3, {height}, {width}]; resized, then padded at the right and the bottom "
        f"to {size}",
        "preprocessing": json.dumps({**limits, "fill": PADDING} | ({"in_file": True} if photo else {})),
        "outputs": f"boxes x1 y1 x2 y2 in {pixels}, scores after the sigmoid; apply NMS",
    }
    if photo:
        metadata["input"] = "a photo, RGB, uint8 [H, W, 3]; the file resizes and pads it"
    if options is None:
        return metadata
    metadata["outputs"] = f"boxes [K, 4] x1 y1 x2 y2 in {pixels}, scores [K], labels [K] from 0; best first"
    used = {key: str(getattr(options, key)) for key in used_settings(options.method)}
    return metadata | {"nms": options.method} | used
