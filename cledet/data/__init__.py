"""Data: formats to one columnar index, images, transforms, samplers, the embedded set and what the doctor looks at."""

from cledet.data.augment import Augment
from cledet.data.dataset import Batch, DetectionDataset, Sample, collate
from cledet.data.images import image_files, read_image
from cledet.data.index import DetectionIndex
from cledet.data.loader import eval_loader, train_loader
from cledet.data.sampler import EpochBatches, sequential_batches
from cledet.data.source import DataSource, open_source
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
