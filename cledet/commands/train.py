"""`cledet train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cledet.commands.options import Json
from cledet.config.train import GridSettings
from cledet.console import say, show, show_json, show_table


def train(
    settings: GridSettings,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="PATH", help="Continue the run or grid in this folder.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a detector, or a grid of detectors. Without --data: on the embedded data set `shapes`, by its recipe.

    Examples:
        cledet train --data coco.yaml --backbone r101
        cledet train --data photos/ --ablation all --seeds 3
        cledet train --resume runs/train/photos
    """
    from cledet.detector import Detector
    from cledet.metrics.evaluation import METRICS

    detector = Detector()
    run = detector.train(settings, resume=resume)
    if detector.model is None:
        say(f"done; the run is on the machine of rank 0: {run}")
    elif not (run / "weights").is_dir():
        show_json({"grid": str(run)}) if json else show(run)
        say(f"its table: cledet val --weights {run}")
    elif json:
        show_json({"run": str(run), **detector.model.metrics})
    else:
        metrics = {key: value for key, value in detector.model.metrics.items() if key in METRICS}
        if metrics:
            show_table("", list(metrics), [list(metrics.values())])
        show(run / "weights" / "best.pt")
        say(f"next: cledet val --weights {run}; cledet predict IMAGES --weights {run}; cledet export --weights {run}")
