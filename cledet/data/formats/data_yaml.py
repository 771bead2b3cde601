"""The YAML file that describes a data set, checked key by key; an Ultralytics data.yaml is one."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from cledet.data.formats.coco import CocoFiles
from cledet.data.formats.paths import absolute, missing, path_fault
from cledet.data.formats.voc import VocFolder, find_voc
from cledet.data.formats.yolo import MOST_CLASSES, YoloFolder
from cledet.errors import UserError, nearest
from cledet.safe_yaml import read_yaml

SPLITS = ("train", "val", "test")
Reader = CocoFiles | VocFolder | YoloFolder


def _listed(value: object) -> object:
    """One name as a list of one; names by number as a list; names that look like numbers as words."""
    if isinstance(value, dict):
        if not all(isinstance(number, int | str) for number in value):
            raise ValueError("the numbers of the names are not numbers")
        numbered = {int(number): name for number, name in value.items()}
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(f"numbers from 0 to {len(numbered) - 1} are expected, one a name")
        value = [numbered[number] for number in range(len(numbered))]
    if isinstance(value, list) and any(isinstance(name, bool) for name in value):
        raise ValueError("YAML reads yes, no, on and off as true and false: put quotes around them")
    if isinstance(value, list) and not all(isinstance(name, str | int | float) for name in value):
        raise ValueError("a name is a word: put quotes around null, and no lists into the list")
    return [str(name) for name in value] if isinstance(value, list) else [value] if isinstance(value, str) else value


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


class DataFile(BaseModel):
    """The keys that all formats have."""

    model_config = ConfigDict(extra="forbid")
    path: str = "."
    names: Names = ()
    outside: bool = False
    """Whether annotations may name images outside of the data set's folder."""
    archives: list[dict[str, Any]] = []
    """What `cledet data download` fetches."""


class CocoFile(DataFile):
    """The keys of a YAML file for COCO."""

    format: Literal["coco"] = "coco"
    train: Annotated[CocoSplit, BeforeValidator(_split)] | None = None
    val: Annotated[CocoSplit, BeforeValidator(_split)] | None = None
    test: Annotated[CocoSplit, BeforeValidator(_split)] | None = None

    def reader(self, root: Path) -> CocoFiles:
        """The data set, paths being relative to `root`."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        splits = {name: split.files(root) for name, split in named if split is not None}
        return CocoFiles(splits, self.names, None if self.outside else root)


class VocFile(DataFile):
    """The keys of a YAML file for VOC; a split is one list of ImageSets/Main or several together."""

    format: Literal["voc"] = "voc"
    train: Names | None = None
    val: Names | None = None
    test: Names | None = None

    def reader(self, root: Path) -> VocFolder:
        """The data set in the folder `root`; without splits, its own lists."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        splits = {name: lists for name, lists in named if lists}
        return VocFolder(root, splits or find_voc(root), self.names)


class YoloFile(DataFile):
    """The keys of an Ultralytics data.yaml; a split is a folder of images, a list of images, or several of these."""

    model_config = ConfigDict(extra="ignore")
    format: Literal["yolo"] = "yolo"
    train: Names | None = None
    val: Names | None = None
    test: Names | None = None
    nc: Annotated[int, Field(ge=0, le=MOST_CLASSES)] | None = None
    kpt_shape: list[int] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> YoloFile:
        if self.names and self.nc is not None and self.nc != len(self.names):
            raise ValueError(f"nc is {self.nc}, but there are {len(self.names)} names")
        return self

    def reader(self, root: Path) -> YoloFolder:
        """The data set, paths being relative to `root`."""
        named = (("train", self.train), ("val", self.val), ("test", self.test))
        splits = {name: tuple(_find(root, entry) for entry in entries) for name, entries in named if entries}
        names = self.names or tuple(str(number) for number in range(self.nc or 0))
        return YoloFolder(splits, names, None if self.outside else root, self.kpt_shape is not None)


FORMATS: dict[str, type[CocoFile] | type[VocFile] | type[YoloFile]] = {
    "coco": CocoFile,
    "voc": VocFile,
    "yolo": YoloFile,
}


def read_datafile(file: Path, home: Path | None = None) -> tuple[Reader, tuple[str, ...]]:
    """The data set that a YAML file describes, relative to its folder, or to `home` if that is given; and notes.

    Raises UserError for what is not YAML, for unknown keys (naming the nearest right one) and wrong values.
    """
    content = load_datafile(file)
    root, notes = _root(home or file.parent, content)
    kind = str(content.get("format", _guess(content, root)))
    if kind not in FORMATS:
        raise UserError(f"{file}: unknown format '{kind[:40]}'", nearest(kind, FORMATS))
    if kind == "yolo":
        content = _as_yolo(file, content)
    try:
        return FORMATS[kind].model_validate(content).reader(root), notes
    except ValidationError as error:
        raise _explain(file, error) from error


def load_datafile(file: Path) -> dict[str, Any]:
    """What is written in a data set's YAML file.

    Raises UserError for what is not YAML, holds no keys, or names a path that no file can have.
    """
    content = read_yaml(file)
    if not isinstance(content, dict):
        keys = ", ".join(CocoFile.model_fields)
        raise UserError(f"{file} describes no data set", f"expected the keys {keys}")
    for key in ("path", *SPLITS, "valid", "validation"):
        entry = content.get(key)
        entries = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else [entry]
        for path in entries:
            if isinstance(path, str) and (fault := path_fault(path)):
                raise UserError(f"{file}: '{key}' names {path[:40]!r}: {fault}")
    return content


def _root(home: Path, content: dict[str, Any]) -> tuple[Path, tuple[str, ...]]:
    """The data set's folder, or the YAML's own where `path` is not there, as on another machine; and what to note."""
    root = absolute(home / os.path.expanduser(_slashes(str(content.get("path") or "."))))
    if os.path.isdir(root):
        return root, ()
    splits = [content[name] for name in SPLITS if content.get(name)]
    first = next(iter(splits[0]), None) if splits and isinstance(splits[0], list) else next(iter(splits), None)
    if isinstance(first, str) and os.path.exists(_find(home, first)):
        return absolute(home), (f"`path` is not there, {root}: taken as {absolute(home)}.",)
    raise missing("the data set's `path`", root)


def _find(root: Path, entry: str) -> Path:
    """A split's entry; Roboflow writes ../train/images for train/images."""
    path = absolute(root / os.path.expanduser(_slashes(entry)))
    nearer = absolute(root / _slashes(entry).removeprefix("../"))
    return nearer if os.path.exists(nearer) and not os.path.exists(path) else path


def _slashes(path: str) -> str:
    return path if os.path.exists(path) else path.replace("\\", "/")


def _guess(content: dict[str, Any], root: Path) -> str:
    """COCO if a split names an annotation file, YOLO if one names images; else VOC."""
    splits = [content[name] for name in SPLITS if content.get(name) is not None]
    if any(isinstance(split, dict) or (isinstance(split, str) and split.endswith(".json")) for split in splits):
        return "coco"
    entries = [entry for split in splits for entry in (split if isinstance(split, list) else [split])]
    seen = any(isinstance(entry, str) and os.path.exists(_find(root, entry)) for entry in entries)
    return "yolo" if seen or "nc" in content or not find_voc(root) else "voc"


def _as_yolo(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The content with `val` called so; a key that is nearly one of ours is refused, others are for other programs."""
    content = {"val" if key in ("valid", "validation") else key: value for key, value in content.items()}
    for key in content:
        near = difflib.get_close_matches(str(key), YoloFile.model_fields, n=1, cutoff=0.75)
        if near and near[0] != key:
            raise UserError(f"{file}: unknown key '{key}'", f"did you mean {near[0]}?")
    return content


def _explain(file: Path, error: ValidationError) -> UserError:
    """The first thing wrong, in one sentence."""
    first = error.errors()[0]
    if not first["loc"]:
        return UserError(f"{file}: {first['msg'].removeprefix('Value error, ')}")
    *above, key = (str(part) for part in first["loc"])
    place = ".".join([*above, key])
    if first["type"] == "extra_forbidden":
        known = CocoSplit.model_fields if above else CocoFile.model_fields
        return UserError(f"{file}: unknown key '{place}'", nearest(key, known))
    if first["type"] == "missing":
        return UserError(f"{file}: '{place}' is missing")
    return UserError(f"{file}: '{place}' is wrong: {first['msg']}")
