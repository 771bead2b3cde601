"""Checkpoints, written atomically, verified before use and read without running code."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from cledet.config.types import Component, Unit
from cledet.console import say, warn
from cledet.errors import UserError
from cledet.io.atomic import is_there, previous, write_file
from cledet.io.provenance import versions
from cledet.io.run_folders import data_beside
from cledet.io.weight_files import DamagedFile, exported_file, is_safetensors, read_file
from cledet.models.converters.origins import CONVERTERS, convert_weights
from cledet.models.network import Architecture, RetinaNet, Uninitialized, build_network, misfit, parameters_of
from cledet.models.safetensors import unpack

FORMAT = "cledet 1"
"""Format of the files, raised when older versions of cledet cannot read them."""
NEEDED = ("architecture", "model", "classes", "category_ids")
"""Required entries of a checkpoint."""


UNKNOWN = ("extra_forbidden", "literal_error", "value_error")
"""What pydantic calls a field, a word and a name of an architecture that this version does not know."""


@dataclass(kw_only=True)
class Checkpoint:
    """A trained model with its metadata; `training` holds the state to resume from.

    The limits apply to what is read from files, and are beyond what real data reaches.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)
    architecture: Architecture
    model: dict[str, Tensor]
    classes: tuple[Annotated[str, Field(max_length=1000)], ...]
    category_ids: tuple[Annotated[int, Field(ge=-(2**53), le=2**53)], ...]
    components: tuple[Component, ...] = ()
    imgsz: Annotated[int, Field(ge=32, le=16_384)] = 800
    data: str = ""
    step: Annotated[int, Field(ge=0, le=2**53)] = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    best_conf: Unit | None = None  # confidence of highest F1 in training's evaluation
    class_confs: tuple[Unit | None, ...] = ()  # that of each class; None without a true positive
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)  # packages, Python and git commit that wrote it
    written: str = ""  # local time, ISO 8601

    def network(self) -> RetinaNet:
        """Build the network with these weights, in evaluation mode. Raises UserError where they do not fit."""
        self.require_fit()  # before a network of any size takes memory
        with Uninitialized():
            network = build_network(self.architecture)
        network.load_state_dict(self.model)
        return network.eval()

    def require_fit(self) -> None:
        """Raise UserError if weights are missing, left over, or of another shape than in the architecture."""
        if wrong := misfit(parameters_of(self.architecture), self.model):
            message = f"these weights are of no {self.architecture.backbone} detector: {wrong}"
            raise UserError(message, "pass another file")

    def summary(self) -> str:
        """Describe the model in one line: head, backbone, classes and components."""
        listed = ", ".join(self.classes[:5]) + (" ..." if len(self.classes) > 5 else "")
        components = f"; trained with {', '.join(self.components)}" if self.components else ""
        network = f"{self.architecture.head} {self.architecture.backbone}"
        return f"{network}, {len(self.classes)} classes: {listed}{components}"

    def content(self) -> dict[str, Any]:
        """Return all entries as tensors and plain data, with the current versions and time."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        own = {
            "format": FORMAT,
            "architecture": self.architecture.model_dump(exclude_none=True),
            "versions": versions(),
            "written": now,
        }
        return content | own

    def save(self, path: Path) -> None:
        """Write the checkpoint atomically; the old file stays as `previous(path)`.

        Raises UserError on failure, for example on a full disk, with all files unchanged.
        """
        content = self.content()

        def write(file: BinaryIO) -> None:
            try:
                torch.save(content, file)
            except RuntimeError as error:
                raise _cause(error) from None

        write_file(path, write, keep=True)


def _cause(error: BaseException) -> BaseException:
    """Return the OSError behind an error of torch's zip writer, which reports a wrong position, or the error itself."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint from a file (.pt, .safetensors), a run folder, or another project's weights.

    If the file is damaged or missing, its previous one is loaded with a warning.
    """
    if path.is_dir():
        path = exported_file(path) or path / "weights" / "best.pt"
    if not is_there(path):
        raise UserError(f"there are no weights at {path}", _beside(path))
    if not path.is_file():
        return _fallback(path, f"{path} is missing")
    try:
        return _read(path)
    except DamagedFile as error:
        if not previous(path).is_file():
            raise
        return _fallback(path, error.message)


def _fallback(path: Path, trouble: str) -> Checkpoint:
    """Load the previous checkpoint of `path` instead of the damaged or missing one."""
    before = previous(path)
    try:
        checkpoint = _read(before)
    except DamagedFile as error:
        raise UserError(f"{trouble}, and {error.message}", "pass another checkpoint as --weights") from None
    warn(f"{trouble}; {before} of step {checkpoint.step} is used in its place")
    return checkpoint


def _read(path: Path) -> Checkpoint:
    content = unpack(path) if is_safetensors(path) else read_file(path)
    is_ours = str(content.get("format", "")).startswith("cledet ")
    checkpoint = parse_checkpoint(path, content) if is_ours else _others(path, content)
    model = checkpoint.model
    checkpoint.data = data_beside(path, checkpoint.data)
    wrong = [name for name, value in model.items() if value.dtype.itemsize > 1 and not _is_finite(value)]
    if wrong:
        count = f"{len(wrong)} of its {len(checkpoint.model)} tensors, first {wrong[0]}"
        hint = "the run diverged: take an earlier checkpoint, or train with a lower --lr"
        raise UserError(f"{path} holds NaN or infinity in {count}, and detects nothing", hint)
    return checkpoint


def _is_finite(values: Tensor) -> bool:
    """Return whether all values are finite; a finite sum proves it in one pass."""
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def _others(path: Path, content: dict[str, Any]) -> Checkpoint:
    """Build a checkpoint from the content of another project's file."""
    detector = convert_weights(content)
    if detector is None:
        known = ", ".join(CONVERTERS)
        raise UserError(f"{path} is neither a cledet checkpoint nor a detector of {known}", "pass a best.pt")
    say(f"{path} is {detector.note}")
    return Checkpoint(**{name: getattr(detector, name) for name in NEEDED})


def parse_checkpoint(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """Build a checkpoint from the content of a file of this format or an earlier version of it."""
    if content["format"] != FORMAT:
        raise newer_error(path, content)
    lacking = [name for name in NEEDED if name not in content]
    if lacking:
        raise UserError(f"{path} lacks {lacking[0]!r}, which every checkpoint of cledet has", "pass another file")
    entries = {name: content[name] for name in Checkpoint.__dataclass_fields__ if name in content}
    try:
        found = CHECKPOINT.validate_python(entries)
    except ValidationError as error:
        raise _explain(path, content, error) from None
    counts = {len(found.classes), len(found.category_ids), found.architecture.classes}
    if len(counts) > 1 or len(found.class_confs) not in (0, *counts):
        raise UserError(f"{path} is not as cledet wrote it: its classes, their ids and outputs differ in number")
    return found


def _explain(path: Path, content: Mapping[str, Any], error: ValidationError) -> UserError:
    """Describe the first invalid entry of a checkpoint."""
    first = error.errors()[0]
    if first["loc"][:1] == ("architecture",) and first["type"] in UNKNOWN and "anchor_ratios" not in first["loc"]:
        return newer_error(path, content)
    if first["loc"][:1] == ("model",):
        return UserError(f"{path} is not as cledet wrote it: its model holds other things than tensors")
    place = ".".join(map(str, first["loc"]))
    return UserError(f"{path} is not as cledet wrote it: {place}: {first['msg']}"[:500], "pass another file")


def newer_error(path: Path, content: Mapping[str, Any]) -> UserError:
    """Return the error for a file of a format or network that this version does not know."""
    versions = content.get("versions")
    writer = versions.get("cledet") if isinstance(versions, dict) else None
    writer = writer if isinstance(writer, str) else content["format"]
    return UserError(f"{path} was written by a newer cledet ({writer})", "pip install --upgrade cledet")


def _beside(path: Path) -> str:
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    names = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
    return f"{folder} holds {names or 'nothing'}"


CHECKPOINT = TypeAdapter(Checkpoint)
