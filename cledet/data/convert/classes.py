"""Class lists of several indices made one: by exact name, by spelling, by explicit renaming."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from cledet.data.index import DetectionIndex, Ints
from cledet.errors import UserError, nearest


def rename_classes(index: DetectionIndex, names: Mapping[str, str]) -> DetectionIndex:
    """Rename classes; classes that get one name become one class, at the place of the first."""
    renamed = tuple(names.get(name, name) for name in index.classes)
    classes = tuple(dict.fromkeys(renamed))
    ids = index.category_ids[[renamed.index(name) for name in classes]]
    return _relabel(replace(index, classes=renamed, cache_folder=None), classes, ids)


def unify_classes(indices: Sequence[DetectionIndex]) -> list[DetectionIndex]:
    """Give indices one list of classes, matched by exact name: those of the first, then new ones in order.

    Classes keep their first id; a new class whose id is taken gets the next free one.
    """
    ids: dict[str, int] = {}
    for index in indices:
        refuse_repeated(index.name, index.classes)
        for name, category in zip(index.classes, index.category_ids.tolist()):
            if name not in ids:
                ids[name] = max(ids.values()) + 1 if category in ids.values() else category
    classes, categories = tuple(ids), np.array(list(ids.values()), dtype=np.int64)
    return [_relabel(index, classes, categories) for index in indices]


def _relabel(index: DetectionIndex, classes: tuple[str, ...], ids: Ints) -> DetectionIndex:
    """Return the index with the labels and ids of `classes`, which contain its own."""
    if index.classes == classes and np.array_equal(index.category_ids, ids):
        return index
    label = {name: i for i, name in enumerate(classes)}
    labels = np.array([label[name] for name in index.classes], dtype=np.int64)
    return replace(index, classes=classes, category_ids=ids, labels=labels[index.labels], cache_folder=None)


def refuse_repeated(name: str, classes: Sequence[str]) -> None:
    """Raise UserError if two classes have one name."""
    repeated = next((each for i, each in enumerate(classes) if each in classes[:i]), None)
    if repeated is not None:
        raise UserError(f"{name}: two classes are called '{repeated}'", "rename one in `names` of its data.yaml")


def respelled(known: Sequence[str], new: Sequence[str], source: str) -> dict[str, str]:
    """Match new class names to known ones that differ in case, spaces, hyphens and underscores only.

    Raises UserError if several known or several new names match one; `source` is the data set of the new ones.
    """
    matches: dict[str, str] = {}
    for name in new:
        if name in known:
            continue
        similar = [other for other in known if _spelling(other) == _spelling(name)]
        same = (other for other, match in matches.items() if [match] == similar)
        taken = similar[0] if similar and similar[0] in new else next(same, None)
        if len(similar) > 1 or taken is not None:
            listed = " or ".join(f"'{other}'" for other in (similar if taken is None else (taken, *similar)))
            raise UserError(
                f"class '{name}' of {source} may be {listed}", f"say which: --rename '{name}={similar[0]}', or another"
            )
        if similar:
            matches[name] = similar[0]
    return matches


def _spelling(name: str) -> str:
    return re.sub(r"[\s_-]+", "", name).casefold()


def parse_renames(pairs: Sequence[str], known: Iterable[str]) -> dict[str, str]:
    """Parse `old=new` pairs. Raises UserError for another form, an unknown class, and one that is renamed twice."""
    known, names = sorted(set(known)), dict[str, str]()
    for pair in pairs:
        old, sign, new = (part.strip() for part in pair.partition("="))
        if not sign or not new:
            raise UserError(f"'{pair}' renames no class", "write old=new")
        if old not in known:
            raise UserError(f"there is no class '{old}' to rename", nearest(old, known))
        if names.setdefault(old, new) != new:
            raise UserError(f"class '{old}' is to be both '{names[old]}' and '{new}'", "give one new name")
    return names


def lost_classes(whole: DetectionIndex, parts: Mapping[str, DetectionIndex]) -> tuple[str, ...]:
    """Return a note for each part in which classes of the whole have no object."""
    counts, notes = whole.class_counts(), []
    for name, part in parts.items():
        lost = [each for each, count in part.class_counts().items() if count == 0 and counts[each] > 0]
        if lost:
            listed = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
            notes.append(f"{name}: {len(lost)} of {sum(map(bool, counts.values()))} classes have no object: {listed}")
    return tuple(notes)
