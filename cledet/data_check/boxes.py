"""Checks of the boxes of a split, without reading images."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cledet.data.formats.annotation_errors import ERROR_KINDS
from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.data_check.findings import (
    Example,
    Finding,
    Severity,
    box_example,
    counted,
    describe_box,
    first_examples,
    image_example,
)

SLACK = 1.0
"""Pixels by which a box may reach over the edge of its image."""
NEAR = 0.95
"""IoU above which two boxes of a class are near duplicates."""


def check_boxes(split: str, index: DetectionIndex) -> list[Finding]:
    """Find annotation errors, images without boxes, and boxes that are degenerate, outside the image or repeated."""
    degenerate = index.degenerate()
    return [
        *_annotation_errors(split, index),
        *_some(split, index, "degenerate", degenerate, "box has", "boxes have", "no width or height: not trained on"),
        *_some(split, index, "outside", outside(index) & ~degenerate, "box reaches", "boxes reach", "out of the image"),
        *_some(
            split, index, "duplicate", duplicates(index), "box repeats", "boxes repeat", "another: same class and place"
        ),
        *_near(split, index),
        *_unlabelled(split, index),
        *_notes(split, index),
    ]


def outside(index: DetectionIndex, slack: float = SLACK) -> Bools:
    """Mark the boxes [B] that reach over an edge by more than `slack` pixels, on images of known size."""
    sizes = index.sizes[index.image_of_boxes()]
    far = index.xywh[:, :2] + index.xywh[:, 2:]
    over = ((index.xywh[:, :2] < -slack) | (far > sizes + slack)).any(axis=1)
    return np.logical_and(over, (sizes > 0).all(axis=1))


def duplicates(index: DetectionIndex) -> Bools:
    """Mark the objects [B] that equal an earlier one of the same image and class exactly."""
    rows = np.flatnonzero(~index.ignore)
    columns = np.column_stack([index.image_of_boxes(), index.labels, index.xywh])[rows]
    order = np.lexsort(columns.T)  # stable: the first of equal rows stays first
    repeated = np.zeros(index.num_boxes, dtype=np.bool_)
    repeated[rows[order[1:]]] = (columns[order[1:]] == columns[order[:-1]]).all(axis=1)
    return repeated


def near_duplicates(index: DetectionIndex, threshold: float = NEAR) -> tuple[Ints, Ints]:
    """Find pairs of objects of one image and class with an IoU above `threshold` that are not exact duplicates.

    Returns their rows, [P] and [P], the earlier one first. Boxes are sorted by left edge and compared only while the
    IoU can still exceed the threshold, so 2,000 boxes on an image do not cost 2,000 x 2,000 comparisons.
    """
    rows = np.flatnonzero(~index.ignore & ~index.degenerate() & ~duplicates(index))
    images = index.image_of_boxes()
    rows = rows[np.lexsort((index.xywh[rows, 0], index.labels[rows], images[rows]))]
    images, labels, xywh = images[rows], index.labels[rows], index.xywh[rows]
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    first, step = np.arange(len(rows)), 0
    while len(first):
        step += 1
        first = first[first + step < len(rows)]
        second = first + step
        close = xywh[second, 0] - xywh[first, 0] < (1 - threshold) * xywh[first, 2]
        close &= (images[first] == images[second]) & (labels[first] == labels[second])
        first, second = first[close], second[close]
        same = _iou(xywh[first], xywh[second]) > threshold
        pairs.append(np.sort(rows[np.stack([first[same], second[same]])], axis=0))
    earlier, later = np.concatenate(pairs, axis=1)
    order = np.lexsort((later, earlier))
    return earlier[order], later[order]


def _annotation_errors(split: str, index: DetectionIndex) -> Iterator[Finding]:
    for error in index.annotation_errors:
        text = f"{error.count:,} {ERROR_KINDS[error.kind]}: training refuses the split"
        yield Finding("error", error.kind, split, error.count, text, first_examples(map(Example, error.examples)))


def _notes(split: str, index: DetectionIndex) -> Iterator[Finding]:
    """Yield the reader's notes, except the one on degenerate boxes, which begins with the data set's name."""
    for note in index.notes:
        if not note.startswith(f"{index.name}: "):
            yield Finding("note", "note", split, 1, note)


def _some(
    split: str, index: DetectionIndex, kind: str, rows: Bools, one: str, many: str, rest: str
) -> Iterator[Finding]:
    """Yield a warning about the marked boxes [B], if there are any."""
    marked = np.flatnonzero(rows).tolist()
    if marked:
        text = f"{counted(len(marked), one, many)} {rest}"
        yield Finding(
            "warning", kind, split, len(marked), text, first_examples(box_example(index, row) for row in marked)
        )


def _near(split: str, index: DetectionIndex) -> Iterator[Finding]:
    """Yield a warning about near duplicates, if there are any; examples mark both boxes of a pair."""
    earlier, later = near_duplicates(index)
    rows, first = np.unique(later, return_index=True)
    if len(rows):
        images = index.image_of_boxes()
        examples = first_examples(
            image_example(index, int(images[row]), f"{describe_box(index, row)}, and another", [earlier[i], row])
            for row, i in zip(rows.tolist(), first.tolist())
        )
        words = counted(len(rows), "box nearly repeats", "boxes nearly repeat")
        yield Finding("warning", "near", split, len(rows), f"{words} another: same class, IoU over {NEAR:g}", examples)


def _unlabelled(split: str, index: DetectionIndex) -> Iterator[Finding]:
    """Yield a note about images without boxes; a warning if they are most of the split."""
    empty = np.flatnonzero(np.diff(index.starts) == 0)
    if len(empty):
        severity: Severity = "warning" if 2 * len(empty) > len(index) else "note"
        text = f"{counted(len(empty), 'image has', 'images have')} no box: background only"
        text = text if len(empty) < len(index) else f"none of the {len(index):,} images has a box"
        examples = first_examples(image_example(index, image) for image in empty.tolist())
        yield Finding(severity, "unlabelled", split, len(empty), text, examples)


def _iou(a: Floats, b: Floats) -> Floats:
    """Compute the IoU [n] of boxes xywh [n, 4] row by row; areas must be positive."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=1)
    return np.asarray(intersection / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - intersection))
