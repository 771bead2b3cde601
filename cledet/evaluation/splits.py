"""Loading of splits with their warnings."""

from __future__ import annotations

from cledet.console import warn
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource


def load_index(source: DataSource, split: str, *, need_images: bool = True) -> DetectionIndex:
    """Load a split of a data set and print its warnings."""
    index = source.index(split, need_images=need_images)
    for note in index.notes:
        warn(note)
    return index
