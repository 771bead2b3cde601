"""`cledet explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cledet.commands.find_detector import find_detector
from cledet.commands.options import Json
from cledet.config.base import ExplainSettings
from cledet.console import show, show_json

if TYPE_CHECKING:
    from cledet.detector import Detector


def explain(
    settings: ExplainSettings,
    image: Annotated[str, typer.Argument(help="An image.")],
    json: Json = False,
) -> None:
    """Draw the effect of DC, IAC and CL-B on one image: anchors, coefficients, clusters, and both branches' peaks.

    Examples:
        cledet explain photo.jpg
        cledet explain photo.jpg --weights runs/train/photos --alpha 0.5
    """
    run, document = explain_to_folder(find_detector(settings), image, settings)
    show_json(document) if json else show(run / "explain.png")


def explain_to_folder(detector: Detector, image: str, settings: ExplainSettings) -> tuple[Path, dict[str, Any]]:
    """Write explain.png and explain.json of one image into a new run folder."""
    from cledet.explain.figure import draw
    from cledet.io.atomic import write_json
    from cledet.io.run_folders import name_from, whole_run

    explanation = detector.explain(image, settings)
    document = explanation.to_dict()
    with whole_run(settings.project, "explain", settings.name or name_from(Path(image).stem, "image")) as run:
        draw(explanation, run / "explain.png")
        write_json(run / "explain.json", document)
    return run, document
