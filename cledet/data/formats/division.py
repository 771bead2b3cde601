"""Division of a data set into a training and a validation part by lists of images, in a YAML file beside them.

The YAML names the data set, its split, and the two lists:

    divided: /data/photos
    split: all
    train: train.txt
    val: val.txt

The lists hold image paths relative to the data set, so that one line is to be changed if it moves.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cledet.data.formats.data_yaml import first_error, load_datafile
from cledet.data.formats.paths import absolute, cache_folder
from cledet.data.formats.reader import Reader
from cledet.data.index import DetectionIndex
from cledet.errors import UserError

KEY = "divided"
"""The key by which the YAML file is recognized."""
LISTS = ("train", "val")


class _DivisionFile(BaseModel):
    """The keys of a division's YAML file."""

    model_config = ConfigDict(extra="forbid")
    divided: str
    split: str
    train: str
    val: str


@dataclass(frozen=True)
class Division:
    """A data set of which one split is divided into two lists of images."""

    data: str
    """The data set: a path or shipped name."""
    split: str
    train: tuple[str, ...] = field(repr=False)
    """Absolute image paths."""
    val: tuple[str, ...] = field(repr=False)

    def files(self, name: str) -> dict[str, bytes]:
        """Return the content of the files, by name: NAME.yaml, and train.txt and val.txt with one path per line.

        Raises UserError for a path with a line break.
        """
        broken = next((path for path in (*self.train, *self.val) if "\n" in path), None)
        if broken is not None:
            raise UserError(f"{broken!r} has a line break in its name and cannot be listed", "rename it")
        values = {KEY: self.data, "split": self.split, "train": "train.txt", "val": "val.txt"}
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in values.items()]
        home = _home(self.data)
        lists = {
            f"{part}.txt": b"".join(os.fsencode(os.path.relpath(path, home)) + b"\n" for path in paths)
            for part, paths in (("train", self.train), ("val", self.val))
        }
        return {**lists, f"{name}.yaml": "".join(lines).encode()}


def read_division(file: str | Path) -> Division | None:
    """Read a division from its YAML file; None for any other data set.

    Raises UserError for unknown or missing keys, and for a list that cannot be read.
    """
    path = absolute(Path(file))
    if path.suffix.lower() not in (".yaml", ".yml") or not os.path.isfile(path):
        return None
    content = load_datafile(path)
    if KEY not in content:
        return None
    try:
        parts = _DivisionFile.model_validate(content)
    except ValidationError as error:
        raise first_error(path, error, _DivisionFile.model_fields, ()) from error
    given = absolute(path.parent / os.path.expanduser(parts.divided))
    data = str(given) if os.path.exists(given) else parts.divided  # or a shipped name
    lists = (_read_list(absolute(path.parent / name), _home(data)) for name in (parts.train, parts.val))
    return Division(data, parts.split, *lists)


def _home(data: str) -> Path:
    """Return the folder of a data set; the cache, for a shipped name."""
    path = absolute(Path(data))
    return cache_folder() if not os.path.exists(path) else path if os.path.isdir(path) else path.parent


def _read_list(file: Path, home: Path) -> tuple[str, ...]:
    """Read image paths, one per line, relative to `home`; file names that are not UTF-8 are kept."""
    try:
        lines = file.read_bytes().replace(b"\r\n", b"\n").split(b"\n")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}", "it lists a part of a divided data set") from None
    return tuple(os.path.normpath(os.path.join(home, os.fsdecode(line))) for line in lines if line.strip())


@dataclass(frozen=True, slots=True)
class DividedReader:
    """A reader of the parts of a division, and of the other splits of its data set."""

    base: Reader | DividedReader
    """The reader of the data set."""
    division: Division

    @property
    def format(self) -> str:
        """Return the format of the data set."""
        return self.base.format

    @property
    def splits(self) -> tuple[str, ...]:
        """Return the two parts, and the data set's other splits."""
        return (*LISTS, *(name for name in self.base.splits if name not in (*LISTS, self.division.split)))

    def read(self, split: str) -> DetectionIndex:
        """Read one split; images that were added to the data set, or are gone from it, are noted."""
        if split not in LISTS:
            return self.base.read(split)
        index = self.base.read(self.division.split)
        paths, listed = index.paths.tolist(), set(getattr(self.division, split))
        known = {*self.division.train, *self.division.val}
        gone, others = listed.difference(paths), len(set(paths) - known)
        notes = list(index.notes)
        if gone:
            notes.append(f"{split}: {len(gone)} listed images are no longer in the data set, the first is {min(gone)}.")
        if others:
            notes.append(f"{split}: {others} images of the data set are in neither part: they are new, or had no file.")
        part = index.subset(np.flatnonzero([path in listed for path in paths]))
        return replace(part, name=split, notes=tuple(notes))

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the files that `read` parses, and a text on which the result depends besides."""
        if split not in LISTS:
            return self.base.inputs(split)
        files, state = self.base.inputs(self.division.split)
        lists = "\0".join((*self.division.train, "", *self.division.val)).encode("utf-8", "surrogatepass")
        return files, f"{state}\n{split}\n{hashlib.blake2b(lists, digest_size=16).hexdigest()}"
