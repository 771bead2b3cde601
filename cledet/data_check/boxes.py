"""What is wrong with the boxes of a split; no image is looked at."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cledet.data.formats.annotation_errors import ERROR_KINDS
from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.data_check.findings import Example, Finding, Severity, box_examples, counted, few, image_example, place

SLACK = 1.0
"""Pixels that a box may reach over the edge of its image."""
NEAR = 0.95
"""IoU over which two boxes of a class are nearly the same."""


def check_boxes(split: str, index: DetectionIndex) -> list[Finding]:
    """ErrorLog of the annotations, images without boxes, and boxes that are degenerate, outside or repeated."""
    degenerate = index.degenerate()
    return [
        *_faults(split, index),
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
    """[B] boxes that reach over an edge by more than `slack` pixels, where the size is known."""
    sizes = index.sizes[index.image_of_boxes()]
    far = index.xywh[:, :2] + index.xywh[:, 2:]
    over = ((index.xywh[:, :2] < -slack) | (far > sizes + slack)).any(axis=1)
    return np.logical_and(over, (sizes > 0).all(axis=1))


def duplicates(index: DetectionIndex) -> Bools:
    """[B] objects that are the same, to the pixel's fraction, as an earlier one of the same image and class."""
    rows = np.flatnonzero(~index.ignore)
    columns = np.column_stack([index.image_of_boxes(), index.labels, index.xywh])[rows]
    order = np.lexsort(columns.T)  # stable: of equal ones the first stays the first
    repeated = np.zeros(index.num_boxes, dtype=np.bool_)
    repeated[rows[order[1:]]] = (columns[order[1:]] == columns[order[:-1]]).all(axis=1)
    return repeated


def near_duplicates(index: DetectionIndex, threshold: float = NEAR) -> tuple[Ints, Ints]:
    """Pairs of objects of one image and class whose IoU is over `threshold`, but which are not the same.

    Returns their rows, [P] and [P], the earlier one first. Sorted by their left edges, boxes are compared with the
    next ones only as far as the IoU lets those edges lie apart: 2,000 boxes on an image are not 2,000 x 2,000 pairs.
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
    one, other = np.concatenate(pairs, axis=1)
    order = np.lexsort((other, one))
    return one[order], other[order]


def _faults(split: str, index: DetectionIndex) -> Iterator[Finding]:
    for error in index.annotation_errors:
        text = f"{error.count:,} {ERROR_KINDS[error.kind]}: training refuses the split"
        yield Finding("error", error.kind, split, error.count, text, few(map(Example, error.examples)))


def _notes(split: str, index: DetectionIndex) -> Iterator[Finding]:
    """What the reader noted; one that begins with the data set's name is of degenerate boxes, which are found here."""
    for note in index.notes:
        if not note.startswith(f"{index.name}: "):
            yield Finding("note", "note", split, 1, note)


def _some(
    split: str, index: DetectionIndex, kind: str, rows: Bools, one: str, many: str, rest: str
) -> Iterator[Finding]:
    """A warning about these boxes [B], if there are any."""
    count = int(rows.sum())
    if count:
        text = f"{counted(count, one, many)} {rest}"
        yield Finding("warning", kind, split, count, text, box_examples(index, rows))


def _near(split: str, index: DetectionIndex) -> Iterator[Finding]:
    """A warning about nearly equal boxes, if there are any; in the examples both of a pair are marked."""
    earlier, later = near_duplicates(index)
    rows, first = np.unique(later, return_index=True)
    if len(rows):
        images = index.image_of_boxes()
        examples = few(
            image_example(index, int(images[row]), f"{place(index, row)}, and another", [earlier[i], row])
            for row, i in zip(rows.tolist(), first.tolist())
        )
        words = counted(len(rows), "box nearly repeats", "boxes nearly repeat")
        yield Finding("warning", "near", split, len(rows), f"{words} another: same class, IoU over {NEAR:g}", examples)


def _unlabelled(split: str, index: DetectionIndex) -> Iterator[Finding]:
    """A note about images without boxes; a warning if they are most of the split."""
    empty = np.flatnonzero(np.diff(index.starts) == 0)
    if len(empty):
        severity: Severity = "warning" if 2 * len(empty) > len(index) else "note"
        text = f"{counted(len(empty), 'image has', 'images have')} no box: background only"
        text = text if len(empty) < len(index) else f"none of the {len(index):,} images has a box"
        examples = few(image_example(index, image) for image in empty.tolist())
        yield Finding(severity, "unlabelled", split, len(empty), text, examples)


def _iou(a: Floats, b: Floats) -> Floats:
    """IoU [n] of boxes xywh [n, 4] with area, row by row."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=1)
    return np.asarray(shared / (a[:, 2:].prod(axis=1) + b[:, 2:].prod(axis=1) - shared))
