"""The result of tuning as tables, sentences, flags, a recipe and plain data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from cledet.config.evaluate import TuneSettings
from cledet.console import printable
from cledet.evaluation.tune.search import METRIC, PARAMETERS, Trial, within
from cledet.evaluation.tune.tuner import NO_GAIN, TuningResult
from cledet.metrics.bootstrap import MIN_IMAGES, PairedDifference
from cledet.metrics.metric_tables import Table
from cledet.models.nms import NMSOptions


def flags(options: NMSOptions) -> dict[str, Any]:
    """Return the flags that affect the method of a setting, without conf."""
    return {"nms": options.method, **{name: getattr(options, name) for name in PARAMETERS[options.method]}}


def command_line(flags: Mapping[str, Any]) -> str:
    """Format flags as on a command line."""
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(value))}" for name, value in flags.items())


def methods_table(tuned: TuningResult, metric: str) -> Table:
    """Build the table with a row per method, the default first: its best setting and its gain over the default."""
    columns = ["best setting", metric, "gain", "95 % from", "to", "boxes per image", "settings tried"]
    rows: list[list[Any]] = []
    for one in [tuned.default, *(one for one in tuned.methods.values() if one is not tuned.default)]:
        name, is_default = one.options.method, one is tuned.default
        tried = (
            sum(trial.options.method == name for trial in tuned.searched) if tuned.methods.get(name) is one else None
        )
        gain = (None, None, None) if is_default else tuned.gains[name][:3]
        label = command_line(flags(one.options)) + (" (the default)" if is_default else "")
        rows.append([label, one.metric, *gain, f"{one.boxes:.1f}", tried])
    return columns, rows


def sentences(tuned: TuningResult, settings: TuneSettings) -> list[str]:
    """Summarize the result in sentences."""
    metric, gain, held = settings.metric, tuned.gain, tuned.held_out
    default, best = (command_line(flags(trial.options)) for trial in (tuned.default, tuned.best))
    lines = []
    if tuned.best is tuned.default:
        lines.append(f"of {len(tuned.searched)} settings none is better than the default, {default}")
    else:
        lines.append(
            f"{best} gains {gain.value:+.4f} {metric} over the default ({default}) on these images, "
            f"95 % interval {_interval(gain)} (simultaneous for all {len(tuned.searched)} settings)"
        )
    if held.halves:
        lines.append(
            f"chosen on half of the images, the best of {len(tuned.searched)} settings gains {held.gain:+.4f} on the "
            f"other half (mean of {held.halves}, better in {held.better})"
        )
    chosen = tuned.gains.get(tuned.recommended.options.method, NO_GAIN)
    if gain.conclusion == "too few images":
        lines.append(
            f"an interval needs objects on {MIN_IMAGES} images, and these have {gain.images}: keep the default"
        )
    elif tuned.within_noise:
        lines.append("the gain is within the noise: keep the default")
    elif tuned.recommended.options == tuned.best.options:
        lines.append("the gain is significant")
    else:
        lines.append(
            "that gain is within the noise; the best significant one is that of "
            f"{command_line(flags(tuned.recommended.options))}: {chosen.value:+.4f}, {_interval(chosen)}"
        )
    if len(tuned.confs) > 1:
        last, most = within(tuned.confs, settings.tolerance)[-1], max(map(METRIC, tuned.confs))
        lines.append(
            f"--conf {last.options.conf:g} is the highest tried that costs at most {settings.tolerance:g} "
            f"{metric}: it costs {most - last.metric:.4f} and leaves {last.boxes:.1f} boxes per image"
        )
    if (at := tuned.operating_point) is not None:
        lines.append(
            f"for use, --conf {at.confidence:.3f} has the best F1 at IoU 0.5: {at.f1:.3f} "
            f"(precision {at.precision:.3f}, recall {at.recall:.3f})"
        )
    lines += clusters_sentences(tuned, metric)
    if tuned.stopped:
        lines.append("the search was interrupted")
    return lines


def clusters_sentences(tuned: TuningResult, metric: str) -> list[str]:
    """Say what CL-B chooses among, and whether it gains at the default threshold."""
    lines, clusters, gain = [], tuned.clusters.get(None), tuned.cl_balanced
    if clusters is not None and clusters.score is not None and clusters.closeness is not None:
        lines.append(
            f"CL-B chooses among {clusters.boxes:.1f} boxes per object found; among these, the IoU has a rank "
            f"correlation of {clusters.score:.2f} with the score and {clusters.closeness:.2f} with the closeness to "
            "their centre"
        )
    if gain is not None and gain.value is not None:
        lines.append(
            f"CL-B changes {metric} by {gain.value:+.4f} from standard NMS at --iou {tuned.default.options.iou:g}, "
            f"95 % interval {_interval(gain)}: {gain.conclusion}"
        )
    return lines


def _interval(gain: PairedDifference) -> str:
    return "unknown" if gain.low is None else f"{gain.low:+.4f} to {gain.high:+.4f}"


def commands(tuned: TuningResult, settings: TuneSettings, weights: str | None) -> list[str]:
    """Return the command lines that use the recommended setting."""
    chosen = flags(tuned.recommended.options)
    conf = {"conf": f"{tuned.conf:g}"} if tuned.conf > 0 else {}
    source = {"weights": weights or ""} if settings.predictions is None else {"predictions": settings.predictions}
    own = ("data", "split", "imgsz", "max_det")
    same = {name: getattr(settings, name) for name in own if settings.origins.get(name, "default") != "default"}
    lines = [f"cledet val {command_line({**source, **same, **chosen, **conf})}"]
    if settings.predictions is None and tuned.operating_point is not None:
        same = {name: same[name] for name in same if name in ("imgsz", "max_det")}
        conf = {"conf": f"{tuned.operating_point.confidence:.3f}"}
        lines.append(f"cledet predict IMAGES {command_line({**source, **same, **chosen, **conf})}")
    return lines


def to_recipe(tuned: TuningResult, lines: list[str]) -> str:
    """Format the recommended setting as YAML for `--recipe` of val, predict and export, without conf."""
    values = "".join(f"{name}: {json.dumps(value)}\n" for name, value in flags(tuned.recommended.options).items())
    return "".join(f"# {printable(line)}\n" for line in lines) + values


def to_document(tuned: TuningResult, settings: TuneSettings, lines: list[str]) -> dict[str, Any]:
    """Convert the result to plain data."""
    held = tuned.held_out
    return {
        "metric": settings.metric,
        "default": _plain(tuned.default),
        "best": _plain(tuned.best),
        "gain": tuned.gain.to_dict("gain"),
        "held_out": held._asdict() | {"gain": held.gain if held.halves else None},
        "inside_the_noise": tuned.within_noise,
        "recommended": _plain(tuned.recommended),
        "conf": tuned.conf,
        "clusters": {
            "all": tuned.clusters[None]._asdict() if tuned.clusters else None,
            "per_class": {name: one._asdict() for name, one in tuned.clusters.items() if name is not None},
        },
        "cl_balanced": tuned.cl_balanced.to_dict("gain") if tuned.cl_balanced is not None else None,
        "best_f1": tuned.operating_point._asdict() if tuned.operating_point is not None else None,
        "commands": lines,
        "methods": {name: _plain(trial) | tuned.gains[name].to_dict("gain") for name, trial in tuned.methods.items()},
        "confs": [_plain(trial) for trial in tuned.confs],
        "tried": [_plain(trial) for trial in tuned.searched],
        "seconds": tuned.seconds,
        "stopped": tuned.stopped is not None,
    }


def _plain(trial: Trial) -> dict[str, Any]:
    return {**flags(trial.options), "conf": trial.options.conf, "figure": trial.metric, "boxes": trial.boxes}
