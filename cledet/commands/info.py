"""`cledet info`."""

from __future__ import annotations

import platform
from pathlib import Path

from cledet import __version__
from cledet.commands.options import Json
from cledet.config.loading import read_recipe, recipes
from cledet.config.train import HEADS
from cledet.console import show_json, show_table


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
        "runs": [str(run) for run in trained_runs(Path("runs"))],
    }
    if json:
        show_json(facts)
        return
    facts["backbones"] = _by_suffixes(known_backbones())
    facts["recipes"] = f"{len(recipes())}; `cledet recipes` lists them"
    show_table("", ["item", "value"], [(k, v if isinstance(v, str) else ", ".join(v)) for k, v in facts.items()])


def _by_suffixes(names: dict[str, list[str]]) -> str:
    """Group backbones by their suffixes, and list the suffixes once per group."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for name, suffixes in names.items():
        groups.setdefault(tuple(suffixes), []).append(name)
    return "; ".join(
        ", ".join(backbones) + (f" (also {' '.join(suffixes)})" if suffixes else "")
        for suffixes, backbones in groups.items()
    )
