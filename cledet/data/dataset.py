"""A split as training or evaluation samples, and samples as a padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cledet.data.images import Pixels, read_image
from cledet.data.index import DetectionIndex
from cledet.data.transforms import (
    Augment,
    Boxes,
    clip_boxes,
    fit_scale,
    hflip,
    photometric,
    random_crop,
    rescale,
    scale_boxes,
    vflip,
    visible,
)
from cledet.errors import UserError

Key = tuple[int, int]
"""Epoch and image position: what a sample is a function of, beside the seed."""
PADDING = (124, 116, 104)
"""The colour beside an image: ImageNet's mean, so 0 once normalised."""


@dataclass(slots=True)
class Sample:
    """One image as the network sees it, and what is on it."""

    image: Tensor
    """uint8 [3, H, W], RGB."""
    boxes: Tensor
    """float32 [n, 4] xyxy in pixels of `image`."""
    labels: Tensor
    """int64 [n]."""
    ignored: Tensor
    """float32 [k, 4]: crowds, difficult objects, objects mostly cut off."""
    image_id: int
    index: int
    """Position in the data set."""
    size: tuple[int, int]
    """Height and width of `image`."""
    original_size: tuple[int, int]
    """Height and width of the file."""


@dataclass(slots=True)
class Batch:
    """N samples padded to one size, to the most boxes, G, and to the most ignored regions, K; both may be 0."""

    images: Tensor
    """uint8 [N, 3, Hp, Wp], padded at the right and bottom; channels_last in memory."""
    sizes: Tensor
    """int64 [N, 2] height and width without padding."""
    original_sizes: Tensor
    """int64 [N, 2] height and width of the files."""
    boxes: Tensor
    """float32 [N, G, 4] xyxy; zeros after the first counts[i]."""
    labels: Tensor
    """int64 [N, G]."""
    counts: Tensor
    """int64 [N] how many boxes each image has."""
    ignored: Tensor
    """float32 [N, K, 4]; zeros where there is no more."""
    image_ids: Tensor
    """int64 [N]."""
    indices: Tensor
    """int64 [N] positions in the data set."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on a device."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory; called by the loader."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))


class DetectionDataset(torch.utils.data.Dataset[Sample]):
    """The images of an index, resized, augmented where asked, with their boxes.

    Every random choice is a function of (seed, epoch, image position). Degenerate boxes are dropped.
    """

    def __init__(
        self, index: DetectionIndex, *, short: int, long: int, augment: Augment | None = None, seed: int = 0
    ) -> None:
        self.index = index
        self.short, self.long = short, long
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key | int) -> Sample:
        epoch, position = key if isinstance(key, tuple) else (0, key)
        image = self._read(position)
        original_size = image.shape[:2]
        rows = self.index.rows(position)
        boxes, ignore = self.index.boxes(position), self.index.ignore[rows].copy()
        boxes[self.index.degenerate(rows)] = 0
        boxes = clip_boxes(boxes, *original_size)
        if self.augment is None:
            image, boxes = self._resize(image, boxes, 1.0)
        else:
            rng = np.random.default_rng((self.seed, epoch, position))
            image, boxes, cut = self._vary(image, boxes, self.augment, rng)
            ignore |= cut
        seen = visible(boxes)
        objects = seen & ~ignore
        return Sample(
            image=torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1),
            boxes=torch.from_numpy(boxes[objects]),
            labels=torch.from_numpy(self.index.labels[rows][objects]),
            ignored=torch.from_numpy(boxes[seen & ignore]),
            image_id=int(self.index.image_ids[position]),
            index=position,
            size=(image.shape[0], image.shape[1]),
            original_size=(original_size[0], original_size[1]),
        )

    def padded_sizes(self, multiple: int) -> npt.NDArray[np.int64]:
        """A number for each image [I], the same for those that end as high and as wide once resized and padded.

        An image whose annotation does not say its size has a number of its own.
        """
        sides = self.index.sizes.astype(np.float64)
        known = (sides > 0).all(axis=1)
        sides[~known] = 1
        scale = np.minimum(self.short / sides.min(axis=1), self.long / sides.max(axis=1))
        padded = np.ceil(np.maximum(np.round(sides * scale[:, None]), 1) / multiple).astype(np.int64)
        return np.where(known, padded[:, 0] << 20 | padded[:, 1], -1 - np.arange(len(sides)))

    def _read(self, position: int) -> Pixels:
        """The image, which must have the annotated size: else the boxes mean something else."""
        path, (width, height) = str(self.index.paths[position]), self.index.sizes[position].tolist()
        known = width > 0 and height > 0
        image = read_image(path, (width, height) if known else None)
        if known and image.shape[:2] != (height, width):
            sizes = f"is {image.shape[1]}x{image.shape[0]} but was annotated as {width}x{height}"
            raise UserError(f"{path} {sizes}", "`cledet check` lists all such images")
        return image

    def _resize(self, image: Pixels, boxes: Boxes, factor: float) -> tuple[Pixels, Boxes]:
        """Resize to `factor` times what fits the limits."""
        resized = rescale(image, factor * fit_scale(image, self.short, self.long))
        boxes = scale_boxes(boxes, image.shape[:2], resized.shape[:2])
        return resized, clip_boxes(boxes, *resized.shape[:2])

    def _vary(
        self, image: Pixels, boxes: Boxes, augment: Augment, rng: np.random.Generator
    ) -> tuple[Pixels, Boxes, npt.NDArray[np.bool_]]:
        """The image and boxes after every random change, and [n] which objects were cut off."""
        factor = float(rng.uniform(*augment.scale_jitter))
        cut = np.zeros(len(boxes), dtype=np.bool_)
        if factor > 1:
            image, boxes, inside = random_crop(image, boxes, factor, rng)
            cut = ~inside
        image, boxes = self._resize(image, boxes, min(factor, 1.0))
        if rng.random() < augment.flip:
            image, boxes = hflip(image, boxes)
        if rng.random() < augment.vflip:
            image, boxes = vflip(image, boxes)
        if augment.photometric > 0:
            image = photometric(image, augment.photometric, rng)
        return image, boxes, cut


def collate(samples: Sequence[Sample], multiple: int = 32) -> Batch:
    """Pad samples to one batch, image sides to a multiple of `multiple` pixels."""
    return Batch(
        images=pad_images([sample.image for sample in samples], multiple),
        sizes=torch.tensor([sample.size for sample in samples], dtype=torch.int64),
        original_sizes=torch.tensor([sample.original_size for sample in samples], dtype=torch.int64),
        boxes=_pad([sample.boxes for sample in samples]),
        labels=_pad([sample.labels for sample in samples]),
        counts=torch.tensor([len(sample.labels) for sample in samples], dtype=torch.int64),
        ignored=_pad([sample.ignored for sample in samples]),
        image_ids=torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
    )


def pad_images(images: Sequence[Tensor], multiple: int = 32) -> Tensor:
    """Images [3, H, W] uint8 as one tensor [N, 3, Hp, Wp], channels_last, padded at the right and bottom."""
    height, width = (-(-max(image.shape[d] for image in images) // multiple) * multiple for d in (1, 2))
    canvas = torch.tensor(PADDING, dtype=torch.uint8).expand(len(images), height, width, 3).clone()
    for place, image in zip(canvas, images):
        place[: image.shape[1], : image.shape[2]] = image.permute(1, 2, 0)
    return canvas.permute(0, 3, 1, 2)


def _pad(rows: Sequence[Tensor]) -> Tensor:
    """Stack [n, ...] tensors of different n to [N, max n, ...] with zeros."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
