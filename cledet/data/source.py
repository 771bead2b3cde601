"""Opens a data set, whatever it is given as."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cledet.data.coco import CocoFiles, find_coco
from cledet.data.datafile import read_datafile
from cledet.data.index import DetectionIndex
from cledet.data.paths import absolute, match_split, missing
from cledet.data.voc import VocFolder, find_lists, is_voc
from cledet.errors import UserError, nearest

SHIPPED = ("shapes",)
"""The names of the data sets that come with the package."""


@dataclass(frozen=True, slots=True)
class DataSource:
    """A data set, of which nothing but the list of splits has been read."""

    name: str
    reader: CocoFiles | VocFolder
    single: bool = False
    """Whether the data set is one annotation file, which then serves as any split."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of the splits that exist."""
        return tuple(self.reader.splits)

    def find(self, split: str) -> str | None:
        """The existing split that is meant ("val" also finds "valid" and "val2017"), if there is one."""
        return self.splits[0] if self.single else match_split(split, self.splits)

    def index(self, split: str, *, need_images: bool = True, faulty: bool = False) -> DetectionIndex:
        """Read one split.

        Images without a file are left out and noted; with need_images=False no file is looked for. With
        faulty=True an index may have faults, which the doctor wants to list.

        Raises UserError for an unknown split, bad annotations, and where no image has a file.
        """
        found = self.find(split)
        if found is None:
            raise UserError(f"{self.name} has no split '{split}'", nearest(split, self.splits))
        index = self.reader.read(found)
        index = replace(index, name=f"{self.name}/{index.name}")
        if index.faults and not faulty:
            fault = index.faults[0]
            message = f"{index.name}: {fault.count} {fault.words}, the first: {fault.examples[0]}"
            raise UserError(message, "`cledet check` lists them; mend or remove them")
        if len(index) == 0:
            raise UserError(f"{index.name} has no images")
        return _note_degenerate(_with_files(index) if need_images else index)


def open_source(data: str | Path) -> DataSource:
    """Open a YAML file, a COCO annotation file, a COCO or VOC folder, or a set that ships by name.

    Raises UserError where there is nothing of the kind, naming the path tried and what lies beside it.
    """
    if str(data) in SHIPPED:
        from cledet.data.shapes import shapes_folder

        return DataSource(str(data), CocoFiles(find_coco(shapes_folder())))
    path = absolute(Path(data))
    if path.is_dir():
        return DataSource(path.name, _open_folder(path))
    if not path.is_file():
        error = missing("data set", path)
        raise UserError(error.message, f"{error.hint}; ships with the package: {', '.join(SHIPPED)}")
    if path.suffix.lower() == ".json":
        home = path.parents[1] if path.parent.name == "annotations" else path.parent
        split = path.stem.removeprefix("instances_")
        return DataSource(home.name, CocoFiles({split: (path, None)}), single=True)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _refuse_empty(DataSource(path.stem, read_datafile(path)), path)
    raise UserError(f"{path} is no data set", "expected a .yaml, a COCO .json, a folder, or a shipped name")


def _open_folder(folder: Path) -> CocoFiles | VocFolder:
    if is_voc(folder):
        return VocFolder(folder, find_lists(folder))
    splits = find_coco(folder)
    if splits:
        return CocoFiles(splits)
    held = sorted(entry.name for entry in folder.iterdir())
    raise UserError(
        f"{folder} holds neither VOC's Annotations/*.xml nor COCO's annotations/*.json",
        f"it holds {', '.join(held[:8])}" if held else "it is empty",
    )


def _refuse_empty(source: DataSource, file: Path) -> DataSource:
    if not source.splits:
        raise UserError(f"{file} names no split", "add train:, val: or test:")
    return source


def _with_files(index: DetectionIndex) -> DetectionIndex:
    """The index without the images that have no file, which its notes then name."""
    there = np.array([Path(path).is_file() for path in index.paths.tolist()], dtype=np.bool_)
    if there.all():
        return index
    first = Path(str(index.paths[~there][0]))
    if not there.any():
        error = missing("image", first)
        raise UserError(f"{index.name}: none of its {len(index)} images is there, {error.message}", error.hint)
    note = f"{index.name}: {(~there).sum()} of {len(index)} images have no file, {first} first: left out."
    return replace(index.subset(np.flatnonzero(there)), notes=(*index.notes, note))


def _note_degenerate(index: DetectionIndex) -> DetectionIndex:
    rows = np.flatnonzero(index.degenerate())
    if len(rows) == 0:
        return index
    image = Path(str(index.paths[index.image_of_boxes()[rows[0]]])).name
    what = f"{len(rows)} of {index.num_boxes} boxes without width or height, the first in {image}"
    note = f"{index.name}: {what}: not trained on."
    return replace(index, notes=(*index.notes, note))
