"""The interface that the readers of all annotation formats have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cledet.data.index import DetectionIndex


class Reader(Protocol):
    """A data set in one annotation format, whose splits are known and not yet read.

    A reader is a frozen dataclass: its `repr` is part of the key of the index cache.
    """

    @property
    def splits(self) -> Mapping[str, object]:
        """Return the splits by name."""

    @property
    def format(self) -> str:
        """Return the format's name."""

    def read(self, split: str) -> DetectionIndex:
        """Read one split; the index is named after it. Invalid annotations become annotation errors of the index."""

    def inputs(self, split: str) -> tuple[list[Path], str]:
        """Return the annotation files that `read` parses, and its other inputs as text."""
