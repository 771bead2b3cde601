"""Checks of the boxes of a split, without reading images."""

from __future__ import annotations

import numpy as np

from cledet.data.formats.annotation_errors import ERROR_KINDS
from cledet.data.index import Bools, DetectionIndex, Ints
from cledet.data_check.findings import Example, Finding, Severity, box_example, collect, describe_box, image_example
from cledet.metrics.matching import box_iou

SLACK = 1.0
"""Pixels by which a box may reach over the edge of its image."""
NEAR = 0.95
"""IoU above which two boxes of a class are near duplicates."""


def check_boxes(split: str, index: DetectionIndex) -> list[Finding]:
    """Find annotation errors, images without boxes, and boxes that are degenerate, outside the image or repeated."""
    degenerate = index.degenerate()
    marked = {
        "degenerate": (degenerate, "box has", "boxes have", "no width or height: not trained on"),
        "outside": (outside(index) & ~degenerate, "box reaches", "boxes reach", "out of the image"),
        "duplicate": (duplicates(index), "box repeats", "boxes repeat", "another: same class and place"),
    }
    findings: list[Finding] = []
    for error in index.annotation_errors:
        text = f"{error.count:,} {ERROR_KINDS[error.kind]}: training refuses the split"
        findings.append(Finding("error", error.kind, split, error.count, text, tuple(map(Example, error.examples))))
    for kind, (boxes, one, many, rest) in marked.items():
        words, rows = (f"{one} {rest}", f"{many} {rest}"), np.flatnonzero(boxes).tolist()
        findings += collect("warning", kind, split, rows, words, lambda row: box_example(index, row))
    # Without the note on degenerate boxes, which begins with the data set's name.
    notes = [note for note in index.notes if not note.startswith(f"{index.name}: ")]
    findings += [Finding("note", "note", split, 1, note) for note in notes]
    return [*findings, *_near(split, index), *_unlabelled(split, index)]


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
    rows = np.flatnonzero(index.objects() & ~duplicates(index))
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
        same = box_iou(xywh[first], xywh[second]) > threshold
        pairs.append(np.sort(rows[np.stack([first[same], second[same]])], axis=0))
    earlier, later = np.concatenate(pairs, axis=1)
    order = np.lexsort((later, earlier))
    return earlier[order], later[order]


def _near(split: str, index: DetectionIndex) -> list[Finding]:
    """Find near duplicates; examples mark both boxes of a pair."""
    earlier, later = near_duplicates(index)
    rows, first = np.unique(later, return_index=True)
    original, images = dict(zip(rows.tolist(), earlier[first].tolist())), index.image_of_boxes()

    def example(row: int) -> Example:
        return image_example(index, int(images[row]), f"{describe_box(index, row)}, and another", [original[row], row])

    rest = f"another: same class, IoU over {NEAR:g}"
    words = (f"box nearly repeats {rest}", f"boxes nearly repeat {rest}")
    return collect("warning", "near", split, list(original), words, example)


def _unlabelled(split: str, index: DetectionIndex) -> list[Finding]:
    """Find images without boxes: a note, or a warning if they are most of the split."""
    empty = np.flatnonzero(np.diff(index.starts) == 0).tolist()
    severity: Severity = "warning" if 2 * len(empty) > len(index) else "note"
    words = ("image has no box: background only", "images have no box: background only")
    return collect(severity, "unlabelled", split, empty, words, lambda image: image_example(index, image))
