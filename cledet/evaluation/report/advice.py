"""Advice from rules on the metrics; each rule returns a sentence, or None if it does not apply.

The rules read plain data: that of `Analysis.to_dict`, COCO's metrics by name, and `per_class`, `best` (the confidence
of highest F1), `objects` (per class) and `misalignment` of the split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cledet.metrics.tide import KINDS

Metrics = Mapping[str, Any]

ENOUGH = 20
"""A part of the split with fewer objects gets no sentence."""
FEW = 200
"""AP of a split with fewer objects is imprecise."""
WORTH = 0.01
"""A kind of error that costs less AP50 gets no sentence."""


def advice(metrics: Metrics, most: int = 5) -> list[str]:
    """Return the sentences of the first rules that apply, the most important first."""
    return [sentence for rule in RULES if (sentence := rule(metrics))][:most]


def largest_error(metrics: Metrics) -> str | None:
    """Name the kind of error that costs most, and its remedy."""
    costs = {kind: metrics["errors"][kind]["cost"] for kind in KINDS}
    kind = max(costs, key=lambda name: costs[name])
    if not sum(metrics["objects"].values()):
        return "The split has no objects, so there are no metrics."
    if costs[kind] < WORTH:
        return f"No single kind of error costs {WORTH:g} AP50 or more."
    count = metrics["errors"][kind]["count"]
    description, remedy = _KINDS[kind]
    return f"Most AP50 is lost to {description}: {costs[kind]:.3f} ({count:,} of them){remedy(metrics)}."


def _localization(metrics: Metrics) -> str:
    oracle = ((metrics.get("misalignment") or {}).get("oracle") or {}).get("AP")
    if oracle is not None and oracle - metrics["AP"] > 0.02:
        return (
            f". The best box of each cluster would give AP {oracle:.3f} instead of {metrics['AP']:.3f}: try `--nms all`"
        )
    return f"; AP75 is {metrics['AP75']:.3f} where AP50 is {metrics['AP50']:.3f}"


def _classification(metrics: Metrics) -> str:
    if not metrics["confused"]:
        return ""
    first = metrics["confused"][0]
    times = "once" if first["count"] == 1 else f"{first['count']} times"
    pair = f"{first['class']} is predicted as {first['taken_for']} ({times}, {_percent(first['share'])} of its objects)"
    return f". Most often {pair}: inspect the images and labels of these two first"


_KINDS: dict[str, tuple[str, Callable[[Metrics], str]]] = {
    "classification": ("objects predicted as another class", _classification),
    "localization": ("poorly localized boxes", _localization),
    "both": ("poorly localized boxes of another class", lambda _: ""),
    "duplicate": ("duplicate detections", lambda _: ": suppress more, with a lower `--iou` or another `--nms`"),
    "background": (
        "detections on background",
        lambda _: ": check the hardest images for unlabelled objects; else add training images of such backgrounds",
    ),
    "missed": (
        "missed objects",
        lambda _: "; run `cledet check` to see whether the anchors cover the objects of the training set",
    ),
}


def small_objects(metrics: Metrics) -> str | None:
    """Report that small objects have a much lower AP."""
    small, large = metrics["APs"], metrics["APl"]
    counts = [one["objects"] for one in metrics["by_size"]]
    if small is None or large is None or min(sum(counts[:2]), sum(counts[4:])) < ENOUGH or small >= 0.5 * large:
        return None
    text = f"Small objects have a low AP: {small:.3f} under 32x32 px, and {large:.3f} from 96x96 px"
    return f"{text}: train with a larger `--imgsz`."


def odd_shapes(metrics: Metrics) -> str | None:
    """Report the shape with a much lower AP than the best."""
    known = [one for one in metrics["by_shape"] if one["objects"] >= ENOUGH]
    if len(known) < 2:
        return None
    worst, best = (f(known, key=lambda one: one["AP"]) for f in (min, max))
    if worst["AP"] >= 0.6 * best["AP"]:
        return None
    text = f"Objects of aspect ratio {worst['name']} have AP {worst['AP']:.3f}, those of {best['name']}"
    return f"{text} {best['AP']:.3f}: run `cledet check` to see whether the anchors cover them."


def threshold(metrics: Metrics) -> str | None:
    """Recommend a confidence threshold."""
    best = metrics["best"]
    if not best["f1"]:
        return None
    conf = f"{best['conf']:.3g}"
    precision, recall = _percent(best["precision"]), _percent(best["recall"])
    shares = f"{precision} of the detections are correct and {recall} of the objects are detected"
    action = f": predict with `--conf {conf}`" if 0 <= best["conf"] <= 1 else ""
    return f"From confidence {conf} on {shares} (F1 {best['f1']:.3f}, the best){action}."


def miscalibration(metrics: Metrics) -> str | None:
    """Report overconfident or underconfident scores."""
    shown = metrics["calibration_shown"]
    if shown is None or abs(shown["bias"]) < 0.1 or sum(shown["bins"]["count"]) < ENOUGH:
        return None
    precision = metrics["best"]["precision"] or 0.0  # None: no true positives
    kind = "overconfident" if shown["bias"] > 0 else "underconfident"
    return (
        f"Scores are {kind}: their mean is {_percent(precision + shown['bias'])}, but {_percent(precision)} of the "
        "detections are correct; do not interpret scores as probabilities."
    )


def weak_class(metrics: Metrics) -> str | None:
    """Name the class with the lowest AP50 among those of enough objects, if it is far below the mean."""
    objects = metrics["objects"]
    known = {
        name: one["AP50"]
        for name, one in metrics["per_class"].items()
        if one["AP50"] is not None and objects[name] >= ENOUGH
    }
    if len(objects) < 2 or not known:
        return None
    worst = min(known, key=lambda name: known[name])
    if known[worst] >= 0.5 * metrics["AP50"]:
        return None
    detail = f"AP50 {known[worst]:.3f} ({objects[worst]:,} objects)"
    return f"The weakest class of {ENOUGH} objects or more is {worst}: {detail}."


def few_objects(metrics: Metrics) -> str | None:
    """Warn of a small split."""
    count = sum(metrics["objects"].values())
    if not 0 < count < FEW:
        return None
    return f"The split has {count} object{'s' if count > 1 else ''}: a few hundredths may be due to chance."


RULES: Sequence[Callable[[Metrics], str | None]] = (
    largest_error, few_objects, small_objects, odd_shapes, weak_class, threshold, miscalibration
)  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
