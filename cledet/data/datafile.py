"""The YAML file that describes a data set, checked key by key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from cledet.data.coco import CocoFiles
from cledet.data.paths import absolute
from cledet.data.voc import VocFolder, find_lists
from cledet.errors import UserError, nearest

SPLITS = ("train", "val", "test")


def _listed(value: object) -> object:
    """One name as a list of one; names by number as a list."""
    if isinstance(value, dict):
        return [name for _, name in sorted(value.items())]
    return [value] if isinstance(value, str) else value


def _split(value: object) -> object:
    """An annotation file alone as a split whose images are searched for."""
    return {"annotations": value} if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class CocoSplit(BaseModel):
    """Where one split of a COCO data set is."""

    model_config = ConfigDict(extra="forbid")
    annotations: str
    images: str | None = None

    def files(self, root: Path) -> tuple[Path, Path | None]:
        """The annotation file, and the image folder if it is given."""
        return absolute(root / self.annotations), absolute(root / self.images) if self.images else None


class CocoFile(BaseModel):
    """The keys of a YAML file for COCO."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["coco"] = "coco"
    path: str = "."
    train: Annotated[CocoSplit, BeforeValidator(_split)] | None = None
    val: Annotated[CocoSplit, BeforeValidator(_split)] | None = None
    test: Annotated[CocoSplit, BeforeValidator(_split)] | None = None
    names: Names = ()

    def reader(self, root: Path) -> CocoFiles:
        """The data set, paths being relative to `root`."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        splits = {name: split.files(root) for name, split in named if split is not None}
        return CocoFiles(splits, self.names)


class VocFile(BaseModel):
    """The keys of a YAML file for VOC; a split is one list of ImageSets/Main or several together."""

    model_config = ConfigDict(extra="forbid")
    format: Literal["voc"] = "voc"
    path: str = "."
    train: Names | None = None
    val: Names | None = None
    test: Names | None = None
    names: Names = ()

    def reader(self, root: Path) -> VocFolder:
        """The data set in the folder `root`; without splits, its own lists."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        splits = {name: lists for name, lists in named if lists}
        return VocFolder(root, splits or find_lists(root), self.names)


FORMATS: dict[str, type[CocoFile] | type[VocFile]] = {"coco": CocoFile, "voc": VocFile}


def read_datafile(file: Path) -> CocoFiles | VocFolder:
    """The data set that a YAML file describes.

    Raises UserError for what is not YAML, for unknown keys (naming the nearest right one) and wrong values.
    """
    content = _load(file)
    kind = content.get("format", _guess(content))
    if kind not in FORMATS:
        raise UserError(f"{file}: unknown format '{kind}'", nearest(str(kind), FORMATS))
    try:
        described = FORMATS[kind].model_validate(content)
    except ValidationError as error:
        raise _explain(file, error) from error
    return described.reader(absolute(file.parent / Path(described.path).expanduser()))


def _load(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        keys = ", ".join(CocoFile.model_fields)
        raise UserError(f"{file} describes no data set", f"expected the keys {keys}")
    return content


def _guess(content: dict[str, Any]) -> str:
    """COCO if a split names an annotation file, else VOC."""
    splits = [content[name] for name in SPLITS if name in content]
    names_file = any(isinstance(s, dict) or (isinstance(s, str) and s.endswith(".json")) for s in splits)
    return "coco" if names_file else "voc"


def _explain(file: Path, error: ValidationError) -> UserError:
    """The first thing wrong, in one sentence."""
    first = error.errors()[0]
    *above, key = (str(part) for part in first["loc"])
    place = ".".join([*above, key])
    if first["type"] == "extra_forbidden":
        known = CocoSplit.model_fields if above else CocoFile.model_fields
        return UserError(f"{file}: unknown key '{place}'", nearest(key, known))
    if first["type"] == "missing":
        return UserError(f"{file}: '{place}' is missing")
    return UserError(f"{file}: '{place}' is wrong: {first['msg']}")
