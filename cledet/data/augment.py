"""How training images are varied: each random choice in its order, from one generator a sample.

What is off draws nothing, so that a recipe's batches stay the same when another way to vary comes to this file.

An object whose centre was cut off is ignored, neither object nor background, like a crowd; crowds and difficult
objects go along as ignored through every change.
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
    covered,
    crop,
    fit_scale,
    hflip,
    photometric,
    random_window,
    resize,
    scale_boxes,
    scaled,
    vflip,
    visible,
    window_about,
)

CROP_SIDE = (0.3, 1.0)
"""Range of a random crop's sides, as parts of the image's."""
MOSAIC_CENTRE = (0.25, 0.75)
"""Where a mosaic's four parts meet, as part of its sides."""
MOSAIC_ZOOM = (1.0, 2.0)
"""Range of the scale of a mosaic's part, over the one at which its image just covers its place."""
MOST_COVERED = 0.3
"""The most of an object that pasted ones may cover."""
LEAST_PASTED = 0.5
"""What of another object's box must be on a pasted rectangle, for it to be an object there too."""
TRIES = 10
"""Places that are tried for a pasted object."""

Limits = tuple[int, int]
"""The short side of an image, and the longest that the long one may be."""


@dataclass(frozen=True, slots=True)
class Augment:
    """How training images are varied; each is off at its neutral value."""

    flip: float = 0.5
    """Chance of a mirror image."""
    vflip: float = 0.0
    """Chance of turning upside down."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Range of a random scale: below 1 the image shrinks, above 1 a random part of it fills the whole."""
    photometric: float = 0.0
    """Strength of changes of brightness, contrast, saturation and hue, 0 to 1."""
    multi_scale: tuple[int, int] = (0, 0)
    """Range of the random short side in pixels, the long side's limit in proportion; zeros: off."""
    crop: float = 0.0
    """Chance of a random crop that keeps a whole object, if there is one."""
    mosaic: float = 0.0
    """Chance that parts of the image and of three others are joined, in place of a crop and the scale jitter."""
    copy_paste: int = 0
    """The most objects of another image that are pasted onto this one."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """An image and the n boxes on it, each with width and height."""

    image: Pixels
    boxes: Boxes
    labels: Ints
    ignore: Bools
    dropped: int = 0
    """Boxes that were left out since they have no width or height."""


def vary(
    scene: Scene,
    read: Callable[[int], Scene],
    images: int,
    limits: Limits,
    augment: Augment,
    rng: np.random.Generator,
) -> Scene:
    """The scene after every random change, at the network's resolution.

    `read` gives the scene of another of so many `images`, by its position.
    """
    limits = _draw_limits(limits, augment, rng)
    if augment.mosaic > 0 and rng.random() < augment.mosaic:
        scenes = [scene, *(read(int(other)) for other in rng.integers(images, size=3))]
        scene = mosaic(scenes, scaled(scene.image, fit_scale(scene.image, *limits)), rng)
    else:
        scene = _crop_and_fit(scene, limits, augment, rng)
    if augment.copy_paste > 0:
        scene = copy_paste(scene, read(int(rng.integers(images))), augment.copy_paste, limits, rng)
    return _turn_and_tint(scene, augment, rng)


def fit(scene: Scene, limits: Limits, factor: float = 1.0) -> Scene:
    """Resize to `factor` times what fits the limits."""
    scale = factor * fit_scale(scene.image, *limits)
    return _resize(scene, scaled(scene.image, scale), scale)


def cut(scene: Scene, window: Window, least: float = 0.0) -> Scene:
    """The part of a scene in a window, without what is wholly outside.

    Ignored from then on: an object whose centre is outside, or of which less than `least` is inside.
    """
    image, boxes, inside = crop(scene.image, scene.boxes, window)
    seen = visible(boxes)
    lost = ~inside | (covered(scene.boxes, window) < least)
    return _choose(replace(scene, image=image, boxes=boxes, ignore=scene.ignore | lost), seen)


def random_crop(scene: Scene, rng: np.random.Generator) -> Scene:
    """A random part of the scene, which holds the whole of an object chosen at random, if there is one."""
    height, width = scene.image.shape[:2]
    rows, columns = (round(side * part) for side, part in zip((height, width), rng.uniform(*CROP_SIDE, size=2)))
    objects = np.flatnonzero(~scene.ignore)
    if len(objects) == 0:
        return cut(scene, random_window(height, width, rows, columns, rng))
    chosen = scene.boxes[rng.choice(objects)]
    return cut(scene, window_about(chosen, height, width, rows, columns, rng))


def mosaic(scenes: Sequence[Scene], size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """Four scenes joined around a random point to one of this height and width, each filling its place."""
    height, width = size
    middle, centre = (round(side * part) for side, part in zip(size, rng.uniform(*MOSAIC_CENTRE, size=2)))
    image = np.empty((height, width, 3), dtype=np.uint8)
    parts = []
    for i, scene in enumerate(scenes):
        top, rows = ((0, middle), (middle, height - middle))[i // 2]
        left, columns = ((0, centre), (centre, width - centre))[i % 2]
        if rows > 0 and columns > 0:
            part = _cover(scene, rows, columns, rng)
            image[top : top + rows, left : left + columns] = part.image
            parts.append(_move(part, top, left))
    return _join(image, parts)


def copy_paste(scene: Scene, donor: Scene, most: int, limits: Limits, rng: np.random.Generator) -> Scene:
    """Up to `most` objects of a donor, resized to the limits, pasted as rectangles where they cover little.

    What else of the donor is on a rectangle comes along. No object is covered by more than MOST_COVERED; an ignored
    region that is covered whole is there no more.
    """
    height, width = donor.image.shape[:2]
    scale = fit_scale(donor.image, *limits)
    objects = np.flatnonzero(~donor.ignore)
    chosen = rng.permutation(objects)[: int(rng.integers(1, most + 1))]
    scene = replace(scene, image=scene.image.copy())
    hidden = np.zeros(len(scene.boxes), dtype=np.float32)
    for box in donor.boxes[chosen]:
        part = cut(donor, window_about(box, height, width, 1, 1, rng), LEAST_PASTED)
        patch = replace(_resize(part, scaled(part.image, scale), scale), dropped=0)
        scene, hidden = _paste(scene, hidden, patch, rng)
    return scene


def _paste(
    scene: Scene, hidden: npt.NDArray[np.float32], patch: Scene, rng: np.random.Generator
) -> tuple[Scene, npt.NDArray[np.float32]]:
    """The patch on the scene's image, in place, if there is room; `hidden` is what of each box [n] is covered."""
    (height, width), (rows, columns) = scene.image.shape[:2], patch.image.shape[:2]
    for _ in range(TRIES if rows <= height and columns <= width else 0):
        window = random_window(height, width, rows, columns, rng)
        share = covered(scene.boxes, window)
        if np.all((hidden + share)[~scene.ignore] <= MOST_COVERED):
            break
    else:
        return scene, hidden
    top, left = window[:2]
    scene.image[top : top + rows, left : left + columns] = patch.image
    left_over = ~(scene.ignore & (share > 0.999))
    parts = [_choose(scene, left_over), _move(patch, top, left)]
    return _join(scene.image, parts), np.append((hidden + share)[left_over], np.zeros(len(patch.boxes), np.float32))


def _draw_limits(limits: Limits, augment: Augment, rng: np.random.Generator) -> Limits:
    low, high = augment.multi_scale
    if high == 0:
        return limits
    short = int(rng.integers(low, high + 1))
    return short, round(short * limits[1] / limits[0])


def _crop_and_fit(scene: Scene, limits: Limits, augment: Augment, rng: np.random.Generator) -> Scene:
    """One image cropped and jittered in scale."""
    if augment.crop > 0 and rng.random() < augment.crop:
        scene = random_crop(scene, rng)
    factor = float(rng.uniform(*augment.scale_jitter))
    if factor > 1:
        height, width = scene.image.shape[:2]
        scene = cut(scene, random_window(height, width, round(height / factor), round(width / factor), rng))
    return fit(scene, limits, min(factor, 1.0))


def _turn_and_tint(scene: Scene, augment: Augment, rng: np.random.Generator) -> Scene:
    """What does not depend on what is on the image."""
    image, boxes = scene.image, scene.boxes
    if rng.random() < augment.flip:
        image, boxes = hflip(image, boxes)
    if rng.random() < augment.vflip:
        image, boxes = vflip(image, boxes)
    if augment.photometric > 0:
        image = photometric(image, augment.photometric, rng)
    return replace(scene, image=image, boxes=boxes)


def _cover(scene: Scene, rows: int, columns: int, rng: np.random.Generator) -> Scene:
    """A random part of the scene, resized so that it fills so many rows and columns."""
    height, width = scene.image.shape[:2]
    scale = max(rows / height, columns / width) * float(rng.uniform(*MOSAIC_ZOOM))
    part = cut(scene, random_window(height, width, round(rows / scale), round(columns / scale), rng))
    return _resize(part, (rows, columns), scale)


def _resize(scene: Scene, size: tuple[int, int], scale: float) -> Scene:
    boxes = scale_boxes(scene.boxes, scene.image.shape[:2], size)
    return replace(scene, image=resize(scene.image, size, scale), boxes=clip_boxes(boxes, *size))


def _move(scene: Scene, top: int, left: int) -> Scene:
    return replace(scene, boxes=scene.boxes + np.array([left, top, left, top], dtype=np.float32))


def _choose(scene: Scene, rows: Bools) -> Scene:
    """The scene with these of its boxes only."""
    return replace(scene, boxes=scene.boxes[rows], labels=scene.labels[rows], ignore=scene.ignore[rows])


def _join(image: Pixels, parts: Sequence[Scene]) -> Scene:
    """One image with the boxes of all parts."""
    return Scene(
        image=image,
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        ignore=np.concatenate([part.ignore for part in parts]),
        dropped=sum(part.dropped for part in parts),
    )
