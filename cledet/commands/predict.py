"""`cledet predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cledet.commands.find_detector import find_detector
from cledet.commands.options import Json
from cledet.config.base import PredictSettings
from cledet.console import say, show, show_json, track

if TYPE_CHECKING:
    from cledet.detector import Detector


def predict(
    settings: PredictSettings,
    source: Annotated[str, typer.Argument(help="An image, a folder, or a glob in quotes.")],
    json: Json = False,
) -> None:
    """Detect objects in images: annotated pictures and predictions.json.

    Examples:
        cledet predict images/ --nms cl-balanced
        cledet predict 'photos/*.jpg' --weights runs/train/photos --conf 0.5
    """
    from cledet.data.images import image_files

    image_files(source)  # raises for a wrong path before any weights are fetched
    run, documents = predict_to_folder(find_detector(settings, published="coco"), source, settings)
    if json:
        show_json(documents)
        return
    for document in documents:
        names = [detection["name"] for detection in document["detections"]]
        counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        show(f"{document['file']}: {counts or 'nothing'}")
    say(f"pictures and predictions.json: {run}")


def predict_to_folder(detector: Detector, source: str, settings: PredictSettings) -> tuple[Path, list[dict[str, Any]]]:
    """Write annotated pictures and predictions.json of a source's images into a new run folder."""
    from cledet.data.images import image_files
    from cledet.inference.predictor import picture_path
    from cledet.inference.sources import read_frames
    from cledet.io.atomic import write_json
    from cledet.io.run_folders import name_from, new_run
    from cledet.visualization.draw import write_picture

    files = image_files(source)
    predictor = detector.predictor(settings)
    run = new_run(settings.project, "predict", settings.name or name_from(Path(source).stem.strip("*?[]"), "images"))
    taken: set[str] = set()
    documents = []
    for result in track(predictor.stream(read_frames(files), settings.batch), "predicting", len(files)):
        assert result.path is not None
        write_picture(picture_path(run, result.path, taken), result.plot())
        documents.append(result.to_dict())
    write_json(run / "predictions.json", documents)
    return run, documents
