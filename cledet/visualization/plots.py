"""Plots as PNG; matplotlib without a display."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cledet.io.atomic import write_whole


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    picture = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # names in scripts that the font lacks: boxes, and no news
        figure.set_dpi(110)
        FigureCanvasAgg(figure).print_png(picture)  # savefig draws twice, once for the layout alone
    return picture.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write the PNG whole or not at all."""
    write_whole(path, png(figure))
