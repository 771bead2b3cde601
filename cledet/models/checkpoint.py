"""Checkpoints: written whole or not at all, checked before they are used, read without running code."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor

from cledet.config.types import Component
from cledet.console import say, warn
from cledet.errors import UserError
from cledet.io.atomic import is_there, previous, write_file
from cledet.io.provenance import versions
from cledet.io.weight_files import DamagedFile, is_safetensors, read_file
from cledet.models.converters.origins import ORIGINS, from_elsewhere
from cledet.models.network import Architecture, RetinaNet, build_network, misfit, parameters_of
from cledet.models.safetensors import unpack

FORMAT = "cledet 1"
"""To be raised when older versions of cledet cannot use what is written."""
NEEDED = ("architecture", "model", "classes", "category_ids")
"""What no checkpoint can do without."""


UNKNOWN = ("extra_forbidden", "literal_error", "value_error")
"""What pydantic calls a field, a word and a name of an architecture that this version does not know."""


class Facts(BaseModel):
    """What a checkpoint says beside its tensors, as it is read; of any size that data have."""

    architecture: Architecture
    classes: tuple[Annotated[str, Field(max_length=1000)], ...]
    category_ids: tuple[Annotated[int, Field(ge=-(2**53), le=2**53)], ...]
    components: tuple[Component, ...] = ()
    imgsz: int = Field(800, ge=32, le=16_384)
    data: str = ""
    step: int = Field(0, ge=0, le=2**53)
    metrics: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    training: dict[str, Any] = {}
    versions: dict[str, str | None] = {}
    written: str = ""


@dataclass(kw_only=True)
class Checkpoint:
    """A trained model and all that is needed to use it; with `training`, all that is needed to go on."""

    architecture: Architecture
    model: dict[str, Tensor]
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    components: tuple[str, ...] = ()
    imgsz: int = 800
    data: str = ""
    step: int = 0
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)  # of what wrote it: packages, Python, git's commit
    written: str = ""  # when: the local time, ISO 8601

    def network(self) -> RetinaNet:
        """The network with these weights, in evaluation mode. Raises UserError where they do not fit."""
        wrong = misfit(parameters_of(self.architecture), self.model)  # before a network of any size takes memory
        if wrong:
            raise UserError(
                f"these weights are of no {self.architecture.backbone} detector: {wrong}", "pass another file"
            )
        network = build_network(self.architecture)
        network.load_state_dict(self.model)
        return network.eval()

    def content(self) -> dict[str, Any]:
        """All of it as tensors and plain data, with what writes it now, and when."""
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        own = {"format": FORMAT, "architecture": self.architecture.model_dump(), "versions": versions(), "written": now}
        return content | own

    def save(self, path: Path) -> None:
        """Write to a temporary file beside `path`, then rename: readers see the old file or the new one.

        The old one stays as `previous(path)`. Raises UserError, say for a full disk; then all files are as they were.
        """
        content = self.content()

        def write(file: BinaryIO) -> None:
            try:
                torch.save(content, file)
            except RuntimeError as error:
                raise _cause(error) from None

        write_file(path, write, keep=True)


def _cause(error: BaseException) -> BaseException:
    """The OSError that made torch's writer of zip files fail, if one did: it reports a wrong position instead."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


def load_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint from a file of ours (.pt, .safetensors), a run's folder, or a detector of another project.

    For a file that is damaged or missing, the previous one is taken if it is good, which is said.
    """
    if path.is_dir():
        path = path / "weights" / "best.pt"
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
    """The checkpoint before the one at `path`, which is in trouble."""
    before = previous(path)
    try:
        found = _read(before)
    except DamagedFile as error:
        raise UserError(f"{trouble}, and {error.message}", "pass another checkpoint as --weights") from None
    warn(f"{trouble}; {before} of step {found.step} is used in its place")
    return found


def _read(path: Path) -> Checkpoint:
    content = unpack(path) if is_safetensors(path) else read_file(path)
    found = _ours(path, content) if str(content.get("format", "")).startswith("cledet ") else _others(path, content)
    wrong = [name for name, value in found.model.items() if value.dtype.itemsize > 1 and not value.isfinite().all()]
    if wrong:
        count = f"{len(wrong)} of its {len(found.model)} tensors, first {wrong[0]}"
        hint = "the run diverged: take an earlier checkpoint, or train with a lower --lr"
        raise UserError(f"{path} holds NaN or infinity in {count}, and detects nothing", hint)
    return found


def _others(path: Path, content: dict[str, Any]) -> Checkpoint:
    """A checkpoint from the content of another project's file."""
    found = from_elsewhere(content)
    if found is None:
        known = ", ".join(ORIGINS)
        raise UserError(f"{path} is neither a cledet checkpoint nor a detector of {known}", "pass a best.pt")
    say(f"{path} is {found.note}")
    return Checkpoint(**{name: getattr(found, name) for name in ("architecture", "model", "classes", "category_ids")})


def _ours(path: Path, content: Mapping[str, Any]) -> Checkpoint:
    """A checkpoint from the content of a file of this format or an earlier form of it."""
    if content["format"] != FORMAT:
        raise _newer(path, content)
    lacking = [name for name in NEEDED if name not in content]
    if lacking:
        raise UserError(f"{path} lacks {lacking[0]!r}, which every checkpoint of cledet has", "pass another file")
    known = {name: content[name] for name in Checkpoint.__dataclass_fields__ if name in content}
    try:
        facts = Facts.model_validate({name: value for name, value in known.items() if name != "model"})
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"][:1] == ("architecture",) and first["type"] in UNKNOWN:
            raise _newer(path, content) from None
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is not as cledet wrote it: {place}: {first['msg']}"[:500], "pass another file"
        ) from None
    model, counts = known["model"], {len(facts.classes), len(facts.category_ids), facts.architecture.classes}
    if len(counts) > 1:
        raise UserError(f"{path} is not as cledet wrote it: its classes, their ids and outputs differ in number")
    if not isinstance(model, dict) or not all(isinstance(value, Tensor) for value in model.values()):
        raise UserError(f"{path} is not as cledet wrote it: its model holds other things than tensors")
    return Checkpoint(model=model, **{name: getattr(facts, name) for name in facts.model_fields_set})


def _newer(path: Path, content: Mapping[str, Any]) -> UserError:
    versions = content.get("versions")
    writer = versions.get("cledet") if isinstance(versions, dict) else None
    writer = writer if isinstance(writer, str) else content["format"]
    return UserError(f"{path} was written by a newer cledet ({writer})", "pip install --upgrade cledet")


def _beside(path: Path) -> str:
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8])
    return f"{folder} holds {found or 'nothing'}"
