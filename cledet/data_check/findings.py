"""Findings of a dataset check, each with a few examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from cledet.data.index import DetectionIndex

EXAMPLES = 8
"""Maximum number of examples per finding."""
Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""Error: training or evaluation refuses or misreads it; warning: it may not be intended; note: a fact."""
Case = TypeVar("Case")
Box = tuple[float, float, float, float]
"""Left, top, width, height in pixels."""


class Picture(NamedTuple):
    """An image of an example, and its boxes."""

    path: str
    size: tuple[int, int] | None
    """Width and height as annotated; None if unknown."""
    boxes: tuple[Box, ...] = ()
    """The boxes of the finding."""
    others: tuple[Box, ...] = ()


class Example(NamedTuple):
    """One case of a finding."""

    text: str
    """Text shown after the image's path; may be empty."""
    picture: Picture | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the example as plain values; NaN and infinite coordinates become None."""
        boxes = self.picture.boxes if self.picture else ()
        return {
            "text": self.text,
            "image": self.picture.path if self.picture else None,
            "boxes": [[value if math.isfinite(value) else None for value in box] for box in boxes],
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """All occurrences of one kind of problem in a split, or between splits."""

    severity: Severity
    kind: str
    """One word: "missing", "duplicate", "leak" ..."""
    split: str
    """The split, or several: "train, val"."""
    count: int
    text: str
    """One sentence, with the count."""
    examples: tuple[Example, ...] = ()
    others: Callable[[], Iterable[Example]] | None = field(default=None, compare=False, repr=False)
    """Creates the examples beyond the first few; None if they are not known."""

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as plain values, with all examples that are known."""
        named = {"severity": self.severity, "kind": self.kind, "split": self.split, "count": self.count}
        examples = chain(self.examples, self.others() if self.others else ())
        return {**named, "text": self.text, "examples": [example.to_dict() for example in examples]}

    def more(self, shown: int) -> str:
        """Return how many examples a list of the first `shown` leaves out, and where all are; "" for a whole list."""
        left_out = self.count - shown if self.examples else 0
        return f"and {left_out:,} more{': --json lists all' if self.others else ''}" if left_out else ""


def collect(
    severity: Severity,
    kind: str,
    split: str,
    cases: Sequence[Case],
    words: tuple[str, str],
    example: Callable[[Case], Example],
) -> list[Finding]:
    """Return one finding about these cases, with examples of the first ones; none without cases.

    The words follow the count in its sentence, in the singular and in the plural.
    """
    text = f"{len(cases):,} {words[0] if len(cases) == 1 else words[1]}"
    examples = tuple(map(example, cases[:EXAMPLES]))
    others = partial(map, example, cases[EXAMPLES:])
    return [Finding(severity, kind, split, len(cases), text, examples, others)] if cases else []


def image_example(index: DetectionIndex, image: int, text: str = "", rows: Sequence[int] = ()) -> Example:
    """Create an example of an image, with these box rows marked."""
    own = index.rows(image)
    boxes: list[Box] = [(x, y, w, h) for x, y, w, h in index.xywh[own].tolist()]
    marked = [row - own.start for row in rows]
    others = tuple(box for row, box in enumerate(boxes) if row not in marked)
    path, size = str(index.paths[image]), index.annotated_size(image)
    return Example(text, Picture(path, size, tuple(boxes[row] for row in marked), others))


def box_example(index: DetectionIndex, row: int, text: str = "") -> Example:
    """Create an example of a box on its image, described by class, position and a text."""
    image = int(np.searchsorted(index.starts, row, side="right")) - 1
    return image_example(index, image, f"{describe_box(index, row)}{': ' if text else ''}{text}", [row])


def describe_box(index: DetectionIndex, row: int) -> str:
    """Describe a box by class and position."""
    x, y, w, h = index.xywh[row].tolist()
    return f"{index.classes[index.labels[row]]} at left {x:g}, top {y:g}, width {w:g}, height {h:g}"
