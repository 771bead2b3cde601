"""What is wrong with the classes of a data set, from their counts alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from cledet.data.formats.paths import match_split
from cledet.data.index import DetectionIndex
from cledet.data_check.findings import Example, Finding, counted, few

RARE = 10
"""A class with fewer boxes is very rare."""
Counts = Mapping[str, Mapping[str, int]]
"""Boxes of every class, split by split."""


def count_classes(index: DetectionIndex) -> dict[str, int]:
    """How many boxes every class name has, ignored ones left out; classes of one name are added up."""
    counts = np.bincount(index.labels[~index.ignore], minlength=len(index.classes)).tolist()
    total = dict.fromkeys(index.classes, 0)
    for name, count in zip(index.classes, counts):
        total[name] += count
    return total


def check_classes(counts: Counts) -> list[Finding]:
    """Classes without a box, too rare to learn, or in one split only."""
    names = list(dict.fromkeys(name for there in counts.values() for name in there))
    everywhere = {name: sum(there.get(name, 0) for there in counts.values()) for name in names}
    train = match_split("train", counts)
    learned = counts[train] if train is not None else everywhere
    whole = ", ".join(counts)
    unused = [name for name in names if everywhere[name] == 0]
    rare = sorted((name for name in names if 0 < learned.get(name, 0) < RARE), key=lambda name: learned[name])
    of = f"of {len(names)} classes"
    few_boxes = f"fewer than {RARE} boxes"
    return [
        *_warn("unused", whole, unused, f"{of} has no box", f"{of} have no box"),
        *_warn("rare", train or whole, rare, f"{of} has {few_boxes}", f"{of} have {few_boxes}", learned),
        *(_compare(counts, train) if train is not None else ()),
    ]


def _compare(counts: Counts, train: str) -> Iterator[Finding]:
    """Classes that another split lists or holds and `train` does not, and the other way round."""
    learned = counts[train]
    for split, there in counts.items():
        strange = [name for name in there if name not in learned]
        if strange:
            text = f"{counted(len(strange), 'class', 'classes')} not listed in {train}: evaluation refuses the split"
            yield Finding("error", "strange", split, len(strange), text, few(map(Example, strange)))
        unseen = [name for name, count in there.items() if count and learned.get(name) == 0]
        words = (f"class has boxes but none in {train}", f"classes have boxes but none in {train}")
        yield from _warn("unseen", split, unseen, *words, there)
        unmeasured = [name for name, count in learned.items() if count and not there.get(name)]
        words = (
            f"class of {train} has no box here: not measured",
            f"classes of {train} have no box here: not measured",
        )
        yield from _warn("unmeasured", split, unmeasured, *words, learned)


def _warn(
    kind: str, split: str, names: list[str], one: str, many: str, counts: Mapping[str, int] | None = None
) -> Iterator[Finding]:
    """A warning about these classes, if there are any, with their counts."""
    if names:
        examples = few(Example(name if counts is None else f"{name}: {counts[name]}") for name in names)
        yield Finding("warning", kind, split, len(names), counted(len(names), one, many), examples)
