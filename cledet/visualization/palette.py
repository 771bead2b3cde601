"""Colours of classes that people with colour blindness can tell apart, and the ink that is legible on them.

The hues are those of Okabe and Ito (Color Universal Design, 2008, https://jfly.uni-koeln.de/color/; also Wong, Nature
Methods 8:441, 2011, doi:10.1038/nmeth.1618), without black.
"""

from __future__ import annotations

Color = tuple[int, int, int]

HUES: tuple[Color, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
TINTS = ((BLACK, 0.0), (WHITE, 0.5), (BLACK, 0.35))
"""Colours and shares that are mixed into the hues: classes 7 to 13 are lighter, 14 to 20 darker, then all repeat."""


def class_color(label: int) -> Color:
    """Return the RGB colour of a class."""
    hue = HUES[label % len(HUES)]
    tint, share = TINTS[label // len(HUES) % len(TINTS)]
    r, g, b = (round(one + share * (other - one)) for one, other in zip(hue, tint))
    return r, g, b


def ink_on(color: Color) -> Color:
    """Return black or white, the one of higher contrast on a colour; the ratio is at least 4.5 for any colour."""
    return BLACK if contrast(color, BLACK) >= contrast(color, WHITE) else WHITE


def contrast(one: Color, other: Color) -> float:
    """Compute the contrast ratio of two colours, 1 to 21 (WCAG 2.1, section 1.4.3)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: Color) -> float:
    """Compute the relative luminance of a colour, 0 to 1 (WCAG 2.1, definition)."""
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (side / 255 for side in color))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
