"""Export of a network, with or without NMS, to a file for another runtime, verified against PyTorch."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cledet.config.base import ExportSettings, SuppressionSettings, long_side
from cledet.console import say, warn
from cledet.errors import UserError
from cledet.evaluation.evaluator import nms_options
from cledet.export.backends import FORMATS, Open, Plan, write_suppression
from cledet.export.parity import Parity, compare_detections, compare_nms, compare_raw, dataset_images, synthetic_images
from cledet.io.atomic import write_file, write_whole
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.nms import NMSOptions
from cledet.models.safetensors import FACTS, as_bytes, pack

NewFolder = Callable[[], AbstractContextManager[Path]]
"""Makes a folder that is removed if filling it fails."""
MAX_BOX_ERROR, MAX_SCORE_ERROR = 0.5, 1e-3
"""Largest allowed differences of a runtime's boxes (pixels) and scores from PyTorch's."""
NMS_SETTINGS = ("conf", "iou", "max_det", "localization", "cl_norm", "cl_score")
"""NMS settings that are recorded in the file's metadata if the method uses them."""


@dataclass(frozen=True)
class Export:
    """An exported file, and the largest differences of its outputs from PyTorch's on the same images."""

    path: Path
    inputs: tuple[int, ...]  # empty for weights alone
    max_box_error: float  # pixels
    max_score_error: float
    nms: str = "none"
    detections: int = 0  # compared detections, all equal to PyTorch's

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return {**asdict(self), "path": str(self.path)}


def export(model: Checkpoint, folder: NewFolder, settings: ExportSettings) -> Export:
    """Export a model, verify the file against PyTorch, and copy it into a new folder.

    Without NMS the file takes any number of images of one size, with NMS one image. Raises UserError if the outputs
    differ; then no folder is made.
    """
    if settings.format == "safetensors":
        return export_weights(model, folder, settings)
    options = _nms_options(model, settings)
    packages, suffixes, write, open_file = FORMATS[settings.format]
    require_packages(packages)
    short = settings.imgsz or model.imgsz
    height, width = (-(-side // 32) * 32 for side in (short, long_side(short)))
    plan = Plan(model.network(), (height, width), options, file_metadata(model, (height, width), options))
    with _temporary_folder() as temporary:
        path = temporary / f"model{suffixes[0]}"
        try:
            write(plan, path)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = f"torch {torch.__version__} cannot write this network as ONNX with the onnxscript installed"
            raise UserError(f"{reason}: {str(error).strip().splitlines()[-1]}", "try a newer torch") from None
        parity = check_parity(plan, model, short, open_file, path)
        report_parity(parity, settings.format, options)
        target = _copy([path.with_suffix(suffix) for suffix in suffixes], folder)
    return Export(
        path=target / path.name,
        inputs=(1 if options else -1, 3, height, width),
        max_box_error=parity.max_box_error,
        max_score_error=parity.max_score_error,
        nms=options.method if options else "none",
        detections=parity.detections,
    )


def export_weights(model: Checkpoint, folder: NewFolder, settings: ExportSettings) -> Export:
    """Write the weights with classes and architecture as safetensors, and check that they read back identical.

    Raises UserError for flags that have no effect on weights.
    """
    _refuse_flags(
        settings,
        {*SuppressionSettings.model_fields, "imgsz"} - {"project", "name"},
        "--format safetensors, which holds weights alone",
    )
    with _temporary_folder() as temporary:
        path = temporary / "model.safetensors"
        write_whole(path, pack(model.content()))
        if not same_weights(model, load_checkpoint(path)):
            raise UserError("the weights read back from safetensors differ from the model")
        path = _copy([path], folder) / path.name
    say(f"all {len(model.model)} tensors read back from safetensors are identical")
    return Export(path, (), 0.0, 0.0)


def same_weights(model: Checkpoint, other: Checkpoint) -> bool:
    """Check that two models are identical: classes, architecture, and all tensors bit by bit."""
    compared = [key for key in FACTS if key not in ("versions", "written")]
    return (
        all(getattr(model, key) == getattr(other, key) for key in compared)
        and model.model.keys() == other.model.keys()
        and all(_same_bits(tensor, other.model[name]) for name, tensor in model.model.items())
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


def _nms_options(model: Checkpoint, settings: ExportSettings) -> NMSOptions | None:
    """Return the options of NMS inside the file, None without NMS. Raises UserError for a flag without effect."""
    method = settings.nms_for(model.components)
    hint = "choose a method, for example --nms auto" if method == "none" else "leave it out"
    _refuse_flags(settings, unused_settings(method), f"--nms {method}", hint)
    return None if method == "none" else nms_options(settings, model.components)


def _refuse_flags(settings: ExportSettings, unused: set[str], reason: str, hint: str = "leave it out") -> None:
    """Raise UserError if one of the unused settings was passed as a flag."""
    flags = [key for key, origin in settings.origins.items() if origin == "flag" and key in unused]
    if flags:
        raise UserError(f"--{flags[0].replace('_', '-')} does nothing with {reason}", hint)


def unused_settings(method: str) -> set[str]:
    """Return the settings that an NMS method, or a file without NMS, does not use."""
    unused = {"localization", "cl_norm", "cl_score"} if method != "cl-balanced" else set()
    if method == "none":
        unused |= {"conf", "max_det"}
    return unused | {"iou"} if method in ("none", "soft", "soft-vote") else unused


def require_packages(packages: tuple[str, ...]) -> None:
    """Raise UserError for packages that are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}", f"pip install 'cledet[{packages[-1]}]'")


def check_parity(plan: Plan, model: Checkpoint, short: int, open_file: Open, path: Path) -> Parity:
    """Compare the file with PyTorch: raw outputs, and with NMS also detections, and NMS alone on random boxes."""
    if plan.nms is None:
        return compare_raw(plan.network, open_file, path, plan.size)
    noise = synthetic_images(plan.size)[1:2]  # no grey image, whose scores are all equal
    images = [noise, *dataset_images(model, short, plan.size)]
    parity = compare_detections(plan.network, open_file, path, images, plan.nms)
    nms_path = path.with_name("nms.onnx")
    write_suppression(plan.nms, nms_path)
    return parity.merge(compare_nms(open_file, nms_path, plan.size, len(model.classes), plan.nms))


def report_parity(parity: Parity, format: str, options: NMSOptions | None) -> None:
    """Print the parity of a file with PyTorch. Raises UserError if it is outside the tolerances."""
    box, score = parity.max_box_error, parity.max_score_error
    if box > MAX_BOX_ERROR or score > MAX_SCORE_ERROR:
        raise UserError(f"{format}'s outputs differ from PyTorch's by {box:g} px and {score:g} in score")
    if parity.unmatched and options:
        raise UserError(f"{format}'s NMS ({options.method}) differs from PyTorch's in {parity.unmatched} detections")
    say(f"{format} matches PyTorch within {box:.2g} px and {score:.2g} in score on {parity.images} images")
    if options:
        counts = f"{parity.detections} in the images and {parity.random_detections} among random boxes"
        say(f"its NMS ({options.method}) keeps the same detections as PyTorch's: {counts}")
        if not parity.detections:
            warn("the network detects nothing in these images, so NMS was compared on random boxes only")


def file_metadata(model: Checkpoint, size: tuple[int, int], options: NMSOptions | None) -> dict[str, str]:
    """Return the metadata of a file: classes, components, format of inputs and outputs, and options of NMS."""
    count = "1" if options else "N"
    metadata = {
        "names": json.dumps(list(model.classes)),
        "category_ids": json.dumps(list(model.category_ids)),
        "components": ",".join(model.components),
        "input": f"RGB, 0 to 255, [{count}, 3, {size[0]}, {size[1]}]; pad at the right and the bottom",
        "outputs": "boxes x1 y1 x2 y2 in input pixels, scores after the sigmoid; apply NMS",
    }
    if options is None:
        return metadata
    metadata["outputs"] = "boxes [K, 4] x1 y1 x2 y2 in input pixels, scores [K], labels [K] from 0; best first"
    used = {key: str(getattr(options, key)) for key in NMS_SETTINGS if key not in unused_settings(options.method)}
    return metadata | {"nms": options.method} | used


@contextmanager
def _temporary_folder() -> Iterator[Path]:
    """Make a folder among the system's temporary ones, so that a kill leaves nothing beside the user's files.

    Raises UserError if a file in it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="cledet-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as error:
        reason = f"the temporary file could not be written: {error.strerror or error}"
        raise UserError(reason, "free some space, or set TMPDIR to another folder") from None


def _copy(files: Sequence[Path], folder: NewFolder) -> Path:
    """Copy all files into a new folder, or none, and return the folder."""
    with folder() as target:
        for file in files:
            with file.open("rb") as content:
                write_file(target / file.name, partial(shutil.copyfileobj, content))
    return target
