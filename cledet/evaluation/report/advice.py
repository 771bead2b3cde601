"""What to do next, in sentences that the figures carry: each rule says its sentence, or nothing.

The rules read plain figures: those of `Analysis.to_dict`, COCO's by name, and `per_class`, `best` (the confidence of
highest F1), `objects` (a class) and `misalignment` of the split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cledet.metrics.tide import KINDS

Figures = Mapping[str, Any]

ENOUGH = 20
"""Objects below which a part of the split says nothing."""
FEW = 200
"""Objects of a split below which its AP is rough."""
WORTH = 0.01
"""AP50 below which a kind of error is not worth a sentence."""


def advice(figures: Figures, most: int = 5) -> list[str]:
    """The sentences of the first rules that have something to say, the most important first."""
    return [sentence for rule in RULES if (sentence := rule(figures))][:most]


def largest_error(figures: Figures) -> str | None:
    """Which kind of error costs most, and what to do about that one."""
    costs = {kind: figures["errors"][kind]["cost"] for kind in KINDS}
    kind = max(costs, key=lambda name: costs[name])
    if not sum(figures["objects"].values()):
        return "The split has no objects: there is nothing to find, and no figure."
    if costs[kind] < WORTH:
        return f"No kind of error costs as much as {WORTH:g} AP50 by itself."
    count = figures["errors"][kind]["count"]
    words, act = _KINDS[kind]
    return f"Most AP50 is lost to {words}: {costs[kind]:.3f} ({count:,} of them){act(figures)}."


def _missed(figures: Figures) -> str:
    small, large = (_found(figures["by_size"], *part) for part in ((0, 2), (4, 6)))
    if small is not None and large is not None and small < 0.75 * large:
        parts = (
            f"{_percent(small)} of the objects under 32 px are found and {_percent(large)} of those of 96 px and more"
        )
        return f". By any score {parts}: train with a larger `--imgsz`"
    return "; see with `cledet check` whether the anchors reach the objects of your training set"


def _localization(figures: Figures) -> str:
    oracle = ((figures.get("misalignment") or {}).get("oracle") or {}).get("AP")
    if oracle is not None and oracle - figures["AP"] > 0.02:
        return (
            f". The best box of each cluster would give AP {oracle:.3f} instead of {figures['AP']:.3f}: try `--nms all`"
        )
    return f"; AP75 is {figures['AP75']:.3f} where AP50 is {figures['AP50']:.3f}"


def _classification(figures: Figures) -> str:
    if not figures["confused"]:
        return ""
    first = figures["confused"][0]
    times = "once" if first["count"] == 1 else f"{first['count']} times"
    pair = f"{first['class']} is taken for {first['taken_for']} ({times}, {_percent(first['share'])} of its objects)"
    return f". Most often {pair}: look at the photos and labels of these two first"


_KINDS: dict[str, tuple[str, Callable[[Figures], str]]] = {
    "classification": ("objects taken for another class", _classification),
    "localization": ("boxes that lie badly on their object", _localization),
    "both": ("boxes that lie badly and name another class", lambda _: ""),
    "duplicate": ("second boxes on one object", lambda _: ": suppress more, with a lower `--iou` or another `--nms`"),
    "background": (
        "detections on background",
        lambda _: (
            ": see in the worst images whether objects are unlabelled there; if not, train with photos of such places"
        ),
    ),
    "missed": ("missed objects", _missed),
}


def small_objects(figures: Figures) -> str | None:
    """Small objects found much worse than large ones, unless the largest error says so."""
    small, large = figures["APs"], figures["APl"]
    counts = [one["objects"] for one in figures["by_size"]]
    if small is None or large is None or min(sum(counts[:2]), sum(counts[4:])) < ENOUGH or small >= 0.5 * large:
        return None
    if "--imgsz" in (largest_error(figures) or ""):
        return None
    text = f"Small objects are the weak side: AP {small:.3f} under 32x32 px, {large:.3f} from 96x96 px on"
    return f"{text}: train with a larger `--imgsz`."


def odd_shapes(figures: Figures) -> str | None:
    """A shape found much worse than the one found best."""
    known = [one for one in figures["by_shape"] if one["objects"] >= ENOUGH]
    if len(known) < 2:
        return None
    worst, best = (f(known, key=lambda one: one["AP"]) for f in (min, max))
    if worst["AP"] >= 0.6 * best["AP"]:
        return None
    text = f"Objects of width to height {worst['name']} reach AP {worst['AP']:.3f}, those of {best['name']}"
    return f"{text} {best['AP']:.3f}: see with `cledet check` whether the anchors reach them."


def threshold(figures: Figures) -> str | None:
    """From which confidence to show detections."""
    best = figures["best"]
    if not best["f1"]:
        return None
    conf = f"{best['conf']:.3g}"
    shares = (
        f"{_percent(best['precision'])} of the detections are right and {_percent(best['recall'])} of the objects found"
    )
    act = f": predict with `--conf {conf}`" if 0 <= best["conf"] <= 1 else ""
    return f"From confidence {conf} on {shares} (F1 {best['f1']:.3f}, the best){act}."


def promises(figures: Figures) -> str | None:
    """Scores that are no probabilities."""
    shown = figures["calibration_shown"]
    if shown is None or abs(shown["bias"]) < 0.1 or sum(shown["bins"]["count"]) < ENOUGH:
        return None
    right = figures["best"]["precision"] or 0.0  # None: nothing is right
    much = "too much" if shown["bias"] > 0 else "too little"
    return (
        f"Scores promise {much}: where they say {_percent(right + shown['bias'])} on average, {_percent(right)} are "
        "right; do not read them as probabilities."
    )


def weak_class(figures: Figures) -> str | None:
    """The class of enough objects that is found worst, if it is far below the mean."""
    objects = figures["objects"]
    known = {
        name: one["AP50"]
        for name, one in figures["per_class"].items()
        if one["AP50"] is not None and objects[name] >= ENOUGH
    }
    if len(objects) < 2 or not known:
        return None
    worst = min(known, key=lambda name: known[name])
    if known[worst] >= 0.5 * figures["AP50"]:
        return None
    figures_of = f"AP50 {known[worst]:.3f} ({objects[worst]:,} objects)"
    return f"The weakest class of {ENOUGH} objects or more is {worst}: {figures_of}."


def few_objects(figures: Figures) -> str | None:
    """A split that is small."""
    count = sum(figures["objects"].values())
    if not 0 < count < FEW:
        return None
    return f"The split has {count} object{'s' if count > 1 else ''}: a difference of a few hundredths may be chance."


RULES: Sequence[Callable[[Figures], str | None]] = (
    largest_error, few_objects, small_objects, odd_shapes, weak_class, threshold, promises
)  # fmt: skip


def _found(slices: Sequence[Mapping[str, Any]], first: int, last: int) -> float | None:
    """The share of the objects of these bins that is found; None where they are few."""
    objects = sum(one["objects"] for one in slices[first:last])
    if objects < ENOUGH:
        return None
    return float(sum((one["found"] or 0) * one["objects"] for one in slices[first:last]) / objects)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
