"""COCO annotation files of a folder: in the usual places, or of any name in any of its folders."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from cledet.data.formats.coco import CocoFiles
from cledet.data.formats.paths import UNDIVIDED_SPLIT, open_regular_file, split_word
from cledet.data.formats.walk import divide, read_head, sample
from cledet.errors import UserError

LISTS = re.compile(rb'"(images|annotations|categories)"\s*:\s*\[')


def find_coco(folder: Path) -> dict[str, tuple[Path, Path | None]]:
    """Find the annotation file and image folder of each split in the usual places; empty if there is none.

    Searches annotations/instances_SPLIT.json, annotations/SPLIT.json, SPLIT.json (Label Studio's result.json), and
    SPLIT/_annotations.coco.json (Roboflow).
    """
    for pattern in ("annotations/instances_*.json", "annotations/*.json", "*.json"):
        files = sorted(folder.glob(pattern))
        if any(map(_may_be_coco, sample(files))):
            return {split_name(file): (file, None) for file in files if _may_be_coco(file)}
    exported = sorted(folder.glob("*/_annotations.coco.json"))
    return {file.parent.name: (file, file.parent) for file in exported}


def find_coco_files(root: Path, files: list[Path]) -> CocoFiles:
    """Find the splits of annotation files in any folders: by the files' names, else by those of their folders.

    Raises UserError for several files of one split.
    """
    groups = divide(files, root)
    if UNDIVIDED_SPLIT in groups:
        groups = {}
        for file in files:
            groups[split_name(file)] = (*groups.get(split_name(file), ()), file)
    splits: dict[str, tuple[Path, Path | None]] = {}
    for split, (file, *others) in groups.items():
        if others:
            message = f"{root} has several COCO annotation files for the split '{split}': {file} and {others[0]}"
            raise UserError(message, "pass one of them as --data, or a YAML file that names those of each split")
        splits[split_name(file) if split_word(file.stem) else split] = file, None
    return CocoFiles(splits, root=root)


def split_name(file: Path) -> str:
    """Return the name of the split in an annotation file: "val2017" for instances_val2017.json."""
    return file.stem.removeprefix("instances_")


def sniff_coco(file: Path) -> bool:
    """Return whether a JSON file is an object with a list of images, annotations or categories.

    A complete file has categories, which COCO's files of captions lack; a damaged one may have lost them.
    """
    head = read_head(file)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return LISTS.search(head.decode("utf-16", "replace").encode()) is not None
    if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return False
    try:
        with (
            open(file, "rb", opener=open_regular_file) as content,
            mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            if LISTS.search(data) is None:
                return False
            return data.rfind(b'"categories"') >= 0 or not data[-100:].rstrip().endswith(b"}")
    except (OSError, ValueError):
        return False


def _may_be_coco(file: Path) -> bool:
    """Return whether a file is COCO's, or has the name of one, so that reading a damaged one tells what is wrong."""
    return file.name.startswith("instances_") or sniff_coco(file)
