"""Scenes of compact, elongated and irregular shapes on textured backgrounds, drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.float32]

MAX_COVER = 0.4
"""Maximum share of an object that later ones may hide."""
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
    """Draws a mask of a shape with a given length in pixels."""
    share: float
    """Probability of the class."""
    lengths: tuple[float, float] = (26, 138)
    """Range of lengths in pixels; the shapes of a crowd are as short as the range allows."""


def draw_scene(width: int, height: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[Shape]]:
    """Draw an RGB image [height, width, 3] with tightly boxed shapes.

    Most scenes have one to eight shapes. One of eight is a crowd of up to fifteen short shapes of one class.
    """
    picture = _ground(width, height, rng)
    visible: list[npt.NDArray[np.bool_]] = []
    shapes: list[Shape] = []
    crowd = rng.random() < CROWDS
    window, count = (_window(width, height, rng), 15) if crowd else ((0, 0, width, height), int(rng.integers(1, 9)))
    name, tries = _class(rng), 0
    while len(shapes) < count and tries < 60:
        tries += 1
        name = name if crowd else _class(rng)
        low, high = SHAPES[name].lengths
        length = _length(low, 1.4 * low if crowd else high, rng)
        alpha = _place(SHAPES[name].draw(length, rng), width, height, window, rng)
        shape = alpha > 0.5
        if _hides(shape, visible, shapes):
            continue
        visible = [mask & ~shape for mask in visible] + [shape]
        shapes.append(Shape(name, _tight_box(shape), int(shape.sum())))
        _paint(picture, alpha, rng)
    picture += 3 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture, out=picture), 0, 255, out=picture).astype(np.uint8), shapes


def _class(rng: np.random.Generator) -> str:
    """Draw a class by its share."""
    return str(rng.choice(list(SHAPES), p=[kind.share for kind in SHAPES.values()]))


def _window(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw the part of the image (left, top, right, bottom) that a crowd fills: two thirds of its width and height."""
    left, top = int(rng.integers(width // 3)), int(rng.integers(height // 3))
    return left, top, left + 2 * width // 3, top + 2 * height // 3


def _length(low: float, high: float, rng: np.random.Generator) -> float:
    """Draw a length in pixels, uniform on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _hides(shape: npt.NDArray[np.bool_], visible: list[npt.NDArray[np.bool_]], shapes: list[Shape]) -> bool:
    """Return whether a new mask would hide more than MAX_COVER of any earlier shape."""
    return any((mask & ~shape).sum() < (1 - MAX_COVER) * earlier.area for mask, earlier in zip(visible, shapes))


def _tight_box(shape: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _ground(width: int, height: int, rng: np.random.Generator) -> Picture:
    """Draw a background of two muted colours mixed by smooth noise, stripes or a gradient, plus fine noise."""
    mix = TEXTURES[int(rng.integers(len(TEXTURES)))](width, height, rng)[:, :, None]
    base = rng.uniform(50, 205, 3)
    first, second = ((base + rng.uniform(-38, 38, 3)).astype(np.float32) for _ in range(2))
    grain = 10 * (_clouds(width, height, rng, cells=24)[:, :, None] - 0.5)
    return first + (second - first) * mix + grain


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


def _place(shape: Mask, width: int, height: int, window: tuple[int, int, int, int], rng: np.random.Generator) -> Mask:
    """Place a shape's small mask at random in a window of a mask of the image's size.

    A shape that is larger than the window starts at its left or upper edge, or earlier, so that it is whole.
    """
    left, top, w, h = _tight_box(shape > 0)
    x_low, y_low = min(window[0], width - w), min(window[1], height - h)
    x = int(rng.integers(x_low, max(x_low, window[2] - w) + 1))
    y = int(rng.integers(y_low, max(y_low, window[3] - h) + 1))
    alpha = np.zeros((height, width), dtype=np.float32)
    alpha[y : y + h, x : x + w] = shape[top : top + h, left : left + w]
    return alpha


def _star(length: float, rng: np.random.Generator) -> Mask:
    """Draw a star of five to eight uneven points."""
    points = int(rng.integers(5, 9))
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.4, 0.52))
    radius *= rng.uniform(0.88, 1.0, 2 * points) * length / 2
    angle = np.arange(2 * points) * np.pi / points + rng.uniform(0, 2 * np.pi)
    return _polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), length)


def _bar(length: float, rng: np.random.Generator) -> Mask:
    """Draw a bar three to eight times as long as wide."""
    half = np.array([length, length / rng.triangular(3, 8, 8)]) / 2
    return _polygon(half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ _turn(_angle(rng)), length)


def _joint(length: float, rng: np.random.Generator) -> Mask:
    """Draw an L or a T: a bar, and across its end or its middle a shorter one."""
    thick, across = length * rng.uniform(0.13, 0.2), length * rng.uniform(0.3, 0.75)
    begin = 0.0 if rng.random() < 0.5 else (length - thick) / 2
    corners = [
        (0, 0),
        (length, 0),
        (length, thick),
        (begin + thick, thick),
        (begin + thick, across),
        (begin, across),
        (begin, thick),
        (0, thick),
    ]
    points = np.array(corners) - np.array([length, across]) / 2
    return _polygon(points @ _turn(_angle(rng)), length)


def _arc(length: float, rng: np.random.Generator) -> Mask:
    """Draw a part of a ring, from a slightly bent stripe to half a ring."""
    half = np.deg2rad(rng.uniform(35, 90))
    radius = length / 2 / np.sin(half)
    t = np.linspace(-half, half, 24)
    outer = radius * np.stack([np.sin(t), np.cos(t)], axis=1)
    inner = outer[::-1] * (1 - length * rng.uniform(0.13, 0.18) / radius)
    points = np.concatenate([outer, inner]) - np.array([0, radius * (1 + np.cos(half)) / 2])
    return _polygon(points @ _turn(_angle(rng)), length)


def _angle(rng: np.random.Generator) -> float:
    """Draw an angle in radians: along an axis in two of three cases, else any."""
    return float(np.pi / 2 * rng.integers(4) if rng.random() < 2 / 3 else rng.uniform(0, 2 * np.pi))


def _turn(angle: float) -> npt.NDArray[np.float64]:
    """Return the matrix that rotates points [N, 2] from the right."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _ring(length: float, rng: np.random.Generator) -> Mask:
    """Draw an oval ring."""
    axes = np.array([1.0, rng.uniform(0.7, 1.0)]) * length / 2
    angle = rng.uniform(0, 2 * np.pi)
    return _oval(axes, angle, length) - _oval(axes * rng.uniform(0.5, 0.68), angle, length)


def _crescent(length: float, rng: np.random.Generator) -> Mask:
    """Draw a disc minus another, off-centre disc."""
    radius = np.full(2, length / 2)
    angle = rng.uniform(0, 2 * np.pi)
    offset = length / 2 * rng.uniform(0.42, 0.55) * np.array([np.cos(angle), np.sin(angle)])
    disc, cut = _oval(radius, 0, length), _oval(radius * rng.uniform(0.78, 0.88), 0, length, offset)
    return np.clip(disc - cut, 0, 1).astype(np.float32)


def _oval(axes: npt.NDArray[np.float64], angle: float, length: float, offset: npt.ArrayLike = (0.0, 0.0)) -> Mask:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    return _polygon(axes * np.stack([np.cos(t), np.sin(t)], axis=1) @ _turn(angle) + np.asarray(offset), length)


def _polygon(points: npt.NDArray[np.float64], length: float) -> Mask:
    """Draw a filled polygon around the origin, in a mask of twice its length."""
    side = int(2 * length) + 8
    corners = np.round((points + side / 2) * (1 << _SHIFT)).astype(np.int32)
    mask = np.zeros((side, side), dtype=np.uint8)
    cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    return (mask / 255).astype(np.float32)


TEXTURES: tuple[Callable[[int, int, np.random.Generator], Mask], ...] = (_clouds, _stripes, _slope)
CROWDS = 1 / 8
"""Share of the scenes that are crowds."""
SHAPES: dict[str, Kind] = {
    "star": Kind(_star, 0.15),
    "crescent": Kind(_crescent, 0.03),  # the rare class
    "ring": Kind(_ring, 0.13),
    "bar": Kind(_bar, 0.38, (48, 190)),
    "joint": Kind(_joint, 0.15, (34, 150)),
    "arc": Kind(_arc, 0.16, (34, 150)),
}
