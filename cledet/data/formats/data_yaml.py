"""YAML files that describe a data set, checked key by key; an Ultralytics data.yaml is one."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from cledet.data.formats.coco import CocoFiles
from cledet.data.formats.paths import absolute, invalid_path_reason, not_found_error
from cledet.data.formats.reader import Reader
from cledet.data.formats.voc import VocFolder, find_voc
from cledet.data.formats.yolo import MOST_CLASSES, YoloFolder
from cledet.errors import UserError, nearest
from cledet.safe_yaml import read_yaml

SPLITS = ("train", "val", "test")


def _listed(value: object) -> object:
    """Convert a single name, or names by number, to a list of names; numbers become strings."""
    if isinstance(value, dict):
        if not all(isinstance(number, int | str) for number in value):
            raise ValueError("names must be numbered by integers")
        numbered = {int(number): name for number, name in value.items()}
        if sorted(numbered) != list(range(len(numbered))):
            raise ValueError(f"names must be numbered from 0 to {len(numbered) - 1}")
        value = [numbered[number] for number in range(len(numbered))]
    if isinstance(value, list) and any(isinstance(name, bool) for name in value):
        raise ValueError("YAML parses yes, no, on and off as booleans: put quotes around them")
    if isinstance(value, list) and not all(isinstance(name, str | int | float) for name in value):
        raise ValueError("each name must be a string: put quotes around null, and nest no lists")
    return [str(name) for name in value] if isinstance(value, list) else [value] if isinstance(value, str) else value


def _split(value: object) -> object:
    """Convert an annotation file alone to a split without an image folder, which is then searched for."""
    return {"annotations": value} if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Split = TypeVar("Split")


class CocoSplit(BaseModel):
    """Annotation file and image folder of one split of a COCO data set."""

    model_config = ConfigDict(extra="forbid")
    annotations: str
    images: str | None = None

    def files(self, root: Path) -> tuple[Path, Path | None]:
        """Return the absolute paths of the annotation file and, if given, of the image folder."""
        return absolute(root / self.annotations), absolute(root / self.images) if self.images else None


class DataFile(BaseModel, Generic[Split]):
    """The keys common to all formats; the type of a split depends on the format."""

    model_config = ConfigDict(extra="forbid")
    train: Split | None = None
    val: Split | None = None
    test: Split | None = None
    splits: dict[str, Split] = {}
    """More splits, by names of the user's own."""
    format: str = ""
    path: str = "."
    names: Names = ()
    outside: bool = False
    """Whether annotations may name images outside the data set's folder."""
    archives: list[dict[str, Any]] = []
    """Archives for `cledet data download`."""

    def all_splits(self) -> dict[str, Split]:
        """Return the splits in the file by name."""
        return {name: split for name in SPLITS if (split := getattr(self, name))} | self.splits


class CocoFile(DataFile[Annotated[CocoSplit, BeforeValidator(_split)]]):
    """The keys of a COCO data set's YAML file."""

    def reader(self, root: Path) -> CocoFiles:
        """Return the reader of the data set, with paths relative to `root`."""
        splits = {name: split.files(root) for name, split in self.all_splits().items()}
        return CocoFiles(splits, self.names, None if self.outside else root)


class VocFile(DataFile[Names]):
    """The keys of a VOC data set's YAML file; a split is one list of ImageSets/Main, or several."""

    def reader(self, root: Path) -> VocFolder:
        """Return the reader of the data set in the folder `root`; without splits in the YAML, those of its lists."""
        return VocFolder(root, self.all_splits() or find_voc(root), self.names)


class YoloFile(DataFile[Names]):
    """The keys of an Ultralytics data.yaml; a split is a folder of images, a list of images, or several of them."""

    model_config = ConfigDict(extra="ignore")
    nc: Annotated[int, Field(ge=0, le=MOST_CLASSES)] | None = None
    kpt_shape: list[int] | None = None

    @model_validator(mode="after")
    def _check_names(self) -> YoloFile:
        if self.names and self.nc is not None and self.nc != len(self.names):
            raise ValueError(f"nc is {self.nc}, but there are {len(self.names)} names")
        return self

    def reader(self, root: Path) -> YoloFolder:
        """Return the reader of the data set, with paths relative to `root`."""
        splits = {
            name: tuple(_split_path(root, entry) for entry in entries) for name, entries in self.all_splits().items()
        }
        names = self.names or tuple(str(number) for number in range(self.nc or 0))
        return YoloFolder(splits, names, None if self.outside else root, self.kpt_shape is not None)


FORMATS: dict[str, type[CocoFile | VocFile | YoloFile]] = {"coco": CocoFile, "voc": VocFile, "yolo": YoloFile}


def read_datafile(file: Path, home: Path | None = None) -> tuple[Reader, tuple[str, ...]]:
    """Return the reader of the data set that a YAML file describes, and notes.

    Paths are relative to `home`, by default the file's folder. Raises UserError for invalid YAML, unknown keys (with
    the nearest valid one) and invalid values.
    """
    content = load_datafile(file)
    root, notes = _root(home or file.parent, content)
    kind = str(content.get("format", _guess_format(content, root)))
    if kind not in FORMATS:
        raise UserError(f"{file}: unknown format '{kind[:40]}'", nearest(kind, FORMATS))
    if kind == "yolo":
        content = _as_yolo(file, content)
    try:
        return FORMATS[kind].model_validate(content).reader(root), notes
    except ValidationError as error:
        raise first_error(file, error, CocoFile.model_fields, CocoSplit.model_fields) from error


def find_datafile(folder: Path) -> Path | None:
    """Find the only YAML file in a folder that names splits by paths; None if there is none.

    Raises UserError if there are several.
    """
    files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".yaml", ".yml")]
    found = [file for file in files if file.is_file() and _names_splits(file)]
    if len(found) > 1:
        names = " and ".join(file.name for file in found[:3])
        raise UserError(f"{folder} has several data set files: {names}", "pass one of them as --data")
    return found[0] if found else None


def _names_splits(file: Path) -> bool:
    """Return whether a YAML file has a split with COCO's annotations, or splits of images and classes or a path."""
    content = _mapping(file)
    splits = [content.get(key) for key in (*SPLITS, "valid", "validation")]
    paths = any(isinstance(split, str | list) and split for split in splits)
    coco = any("annotations" in split if isinstance(split, dict) else str(split).endswith(".json") for split in splits)
    return coco or (paths and any(content.get(key) for key in ("names", "nc", "path")))


def class_names(file: Path) -> tuple[str, ...]:
    """Return the class names in a YAML file that names splits; empty if it has none, or no valid ones."""
    try:
        return TypeAdapter(Names).validate_python(_mapping(file).get("names", ())) if _names_splits(file) else ()
    except ValidationError:
        return ()


def _mapping(file: Path) -> dict[str, Any]:
    try:
        content = read_yaml(file)
    except UserError:
        return {}
    return content if isinstance(content, dict) else {}


def load_datafile(file: Path) -> dict[str, Any]:
    """Parse a data set's YAML file.

    Raises UserError for invalid YAML, content that is not a mapping, and invalid paths.
    """
    content = read_yaml(file)
    if not isinstance(content, dict):
        keys = ", ".join(CocoFile.model_fields)
        raise UserError(f"{file} describes no data set", f"expected the keys {keys}")
    named = {key: content.get(key) for key in ("path", *SPLITS, "valid", "validation")} | _more_splits(content)
    for key, entry in named.items():
        entries = entry if isinstance(entry, list) else entry.values() if isinstance(entry, dict) else [entry]
        for path in entries:
            if isinstance(path, str) and (reason := invalid_path_reason(path)):
                raise UserError(f"{file}: '{key}' names {path[:40]!r}: {reason}")
    return content


def _root(home: Path, content: dict[str, Any]) -> tuple[Path, tuple[str, ...]]:
    """Return the data set's folder and notes; falls back to the YAML's own folder if `path` does not exist."""
    root = absolute(home / os.path.expanduser(_slashes(str(content.get("path") or "."))))
    if os.path.isdir(root):
        return root, ()
    splits = [split for split in _entries(content) if split]
    first = next(iter(splits[0]), None) if splits and isinstance(splits[0], list) else next(iter(splits), None)
    if isinstance(first, str) and os.path.exists(_split_path(home, first)):
        return absolute(home), (f"`path` does not exist, {root}: {absolute(home)} is used instead.",)
    raise not_found_error("the data set's `path`", root)


def _split_path(root: Path, entry: str) -> Path:
    """Return the absolute path of a split's entry; Roboflow writes ../train/images for train/images."""
    path = absolute(root / os.path.expanduser(_slashes(entry)))
    nearer = absolute(root / _slashes(entry).removeprefix("../"))
    return nearer if os.path.exists(nearer) and not os.path.exists(path) else path


def _entries(content: dict[str, Any]) -> list[Any]:
    """Return the entries of all splits in a YAML file that are not null."""
    splits = {name: content.get(name) for name in SPLITS} | _more_splits(content)
    return [split for split in splits.values() if split is not None]


def _more_splits(content: dict[str, Any]) -> dict[str, Any]:
    more = content.get("splits")
    return more if isinstance(more, dict) else {}


def _slashes(path: str) -> str:
    return path if os.path.exists(path) else path.replace("\\", "/")


def _guess_format(content: dict[str, Any], root: Path) -> str:
    """Return "coco" if a split names an annotation file, "yolo" if a split names images, else "voc"."""
    splits = _entries(content)
    if any(isinstance(split, dict) or (isinstance(split, str) and split.endswith(".json")) for split in splits):
        return "coco"
    entries = [entry for split in splits for entry in (split if isinstance(split, list) else [split])]
    exists = any(isinstance(entry, str) and os.path.exists(_split_path(root, entry)) for entry in entries)
    return "yolo" if exists or "nc" in content or not find_voc(root) else "voc"


def _as_yolo(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Rename `valid` and `validation` to `val`, and reject misspelt keys; other programs' keys are allowed."""
    content = {"val" if key in ("valid", "validation") else key: value for key, value in content.items()}
    for key in content:
        near = difflib.get_close_matches(str(key), YoloFile.model_fields, n=1, cutoff=0.75)
        if near and near[0] != key:
            raise UserError(f"{file}: unknown key '{key}'", f"did you mean {near[0]}?")
    return content


def first_error(
    file: Path, error: ValidationError, keys: Iterable[str], nested_keys: Iterable[str], prefix: str = ""
) -> UserError:
    """Return the first validation error of a YAML file as a sentence; an unknown key is compared with the valid ones.

    `prefix` names the key of the validated part in the file.
    """
    first = error.errors()[0]
    location, message = first["loc"], first["msg"].removeprefix("Value error, ")
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    name = "".join([prefix, *parts]).removeprefix(".")
    if first["type"] == "extra_forbidden":
        hint = nearest(str(location[-1]), nested_keys if len(location) > 1 else keys)
        return UserError(f"{file}: unknown key '{name}'", hint)
    if first["type"] == "missing":
        return UserError(f"{file}: '{name}' is missing")
    return UserError(f"{file}: '{name}' is invalid: {message}" if name else f"{file}: {message}")
