"""What the doctor says: findings, each with a few examples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np

from cledet.data.index import Bools, DetectionIndex, Ints

EXAMPLES = 8
"""How many examples of a finding are kept."""
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Error: training or evaluation refuses or misreads it; warning: it works, perhaps not as meant; note: a fact."""
Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image to look at, and the boxes on it."""

    path: str
    size: tuple[int, int]
    """Width and height as annotated, 0 where they are not."""
    boxes: tuple[Box, ...] = ()
    """Those that the finding is about."""
    others: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Example:
    """One case of a finding."""

    text: str
    """What is to be said beside the image's path, perhaps nothing."""
    picture: Picture | None = None

    def to_dict(self) -> dict[str, Any]:
        """The example as plain values; a coordinate that is no number is None."""
        boxes = self.picture.boxes if self.picture else ()
        return {
            "text": self.text,
            "image": self.picture.path if self.picture else None,
            "boxes": [[value if math.isfinite(value) else None for value in box] for box in boxes],
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of thing that was found in one split, or between splits."""

    severity: Severity
    kind: str
    """One word: "missing", "duplicate", "leak" ..."""
    split: str
    """The split, or those, as "train, val"."""
    count: int
    text: str
    """One sentence, with the count."""
    examples: tuple[Example, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The finding as plain values."""
        named = {"severity": self.severity, "kind": self.kind, "split": self.split, "count": self.count}
        return {**named, "text": self.text, "examples": [example.to_dict() for example in self.examples]}


def counted(count: int, one: str, many: str) -> str:
    """A count and its words: "1 box has", "2,000 boxes have"."""
    return f"{count:,} {one if count == 1 else many}"


def few(examples: Iterable[Example]) -> tuple[Example, ...]:
    """The first of the examples; the rest is not made."""
    return tuple(islice(examples, EXAMPLES))


def image_example(index: DetectionIndex, image: int, text: str = "", rows: Sequence[int] | Ints = ()) -> Example:
    """An image of a split as an example, with these box rows as those that it is about."""
    width, height = index.sizes[image].tolist()
    own = index.rows(image)
    marked = np.asarray(rows, dtype=np.int64)
    others = np.setdiff1d(np.arange(own.start, own.stop), marked)
    picture = Picture(str(index.paths[image]), (width, height), _boxes(index, marked), _boxes(index, others))
    return Example(text, picture)


def box_example(index: DetectionIndex, row: int, text: str = "") -> Example:
    """A box on its image: class and place, and what is to be said of it."""
    image = int(np.searchsorted(index.starts, row, side="right")) - 1
    return image_example(index, image, f"{place(index, row)}{': ' if text else ''}{text}", [row])


def box_examples(index: DetectionIndex, rows: Bools) -> tuple[Example, ...]:
    """The first of these boxes [B]."""
    return few(box_example(index, row) for row in np.flatnonzero(rows)[:EXAMPLES].tolist())


def place(index: DetectionIndex, row: int) -> str:
    """A box in words."""
    x, y, w, h = index.xywh[row].tolist()
    return f"{index.classes[index.labels[row]]} at left {x:g}, top {y:g}, width {w:g}, height {h:g}"


def _boxes(index: DetectionIndex, rows: Ints) -> tuple[Box, ...]:
    return tuple((x, y, w, h) for x, y, w, h in index.xywh[rows].tolist())
