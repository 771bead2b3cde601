"""`cledet data convert`, `split`, `merge` and `sample`: copies of data sets."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cledet.commands.options import Json
from cledet.console import Steps, say, show, show_json, transfer, warn

if TYPE_CHECKING:
    from cledet.data.index import DetectionIndex
    from cledet.data.open import DataSource


Target = Literal["coco", "yolo", "voc"]
Placement = Literal["copy", "link", "hardlink", "none"]
OnConflict = Literal["stop", "first", "union"]
Source = Annotated[str, typer.Argument(metavar="SOURCE", help="Data set: YAML, folder, annotation file, shipped name.")]
Out = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write, new or empty.")]
Images = Annotated[
    Placement,
    typer.Option(
        "--images", metavar="copy|link|hardlink|none", show_default=False,
        help="How images get into OUT; none: annotations only. Default: copy.",
    ),
]  # fmt: skip
SplitNames = Annotated[
    list[str] | None, typer.Option("--split", metavar="NAME", help="A split, may be repeated. Default: all.")
]
To = Annotated[
    Target | None,
    typer.Option("--to", metavar="coco|yolo|voc", help="Format to write. Default: that of SOURCE, else coco."),
]
OF_READER: dict[str, Target] = {"COCO": "coco", "Pascal VOC": "voc", "YOLO": "yolo"}
"""The target by the name of a reader's format."""


def convert(
    source: Source,
    out: Out,
    to: Annotated[Target, typer.Option("--to", metavar="coco|yolo|voc", help="Format to write.")],
    split: SplitNames = None,
    images: Images = "copy",
    json: Json = False,
) -> None:
    """Convert a data set to COCO, YOLO or Pascal VOC. Boxes keep their numbers; masks and keypoints are left out.

    Examples:
        cledet data convert photos/ --to yolo photos-yolo
        cledet data convert coco.yaml --to voc val-voc --split val --images link
    """
    _, splits = _read(source, split, images, out)
    _write(splits, to, out, images, json)


def split(
    source: Source,
    out: Out,
    fraction: Annotated[
        float,
        typer.Option(
            "--fraction", metavar="FLOAT", min=0.0, max=1.0, show_default=False, help="Share for val. Default: 0.2."
        ),
    ] = 0.2,
    test_fraction: Annotated[
        float,
        typer.Option(
            "--test-fraction",
            metavar="FLOAT",
            min=0.0,
            max=1.0,
            show_default=False,
            help="Share for a test split. Default: 0, none.",
        ),
    ] = 0.0,
    split: Annotated[
        list[str] | None,
        typer.Option("--split", metavar="NAME", help="A split to divide, may be repeated. Default: the only one."),
    ] = None,
    to: To = None,
    images: Images = "copy",
    json: Json = False,
) -> None:
    """Write a copy that is divided into train and val by the content of the images. Near-duplicates stay together.

    Examples:
        cledet data split photos/ photos-divided --fraction 0.2 --test-fraction 0.1
        cledet data split coco.yaml out --split train --split val --to yolo --images link
    """
    from cledet.data.convert.divide import divide_splits

    opened, splits = _read(source, None, "copy", out)  # images are compared, placed or not
    names = [opened.find(name) or name for name in split or ()]
    unknown = next((name for name in names if name not in splits), None)
    if unknown is not None:
        opened.index(unknown)  # raises the error that names the splits
    with Steps("comparing images", 0) as steps:
        divided, notes = divide_splits(splits, names, fraction, test_fraction, steps.set)
    _write(divided, to or OF_READER.get(opened.reader.format, "coco"), out, images, json, notes)


def merge(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Data sets, two or more.")],
    out: Out,
    rename: Annotated[
        list[str] | None,
        typer.Option("--rename", metavar="OLD=NEW", help="Rename a class, or join it to NEW; may be repeated."),
    ] = None,
    on_conflict: Annotated[
        OnConflict,
        typer.Option(
            "--on-conflict",
            metavar="stop|first|union",
            show_default=False,
            help="Equal images with different boxes: stop, keep those of the first, or all. Default: stop.",
        ),
    ] = "stop",
    to: To = None,
    images: Images = "copy",
    json: Json = False,
) -> None:
    """Merge data sets: splits by name, classes by name, images of equal content once.

    Examples:
        cledet data merge photos/ more-photos/ all-photos
        cledet data merge a.yaml b.yaml out --rename auto=car --rename lorry=truck --on-conflict union
    """
    from cledet.data.convert.merge import merge
    from cledet.errors import UserError

    if len(set(sources)) < max(2, len(sources)):
        raise UserError("merging takes two different data sets or more", "cledet data merge A B OUT")
    read = {source: _read(source, None, images, out) for source in sources}
    with Steps("comparing images", 0) as steps:
        splits = {source: splits for source, (_, splits) in read.items()}
        merged, notes = merge(splits, rename or (), on_conflict, steps.set)
    formats = {opened.reader.format for opened, _ in read.values()}
    usual = OF_READER.get(formats.pop(), "coco") if len(formats) == 1 else "coco"
    _write(merged, to or usual, out, images, json, notes)


def sample(
    source: Source,
    count: Annotated[int, typer.Argument(metavar="N", min=1, help="Number of images in all splits together.")],
    out: Out,
    split: SplitNames = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="INT", min=0, help="Another choice for each seed. Default: by content alone."),
    ] = None,
    to: To = None,
    images: Images = "copy",
    json: Json = False,
) -> None:
    """Write a copy of N images, in which every class stays if there is room.

    Examples:
        cledet data sample coco 200 coco-200
        cledet data sample photos/ 50 few --split train --seed 1 --to yolo
    """
    from cledet.data.convert.sample import sample

    opened, splits = _read(source, split, images, out)
    chosen, notes = sample(splits, count, seed)
    _write(chosen, to or OF_READER.get(opened.reader.format, "coco"), out, images, json, notes)


def _read(
    source: str, names: Sequence[str] | None, images: Placement, out: Path
) -> tuple[DataSource, dict[str, DetectionIndex]]:
    """Open a data set and read its splits; print notes. Raises UserError if nothing can be written to `out`."""
    from cledet.data.convert.write import new_folder
    from cledet.data.open import open_source

    new_folder(out)
    opened = open_source(source, transfer)
    say(f"{opened.name}: {opened.reader.format}, {', '.join(opened.splits)}")
    splits = opened.read_splits(names or (), need_images=images != "none")
    for note in dict.fromkeys(note for index in splits.values() for note in index.notes):
        warn(note)
    return opened, splits


def _write(
    splits: dict[str, DetectionIndex], to: Target, out: Path, images: Placement, json: bool, notes: Sequence[str] = ()
) -> None:
    """Write the data set and print its folder, what it could not hold, and the command that trains on it."""
    from cledet.data.convert.write import write_dataset

    with Steps(f"writing {out.name}", 0) as steps:
        written = write_dataset(splits, to, out, images=images, progress=steps.set)
    for note in (*notes, *written.notes):
        say(f"note: {note}")
    document = written.to_dict()
    for name, counts in document["splits"].items():
        say(f"{name}: {counts['images']:,} images, {counts['boxes']:,} boxes")
    show_json(document | {"notes": [*notes, *written.notes]}) if json else show(written.folder)
    if images != "none":
        say(f"train on it: cledet train --data {shlex.quote(str(out))}")
