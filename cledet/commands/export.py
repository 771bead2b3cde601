"""`cledet export`."""

from __future__ import annotations

from cledet.commands.find_detector import find_detector
from cledet.commands.options import Json
from cledet.config.base import ExportSettings
from cledet.console import show, show_json


def export(settings: ExportSettings, json: Json = False) -> None:
    """Export a model to another runtime, and verify that it computes the same detections there.

    Examples:
        cledet export --format onnx --nms cl-balanced
        cledet export --format safetensors --weights runs/train/photos
    """
    result = find_detector(settings).export(settings=settings)
    show_json(result.to_dict()) if json else show(result.path)
