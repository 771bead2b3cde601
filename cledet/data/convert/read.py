"""Reading of the splits that are to be copied."""

from __future__ import annotations

from collections.abc import Sequence

from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource
from cledet.errors import UserError, nearest


def read_splits(
    source: DataSource, names: Sequence[str] = (), *, need_images: bool = True
) -> dict[str, DetectionIndex]:
    """Read the named splits of a data set, by default all, by their own names and in their order.

    Raises UserError for an unknown split, and for annotation errors, with a hint at `cledet check`.
    """
    found = {name: source.find(name) for name in names}
    unknown = next((name for name, split in found.items() if split is None), None)
    if unknown is not None:
        raise UserError(f"{source.name} has no split '{unknown}'", nearest(unknown, source.splits))
    chosen = [split for split in source.splits if not names or split in found.values()]
    return {split: source.index(split, need_images=need_images) for split in chosen}
