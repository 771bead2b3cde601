"""Pascal VOC's XML files in any folders: as Kaggle, labelImg and Roboflow lay them out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.paths import read_lines
from cledet.data.formats.voc import class_names, index_of_xml, listed_stem, parse_xml, without_classes
from cledet.data.formats.walk import ImageFiles, closeness, divide, read_head, walk_folder
from cledet.data.index import DetectionIndex
from cledet.errors import UserError


@dataclass(frozen=True, slots=True)
class VocFiles:
    """VOC XML files in folders of any name; an image is found by the stem of its XML file, or by its `filename`."""

    root: Path
    """The folder below which images are searched."""
    folders: tuple[Path, ...]
    """The folders of the XML files."""
    splits: dict[str, tuple[Path, ...]]
    """The folders of each split, or its lists of image names."""
    format = "Pascal VOC"

    def read(self, split: str) -> DetectionIndex:
        """Read one split without opening its image files; the index is named after the split.

        Raises UserError if two XML files annotate one image.
        """
        errors = ErrorLog()
        files, every = self._files(split, errors), self._all_files()
        images = walk_folder(self.root).images()
        index = index_of_xml(split, files, class_names(every), partial(_image_paths, images=images), errors)
        left = images.unlisted({file.stem for file in every}, index.paths.tolist())
        note = f"{len(left)} images have no XML file, the first is {left[0]}: left out." if left else ""
        return replace(index, notes=(note,) if note else ())

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the files that `read` parses, those of all splits since they determine the classes; and all images."""
        lists = [entry for entry in self.splits[split] if entry.is_file()]
        return [*lists, *self._all_files()], str(walk_folder(self.root).images())

    def _all_files(self) -> list[Path]:
        return [file for folder in self.folders for file in xml_files(folder)]

    def _files(self, split: str, errors: ErrorLog) -> list[Path]:
        """Return the XML files of a split; names in lists without an XML file are logged."""
        parts = (xml_files(entry) if entry.is_dir() else self._listed(entry, errors) for entry in self.splits[split])
        return [file for part in parts for file in part]

    def _listed(self, file: Path, errors: ErrorLog) -> list[Path]:
        """Return the XML files that a list names; the closest to it of several with one name."""
        by_stem: dict[str, list[Path]] = {}
        for xml in self._all_files():
            by_stem.setdefault(xml.stem, []).append(xml)
        files = []
        for line in read_lines(file):
            if stem := listed_stem(line, by_stem):
                parts = file.parent.parts
                files.append(max(by_stem[stem], key=lambda xml: closeness(xml.parent.parts, parts)))
            else:
                errors.add("annotation", f"{file}: {line[:80]!r} has no XML file")
        return files


def _image_paths(files: Sequence[Path], images: ImageFiles) -> list[str]:
    """Return the image of every XML file. Raises UserError if two have the same."""
    owners: dict[str, Path] = {}
    for file in files:
        path = image_path(file, images)
        if path in owners:
            hint = "pass the folder of one of them as --data, or delete one"
            raise UserError(f"{owners[path]} and {file} annotate the same image, {path}", hint)
        owners[path] = file
    return list(owners)


def image_path(file: Path, images: ImageFiles) -> str:
    """Return the image of an XML file, by its stem or its `filename`; beside the file if there is no such image."""
    near = str(file.parent)
    if len(images.by_stem.get(file.stem, ())) == 1 and (found := images.find(file.stem, near)):
        return found
    name = parse_xml(file).findtext("filename", "").strip()
    same = os.path.splitext(os.path.basename(name.replace("\\", "/")))[0] == file.stem
    found = images.find(name if same else file.stem, near) or images.find(name, near)
    return found or os.path.join(near, f"{file.stem}.jpg")


def sniff_voc(file: Path) -> bool:
    """Return whether an XML file has the root <annotation>, and a file name, size or object, as VOC's do."""
    head = read_head(file)
    root = re.search(rb"<(?![?!])([^\s/>]+)", head)
    return root is not None and root[1] == b"annotation" and re.search(rb"<(filename|object|size)\b", head) is not None


def find_voc_files(root: Path, files: list[Path]) -> VocFiles | None:
    """Find the splits of VOC XML files: from lists in ImageSets or named as splits, else from folder names."""
    folders = sorted({file.parent for file in files})
    return VocFiles(root, tuple(folders), _lists(root, files) or divide(folders, root))


def xml_files(folder: Path) -> list[Path]:
    """Return the XML files in a folder, sorted; hidden ones are left out."""
    names = (name for name in os.listdir(folder) if name.lower().endswith(".xml") and not name.startswith("."))
    return sorted(folder / name for name in names)


def _lists(root: Path, files: Iterable[Path]) -> dict[str, tuple[Path, ...]]:
    """Find the lists of XML files by name: in ImageSets/Main, else in ImageSets, else those called as a split."""
    stems = {file.stem for file in files}
    found = [file for file, line in walk_folder(root).lists() if listed_stem(line, stems)]
    depth = {file: [part.lower() in ("imagesets", "main") for part in file.parts[-3:-1]].count(True) for file in found}
    lists: dict[str, list[Path]] = {}
    for file in found:
        if depth[file] == max(depth.values()):
            lists.setdefault(file.stem, []).append(file)
    return {name: tuple(lists[name]) for name in without_classes(lists)}
