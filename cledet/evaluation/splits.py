"""Loading of splits with their warnings."""

from __future__ import annotations

from contextlib import suppress

from cledet.console import transfer, warn
from cledet.data.formats.division import read_division
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource, open_source
from cledet.errors import UserError


def load_index(source: DataSource, split: str, *, need_images: bool = True) -> DetectionIndex:
    """Load a split of a data set and print its warnings."""
    index = source.index(split, need_images=need_images)
    for note in index.notes:
        warn(note)
    return index


def load_split(data: str | None, split: str, trained_on: str) -> DetectionIndex:
    """Load a split for a model trained on the data set `trained_on`, which is the default of `data`.

    Warns if another data set holds training images of a run that held out others.
    """
    index = load_index(open_source(data or trained_on, transfer), split)
    if data is not None and not same_data(data, trained_on):
        with suppress(UserError):  # the lists are gone
            _warn_of_trained(index, trained_on)
    return index


def _warn_of_trained(index: DetectionIndex, trained_on: str) -> None:
    division = read_division(trained_on)
    trained = set(division.train) if division is not None else set()
    if seen := sum(path in trained for path in index.paths.tolist()):
        warn(
            f"{seen} of the {len(index)} images of {index.name} were trained on: the metrics are too high for other "
            "images; without --data, the held-out images are evaluated"
        )


def same_data(data: str | None, other: str | None) -> bool:
    """Return whether two names are of the same data set, or of equal divisions of one."""
    if data == other or data is None or other is None:
        return data == other
    division = read_division(data)
    return division is not None and division == read_division(other)
