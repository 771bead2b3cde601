"""The result of tuning as tables, sentences, flags, a recipe and plain data."""

from __future__ import annotations

import json
import shlex
from typing import Any

from cledet.config.evaluate import TuneSettings
from cledet.console import printable
from cledet.evaluation.tune.search import PARAMETERS, Trial, within
from cledet.evaluation.tune.tuner import TuningResult
from cledet.metrics.bootstrap import PairedDifference
from cledet.metrics.metric_tables import Table
from cledet.models.nms import NMSOptions


def flags(post: NMSOptions) -> dict[str, str]:
    """Return the flags that affect the method of a setting, without conf."""
    return {"nms": post.method, **{name: str(getattr(post, name)) for name in PARAMETERS[post.method]}}


def command_line(flags: dict[str, str]) -> str:
    """Format flags as on a command line."""
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in flags.items())


def methods_table(tuned: TuningResult, metric: str) -> Table:
    """Build the table with a row per method: its best setting and its gain over the default."""
    default = command_line(flags(tuned.default.post))
    columns = ["best setting", metric, "gain", "95 % from", "to", "boxes per image", "ms per image", "settings tried"]
    rows: list[list[Any]] = []
    if tuned.default not in tuned.methods.values():
        rows.append([f"{default} (the default)", tuned.default.metric, None, None, None, *_cost(tuned.default), None])
    for name, one in tuned.methods.items():
        tried = sum(trial.post.method == name for trial in tuned.searched)
        is_default = one is tuned.default
        gain = (None, None, None) if is_default else tuned.gains[name][:3]
        label = command_line(flags(one.post)) + (" (the default)" if is_default else "")
        rows.append([label, one.metric, *gain, *_cost(one), tried])
    return columns, rows


def conf_table(tuned: TuningResult, metric: str) -> Table:
    """Build the table of the recommended setting at increasing conf."""
    return ["conf", metric, "boxes per image"], [[f"{t.post.conf:g}", t.metric, f"{t.boxes:.1f}"] for t in tuned.confs]


def _cost(trial: Trial) -> list[str]:
    return [f"{trial.boxes:.1f}", f"{trial.nms_ms:.2f}"]


def sentences(tuned: TuningResult, settings: TuneSettings) -> list[str]:
    """Summarize the result in sentences."""
    metric, gain, held = settings.metric, tuned.gain, tuned.held_out
    default, best = (command_line(flags(trial.post)) for trial in (tuned.default, tuned.best))
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
    lines += [_conclusion(tuned), *_conf_sentences(tuned, settings)]
    if tuned.stopped:
        lines.append("the search was interrupted")
    return lines


def _conclusion(tuned: TuningResult) -> str:
    if tuned.within_noise:
        return "the gain is within the noise: keep the default"
    if tuned.recommended.post == tuned.best.post:
        return "the gain is significant"
    gain = tuned.gains[tuned.recommended.post.method]
    chosen = command_line(flags(tuned.recommended.post))
    return (
        f"that gain is within the noise; the best significant one is that of {chosen}: "
        f"{gain.value:+.4f}, {_interval(gain)}"
    )


def _interval(gain: PairedDifference) -> str:
    return "unknown" if gain.low is None else f"{gain.low:+.4f} to {gain.high:+.4f}"


def _conf_sentences(tuned: TuningResult, settings: TuneSettings) -> list[str]:
    lines = []
    if len(tuned.confs) > 1:
        last, most = within(tuned.confs, settings.tolerance)[-1], max(trial.metric for trial in tuned.confs)
        lines.append(
            f"--conf {last.post.conf:g} is the highest tried that costs at most {settings.tolerance:g} "
            f"{settings.metric}: it costs {most - last.metric:.4f} and leaves {last.boxes:.1f} boxes per image"
        )
    if (at := tuned.operating_point) is not None:
        lines.append(
            f"for use, --conf {_round(at.confidence)} has the best F1 at IoU 0.5: {at.f1:.3f} "
            f"(precision {at.precision:.3f}, recall {at.recall:.3f})"
        )
    return lines


def commands(tuned: TuningResult, settings: TuneSettings, weights: str | None) -> list[str]:
    """Return the command lines that use the recommended setting."""
    chosen = flags(tuned.recommended.post)
    conf = {"conf": f"{tuned.conf:g}"} if tuned.conf > 0 else {}
    explicit = {name for name, origin in settings.origins.items() if origin != "default"}
    own = ("data", "split", "imgsz", "max_det")
    same: dict[str, str] = {name: str(getattr(settings, name)) for name in own if name in explicit}
    if settings.predictions is not None:
        return [f"cledet val {command_line({'predictions': str(settings.predictions), **same, **chosen, **conf})}"]
    source = {"weights": weights or ""}
    lines = [f"cledet val {command_line({**source, **same, **chosen, **conf})}"]
    if tuned.operating_point is not None:
        same = {name: same[name] for name in same if name in ("imgsz", "max_det")}
        conf = {"conf": _round(tuned.operating_point.confidence)}
        lines.append(f"cledet predict IMAGES {command_line({**source, **same, **chosen, **conf})}")
    return lines


def to_recipe(tuned: TuningResult, lines: list[str]) -> str:
    """Format the recommended setting as YAML for `--recipe` of val, predict and export, without conf."""
    post = tuned.recommended.post
    chosen = {"nms": post.method, **{name: getattr(post, name) for name in PARAMETERS[post.method]}}
    values = "".join(f"{name}: {json.dumps(value)}\n" for name, value in chosen.items())
    return "".join(f"# {printable(line)}\n" for line in lines) + values


def to_document(tuned: TuningResult, settings: TuneSettings, lines: list[str]) -> dict[str, Any]:
    """Convert the result to plain data."""
    return {
        "metric": settings.metric,
        "default": _plain(tuned.default),
        "best": _plain(tuned.best),
        "gain": _gain(tuned.gain),
        "held_out": tuned.held_out._asdict() | {"gain": _known(tuned.held_out.gain)},
        "inside_the_noise": tuned.within_noise,
        "recommended": _plain(tuned.recommended),
        "conf": tuned.conf,
        "best_f1": tuned.operating_point._asdict() if tuned.operating_point is not None else None,
        "commands": lines,
        "methods": {name: {**_plain(trial), **_gain(tuned.gains[name])} for name, trial in tuned.methods.items()},
        "confs": [_plain(trial) for trial in tuned.confs],
        "tried": [_plain(trial) for trial in tuned.searched],
        "seconds": tuned.seconds,
        "stopped": tuned.stopped is not None,
    }


def _plain(trial: Trial) -> dict[str, Any]:
    post = trial.post
    chosen = {"nms": post.method, **{name: getattr(post, name) for name in (*PARAMETERS[post.method], "conf")}}
    return {**chosen, "figure": trial.metric, "boxes": trial.boxes, "nms_ms": trial.nms_ms}


def _gain(gain: PairedDifference) -> dict[str, float | None]:
    return {"gain": gain.value, "low": gain.low, "high": gain.high}


def _known(value: float) -> float | None:
    return None if value != value else value


def _round(confidence: float) -> str:
    return f"{confidence:.3f}"
