"""Data sets: a YAML file, an annotation file, a folder, a zip file or a shipped name, opened as splits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cledet.data.download.archives import SETS, SHIPPED
from cledet.data.download.fetch import Phase
from cledet.data.download.unpacked import silent, unpacked
from cledet.data.formats.coco import CocoFiles
from cledet.data.formats.coco_files import find_coco, sniff_coco, split_name
from cledet.data.formats.data_yaml import SPLITS, find_datafile, load_datafile, read_datafile
from cledet.data.formats.division import DividedReader, Division, read_division
from cledet.data.formats.layouts import LAYOUTS, read_file, recognize
from cledet.data.formats.paths import absolute, cache_folder, match_split, not_found_error, split_kind
from cledet.data.formats.reader import Reader
from cledet.data.formats.voc import VocFolder, find_voc
from cledet.data.formats.yolo_files import find_yolo
from cledet.data.index import Bools, DetectionIndex
from cledet.data.index_cache import cached
from cledet.errors import UserError, nearest


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data set whose splits are known and not yet read."""

    name: str
    reader: Reader | DividedReader
    single: bool = False
    """Whether the data set is one annotation file, which serves as any split."""
    notes: tuple[str, ...] = ()
    """Warnings for the caller to print."""
    where: str = ""
    """Where annotations and images were found, for a data set that was recognised by content."""

    def __str__(self) -> str:
        """Return a line for the log: name, format, where annotations and images were found, splits."""
        where = f" ({self.where})" if self.where else ""
        return f"{self.name}: {self.reader.format}{where}, {', '.join(self.splits)}"

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the names of the splits."""
        return tuple(self.reader.splits)

    def find(self, split: str) -> str | None:
        """Match a split name to an existing split ("val" also matches "valid" and "val2017"); None without a match.

        Any name matches the only split of an undivided data set.
        """
        undivided = len(self.splits) == 1 and split_kind(self.splits[0]) not in SPLITS
        return self.splits[0] if self.single or undivided else match_split(split, self.splits)

    def index(self, split: str, *, need_images: bool = True, allow_errors: bool = False) -> DetectionIndex:
        """Read one split.

        Images without a file are skipped with a note; with need_images=False files are not checked. With
        allow_errors=True the index may have annotation errors, for `cledet check` to list.

        Raises UserError for an unknown split, invalid annotations, and if no image has a file.
        """
        name = self.find(split)
        if name is None:
            raise UserError(f"{self.name} has no split '{split}'", nearest(split, self.splits))
        files, state = self.reader.inputs(name)
        options = f"{self.reader}\n{name}\n{state}"
        index = cached(files, options, lambda: self.reader.read(name), need_images=need_images)
        index = replace(index, name=f"{self.name}/{index.name}", notes=(*self.notes, *index.notes))
        if index.annotation_errors and not allow_errors:
            error = index.annotation_errors[0]
            raise UserError(f"{index.name}: {error.text}", HINTS.get(error.kind, "`cledet check` lists all errors"))
        if len(index) == 0:
            raise _no_images_error(index)
        return _note_degenerate(_with_files(index) if need_images else index)

    def read_splits(self, names: Sequence[str] = (), *, need_images: bool = True) -> dict[str, DetectionIndex]:
        """Read the named splits, by default all, by their own names and in their order. Raises UserError as `index`."""
        found = {self.find(name) or name for name in names or self.splits}
        chosen = [split for split in self.splits if split in found] + sorted(found.difference(self.splits))
        return {split: self.index(split, need_images=need_images) for split in chosen}


def open_source(data: str | Path, phase: Phase = silent) -> DataSource:
    """Open a YAML file, an annotation file, a folder in any known layout, a zip file of one, or a shipped set by name.

    A zip file is unpacked into the cache the first time, with `phase` as progress display.
    Raises UserError with the path tried and its neighbours if there is no such data set, and for a folder whose
    annotations are of no known format, or of several.
    """
    if division := read_division(data):
        return open_division(division, phase)
    path = absolute(Path(data))
    shipped_name = str(data).removesuffix(".yaml")
    if not os.path.exists(path) and shipped_name in SHIPPED:
        return _open_shipped(shipped_name)
    if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"{path} cannot be read: permission denied")
    if os.path.isdir(path):
        return _open_folder(path)
    if not os.path.isfile(path):
        error = not_found_error("data set", path)
        raise UserError(error.message, f"{error.hint}; ships with the package: {', '.join(SHIPPED)}")
    if path.suffix.lower() in (".yaml", ".yml"):
        return _open_yaml(path)
    if path.suffix.lower() == ".zip":
        return _open_zip(path, phase)
    return _open_file(path)


def _open_zip(file: Path, phase: Phase) -> DataSource:
    """Open a zip file: its folder in the cache, or the only folder in that, as many archives have."""
    folder = top = unpacked(file, phase)
    while inner := _only_folder(folder):
        folder = inner
    source = _open_folder(folder)
    return replace(source, name=file.stem, where=", ".join(filter(None, (f"unpacked in {top}", source.where))))


def _open_file(path: Path) -> DataSource:
    """Open one annotation file; a .json file of no other format is taken for a COCO file."""
    is_json = path.suffix.lower() == ".json"
    if not (is_json and sniff_coco(path)) and (found := read_file(path)):
        single = len(found.reader.splits) == 1
        return DataSource(found.home.name, found.reader, single=single, where=found.where)
    if is_json:
        home = path.parents[1] if path.parent.name == "annotations" else path.parent
        return DataSource(home.name, CocoFiles({split_name(path): (path, None)}, root=home), single=True)
    if wanted := [layout.wanted for layout in LAYOUTS.values() if path.suffix.lower() in layout.suffixes]:
        raise UserError(f"{path} is no data set", f"expected {'; or '.join(wanted)}")
    suffixes = dict.fromkeys(suffix for layout in LAYOUTS.values() for suffix in layout.suffixes)
    hint = f"expected a .yaml, a folder or .zip, a shipped name, or annotations in {', '.join(suffixes)}"
    raise UserError(f"{path} is no data set", hint)


def open_division(division: Division, phase: Phase = silent) -> DataSource:
    """Open a data set with the parts of a division as its splits train and val."""
    if read_division(division.data):
        raise UserError(f"{division.data} is a division itself and cannot be divided", "name the data set it divides")
    source = open_source(division.data, phase)
    if division.split not in source.splits:
        raise UserError(f"{source.name} has no split '{division.split}'", nearest(division.split, source.splits))
    return DataSource(source.name, DividedReader(source.reader, division), notes=source.notes, where=source.where)


def _open_shipped(name: str) -> DataSource:
    """Open a shipped data set in the cache: `shapes` is drawn, others must have been downloaded."""
    if name == "shapes":
        from cledet.data.shapes.dataset import shapes_folder  # importing OpenCV takes a moment

        shapes_folder()
    file = SETS / f"{name}.yaml"
    root = cache_folder() / str(load_datafile(file)["path"])
    if not root.is_dir():
        hint = f"cledet data download {name}; or --data with the path of a YAML of your own"
        raise UserError(f"the data set {name} is not on this machine: {root} does not exist", hint)
    return _open_yaml(file, cache_folder())


def _open_yaml(file: Path, home: Path | None = None) -> DataSource:
    reader, notes = read_datafile(file, home)
    if not reader.splits:
        raise UserError(f"{file} names no split", "add train:, val: or test:")
    return DataSource(file.stem if file.stem != "data" else file.parent.name, reader, notes=notes)


def _open_folder(folder: Path) -> DataSource:
    """Open a folder: by its data.yaml, in a usual layout, by another YAML file, else by the content of its files."""
    for name in ("data.yaml", "data.yml"):
        if (folder / name).is_file():
            return _open_yaml(folder / name)
    years = folder.glob("VOC[0-9]*/JPEGImages")
    if (lists := find_voc(folder)) and ((folder / "JPEGImages").is_dir() or next(years, None)):
        return DataSource(folder.name, VocFolder(folder, lists))
    if files := find_coco(folder):
        return DataSource(folder.name, CocoFiles(files, root=folder))
    if datafile := find_datafile(folder):
        return _open_yaml(datafile)
    if yolo := find_yolo(folder):
        return DataSource(folder.name, yolo)
    if inner := _only_folder(folder):
        return _open_folder(inner)
    found = recognize(folder)
    return DataSource(found.home.name, found.reader, where=found.where)


def _only_folder(folder: Path) -> Path | None:
    """Return the only visible entry of a folder if it is a folder, as archives often hold."""
    visible = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX"]
    alone = len(visible) == 1 and visible[0].is_dir()
    return visible[0] if alone and not folder.resolve().is_relative_to(visible[0].resolve()) else None


def _with_files(index: DetectionIndex) -> DetectionIndex:
    """Drop the images that have no file, with a note."""
    exists = _exist(index.paths.tolist())
    if exists.all():
        return index
    first = Path(str(index.paths[~exists][0]))
    if not exists.any():
        error = not_found_error("image", first)
        raise UserError(f"{index.name}: none of its {len(index)} images exists, {error.message}", error.hint)
    note = f"{index.name}: {(~exists).sum()} of {len(index)} images have no file, the first is {first}: skipped."
    return replace(index.subset(np.flatnonzero(exists)), notes=(*index.notes, note))


def _exist(paths: list[str]) -> Bools:
    """Mark the files that exist; each folder is listed once."""
    files: set[str] = set()
    for folder in {os.path.dirname(path) for path in paths}:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            files |= {entry.path for entry in entries if entry.is_file()}
    return np.array([path in files for path in paths], dtype=np.bool_)


def _no_images_error(index: DetectionIndex) -> UserError:
    """Return the error for an index without images, with the annotation errors that may have lost them."""
    if not index.annotation_errors:
        return UserError(f"{index.name} has no images")
    texts = "; ".join(error.text for error in index.annotation_errors)
    others = [example for error in index.annotation_errors for example in error.examples[1:]]
    hint = HINTS.get(index.annotation_errors[0].kind, "")
    return UserError(f"{index.name} has no images without errors: {texts}", hint, others)


def _note_degenerate(index: DetectionIndex) -> DetectionIndex:
    rows = np.flatnonzero(index.degenerate())
    if len(rows) == 0:
        return index
    image = Path(str(index.paths[index.image_of_boxes()[rows[0]]])).name
    count = f"{len(rows)} of {index.num_boxes} boxes without width or height, the first in {image}"
    return replace(index, notes=(*index.notes, f"{index.name}: {count}: not trained on."))


HINTS = {"outside": "move the images into it, or write `outside: true` into the data set's YAML"}
"""Hints for kinds of annotation errors; by default, to run `cledet check`."""
