"""Writing of a data set: annotations, images and a data.yaml in a new folder, all of it or nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml

from cledet.data.convert.classes import unify_classes
from cledet.data.convert.limits import Losses, count_ids, fit_coco, fit_voc, fit_yolo
from cledet.data.convert.names import unique_names
from cledet.data.convert.sizes import compare_sizes, complete_sizes, omit_turned_sizes, require_sizes
from cledet.data.convert.write_coco import write_coco
from cledet.data.convert.write_voc import write_voc
from cledet.data.convert.write_yolo import write_yolo
from cledet.data.formats.data_yaml import SPLITS
from cledet.data.formats.paths import absolute, draft_of, match_split
from cledet.data.index import DetectionIndex
from cledet.errors import UserError
from cledet.io.locks import PREFIX

Format = Literal["coco", "yolo", "voc"]
Placement = Literal["copy", "link", "hardlink", "none"]
Splits = dict[str, DetectionIndex]


@dataclass(frozen=True, slots=True)
class Written:
    """A data set that was written."""

    folder: Path
    format: Format
    splits: Splits
    notes: tuple[str, ...]
    """Losses and changes, a sentence each."""

    def to_dict(self) -> dict[str, Any]:
        """Return the data set as plain values, for JSON."""
        first = next(iter(self.splits.values()))
        return {
            "folder": str(self.folder),
            "format": self.format,
            "classes": list(first.classes),
            "splits": {name: {"images": len(s), "boxes": s.num_boxes} for name, s in self.splits.items()},
            "notes": list(self.notes),
        }


def write_dataset(
    splits: Mapping[str, DetectionIndex],
    kind: Format,
    folder: Path,
    *,
    images: Placement = "copy",
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write splits to a new folder in one format. `progress` is called with (images placed, number of images).

    The folder is complete or does not exist: it is written beside its place and renamed. Raises UserError if it is not
    empty, for images that do not have their size, for names that the format cannot hold, and for a full disk.
    """
    folder, spec, losses = new_folder(folder), FORMATS[kind], Counter[str]()
    fitted = dict(zip(splits, unify_classes(list(splits.values()))))
    for name in next(iter(fitted.values())).classes:
        if "\0" in name:
            raise UserError(f"the class name {name!r} holds a NUL character", "rename it in the source")
    fitted = {name: spec.fit(_sized(index, kind, images), losses) for name, index in fitted.items()}
    names = _file_names(fitted, kind)
    for split, index in fitted.items():
        if spec.first_class is not None:
            count_ids(index, names[split], spec.first_class, losses)
        renamed = sum(os.path.basename(p) != name for p, name in zip(index.paths.tolist(), names[split]))
        losses["images have a new file name, so that each has one of its own"] += renamed
    try:
        with draft_of(folder) as draft:
            entries = {name: spec.write(draft, name, index, names[name]) for name, index in fitted.items()}
            _write_yaml(draft / "data.yaml", kind, next(iter(fitted.values())).classes, entries)
            _place(_image_files(fitted, names, draft, spec.flat), images, progress)
            if folder.exists():
                folder.rmdir()  # it is empty
    except OSError as error:
        raise _unwritable(folder, error) from None
    return Written(folder, kind, fitted, tuple(f"{count:,} {text}" for text, count in losses.items() if count))


def new_folder(folder: Path) -> Path:
    """Return the absolute path of a folder to be written. Raises UserError if it is a file or holds anything."""
    path = Path(os.path.realpath(absolute(folder)))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists, and nothing is overwritten", "name a new folder")
    return path


def _sized(index: DetectionIndex, kind: Format, images: Placement) -> DetectionIndex:
    if images == "none":
        return require_sizes(index) if kind == "yolo" else omit_turned_sizes(index)
    return compare_sizes(index) if kind == "yolo" else complete_sizes(index)


def _file_names(splits: Splits, kind: Format) -> dict[str, list[str]]:
    """Return the file names of each split's images.

    In VOC, an image that several splits list with the same annotation has one name.
    """
    if not FORMATS[kind].flat:
        return {split: unique_names(index.paths.tolist()) for split, index in splits.items()}
    keys = {split: _image_keys(index) for split, index in splits.items()}
    distinct = list(dict.fromkeys(key for rows in keys.values() for key in rows))
    name = dict(zip(distinct, unique_names([path for path, _, _ in distinct], blanks=False)))
    return {split: [name[key] for key in rows] for split, rows in keys.items()}


def _image_keys(index: DetectionIndex) -> list[tuple[str, bytes, int]]:
    """Return path and annotation of each image, and its number among the split's images that share these."""
    seen, keys = Counter[tuple[str, bytes]](), []
    for image, path in enumerate(index.paths.tolist()):
        rows = index.rows(image)
        annotation = b"".join(column[rows].tobytes() for column in (index.labels, index.xywh, index.ignore))
        keys.append((path, annotation, seen[path, annotation]))
        seen[path, annotation] += 1
    return keys


def _image_files(splits: Splits, names: dict[str, list[str]], draft: Path, flat: bool) -> dict[Path, str]:
    """Return the source of each image file of the copy, and make their folders."""
    files: dict[Path, str] = {}
    for split, index in splits.items():
        folder = draft / "JPEGImages" if flat else draft / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        files |= {folder / name: str(path) for name, path in zip(names[split], index.paths)}
    return files


def _place(files: dict[Path, str], images: Placement, progress: Callable[[int, int], None] | None) -> None:
    if images == "none":
        return
    places: dict[str, Callable[[str, Path], object]] = {
        "copy": shutil.copyfile, "link": os.symlink, "hardlink": os.link,
    }  # fmt: skip
    for done, (target, source) in enumerate(files.items(), 1):
        places[images](os.path.realpath(source), target)
        if progress is not None:
            progress(done, len(files))


def _write_yaml(file: Path, kind: Format, classes: tuple[str, ...], entries: dict[str, Any]) -> None:
    """Write a data.yaml that names the classes and the splits, under train, val and test if they are of that kind."""
    keys = {split: key for key in SPLITS if (split := match_split(key, entries)) is not None}
    content = {key: entries[split] for split, key in keys.items()}
    more = {split: entry for split, entry in entries.items() if split not in keys}
    content |= {"splits": more} if more else {}
    text = yaml.safe_dump({"format": kind, **content, "names": list(classes)}, sort_keys=False, allow_unicode=True)
    file.write_text(text, encoding="utf-8")


def _unwritable(folder: Path, error: OSError) -> UserError:
    """Return the error for a folder that could not be written, or an image that could not be read."""
    hints = {errno.EXDEV: "use --images copy or link", errno.ENOSPC: "free some space", errno.EDQUOT: "free some space"}
    place = f" ({error.filename})" if error.filename and PREFIX not in str(error.filename) else ""
    reason = f"{error.strerror or error}{place}"
    return UserError(f"{folder} could not be written: {reason}", hints.get(error.errno or 0, ""))


class _Spec(NamedTuple):
    write: Callable[[Path, str, DetectionIndex, list[str]], Any]
    fit: Callable[[DetectionIndex, Losses], DetectionIndex]
    first_class: int | None
    """Id of the first class; None if the format holds ids."""
    flat: bool
    """Whether the images of all splits are in one folder."""


FORMATS: dict[Format, _Spec] = {
    "coco": _Spec(write_coco, fit_coco, None, False),
    "voc": _Spec(write_voc, fit_voc, 1, True),
    "yolo": _Spec(write_yolo, fit_yolo, 0, False),
}
