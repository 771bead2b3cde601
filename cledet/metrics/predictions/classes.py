"""Classes of a split by name, by id, or by position in a detector's list of classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cledet.data.index import DetectionIndex, Floats, Ints
from cledet.errors import UserError, nearest
from cledet.metrics.matching import box_iou
from cledet.metrics.predictions.image_names import shown

UNUSED_COCO_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""Ids from 1 to 90 that none of COCO's 80 categories has."""
BEST, ENOUGH, CLEAR = 2000, 10, 4
"""Detections compared with the objects; how many have to agree with a reading, and how many times more than others."""
OVERLAP = 0.5


class Found(NamedTuple):
    """D detections whose classes are sought."""

    image: Ints
    """[D] positions of their images in the split."""
    xywh: Floats
    """[D, 4] pixels."""
    scores: Floats
    """[D]."""
    label: Ints
    """[D] positions in the file's list of classes."""


def find_classes(
    path: Path,
    classes: Sequence[str] | Sequence[float],
    readings: Sequence[Sequence[str]],
    index: DetectionIndex,
    found: Found,
) -> tuple[Ints, str]:
    """Return the split's label of each class of a file, and how they were identified.

    Numbers have one of the readings. If several give every number a class, the labels of the split's objects under the
    detections decide. Raises UserError for classes that the split does not have, and if that is undecided.
    """
    if not classes:
        return np.zeros(0, dtype=np.int64), ""
    if isinstance(classes[0], str):
        return _by_name(path, [str(name) for name in classes], index), "classes by name"
    numbers = [float(number) for number in classes]
    for group in readings:
        if fitting := _fitting(numbers, group, index):
            return _choose(path, numbers, fitting, index, found)
    raise _unknown_numbers(path, numbers, readings, index)


def _by_name(path: Path, names: Sequence[str], index: DetectionIndex) -> Ints:
    """Return the label of each name; case, spaces and punctuation matter only if two classes differ by nothing else."""
    twice = next((name for name in names if index.classes.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{path} names the class {twice!r}, and {index.name} has several of that name")
    exact = {name: label for label, name in enumerate(index.classes)}
    plain = {_plain(name): label for name, label in exact.items()}
    if len(plain) < len(exact):
        plain = {}
    labels = [exact.get(name, plain.get(_plain(name), -1)) for name in names]
    if unknown := [name for name, label in zip(names, labels) if label < 0]:
        message = f"{path} names {len(unknown)} of {len(names)} classes that {index.name} does not have"
        raise UserError(f"{message}: {shown(unknown)}", nearest(unknown[0], index.classes))
    return np.array(labels, dtype=np.int64)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name.casefold()) or name


def _ids(index: DetectionIndex) -> dict[int, int]:
    return {number: label for label, number in enumerate(index.category_ids.tolist())}


def _coco_ids(index: DetectionIndex) -> dict[int, int]:
    ids = [number for number in range(1, 91) if number not in UNUSED_COCO_IDS]
    return {number: label for label, number in enumerate(ids)} if len(index.classes) == len(ids) else {}


READINGS: dict[str, tuple[str, Callable[[DetectionIndex], Mapping[int, int]]]] = {
    "ids": ("classes by id", _ids),
    "from 0": ("classes numbered from 0", lambda index: dict(enumerate(range(len(index.classes))))),
    "from 1": ("classes numbered from 1", lambda index: dict(enumerate(range(len(index.classes)), 1))),
    "coco": ("classes by COCO's 91 ids", _coco_ids),
}
"""Description of each reading of class numbers, and the label of each number that it knows."""


def _fitting(numbers: Sequence[float], group: Sequence[str], index: DetectionIndex) -> dict[str, Ints]:
    """Return the labels by each reading that knows all numbers; of readings that agree, the first."""
    fitting: dict[str, Ints] = {}
    for name in group:
        label_of = READINGS[name][1](index)
        labels = np.array([label_of.get(number, -1) for number in numbers])  # type: ignore[call-overload]
        if (labels >= 0).all() and not any((labels == other).all() for other in fitting.values()):
            fitting[name] = labels
    return fitting


def _choose(
    path: Path, numbers: Sequence[float], fitting: Mapping[str, Ints], index: DetectionIndex, found: Found
) -> tuple[Ints, str]:
    """Return the labels by the only reading, or by the one that agrees with the labelled objects."""
    names = list(fitting)
    if len(names) == 1:
        return fitting[names[0]], READINGS[names[0]][0]
    counts = agreement(index, found, list(fitting.values()))
    order = np.argsort(-counts, kind="stable")
    best, second = counts[order[0]], counts[order[1]]
    texts = [READINGS[names[i]][0].removeprefix("classes ") for i in order]
    if best < ENOUGH or best < CLEAR * second:
        raise UserError(
            f"{path}: the category ids {min(numbers):g} to {max(numbers):g} may be read in several ways "
            f"({', '.join(texts)}), and the objects of {index.name} do not tell which",
            f"write the data set's ids, which begin with {', '.join(map(str, index.category_ids[:3].tolist()))}",
        )
    chosen = names[order[0]]
    proof = f"({best} of the best detections agree with the objects, {second} if {texts[1]})"
    return fitting[chosen], f"{READINGS[chosen][0]} {proof}"


def agreement(index: DetectionIndex, found: Found, readings: Sequence[Ints]) -> Ints:
    """Count, per reading, the best detections that have the label of the object with which they overlap most."""
    counts = np.zeros(len(readings), dtype=np.int64)
    for row in np.argsort(-found.scores, kind="stable")[:BEST].tolist():
        rows = index.rows(int(found.image[row]))
        boxes = index.xywh[rows][~index.ignore[rows]]
        ious = box_iou(np.broadcast_to(found.xywh[row], boxes.shape), boxes)
        if len(ious) and ious.max() >= OVERLAP:
            label = index.labels[rows][~index.ignore[rows]][ious.argmax()]
            counts += [labels[found.label[row]] == label for labels in readings]
    return counts


def _unknown_numbers(
    path: Path, numbers: Sequence[float], readings: Sequence[Sequence[str]], index: DetectionIndex
) -> UserError:
    """Return the error for numbers that no reading knows, told by the first one."""
    first = readings[0][0]
    known = READINGS[first][1](index)
    unknown = [number for number in sorted(numbers) if number not in known]
    kind = "category ids" if first == "ids" else "class numbers"
    hint = f"its {kind} are {', '.join(map(str, [*known][:20]))}{' ...' if len(known) > 20 else ''}"
    for step, word in ((1, "lower"), (-1, "higher")):
        if len(numbers) > 1 and all(number + step in known for number in numbers):
            hint = f"each is 1 {word} than one of the data set: is the numbering off by one?"
    message = f"{path} names {len(unknown)} of {len(numbers)} {kind} that {index.name} does not have"
    return UserError(f"{message}: {shown(unknown)}", hint)
