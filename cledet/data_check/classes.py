"""Checks of the classes of a data set, from their box counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cledet.data.formats.paths import match_split
from cledet.data_check.findings import Example, Finding, collect

RARE = 10
"""Minimum number of boxes of a class; a class with fewer is reported as rare."""
Counts = Mapping[str, Mapping[str, int]]
"""Number of boxes of every class, by split."""


def check_classes(counts: Counts) -> list[Finding]:
    """Find classes without boxes, with too few boxes to learn, or with boxes in one split only."""
    names = list(dict.fromkeys(name for split_counts in counts.values() for name in split_counts))
    total = {name: sum(split_counts.get(name, 0) for split_counts in counts.values()) for name in names}
    train = match_split("train", counts)
    trained = counts[train] if train is not None else total
    all_splits = ", ".join(counts)
    unused = [name for name in names if total[name] == 0]
    rare = sorted((name for name in names if 0 < trained.get(name, 0) < RARE), key=lambda name: trained[name])
    of, few_boxes = f"of {len(names)} classes", f"fewer than {RARE} boxes"
    return [
        *collect("warning", "unused", all_splits, unused, (f"{of} has no box", f"{of} have no box"), Example),
        *_warn("rare", train or all_splits, rare, (f"{of} has {few_boxes}", f"{of} have {few_boxes}"), trained),
        *(_compare(counts, train) if train is not None else ()),
    ]


def _compare(counts: Counts, train: str) -> Iterator[Finding]:
    """Compare the classes of every split with those of `train`."""
    trained = counts[train]
    for split, split_counts in counts.items():
        unlisted = [name for name in split_counts if name not in trained]
        rest = f"not listed in {train}: evaluation refuses the split"
        words = (f"class {rest}", f"classes {rest}")
        yield from collect("error", "strange", split, unlisted, words, Example)
        untrained = [name for name, count in split_counts.items() if count and trained.get(name) == 0]
        words = (f"class has boxes but none in {train}", f"classes have boxes but none in {train}")
        yield from _warn("unseen", split, untrained, words, split_counts)
        unmeasured = [name for name, count in trained.items() if count and not split_counts.get(name)]
        rest = "no box here: not measured"
        words = (f"class of {train} has {rest}", f"classes of {train} have {rest}")
        yield from _warn("unmeasured", split, unmeasured, words, trained)


def _warn(kind: str, split: str, names: list[str], words: tuple[str, str], counts: Mapping[str, int]) -> list[Finding]:
    return collect("warning", kind, split, names, words, lambda name: Example(f"{name}: {counts[name]}"))
