"""Augmentation of training images, with one random generator per sample.

Augmentations that are off draw no random numbers, so new ones do not change the batches of existing recipes.

An object whose centre is cropped becomes ignored, like a crowd: neither object nor background. Crowds and difficult
objects stay ignored through all augmentations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cledet.data.images import Pixels
from cledet.data.index import Bools, Ints
from cledet.data.transforms import (
    Boxes,
    Window,
    clip_boxes,
    covered_share,
    fit_scale,
    flip,
    has_extent,
    photometric,
    random_window,
    resize,
    scale_boxes,
    scaled_size,
    window_around,
)

CROP_SIDE = (0.3, 1.0)
"""Range of a random crop's sides, as fractions of the image's."""
MOSAIC_CENTRE = (0.25, 0.75)
"""Range of the point where a mosaic's four tiles meet, as fractions of its sides."""
MOSAIC_ZOOM = (1.0, 2.0)
"""Range of the scale of a mosaic's tile, relative to the one at which its image just covers the tile."""
MAX_COVERED = 0.3
"""Maximum share of an object that pasted objects may cover."""
MIN_PASTED = 0.5
"""Minimum share of another object's box on a pasted patch; below, that object is ignored."""
TRIES = 10
"""Number of positions tried for a pasted object."""

Limits = tuple[int, int]
"""The short side of an image, and the maximum of its long side."""


@dataclass(frozen=True, slots=True)
class Augment:
    """Augmentation settings; each is off at its neutral value."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    vflip: float = 0.0
    """Probability of a vertical flip."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Range of a random scale: below 1 the image shrinks, above 1 a random part is enlarged to the full size."""
    photometric: float = 0.0
    """Strength of changes of brightness, contrast, saturation and hue, 0 to 1."""
    multi_scale: tuple[int, int] = (0, 0)
    """Range of the random short side in pixels, the long side's limit in proportion; zeros: off."""
    crop: float = 0.0
    """Probability of a random crop that contains a whole object, if there is one."""
    mosaic: float = 0.0
    """Probability of a mosaic with three other images, instead of a crop and the scale jitter."""
    copy_paste: int = 0
    """Maximum number of objects of another image that are pasted onto this one."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image and its n boxes, each with positive width and height."""

    image: Pixels
    boxes: Boxes
    labels: Ints
    ignore: Bools
    dropped: int = 0
    """Number of boxes dropped because they have no width or height."""


def augment_scene(
    scene: Scene, read: Callable[[int], Scene], images: int, limits: Limits, augment: Augment, rng: np.random.Generator
) -> Scene:
    """Augment a scene and resize it to the network's resolution.

    `read` returns the scene of any of the data set's `images` by its position, for mosaic and copy-paste.
    """
    limits = _draw_limits(limits, augment, rng)
    if augment.mosaic > 0 and rng.random() < augment.mosaic:
        scenes = [scene, *(read(int(other)) for other in rng.integers(images, size=3))]
        scene = mosaic(scenes, scaled_size(scene.image, fit_scale(scene.image, *limits)), rng)
    else:
        scene = _crop_and_fit(scene, limits, augment, rng)
    if augment.copy_paste > 0:
        scene = copy_paste(scene, read(int(rng.integers(images))), augment.copy_paste, limits, rng)
    return _flip_and_recolor(scene, augment, rng)


def fit(scene: Scene, limits: Limits, factor: float = 1.0) -> Scene:
    """Resize a scene to `factor` times the size that fits the limits."""
    scale = factor * fit_scale(scene.image, *limits)
    return _resize(scene, scaled_size(scene.image, scale), scale)


def crop_scene(scene: Scene, window: Window, min_inside: float = 0.0) -> Scene:
    """Crop a scene to a window and drop the boxes outside it.

    Objects whose centre is outside, or less than `min_inside` of whose area is inside, become ignored.
    """
    top, left, rows, columns = window
    boxes = _move(scene, -top, -left).boxes
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.all((centre >= 0) & (centre < (columns, rows)), axis=1)
    lost = ~inside | (covered_share(scene.boxes, window) < min_inside)
    image, boxes = scene.image[top : top + rows, left : left + columns], clip_boxes(boxes, rows, columns)
    return _select(replace(scene, image=image, boxes=boxes, ignore=scene.ignore | lost), has_extent(boxes))


def random_crop(scene: Scene, rng: np.random.Generator) -> Scene:
    """Crop a scene at random, around a whole object chosen at random, if there is one."""
    height, width = scene.image.shape[:2]
    rows, columns = (round(side * part) for side, part in zip((height, width), rng.uniform(*CROP_SIDE, size=2)))
    objects = np.flatnonzero(~scene.ignore)
    if len(objects) == 0:
        return crop_scene(scene, random_window(height, width, rows, columns, rng))
    box = scene.boxes[rng.choice(objects)]
    return crop_scene(scene, window_around(box, height, width, rows, columns, rng))


def mosaic(scenes: Sequence[Scene], size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Join tiles of four scenes around a random point to a scene of this height and width."""
    height, width = size
    middle, centre = (round(side * part) for side, part in zip(size, rng.uniform(*MOSAIC_CENTRE, size=2)))
    image = np.empty((height, width, 3), dtype=np.uint8)
    tiles = []
    for i, scene in enumerate(scenes):
        top, rows = ((0, middle), (middle, height - middle))[i // 2]
        left, columns = ((0, centre), (centre, width - centre))[i % 2]
        if rows > 0 and columns > 0:
            tile = _fill(scene, rows, columns, rng)
            image[top : top + rows, left : left + columns] = tile.image
            tiles.append(_move(tile, top, left))
    return _join(image, tiles)


def copy_paste(scene: Scene, donor: Scene, max_objects: int, limits: Limits, rng: np.random.Generator) -> Scene:
    """Paste up to `max_objects` objects of a donor, resized to the limits, as rectangular patches.

    A patch includes the donor's other objects on it. No object is covered by more than MAX_COVERED; ignored regions
    that are fully covered are dropped.
    """
    height, width = donor.image.shape[:2]
    scale = fit_scale(donor.image, *limits)
    objects = np.flatnonzero(~donor.ignore)
    chosen = rng.permutation(objects)[: int(rng.integers(1, max_objects + 1))]
    scene = replace(scene, image=scene.image.copy())
    covered = np.zeros(len(scene.boxes), dtype=np.float32)
    for box in donor.boxes[chosen]:
        part = crop_scene(donor, window_around(box, height, width, 1, 1, rng), MIN_PASTED)
        patch = replace(_resize(part, scaled_size(part.image, scale), scale), dropped=0)
        scene, covered = _paste(scene, covered, patch, rng)
    return scene


def _paste(
    scene: Scene, covered: npt.NDArray[np.float32], patch: Scene, rng: np.random.Generator
) -> tuple[Scene, npt.NDArray[np.float32]]:
    """Paste a patch onto the scene's image in place, if there is room; `covered` [n] is each box's covered share."""
    (height, width), (rows, columns) = scene.image.shape[:2], patch.image.shape[:2]
    for _ in range(TRIES if rows <= height and columns <= width else 0):
        window = random_window(height, width, rows, columns, rng)
        share = covered_share(scene.boxes, window)
        if np.all((covered + share)[~scene.ignore] <= MAX_COVERED):
            break
    else:
        return scene, covered
    top, left = window[:2]
    scene.image[top : top + rows, left : left + columns] = patch.image
    kept = ~(scene.ignore & (share > 0.999))
    parts = [_select(scene, kept), _move(patch, top, left)]
    return _join(scene.image, parts), np.append((covered + share)[kept], np.zeros(len(patch.boxes), np.float32))


def _draw_limits(limits: Limits, augment: Augment, rng: np.random.Generator) -> Limits:
    low, high = augment.multi_scale
    if high == 0:
        return limits
    short = int(rng.integers(low, high + 1))
    return short, round(short * limits[1] / limits[0])


def _crop_and_fit(scene: Scene, limits: Limits, augment: Augment, rng: np.random.Generator) -> Scene:
    """Crop a scene, jitter its scale and resize it."""
    if augment.crop > 0 and rng.random() < augment.crop:
        scene = random_crop(scene, rng)
    factor = float(rng.uniform(*augment.scale_jitter))
    if factor > 1:
        height, width = scene.image.shape[:2]
        scene = crop_scene(scene, random_window(height, width, round(height / factor), round(width / factor), rng))
    return fit(scene, limits, min(factor, 1.0))


def _flip_and_recolor(scene: Scene, augment: Augment, rng: np.random.Generator) -> Scene:
    """Apply the augmentations that are independent of the scene's objects."""
    image, boxes = scene.image, scene.boxes
    if rng.random() < augment.flip:
        image, boxes = flip(image, boxes, 1)
    if rng.random() < augment.vflip:
        image, boxes = flip(image, boxes, 0)
    if augment.photometric > 0:
        image = photometric(image, augment.photometric, rng)
    return replace(scene, image=image, boxes=boxes)


def _fill(scene: Scene, rows: int, columns: int, rng: np.random.Generator) -> Scene:
    """Crop a random part of the scene and resize it to fill a tile of this size."""
    height, width = scene.image.shape[:2]
    scale = max(rows / height, columns / width) * float(rng.uniform(*MOSAIC_ZOOM))
    part = crop_scene(scene, random_window(height, width, round(rows / scale), round(columns / scale), rng))
    return _resize(part, (rows, columns), scale)


def _resize(scene: Scene, size: tuple[int, int], scale: float) -> Scene:
    boxes = scale_boxes(scene.boxes, scene.image.shape[:2], size)
    return replace(scene, image=resize(scene.image, size, scale), boxes=clip_boxes(boxes, *size))


def _move(scene: Scene, top: int, left: int) -> Scene:
    return replace(scene, boxes=scene.boxes + np.array([left, top, left, top], dtype=np.float32))


def _select(scene: Scene, rows: Bools) -> Scene:
    """Keep a subset of the scene's boxes."""
    return replace(scene, boxes=scene.boxes[rows], labels=scene.labels[rows], ignore=scene.ignore[rows])


def _join(image: Pixels, parts: Sequence[Scene]) -> Scene:
    """Combine an image with the boxes of all parts."""
    return Scene(
        image=image,
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        ignore=np.concatenate([part.ignore for part in parts]),
        dropped=sum(part.dropped for part in parts),
    )
