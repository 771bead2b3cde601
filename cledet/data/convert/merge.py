"""Data sets merged to one: classes reconciled, splits joined by name, images of equal content once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from cledet.data.convert.classes import parse_renames, rename_classes, respelled, unify_classes
from cledet.data.convert.duplicates import content_keys, join_equal, keep_held_out
from cledet.data.formats.data_yaml import SPLITS
from cledet.data.formats.paths import match_split
from cledet.data.index import DetectionIndex, join_indices
from cledet.errors import UserError

OnConflict = Literal["stop", "first", "union"]
Splits = dict[str, DetectionIndex]


def merge(
    sources: Mapping[str, Mapping[str, DetectionIndex]],
    renames: Sequence[str] = (),
    on_conflict: OnConflict = "stop",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Splits, tuple[str, ...]]:
    """Merge data sets, named splits of indices, and return the splits and notes.

    `renames` are pairs `old=new`. Images of equal content in one split become one. If their boxes differ, `stop` raises
    UserError, `first` keeps those of the first data set, and `union` keeps all, equal ones once. An image of a train
    split that another data set has in val or test is left out, as one of val that another has in test.
    Images are numbered from 1. `progress` is called with (images compared, number of images).
    """
    notes: list[str] = []
    by_source = _reconcile(sources, renames, notes)
    parts: dict[str, list[tuple[int, DetectionIndex]]] = {}
    for number, splits in enumerate(by_source.values()):
        for split, index in splits.items():
            target = match_split(split, parts) or split  # of its name, else of its kind, else a new one
            parts.setdefault(target, []).append((number, index))
    _refuse_undivided(by_source, parts)
    joined = {split: join_indices(split, [index for _, index in each]) for split, each in parts.items()}
    origin = {split: np.repeat([n for n, _ in each], [len(i) for _, i in each]) for split, each in parts.items()}
    keys = content_keys([path for index in joined.values() for path in index.paths.tolist()], progress)
    joined = keep_held_out(joined, origin, keys, notes)
    merged, first = {}, 1
    for split, index in joined.items():
        index = join_equal(index, keys, on_conflict, notes)
        merged[split] = replace(index, image_ids=np.arange(first, first + len(index), dtype=np.int64))
        first += len(index)
    empty = [split for split, index in merged.items() if not len(index)]
    notes += [f"{split}: no image is left" for split in empty]
    return {split: index for split, index in merged.items() if len(index)}, tuple(notes)


def _reconcile(
    sources: Mapping[str, Mapping[str, DetectionIndex]], renames: Sequence[str], notes: list[str]
) -> dict[str, Splits]:
    """Give all splits of all data sets the same classes."""
    flat = {name: dict(zip(splits, unify_classes(list(splits.values())))) for name, splits in sources.items()}
    first = [next(iter(splits.values())).classes for splits in flat.values()]
    names = parse_renames(renames, [name for classes in first for name in classes])
    known: list[str] = []
    for source, splits in flat.items():
        renamed = {split: rename_classes(index, names) for split, index in splits.items()}
        classes = next(iter(renamed.values())).classes
        matches = respelled(known, classes, source)
        notes += [f"class '{old}' of {source} is taken for '{new}'" for old, new in matches.items()]
        flat[source] = {split: rename_classes(index, matches) for split, index in renamed.items()}
        known += [name for name in classes if name not in known and name not in matches]
    unified = iter(unify_classes([index for splits in flat.values() for index in splits.values()]))
    return {source: {split: next(unified) for split in splits} for source, splits in flat.items()}


def _refuse_undivided(sources: Mapping[str, Splits], parts: Mapping[str, object]) -> None:
    """Raise UserError if some data sets are divided into train, val or test, and others are not."""
    divided = [split for split in parts if any(match_split(kind, [split]) for kind in SPLITS)]
    for name, splits in sources.items():
        if divided and not any(match_split(kind, [split]) for split in splits for kind in SPLITS):
            raise UserError(
                f"{name} is not divided, and others have {', '.join(divided)}",
                f"divide it first: cledet data split {name} OUT",
            )
