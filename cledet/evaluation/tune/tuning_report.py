"""What tuning has found: as tables, in words, as flags, as a recipe, and as plain data."""

from __future__ import annotations

import json
import shlex
from typing import Any

from cledet.config.evaluate import TuneSettings
from cledet.console import printable
from cledet.evaluation.tune.search import PARAMETERS, Trial, within
from cledet.evaluation.tune.tuner import Gain, Tuned
from cledet.metrics.tables import Table
from cledet.models.nms import NMSOptions


def flags(post: NMSOptions) -> dict[str, str]:
    """The flags of a setting that make a difference to its method, conf left out."""
    return {"nms": post.method, **{name: str(getattr(post, name)) for name in PARAMETERS[post.method]}}


def written(given: dict[str, str]) -> str:
    """Flags as on a command line."""
    return " ".join(f"--{name.replace('_', '-')} {shlex.quote(value)}" for name, value in given.items())


def methods_table(tuned: Tuned, metric: str) -> Table:
    """A row a method: its best setting, and what that gains over the default."""
    default = written(flags(tuned.default.post))
    columns = ["best setting", metric, "gain", "95 % from", "to", "boxes an image", "ms an image", "settings tried"]
    rows: list[list[Any]] = []
    if tuned.default not in tuned.methods.values():
        rows.append([f"{default} (the default)", tuned.default.figure, None, None, None, *_cost(tuned.default), None])
    for name, one in tuned.methods.items():
        tried = sum(trial.post.method == name for trial in tuned.searched)
        is_default = one is tuned.default
        gain = [None, None, None] if is_default else [_known(value) for value in tuned.gains[name]]
        label = written(flags(one.post)) + (" (the default)" if is_default else "")
        rows.append([label, one.figure, *gain, *_cost(one), tried])
    return columns, rows


def conf_table(tuned: Tuned, metric: str) -> Table:
    """The recommended setting at higher and higher conf."""
    return ["conf", metric, "boxes an image"], [[f"{t.post.conf:g}", t.figure, f"{t.boxes:.1f}"] for t in tuned.confs]


def _cost(trial: Trial) -> list[str]:
    return [f"{trial.boxes:.1f}", f"{trial.nms_ms:.2f}"]


def sentences(tuned: Tuned, settings: TuneSettings) -> list[str]:
    """What it comes to."""
    metric, gain, held = settings.metric, tuned.gain, tuned.held_out
    default, best = (written(flags(trial.post)) for trial in (tuned.default, tuned.best))
    said = []
    if tuned.best is tuned.default:
        said.append(f"of {len(tuned.searched)} settings none is better than the default, {default}")
    else:
        said.append(
            f"{best} has {gain.gain:+.4f} {metric} over the default ({default}) on these images, "
            f"95 % interval {_interval(gain)} (of all {len(tuned.searched)} settings at once)"
        )
    if held.halves:
        said.append(
            f"chosen on half of the images, the best of {len(tuned.searched)} settings has {held.gain:+.4f} on the "
            f"other half (mean of {held.halves}, ahead in {held.better})"
        )
    said += [_verdict(tuned), *_conf_sentences(tuned, settings)]
    if tuned.stopped:
        said.append("the search was stopped before its end")
    return said


def _verdict(tuned: Tuned) -> str:
    if tuned.noise:
        return "the gain is inside the noise: keep the default"
    if tuned.recommended.post == tuned.best.post:
        return "the gain is beyond the noise"
    gain = tuned.gains[tuned.recommended.post.method]
    less = f"{gain.gain:+.4f}, {_interval(gain)}"
    return f"that is inside the noise; beyond it is {written(flags(tuned.recommended.post))}: {less}"


def _interval(gain: Gain) -> str:
    return f"{gain.low:+.4f} to {gain.high:+.4f}"


def _conf_sentences(tuned: Tuned, settings: TuneSettings) -> list[str]:
    said = []
    if len(tuned.confs) > 1:
        last, most = within(tuned.confs, settings.tolerance)[-1], max(trial.figure for trial in tuned.confs)
        said.append(
            f"--conf {last.post.conf:g} is the highest tried that costs no more than {settings.tolerance:g} "
            f"{settings.metric}: it costs {most - last.figure:.4f} and leaves {last.boxes:.1f} boxes an image"
        )
    if (at := tuned.operating) is not None:
        said.append(
            f"for use, --conf {_round(at.confidence)} has the best F1 at IoU 0.5: {at.f1:.3f} "
            f"(precision {at.precision:.3f}, recall {at.recall:.3f})"
        )
    return said


def commands(tuned: Tuned, settings: TuneSettings, weights: str | None) -> list[str]:
    """The command lines that use what is recommended."""
    chosen = flags(tuned.recommended.post)
    conf = {"conf": f"{tuned.conf:g}"} if tuned.conf > 0 else {}
    given = {name for name, origin in settings.origins.items() if origin != "default"}
    own = ("data", "split", "imgsz", "max_det")
    same: dict[str, str] = {name: str(getattr(settings, name)) for name in own if name in given}
    if settings.predictions is not None:
        return [f"cledet val {written({'predictions': str(settings.predictions), **same, **chosen, **conf})}"]
    of = {"weights": weights or ""}
    lines = [f"cledet val {written({**of, **same, **chosen, **conf})}"]
    if tuned.operating is not None:
        same = {name: same[name] for name in same if name in ("imgsz", "max_det")}
        conf = {"conf": _round(tuned.operating.confidence)}
        lines.append(f"cledet predict IMAGES {written({**of, **same, **chosen, **conf})}")
    return lines


def to_recipe(tuned: Tuned, lines: list[str]) -> str:
    """The recommended setting as YAML for `--recipe` of val, predict and export.

    Without conf, which is another for each of them.
    """
    post = tuned.recommended.post
    chosen = {"nms": post.method, **{name: getattr(post, name) for name in PARAMETERS[post.method]}}
    values = "".join(f"{name}: {json.dumps(value)}\n" for name, value in chosen.items())
    return "".join(f"# {printable(line)}\n" for line in lines) + values


def to_document(tuned: Tuned, settings: TuneSettings, lines: list[str]) -> dict[str, Any]:
    """All of it as plain data."""
    return {
        "metric": settings.metric,
        "default": _plain(tuned.default),
        "best": _plain(tuned.best),
        "gain": _gain(tuned.gain),
        "held_out": {name: _known(value) for name, value in tuned.held_out._asdict().items()},
        "inside_the_noise": tuned.noise,
        "recommended": _plain(tuned.recommended),
        "conf": tuned.conf,
        "best_f1": tuned.operating._asdict() if tuned.operating is not None else None,
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
    return {**chosen, "figure": trial.figure, "boxes": trial.boxes, "nms_ms": trial.nms_ms}


def _gain(gain: Gain) -> dict[str, float | None]:
    return {name: _known(value) for name, value in gain._asdict().items()}


def _known(value: float) -> float | None:
    return None if value != value else value


def _round(confidence: float) -> str:
    return f"{confidence:.3f}"
