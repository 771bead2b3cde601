"""Splits as the commands open them: what is odd about one is said."""

from __future__ import annotations

from cledet.console import warn
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource


def load_index(source: DataSource, split: str, *, need_images: bool = True) -> DetectionIndex:
    """One split of a data set; what is odd about it is said."""
    index = source.index(split, need_images=need_images)
    for note in index.notes:
        warn(note)
    return index
