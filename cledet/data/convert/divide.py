"""Division of a data set into splits, by the content of its images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cledet.data.convert.classes import lost_classes, unify_classes
from cledet.data.convert.duplicates import join_equal
from cledet.data.formats.paths import match_split
from cledet.data.index import DetectionIndex, join_indices
from cledet.data.splitting import divide
from cledet.errors import UserError


def divide_splits(
    splits: Mapping[str, DetectionIndex],
    chosen: Sequence[str],
    fraction: float,
    test_fraction: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, DetectionIndex], tuple[str, ...]]:
    """Divide the images of the chosen splits into train, val and, with a test_fraction, test; return them and notes.

    An image of several chosen splits is taken once. The fractions are of all images divided. Other splits are kept.
    Without `chosen`, the only split that is not a test split is divided. Raises UserError if it is open which splits to
    divide, if a kept split has the name of a new one, and if no image is left for a split.
    """
    names = _to_divide(splits, chosen)
    kept = {name: index for name, index in splits.items() if name not in names}
    made = ("train", "val", *(("test",) if test_fraction > 0 else ()))
    for new in made:
        if (other := match_split(new, kept)) is not None:
            hint = f"divide it too: {' '.join(f'--split {name}' for name in (*names, other))}"
            raise UserError(f"there is a split '{other}' already, beside the new '{new}'", hint)
    if not (fraction > 0 and fraction + test_fraction < 1):
        what = "nothing to validate on" if fraction <= 0 else "nothing to train on"
        raise UserError(f"fractions of {fraction:g} for val and {test_fraction:g} for test leave {what}")
    whole = join_indices(splits[names[0]].name, unify_classes([splits[name] for name in names]))
    notes: list[str] = []
    whole = join_equal(whole, {path: os.fsencode(path) for path in whole.paths.tolist()}, "union", notes)
    held_out = divide(whole, fraction + test_fraction, progress=progress).val
    test = divide(whole, test_fraction, progress=progress).val if test_fraction > 0 else np.zeros_like(held_out)
    masks = {"train": ~(held_out | test), "val": held_out & ~test, "test": test}
    parts = {name: whole.subset(np.flatnonzero(masks[name])) for name in made}
    empty = next((name for name, part in parts.items() if not len(part)), None)
    if empty is not None:
        raise UserError(f"no image is left for '{empty}': {whole.name} has {len(whole)}", "choose another fraction")
    return parts | kept, (*notes, *lost_classes(whole, parts))


def _to_divide(splits: Mapping[str, DetectionIndex], chosen: Sequence[str]) -> tuple[str, ...]:
    if chosen:
        return tuple(chosen)
    candidates = [name for name in splits if match_split("test", [name]) is None] or list(splits)
    if len(candidates) > 1:
        hint = f"name one, or several to be joined, as --split {candidates[0]}"
        raise UserError(f"it is open which of the splits {', '.join(candidates)} to divide", hint)
    return tuple(candidates)
