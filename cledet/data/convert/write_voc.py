"""Writer of Pascal VOC folders: Annotations/*.xml and ImageSets/Main/*.txt."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from cledet.data.formats.voc import EXACT
from cledet.data.index import DetectionIndex


def write_voc(folder: Path, split: str, index: DetectionIndex, names: Sequence[str]) -> str:
    """Write one XML file per image and the list of the split; return the split's entry for data.yaml.

    `names` [I] are the images' file names; an image of several splits has one name and is written once.
    """
    annotations, lists = folder / "Annotations", folder / "ImageSets" / "Main"
    annotations.mkdir(exist_ok=True)
    lists.mkdir(parents=True, exist_ok=True)
    stems = [Path(name).stem for name in names]
    for image, (name, stem) in enumerate(zip(names, stems)):
        file = annotations / f"{stem}.xml"
        if not file.exists():
            tree = xml_tree(index, image, name)
            ElementTree.indent(tree)
            tree.write(file, encoding="utf-8")
    (lists / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    return split


def xml_tree(index: DetectionIndex, image: int, name: str) -> ElementTree.ElementTree:
    """Build the annotation of one image; ignored boxes are difficult, and unknown sizes are left out."""
    root = ElementTree.Element("annotation")
    _add(root, folder="JPEGImages", filename=name)
    if (size := index.size(image)) is not None:
        _add(ElementTree.SubElement(root, "size"), width=size[0], height=size[1])
    _add(root, segmented=0)
    rows = index.rows(image)
    for label, box, ignore in zip(index.labels[rows], index.xywh[rows].tolist(), index.ignore[rows]):
        item = ElementTree.SubElement(root, "object")
        _add(item, name=index.classes[label], pose="Unspecified", truncated=0, difficult=int(ignore))
        (xmin, xmax), (ymin, ymax) = (_corners(box[axis], box[axis + 2]) for axis in (0, 1))
        _add(ElementTree.SubElement(item, "bndbox"), xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)


def _corners(start: float, extent: float) -> tuple[str, str]:
    """Return the first and last pixel of one axis, from 1, as decimal numbers without rounding.

    An extent of 0 to 1 is written as one pixel: the last cannot be before the first.
    """
    first = EXACT.add(Decimal(repr(start)), Decimal(1))
    reach = Decimal(repr(extent)) - (1 if extent > 0 else 0)
    return _plain(first), _plain(EXACT.add(first, max(reach, Decimal(0)) if extent > 0 else reach))


def _plain(number: Decimal) -> str:
    return f"{number.normalize(EXACT):f}"
