"""Data: readers of annotation formats, the columnar index, images, transforms, samplers and loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cledet.data.augment import Augment
    from cledet.data.dataset import Batch, DetectionDataset, Sample, collate
    from cledet.data.images import image_files, read_image
    from cledet.data.index import DetectionIndex
    from cledet.data.loader import eval_loader, train_loader
    from cledet.data.open import DataSource, open_source
    from cledet.data.sampler import EpochBatches, sequential_batches
    from cledet.data.transforms import resize_short

__all__ = [
    "Augment",
    "Batch",
    "DataSource",
    "DetectionDataset",
    "DetectionIndex",
    "EpochBatches",
    "Sample",
    "collate",
    "eval_loader",
    "image_files",
    "open_source",
    "read_image",
    "resize_short",
    "sequential_batches",
    "train_loader",
]

_HOME = {
    "Augment": "cledet.data.augment",
    "Batch": "cledet.data.dataset",
    "DataSource": "cledet.data.open",
    "DetectionDataset": "cledet.data.dataset",
    "DetectionIndex": "cledet.data.index",
    "EpochBatches": "cledet.data.sampler",
    "Sample": "cledet.data.dataset",
    "collate": "cledet.data.dataset",
    "eval_loader": "cledet.data.loader",
    "image_files": "cledet.data.images",
    "open_source": "cledet.data.open",
    "read_image": "cledet.data.images",
    "resize_short": "cledet.data.transforms",
    "sequential_batches": "cledet.data.sampler",
    "train_loader": "cledet.data.loader",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that reading a data set imports no torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'cledet.data' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
