"""Draws stars, crescents, rings and bars on textured grounds: one scene is a function of a generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.float32]
Mask = npt.NDArray[np.float32]

MAX_COVER = 0.4
"""How much of an object later ones may hide."""
_SHIFT = 4
"""Fractional bits of the coordinates handed to OpenCV."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One drawn object."""

    name: str
    box: tuple[int, int, int, int]
    """Left, top, width, height of the whole shape in pixels."""
    area: int
    """Pixels of the whole shape."""


def draw_scene(width: int, height: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], list[Thing]]:
    """A picture, RGB [height, width, 3], and the one to eight things on it, tightly boxed."""
    picture = _ground(width, height, rng)
    seen: list[npt.NDArray[np.bool_]] = []
    things: list[Thing] = []
    wanted, tries = int(rng.integers(1, 9)), 0
    while len(things) < wanted and tries < 60:
        tries += 1
        name = list(SHAPES)[int(rng.integers(len(SHAPES)))]
        alpha = _place(SHAPES[name](_diameter(rng), rng), width, height, rng)
        shape = alpha > 0.5
        if _hides(shape, seen, things):
            continue
        seen = [mask & ~shape for mask in seen] + [shape]
        things.append(Thing(name, _tight_box(shape), int(shape.sum())))
        _paint(picture, alpha, rng)
    picture += 3 * rng.standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.round(picture), 0, 255).astype(np.uint8), things


def _diameter(rng: np.random.Generator, low: float = 26, high: float = 138) -> float:
    """A length in pixels, small ones as likely as large ones on a logarithmic scale."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _hides(shape: npt.NDArray[np.bool_], seen: list[npt.NDArray[np.bool_]], things: list[Thing]) -> bool:
    """Whether the shape would leave less than it must of any earlier thing."""
    return any((mask & ~shape).sum() < (1 - MAX_COVER) * thing.area for mask, thing in zip(seen, things))


def _tight_box(shape: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _ground(width: int, height: int, rng: np.random.Generator) -> Picture:
    """Two muted colours mixed by smooth noise, stripes or a slope, with finer noise on top."""
    mix = TEXTURES[int(rng.integers(len(TEXTURES)))](width, height, rng)[:, :, None]
    base = rng.uniform(50, 205, 3)
    first, second = (base + rng.uniform(-38, 38, 3) for _ in range(2))
    grain = 10 * (_clouds(width, height, rng, cells=24)[:, :, None] - 0.5)
    return (first + (second - first) * mix + grain).astype(np.float32)


def _clouds(width: int, height: int, rng: np.random.Generator, cells: int = 5) -> Mask:
    """Smooth noise from 0 to 1."""
    coarse = rng.random((cells, cells), dtype=np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1).astype(np.float32)


def _stripes(width: int, height: int, rng: np.random.Generator) -> Mask:
    """Soft waves from 0 to 1, 12 to 50 pixels long."""
    along = _along(width, height, rng.uniform(0, np.pi))
    return (0.5 + 0.5 * np.sin(along * 2 * np.pi / rng.uniform(12, 50) + rng.uniform(0, 6))).astype(np.float32)


def _slope(width: int, height: int, rng: np.random.Generator) -> Mask:
    """An even change from 0 to 1 across the picture."""
    along = _along(width, height, rng.uniform(0, 2 * np.pi))
    return ((along - along.min()) / max(float(np.ptp(along)), 1.0)).astype(np.float32)


def _along(width: int, height: int, angle: float) -> Mask:
    """Every pixel's distance along a direction."""
    across, down = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return np.add.outer(down * np.float32(np.sin(angle)), across * np.float32(np.cos(angle)))


def _paint(picture: Picture, alpha: Mask, rng: np.random.Generator) -> None:
    """Put a cloudy, striped or shaded thing on the picture, in a colour that stands out, with a dark rim."""
    inner = cv2.erode(alpha, np.ones((3, 3), np.uint8))
    left, top, width, height = _tight_box(alpha > 0)
    window = (slice(top, top + height), slice(left, left + width))
    part, cover = picture[window], alpha[window][:, :, None]
    texture = TEXTURES[int(rng.integers(len(TEXTURES)))](width, height, rng)
    colour = _contrasting(part[alpha[window] > 0.5].mean(axis=0), rng)
    fill = colour * (0.82 + 0.36 * texture[:, :, None]) * (0.45 + 0.55 * inner[window][:, :, None])
    picture[window] = part * (1 - cover) + fill * cover


def _contrasting(under: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A random colour far from the one underneath: the farthest of six."""
    colours = rng.uniform(20, 245, (6, 3))
    return np.asarray(colours[np.argmax(np.abs(colours - under).sum(axis=1))])


def _place(shape: Mask, width: int, height: int, rng: np.random.Generator) -> Mask:
    """The shape's small mask somewhere in an empty one of the picture's size."""
    left, top, w, h = _tight_box(shape > 0)
    left_to, top_to = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    alpha = np.zeros((height, width), dtype=np.float32)
    alpha[top_to : top_to + h, left_to : left_to + w] = shape[top : top + h, left : left + w]
    return alpha


def _star(diameter: float, rng: np.random.Generator) -> Mask:
    """Five to eight uneven points."""
    points = int(rng.integers(5, 9))
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, rng.uniform(0.4, 0.52))
    radius *= rng.uniform(0.88, 1.0, 2 * points) * diameter / 2
    angle = np.arange(2 * points) * np.pi / points + rng.uniform(0, 2 * np.pi)
    return _polygon(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), diameter)


def _bar(diameter: float, rng: np.random.Generator) -> Mask:
    """A long thin bar, at least 12 degrees off the axes."""
    length = max(diameter, 40.0)
    half = np.array([length, max(5.0, length * rng.uniform(0.1, 0.2))]) / 2
    corners = half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    angle = np.deg2rad(rng.uniform(12, 78)) + np.pi / 2 * rng.integers(4)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return _polygon(corners @ turn, length)


def _ring(diameter: float, rng: np.random.Generator) -> Mask:
    """An oval with an empty centre."""
    axes = np.array([1.0, rng.uniform(0.7, 1.0)]) * diameter / 2
    angle = rng.uniform(0, 2 * np.pi)
    return _oval(axes, angle, diameter) - _oval(axes * rng.uniform(0.5, 0.68), angle, diameter)


def _crescent(diameter: float, rng: np.random.Generator) -> Mask:
    """A disc from which another, off centre, is cut."""
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
    """A filled polygon around the origin, in a mask of twice its diameter."""
    side = int(2 * diameter) + 8
    corners = np.round((points + side / 2) * (1 << _SHIFT)).astype(np.int32)
    mask = np.zeros((side, side), dtype=np.uint8)
    cv2.fillPoly(mask, [corners], 255, lineType=cv2.LINE_AA, shift=_SHIFT)
    return (mask / 255).astype(np.float32)


TEXTURES: tuple[Callable[[int, int, np.random.Generator], Mask], ...] = (_clouds, _stripes, _slope)
SHAPES: dict[str, Callable[[float, np.random.Generator], Mask]] = {
    "star": _star,
    "crescent": _crescent,
    "ring": _ring,
    "bar": _bar,
}
