"""Scenes of stars, crescents, rings, bars and elbows on textured backgrounds, drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.float32]

CROWDED = 0.125
"""Share of the images with a crowd: five to eight shapes of one class and size side by side."""
MAX_COVER = {False: 0.4, True: 0.2}
"""Maximum share of a shape that later ones may hide, without and with a crowd."""
_SHIFT = 4
"""Fractional bits of coordinates passed to OpenCV."""


class Shape(NamedTuple):
    """One drawn object."""

    name: str
    box: tuple[int, int, int, int]
    """Left, top, width and height in pixels, including hidden parts."""
    area: int
    """Area in pixels, including hidden parts."""


class Kind(NamedTuple):
    """A class of shapes."""

    draw: Callable[[float, np.random.Generator], Mask]
    """Draw the mask of a shape of a length in pixels."""
    share: float
    """Share of all shapes."""


def draw_scene(width: int, height: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[Shape]]:
    """Draw an RGB image [height, width, 3] with one to eight tightly boxed shapes."""
    picture = _ground(width, height, rng)
    visible: list[npt.NDArray[np.bool_]] = []
    shapes: list[Shape] = []
    crowd = bool(rng.random() < CROWDED)
    count, tries = int(rng.integers(5 if crowd else 1, 9)), 0
    name, diameter = _kind(rng), _diameter(rng, high=70)
    while len(shapes) < count and tries < 60:
        tries += 1
        if crowd:
            mask = SHAPES[name].draw(diameter * rng.uniform(0.9, 1.1), rng)
        else:
            name = _kind(rng)
            mask = SHAPES[name].draw(_diameter(rng), rng)
        alpha = _place(mask, width, height, rng, shapes[-1].box if crowd and shapes else None)
        shape = alpha > 0.5
        if _hides(shape, visible, shapes, MAX_COVER[crowd]):
            continue
        visible = [mask & ~shape for mask in visible] + [shape]
        shapes.append(Shape(name, _tight_box(shape), int(shape.sum())))
        _paint(picture, alpha, rng)
    picture += 3 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), shapes


def _kind(rng: np.random.Generator) -> str:
    """Draw the name of a class, each with the probability of its share."""
    return str(rng.choice(list(SHAPES), p=[kind.share for kind in SHAPES.values()]))


def _diameter(rng: np.random.Generator, low: float = 26, high: float = 138) -> float:
    """Draw a length in pixels, uniform on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _hides(
    shape: npt.NDArray[np.bool_], visible: list[npt.NDArray[np.bool_]], shapes: list[Shape], most: float
) -> bool:
    """Return whether a new mask would hide more than the share `most` of any earlier shape."""
    return any((mask & ~shape).sum() < (1 - most) * earlier.area for mask, earlier in zip(visible, shapes))


def _tight_box(shape: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _ground(width: int, height: int, rng: np.random.Generator) -> Picture:
    """Draw a background of two muted colours mixed by smooth noise, stripes or a gradient, plus fine noise."""
    mix = TEXTURES[int(rng.integers(len(TEXTURES)))](width, height, rng)[:, :, None]
    base = rng.uniform(50, 205, 3)
    first, second = (base + rng.uniform(-38, 38, 3) for _ in range(2))
    grain = 10 * (_clouds(width, height, rng, cells=24)[:, :, None] - 0.5)
    return (first + (second - first) * mix + grain).astype(np.float32)


def _clouds(width: int, height: int, rng: np.random.Generator, cells: int = 5) -> Mask:
    """Draw smooth noise from 0 to 1."""
    coarse = rng.random((cells, cells), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1).astype(np.float32)


def _stripes(width: int, height: int, rng: np.random.Generator) -> Mask:
    """Draw soft waves from 0 to 1, 12 to 50 pixels long."""
    along = _along(width, height, rng.uniform(0, np.pi))
    return (0.5 + 0.5 * np.sin(along * 2 * np.pi / rng.uniform(12, 50) + rng.uniform(0, 6))).astype(np.float32)


def _slope(width: int, height: int, rng: np.random.Generator) -> Mask:
    """Draw a linear gradient from 0 to 1 in a random direction."""
    along = _along(width, height, rng.uniform(0, 2 * np.pi))
    return ((along - along.min()) / max(float(np.ptp(along)), 1.0)).astype(np.float32)


def _along(width: int, height: int, angle: float) -> Mask:
    """Compute every pixel's distance along a direction."""
    across, down = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return np.add.outer(down * np.float32(np.sin(angle)), across * np.float32(np.cos(angle)))


def _paint(picture: Picture, alpha: Mask, rng: np.random.Generator) -> None:
    """Paint a textured shape in a contrasting colour with a dark rim onto the image, in place."""
    inner = cv2.erode(alpha, np.ones((3, 3), np.uint8))
    left, top, width, height = _tight_box(alpha > 0)
    window = (slice(top, top + height), slice(left, left + width))
    part, cover = picture[window], alpha[window][:, :, None]
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))](width, height, rng)
    colour = _contrasting(part[alpha[window] > 0.5].mean(axis=0), rng)
    fill = colour * (0.82 + 0.36 * texture[:, :, None]) * (0.45 + 0.55 * inner[window][:, :, None])
    picture[window] = part * (1 - cover) + fill * cover


def _contrasting(under: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Draw six random colours and return the farthest from the one underneath."""
    colours = rng.uniform(20, 245, (6, 3))
    return np.asarray(colours[np.argmax(np.abs(colours - under).sum(axis=1))])


def _place(
    shape: Mask, width: int, height: int, rng: np.random.Generator, near: tuple[int, int, int, int] | None
) -> Mask:
    """Place a shape's small mask in a mask of the image's size, at random or near a box."""
    left, top, w, h = _tight_box(shape > 0)
    left_to, top_to = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    if near:
        x, y, across, down = near
        left_to = int(np.clip(x + rng.uniform(-1, 1) * across, 0, width - w))
        top_to = int(np.clip(y + rng.uniform(-1, 1) * down, 0, height - h))
    alpha = np.zeros((height, width), dtype=np.float32)
    alpha[top_to : top_to + h, left_to : left_to + w] = shape[top : top + h, left : left + w]
    return alpha


def _star(diameter: float, rng: np.random.Generator) -> Mask:
    """Draw a star of five to eight uneven points."""
    points = int(rng.integers(5, 9))
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.4, 0.52))
    radius *= rng.uniform(0.88, 1.0, 2 * points) * diameter / 2
    angle = np.arange(2 * points) * np.pi / points + rng.uniform(0, 2 * np.pi)
    return _polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), diameter)


def _bar(diameter: float, rng: np.random.Generator) -> Mask:
    """Draw a bar of aspect ratio 3 to 10, seven of ten along an axis."""
    length = np.clip(1.3 * diameter, 56, 150)
    half = np.array([length, length / rng.uniform(3, 10)]) / 2
    corners = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    off_axis = rng.uniform(12, 78) if rng.random() < 0.3 else 0.0
    angle = np.deg2rad(off_axis) + np.pi / 2 * rng.integers(4)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return _polygon(corners @ turn, length)


def _elbow(diameter: float, rng: np.random.Generator) -> Mask:
    """Draw an L or a T along the axes, its arms of different lengths."""
    long, thick = max(diameter, 40.0), max(diameter, 40.0) * rng.uniform(0.25, 0.38)
    short, foot = long * rng.uniform(0.5, 1.0), rng.choice([0.0, 0.5])
    left = -short * foot
    stem = np.array([[-thick * foot, 0], [thick * (1 - foot), 0], [thick * (1 - foot), long], [-thick * foot, long]])
    base = np.array([[left, 0], [left + short, 0], [left + short, thick], [left, thick]])
    turn = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), int(rng.integers(4)))
    middle = np.array([left + short / 2, long / 2])
    both = [_polygon((part - middle) @ turn, long) for part in (stem, base)]
    return np.maximum(*both)


def _ring(diameter: float, rng: np.random.Generator) -> Mask:
    """Draw an oval ring."""
    axes = np.array([1.0, rng.uniform(0.7, 1.0)]) * diameter / 2
    angle = rng.uniform(0, 2 * np.pi)
    return _oval(axes, angle, diameter) - _oval(axes * rng.uniform(0.5, 0.68), angle, diameter)


def _crescent(diameter: float, rng: np.random.Generator) -> Mask:
    """Draw a disc minus another, off-centre disc."""
    radius = np.full(2, diameter / 2)
    angle = rng.uniform(0, 2 * np.pi)
    offset = diameter / 2 * rng.uniform(0.42, 0.55) * np.array([np.cos(angle), np.sin(angle)])
    disc, cut = _oval(radius, 0, diameter), _oval(radius * rng.uniform(0.78, 0.88), 0, diameter, offset)
    return np.clip(disc - cut, 0, 1).astype(np.float32)


def _oval(axes: npt.NDArray[np.float64], angle: float, diameter: float, offset: npt.ArrayLike = (0.0, 0.0)) -> Mask:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return _polygon(axes * np.stack([np.cos(t), np.sin(t)], axis=1) @ turn + np.asarray(offset), diameter)


def _polygon(points: npt.NDArray[np.float64], diameter: float) -> Mask:
    """Draw a filled polygon around the origin, in a mask of twice its diameter."""
    side = int(2 * diameter) + 8
    corners = np.round((points + side / 2) * (1 << _SHIFT)).astype(np.int32)
    mask = np.zeros((side, side), dtype=np.uint8)
    cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    return (mask / 255).astype(np.float32)


TEXTURES: tuple[Callable[[int, int, np.random.Generator], Mask], ...] = (_clouds, _stripes, _slope)
SHAPES = {
    "star": Kind(_star, 0.24),
    "crescent": Kind(_crescent, 0.24),
    "ring": Kind(_ring, 0.04),
    "bar": Kind(_bar, 0.32),
    "elbow": Kind(_elbow, 0.16),
}
