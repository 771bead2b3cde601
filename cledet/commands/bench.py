"""`cledet bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cledet.commands.find_detector import find_detector
from cledet.commands.options import Json
from cledet.config.evaluate import BenchSettings
from cledet.console import say, show, show_json, show_table
from cledet.errors import UserError


def bench(settings: BenchSettings, json: Json = False) -> None:
    """Measure the formats and precisions of a model on this machine: latency, memory, file size and AP.

    Examples:
        cledet bench
        cledet bench --formats pytorch,onnx,openvino --data none
        cledet bench --files runs/export/photos --data coco.yaml
    """
    from cledet.export.bench_report import sentences, table

    folder, result, document = bench_to_folder(settings)
    if json:
        show_json(document)
    else:
        show_table("", *table(result))
        show(*sentences(result))
    say(f"bench.json and bench.png: {folder}")


def bench_to_folder(settings: BenchSettings) -> tuple[Path, Any, dict[str, Any]]:
    """Write bench.json and bench.png into a new run folder; returns the folder, the rows and the document."""
    from cledet.export.bench import bench
    from cledet.export.bench_report import draw, to_document
    from cledet.io.atomic import write_json
    from cledet.io.run_folders import find_weights, name_from, whole_run
    from cledet.visualization.plots import save_figure

    weights = str(find_weights(settings.project, settings.weights, settings.ablation))
    model = find_detector(settings.model_copy(update={"weights": weights})).model
    if model is None:
        raise UserError(f"{weights} cannot be exported, so there is nothing to compare", "pass other --weights")
    result = bench(model, weights, settings)
    if all(one.reason for one in result.rows):
        raise UserError(f"no row could be measured: {result.rows[0].reason}")
    document = to_document(result, settings, weights)
    name = settings.name or name_from(Path(model.data or model.architecture.backbone).stem, "model")
    with whole_run(settings.project, "bench", name) as run:
        save_figure(draw(result), run / "bench.png")
        write_json(run / "bench.json", document)
    return run, result, document
