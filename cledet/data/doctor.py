"""The dataset doctor: reads everything once and says what is wrong, changing nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice, repeat
from typing import Any, Literal

import numpy as np

from cledet.data.images import read_image
from cledet.data.index import Bools, DetectionIndex
from cledet.data.source import DataSource
from cledet.errors import UserError

EXAMPLES = 5
Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of trouble in one split."""

    severity: Severity
    split: str
    kind: str
    count: int
    text: str
    """One sentence: how many of what, and where the first is."""
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SplitReport:
    """What one split holds."""

    name: str
    images: int
    boxes: int
    ignored: int
    empty: int
    """Images without boxes."""
    class_counts: dict[str, int]


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found: per split what there is, and what is wrong, errors first."""

    name: str
    splits: tuple[SplitReport, ...]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error; there may be warnings."""
        return all(problem.severity != "error" for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {**asdict(self), "ok": self.ok}


def check(
    source: DataSource,
    splits: Sequence[str] = (),
    *,
    threads: int = 8,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Examine these splits, or all, and decode every image; `progress` is told (images done, images in all).

    Raises UserError where the annotations themselves cannot be read.
    """
    indices = [source.index(split, need_images=False) for split in splits or source.splits]
    total, done = sum(map(len, indices)), 0
    problems: list[Problem] = []
    for index in indices:
        states = []
        for state in _examine(index, threads):
            states.append(state)
            done += 1
            if progress is not None:
                progress(done, total)
        problems += [*_image_problems(index, states), *_box_problems(index), *_class_problems(index)]
    problems.sort(key=lambda problem: problem.severity)
    return Report(source.name, tuple(map(_summary, indices)), tuple(problems))


def _summary(index: DetectionIndex) -> SplitReport:
    return SplitReport(
        name=index.name,
        images=len(index),
        boxes=index.num_boxes,
        ignored=int(index.ignore.sum()),
        empty=int((np.diff(index.starts) == 0).sum()),
        class_counts=index.class_counts(),
    )


def _examine(index: DetectionIndex, threads: int) -> Iterable[tuple[str, str]]:
    """Per image the kind of trouble, or "", and the words for it."""
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(_examine_image, repeat(index), range(len(index)))


def _examine_image(index: DetectionIndex, position: int) -> tuple[str, str]:
    path, (width, height) = str(index.paths[position]), index.sizes[position].tolist()
    try:
        found = read_image(path, (width, height) if width and height else None).shape[:2]
    except UserError as error:
        return ("missing" if " not found" in error.message else "unreadable"), error.message
    if width <= 0 or height <= 0:
        return "unsized", path
    if found != (height, width):
        return "size", f"{path} is {found[1]}x{found[0]}, annotated as {width}x{height}"
    return "", ""


_IMAGE_KINDS: dict[str, tuple[Severity, str]] = {
    "missing": ("error", "images have no file"),
    "unreadable": ("error", "images cannot be decoded"),
    "size": ("error", "images have another size than their annotation says"),
    "unsized": ("warning", "annotations do not say the size of their image"),
}


def _problem(
    index: DetectionIndex, severity: Severity, kind: str, words: str, count: int, examples: Iterable[str]
) -> Problem:
    few = tuple(islice(examples, EXAMPLES))
    text = f"{index.name}: {count} {words}; the first: {few[0]}"
    return Problem(severity, index.name, kind, count, text, few)


def _image_problems(index: DetectionIndex, states: Sequence[tuple[str, str]]) -> list[Problem]:
    problems = []
    for kind, (severity, words) in _IMAGE_KINDS.items():
        found = [message for state, message in states if state == kind]
        if found:
            problems.append(_problem(index, severity, kind, words, len(found), found))
    return problems


def _box_problems(index: DetectionIndex) -> list[Problem]:
    degenerate = index.degenerate()
    kinds = (
        ("degenerate", degenerate, "boxes have no width or height and are not trained on"),
        ("outside", _outside(index) & ~degenerate, "boxes reach out of their image and are clipped"),
        ("duplicate", _duplicates(index), "boxes repeat another of the same class and place"),
    )
    return [
        _problem(index, "warning", kind, words, int(rows.sum()), _places(index, rows))
        for kind, rows, words in kinds
        if rows.any()
    ]


def _class_problems(index: DetectionIndex) -> list[Problem]:
    unused = [name for name, count in index.class_counts().items() if count == 0]
    words = f"of {len(index.classes)} classes have no box"
    return [_problem(index, "warning", "unused", words, len(unused), unused)] if unused else []


def _outside(index: DetectionIndex, slack: float = 1.0) -> Bools:
    """[B] boxes that reach over an edge by more than `slack` pixels, where the size is known."""
    sizes = index.sizes[index.image_of_boxes()]
    far = index.xywh[:, :2] + index.xywh[:, 2:]
    over = ((index.xywh[:, :2] < -slack) | (far > sizes + slack)).any(axis=1)
    return np.logical_and(over, (sizes > 0).all(axis=1))


def _duplicates(index: DetectionIndex) -> Bools:
    """[B] boxes that are the same, to the pixel's fraction, as an earlier one of the same image and class."""
    columns = np.column_stack([index.image_of_boxes(), index.labels, index.xywh])
    first = np.unique(columns, axis=0, return_index=True)[1]
    repeated = np.ones(index.num_boxes, dtype=np.bool_)
    repeated[first] = False
    return repeated


def _places(index: DetectionIndex, rows: Bools) -> Iterator[str]:
    """Where these boxes are, in words."""
    images = index.image_of_boxes()
    for row in np.flatnonzero(rows):
        x, y, w, h = index.xywh[row].tolist()
        place = f"[left {x:g}, top {y:g}, width {w:g}, height {h:g}]"
        yield f"{index.paths[images[row]]}: {index.classes[index.labels[row]]} at {place}"
