"""Model card of a detector for the Hugging Face Hub: metadata in YAML, metrics, data set, command and classes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from cledet.config.panels import PANEL_OF
from cledet.config.train import TrainSettings
from cledet.config.types import ablation_name
from cledet.metrics.evaluation import METRICS
from cledet.models.checkpoint import Checkpoint

LOCAL = (
    *("project", "name", "device", "workers", "callback", "logger", "save_steps", "save_minutes", "nnodes"),
    *("node_rank", "rdzv_endpoint", "max_restarts"),
)
"""Settings of the training machine, which the card leaves out."""
PATHS = ("data", "weights", "backbone_weights")
"""Settings of which the card holds the last part of a path only."""
SHOWN_CLASSES = 100


def model_card(model: Checkpoint, repo: str, license: str) -> str:
    """Write the model card, README.md of the repository `repo`; `license` is an identifier of the Hub."""
    measured = {name: model.metrics.get(name) for name in METRICS}
    metrics = {name: value for name, value in measured.items() if isinstance(value, float)}
    arch, data = model.architecture, Path(model.data).name or "unknown"
    metadata = yaml.safe_dump(_metadata(model, repo, license, metrics, data), sort_keys=False, allow_unicode=True)
    facts = {
        "network": f"{arch.head}, backbone {arch.backbone}, {arch.fpn_channels} channels",
        "components": ablation_name(model.components),
        "data set": data,
        "image size": f"short side {model.imgsz} px",
        "optimizer steps": model.step or "unknown",
        "confidence of best F1": "unknown" if model.best_conf is None else f"{model.best_conf:.3g}",
        "licence": license,
        "written by": f"cledet {model.versions.get('cledet') or 'unknown'}",
    }
    classes = ", ".join(map(_plain, model.classes[:SHOWN_CLASSES]))
    more = f" and {len(model.classes) - SHOWN_CLASSES} more" if len(model.classes) > SHOWN_CLASSES else ""
    parts = [
        f"---\n{metadata}---",
        f"# {repo.partition('/')[2]}",
        "An object detector trained with cledet.",
        f"```sh\npip install 'cledet[hub]'\ncledet predict images/ --weights hf:{repo}\n```",
        _table(("", ""), facts),
        "## Metrics",
        _table(("metric", f"on the evaluation split of {_plain(data)}"), {k: f"{v:.4f}" for k, v in metrics.items()})
        if metrics
        else "None were measured.",
        "## Training",
        f"```sh\n{command(model.settings)}\n```" if model.settings else "The weights are of another project.",
        f"## {len(model.classes)} classes",
        classes + more,
    ]
    return "\n\n".join(parts) + "\n"


def command(settings: dict[str, Any]) -> str:
    """Write the command that trains with the settings of a checkpoint, without those of the machine.

    The flags are in the order of the help.
    """
    default = TrainSettings().model_dump(mode="json")
    words = ["cledet", "train"]
    for key in PANEL_OF:
        value = settings.get(key)
        if key in LOCAL or key not in default or value is None or (value == default[key] and key != "data"):
            continue
        if key in PATHS:
            value = Path(str(value)).name
        elif isinstance(value, bool):
            value = "on" if value else "off"
        elif isinstance(value, dict):
            value = ",".join(f"{name}={weight:g}" for name, weight in value.items())
        elif isinstance(value, list | tuple):
            value = ",".join(map(str, value)) or "none"
        words += [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _metadata(model: Checkpoint, repo: str, license: str, metrics: dict[str, float], data: str) -> dict[str, Any]:
    """Return the metadata that the Hub reads."""
    found = {
        "license": license,
        "library_name": "cledet",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "cledet", model.architecture.head],
    }
    if not metrics:
        return found
    result = {
        "task": {"type": "object-detection"},
        "dataset": {"name": data, "type": data},
        "metrics": [{"type": name, "name": name, "value": round(value, 5)} for name, value in metrics.items()],
    }
    return found | {"model-index": [{"name": repo.partition("/")[2], "results": [result]}]}


def _table(head: tuple[str, str], rows: dict[str, Any]) -> str:
    lines = [head, ("---", "---"), *rows.items()]
    return "\n".join(f"| {_plain(str(key))} | {_plain(str(value))} |" for key, value in lines)


def _plain(text: str) -> str:
    """Return a name in one line of a table, without markup."""
    return " ".join(text.translate({ord(mark): f"\\{mark}" for mark in "\\`*_[]<>|"}).split())
