"""Plots as PNG; matplotlib without a display."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cledet.io.atomic import write_whole


def png(figure: Figure) -> bytes:
    """Encode a figure as PNG."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # scripts that the font lacks are drawn as boxes
        figure.set_dpi(110)
        FigureCanvasAgg(figure).print_png(picture)  # savefig draws twice, once only for the layout
    return picture.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG atomically."""
    write_whole(path, png(figure))
