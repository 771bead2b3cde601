"""Indices joined to one, and images gathered with chosen boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cledet.data.index import BOX_COLUMNS, IMAGE_COLUMNS, DetectionIndex, Ints


def join_indices(name: str, indices: Sequence[DetectionIndex]) -> DetectionIndex:
    """Join indices of the same classes, in their order; images are numbered from 1 if their ids are not distinct."""
    columns: dict[str, Any] = {
        column: np.concatenate([getattr(index, column) for index in indices])
        for column in (*IMAGE_COLUMNS, *BOX_COLUMNS)
    }
    ids, counts = columns["image_ids"], np.concatenate([np.diff(index.starts) for index in indices])
    if len(np.unique(ids)) < len(ids):
        columns["image_ids"] = np.arange(1, len(ids) + 1, dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return replace(indices[0], name=name, **columns, starts=starts, notes=(), cache_folder=None)


def gather(index: DetectionIndex, images: Sequence[int], rows: Sequence[Ints]) -> DetectionIndex:
    """Return the index of these image positions [n], each with the boxes in these rows."""
    chosen, flat = np.asarray(images, dtype=np.int64), np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    columns = {column: getattr(index, column)[chosen] for column in IMAGE_COLUMNS}
    columns |= {column: getattr(index, column)[flat] for column in BOX_COLUMNS}
    starts = np.concatenate([[0], np.cumsum([len(each) for each in rows])]).astype(np.int64)
    return replace(index, **columns, starts=starts, cache_folder=None)
