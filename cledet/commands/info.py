"""`cledet info`."""

from __future__ import annotations

import csv
import platform
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cledet import __version__
from cledet.commands.options import Json
from cledet.config.heads import HEADS
from cledet.config.loading import read_recipe, recipes
from cledet.console import show_json, show_table
from cledet.errors import UserError
from cledet.io.run_folders import status_of


def info(json: Json = False) -> None:
    """Show versions, devices, backbones, heads, recipes and runs."""
    import torch
    import torchvision

    from cledet.detector import known_backbones
    from cledet.distributed.devices import amp_dtype, describe, pick_device
    from cledet.io.run_folders import trained_runs

    device = pick_device("auto")
    facts = {
        "cledet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": describe(device),
        "precision": str(amp_dtype(device, "auto") or torch.float32).removeprefix("torch."),
        "backbones": known_backbones(),
        "heads": list(HEADS),
        "recipes": {name: read_recipe(path).get("data", "") for name, path in recipes().items()},
    }
    runs = [_describe(run) for run in trained_runs(Path("runs"))]
    if json:
        show_json({**facts, "runs": runs})
        return
    facts["backbones"] = _by_suffixes(known_backbones())
    facts["recipes"] = f"{len(recipes())}; `cledet recipes` lists them"
    show_table("", ["item", "value"], [(k, v if isinstance(v, str) else ", ".join(v)) for k, v in facts.items()])
    if runs:
        show_table("", list(runs[0]), [list(run.values()) for run in runs])


def _describe(run: Path) -> dict[str, Any]:
    """Describe a run by its folder: date of its best weights, data set, best AP and status; None if unknown."""
    from cledet.training.history import read_history

    data = aps = None
    with suppress(UserError):
        data = read_recipe(run / "config.yaml").get("data")
    with suppress(OSError, ValueError, csv.Error):
        aps = [float(row["AP"]) for row in read_history(run / "results.csv") if row.get("AP")]
    written = datetime.fromtimestamp((run / "weights" / "best.pt").stat().st_mtime)
    return {
        "run": str(run),
        "date": written.isoformat(" ", "minutes"),
        "data": data,
        "AP": max(aps) if aps else None,
        "status": status_of(run) or None,
    }


def _by_suffixes(names: dict[str, list[str]]) -> str:
    """Group backbones by their suffixes, and list the suffixes once per group."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, suffixes in names.items():
        groups.setdefault(tuple(suffixes), []).append(name)
    return "; ".join(
        ", ".join(backbones) + (f" (also {' '.join(suffixes)})" if suffixes else "")
        for suffixes, backbones in groups.items()
    )
