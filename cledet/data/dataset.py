"""Training and evaluation samples of a split, and their padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cledet.data.augment import Augment, Scene, augment_scene, fit
from cledet.data.images import Pixels, read_image
from cledet.data.index import DetectionIndex
from cledet.data.transforms import canvas_limits, clip_boxes, has_extent, resize_short, resized_sizes
from cledet.errors import UserError

PADDING = (124, 116, 104)
"""The padding colour: ImageNet's mean, which is 0 after normalization."""
LEAST_SIDE = 1.0
"""Minimum width and height of an object in pixels after resizing; a smaller one cannot be learned."""


class Key(NamedTuple):
    """A draw of an image in training, which determines a sample together with the seed."""

    epoch: int
    position: int
    copy: int = 0
    """Number of the image's other draws that precede this one in the epoch's list, before it is shuffled."""
    mosaic: bool = True
    """False in the last part of a run, which has no mosaics."""


@dataclass(slots=True)
class Sample:
    """One resized image and its ground truth."""

    image: Tensor
    """uint8 [3, H, W], RGB."""
    boxes: Tensor
    """float32 [n, 4] xyxy in pixels of `image`."""
    labels: Tensor
    """int64 [n]."""
    ignored: Tensor
    """float32 [k, 4] xyxy: crowds, difficult objects, and objects whose centre was cropped."""
    image_id: int
    index: int
    """Position in the data set."""
    original_size: tuple[int, int]
    """Height and width of the file."""
    dropped: int
    """Number of dropped boxes: objects less than LEAST_SIDE wide or high, and boxes without width or height."""


@dataclass(slots=True)
class Batch:
    """N samples padded to the largest image, to G boxes and to K ignored regions each; G and K may be 0."""

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
    """int64 [N] number of boxes per image."""
    ignored: Tensor
    """float32 [N, K, 4]; padded with zeros."""
    image_ids: Tensor
    """int64 [N]."""
    indices: Tensor
    """int64 [N] positions in the data set."""
    dropped: Tensor
    """int64 [N] number of dropped boxes per image."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copy the batch to a device."""
        tensors = [getattr(self, field.name) for field in fields(self)]
        return Batch(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))

    def pin_memory(self) -> Batch:
        """Copy the batch to page-locked memory; called by the loader."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))


class DetectionDataset(torch.utils.data.Dataset[Sample]):
    """The resized images of an index with their boxes, augmented if `augment` is given.

    Sides are at most `short` and `long`; with a `canvas`, images fit into this height and width.
    Every random choice is a function of the seed and the `Key`: (epoch, image position), and the number of a copy if an
    epoch has the image several times. Degenerate boxes are dropped and counted.
    """

    def __init__(
        self,
        index: DetectionIndex,
        *,
        short: int,
        long: int,
        canvas: tuple[int, int] | None = None,
        augment: Augment | None = None,
        seed: int = 0,
    ) -> None:
        self.index, self.canvas = index, canvas
        self.short, self.long = short, long
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Key | tuple[int, int] | int) -> Sample:
        key = Key(*key) if isinstance(key, tuple) else Key(0, key)
        position = key.position
        scene = self.read(position)
        height, width = scene.image.shape[:2]
        if self.augment is None:
            limits = canvas_limits(scene.image, self.canvas) if self.canvas else (self.short, self.long)
            scene = fit(scene, limits)
        else:
            rng = np.random.default_rng((self.seed, *(key[:3] if key.copy else key[:2])))
            augment = self.augment if key.mosaic else replace(self.augment, mosaic=0.0)
            scene = augment_scene(scene, self.read, len(self), (self.short, self.long), augment, rng)
        least = np.where(scene.ignore, np.finfo(np.float32).tiny, LEAST_SIDE)
        small = np.any(scene.boxes[:, 2:] - scene.boxes[:, :2] < least[:, None], axis=1)
        objects = ~small & ~scene.ignore
        return Sample(
            image=_to_tensor(scene.image),
            boxes=torch.from_numpy(scene.boxes[objects]),
            labels=torch.from_numpy(scene.labels[objects]),
            ignored=torch.from_numpy(scene.boxes[~small & scene.ignore]),
            image_id=int(self.index.image_ids[position]),
            index=position,
            original_size=(height, width),
            dropped=scene.dropped + int(small.sum()),
        )

    def __getitems__(self, keys: Sequence[Key | tuple[int, int] | int]) -> list[Sample] | UserError:
        """Return the samples of a batch, or the error of one: raised in a worker, it would arrive as a traceback."""
        try:
            return [self[key] for key in keys]
        except UserError as error:
            return error

    def read(self, position: int) -> Scene:
        """Read an image at its original size, with its boxes clipped to it.

        Raises UserError if the image has not the annotated size, since its boxes would be misplaced.
        """
        path, size, rows = str(self.index.paths[position]), self.index.size(position), self.index.rows(position)
        image = read_image(path, self.index.annotated_size(position))
        if size is not None and image.shape[1::-1] != size:
            sizes = f"is {image.shape[1]}x{image.shape[0]} but was annotated as {size[0]}x{size[1]}"
            raise UserError(f"{path} {sizes}", "`cledet check` lists all such images")
        boxes = self.index.boxes(position)
        boxes[self.index.degenerate(rows)] = 0
        boxes = clip_boxes(boxes, *image.shape[:2])
        valid = has_extent(boxes)
        return Scene(
            image=image,
            boxes=boxes[valid],
            labels=self.index.labels[rows][valid],
            ignore=self.index.ignore[rows][valid],
            dropped=len(valid) - int(valid.sum()),
        )

    def padded_sizes(self, multiple: int) -> npt.NDArray[np.int64]:
        """Number the images [I] by their height and width after resizing and padding: equal sizes, equal numbers.

        An image without an annotated size has a number of its own.
        """
        known = (self.index.sizes > 0).all(axis=1)
        sizes = resized_sizes(np.maximum(self.index.sizes, 1), self.short, self.long)
        padded = -(-sizes // multiple)
        return np.where(known, padded[:, 0] << 20 | padded[:, 1], -1 - np.arange(len(sizes)))


def collate(samples: Sequence[Sample], multiple: int = 32) -> Batch:
    """Pad samples to one batch, image sides to a multiple of `multiple` pixels."""
    return Batch(
        images=pad_images([sample.image for sample in samples], multiple),
        sizes=torch.tensor([sample.image.shape[1:] for sample in samples], dtype=torch.int64),
        original_sizes=torch.tensor([sample.original_size for sample in samples], dtype=torch.int64),
        boxes=_pad([sample.boxes for sample in samples]),
        labels=_pad([sample.labels for sample in samples]),
        counts=torch.tensor([len(sample.labels) for sample in samples], dtype=torch.int64),
        ignored=_pad([sample.ignored for sample in samples]),
        image_ids=torch.tensor([sample.image_id for sample in samples], dtype=torch.int64),
        indices=torch.tensor([sample.index for sample in samples], dtype=torch.int64),
        dropped=torch.tensor([sample.dropped for sample in samples], dtype=torch.int64),
    )


def preprocess(image: Pixels, short: int, long: int, multiple: int = 32) -> tuple[Tensor, tuple[int, int]]:
    """Resize one RGB image [H, W, 3] and pad it, as evaluation does for a batch.

    Returns the batch [1, 3, Hp, Wp] uint8, and the image's height and width in it without padding.
    """
    resized = resize_short(image, short, long)
    return pad_images([_to_tensor(resized)], multiple), (resized.shape[0], resized.shape[1])


def fit_canvas(image: Pixels, canvas: tuple[int, int]) -> Tensor:
    """Resize one RGB image [H, W, 3] to fit into a canvas (height, width), and pad it to [1, 3, *canvas] uint8."""
    return pad_images([_to_tensor(resize_short(image, *canvas_limits(image, canvas)))], sides=canvas)


def _to_tensor(image: Pixels) -> Tensor:
    """Return an image [H, W, 3] as a tensor [3, H, W], copied only if it is read-only or not contiguous."""
    return torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)


def pad_images(images: Sequence[Tensor], multiple: int = 32, sides: tuple[int, int] | None = None) -> Tensor:
    """Pad uint8 images [3, H, W] at the right and bottom to one tensor [N, 3, Hp, Wp], channels_last.

    Hp and Wp are `sides`, or the smallest multiples that hold all images.
    """
    least = (-(-max(image.shape[d] for image in images) // multiple) * multiple for d in (1, 2))
    height, width = sides or least
    canvas = np.empty((len(images), height, width, 3), dtype=np.uint8)
    padding = np.full((1, width, 3), PADDING, dtype=np.uint8)
    for padded, image in zip(canvas, images):  # NumPy copies rows of bytes several times as fast as torch
        rows, columns = image.shape[1:]
        padded[:rows, :columns] = image.permute(1, 2, 0).numpy()
        padded[:rows, columns:] = padding[:, columns:]
        padded[rows:] = padding
    return torch.from_numpy(canvas).permute(0, 3, 1, 2)


def _pad(rows: Sequence[Tensor]) -> Tensor:
    """Stack N tensors [n, ...] of different n, padded with zeros, to [N, max n, ...]."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
