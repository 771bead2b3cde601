"""Export: the network, with NMS if wanted, as a file for another runtime, proved there to compute the same."""

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
from cledet.export.parity import Proof, pictures, prove_detections, prove_raw, prove_suppression, unseen_images
from cledet.io.atomic import write_file, write_whole
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.nms import NMSOptions
from cledet.models.safetensors import FACTS, as_bytes, pack

NewFolder = Callable[[], AbstractContextManager[Path]]
"""Makes a folder that is taken away again if filling it breaks off."""
MAX_BOX_ERROR, MAX_SCORE_ERROR = 0.5, 1e-3
"""What a runtime's boxes (pixels) and scores may differ by."""
NMS_SETTINGS = ("conf", "iou", "max_det", "localization", "cl_norm", "cl_score")
"""Settings of NMS that the file's metadata record, if the method uses them."""


@dataclass(frozen=True)
class Export:
    """A file written, and how far its outputs are from PyTorch's on the same images."""

    path: Path
    inputs: tuple[int, ...]  # none where it is weights alone
    max_box_error: float  # pixels
    max_score_error: float
    nms: str = "none"
    detections: int = 0  # that NMS left on the images, all as in PyTorch

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def export(model: Checkpoint, folder: NewFolder, settings: ExportSettings) -> Export:
    """Write the file into a folder, made when all is proved, and compare the runtime's outputs with PyTorch's.

    Without NMS it takes any number of images of one size, with NMS one image. Raises UserError where the outputs
    differ; then nothing is written.
    """
    if settings.format == "safetensors":
        return export_weights(model, folder, settings)
    post = _suppression(model, settings)
    packages, suffixes, write, open_file = FORMATS[settings.format]
    need(packages)
    short = settings.imgsz or model.imgsz
    size = (_multiple(short), _multiple(long_side(short)))
    plan = Plan(model.network(), size, post, facts(model, size, post))
    with _draft() as draft:
        path = draft / f"model{suffixes[0]}"
        try:
            write(plan, path)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = f"torch {torch.__version__} cannot write this network as ONNX with the onnxscript installed"
            raise UserError(f"{reason}: {str(error).strip().splitlines()[-1]}", "try a newer torch") from None
        proof = prove(plan, model, short, open_file, path)
        judge(proof, settings.format, post)
        target = _keep([path.with_suffix(suffix) for suffix in suffixes], folder)
    name, images = (post.method, 1) if post else ("none", -1)
    inputs = (images, 3, *size)
    return Export(target / path.name, inputs, proof.max_box_error, proof.max_score_error, name, proof.detections)


def export_weights(model: Checkpoint, folder: NewFolder, settings: ExportSettings) -> Export:
    """Write the weights alone, with classes and architecture, as safetensors; read back, they are the same bits."""
    idle = {*SuppressionSettings.model_fields, "imgsz"} - {"project", "name"}
    given = [key for key, origin in settings.origins.items() if origin == "flag" and key in idle]
    if given:
        flag = f"--{given[0].replace('_', '-')}"
        raise UserError(f"{flag} does nothing with --format safetensors, which holds weights alone", "leave it out")
    with _draft() as draft:
        path = draft / "model.safetensors"
        write_whole(path, pack(model.content()))
        if not same_weights(model, load_checkpoint(path)):
            raise UserError("what safetensors gives back differs from the model")
        path = _keep([path], folder) / path.name
    say(f"safetensors gives back all {len(model.model)} tensors bit by bit")
    return Export(path, (), 0.0, 0.0)


def same_weights(model: Checkpoint, other: Checkpoint) -> bool:
    """Whether two models are the same: classes, architecture, and all tensors bit by bit."""
    told = [key for key in FACTS if key not in ("versions", "written")]
    return (
        all(getattr(model, key) == getattr(other, key) for key in told)
        and model.model.keys() == other.model.keys()
        and all(_same_bits(tensor, other.model[name]) for name, tensor in model.model.items())
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(as_bytes(a), as_bytes(b))


def _suppression(model: Checkpoint, settings: ExportSettings) -> NMSOptions | None:
    """The NMS wanted inside the file. Raises UserError for a flag that would do nothing."""
    method = settings.nms_for(model.components)
    given = [key for key, origin in settings.origins.items() if origin == "flag" and key in idle(method)]
    if given:
        hint = "choose a method, for example --nms auto" if method == "none" else "leave it out"
        raise UserError(f"--{given[0].replace('_', '-')} does nothing with --nms {method}", hint)
    return None if method == "none" else nms_options(settings, model.components)


def idle(method: str) -> set[str]:
    """The settings that a file with this method has no use for."""
    unused = {"localization", "cl_norm", "cl_score"} if method != "cl-balanced" else set()
    if method == "none":
        unused |= {"conf", "max_det"}
    return unused | {"iou"} if method in ("none", "soft", "soft-vote") else unused


def need(packages: tuple[str, ...]) -> None:
    """Raise UserError for packages that are not installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"export needs {', '.join(missing)}", f"pip install 'cledet[{packages[-1]}]'")


def prove(plan: Plan, model: Checkpoint, short: int, open_file: Open, path: Path) -> Proof:
    """Compare what the file computes with PyTorch: raw outputs, detections, and NMS alone on drawn boxes."""
    if plan.post is None:
        return prove_raw(plan.network, open_file, path, plan.size)
    images = [unseen_images(plan.size)[1:2], *pictures(model, short, plan.size)]  # grey would score alike everywhere
    whole = prove_detections(plan.network, open_file, path, images, plan.post)
    part = path.with_name("nms.onnx")
    write_suppression(plan.post, part)
    return whole.and_of(prove_suppression(open_file, part, plan.size, len(model.classes), plan.post))


def judge(proof: Proof, format: str, post: NMSOptions | None) -> None:
    """Say what was proved, or raise UserError."""
    box, score = proof.max_box_error, proof.max_score_error
    if box > MAX_BOX_ERROR or score > MAX_SCORE_ERROR:
        raise UserError(f"{format}'s outputs differ from PyTorch's by {box:g} px and {score:g} in score")
    if proof.strangers and post:
        raise UserError(
            f"{format}'s NMS ({post.method}) is not PyTorch's: "
            f"only one of the two has {proof.strangers} of the detections"
        )
    say(f"{format} agrees with PyTorch to {box:.2g} px and {score:.2g} in score on {proof.images} images")
    if post:
        seen = f"{proof.detections} detections in the images and {proof.drawn} among drawn boxes"
        say(f"its NMS ({post.method}) leaves what PyTorch's leaves: {seen}")
        if not proof.detections:
            warn("the network finds nothing in these images, so NMS was compared on drawn boxes only")


def facts(model: Checkpoint, size: tuple[int, int], post: NMSOptions | None) -> dict[str, str]:
    """What a user of the file must know."""
    count = "1" if post else "N"
    told = {
        "names": json.dumps(list(model.classes)),
        "category_ids": json.dumps(list(model.category_ids)),
        "components": ",".join(model.components),
        "input": f"RGB, 0 to 255, [{count}, 3, {size[0]}, {size[1]}]; pad at the right and the bottom",
        "outputs": "boxes x1 y1 x2 y2 in input pixels, scores after the sigmoid; apply NMS",
    }
    if post is None:
        return told
    told["outputs"] = "boxes [K, 4] x1 y1 x2 y2 in input pixels, scores [K], labels [K] from 0; best first"
    used = {key: str(getattr(post, key)) for key in NMS_SETTINGS if key not in idle(post.method)}
    return told | {"nms": post.method} | used


def _multiple(side: int, of: int = 32) -> int:
    return -(-side // of) * of


@contextmanager
def _draft() -> Iterator[Path]:
    """Make a folder among the machine's temporary ones, so that a kill leaves nothing beside the user's files.

    Raises UserError for what cannot be written within it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="cledet-", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
    except OSError as error:
        reason = f"the file's draft could not be written: {error.strerror or error}"
        raise UserError(reason, "free some space, or set TMPDIR to another folder") from None


def _keep(files: Sequence[Path], folder: NewFolder) -> Path:
    """Copy the files into the folder, all or none, and return it."""
    with folder() as target:
        for file in files:
            with file.open("rb") as content:
                write_file(target / file.name, partial(shutil.copyfileobj, content))
    return target
