"""Several sets of detections of one split against the first: what AP differs by, where, and whether that is noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cledet.console import Steps
from cledet.data.index import Bools, DetectionIndex, Floats, Ints
from cledet.metrics.bootstrap import class_ap, interval, match, mean_ap, resamples, simultaneous
from cledet.metrics.coco import evaluate
from cledet.metrics.evaluation import Evaluation
from cledet.metrics.influence import leave_one_out
from cledet.metrics.results_file import Results

FEW = 10
"""Of fewer images a bootstrap makes intervals that are much too narrow: none is given."""


class Difference(NamedTuple):
    """AP less the first one's, and its 95 % interval over images; None where there is nothing to measure.

    Intervals of classes hold all at once, see `simultaneous`: they are shown by how much they differ.
    """

    ap: float | None
    low: float | None
    high: float | None
    images: int
    """How many hold objects that are counted."""

    @property
    def verdict(self) -> str:
        """What the interval says."""
        if self.low is None or self.high is None:
            return "too few images" if self.images < FEW else "nothing to measure"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "within the noise"


@dataclass(frozen=True)
class PairedDifference:
    """One set of detections against the first."""

    whole: Difference
    classes: dict[str, Difference]
    """Of every class, by name."""
    influence: Floats
    """[I] what each image adds to the difference: that of all images less that of all others; nan if there is none."""


class Contest(NamedTuple):
    """The figures of all sets of detections, and all but the first against it."""

    figures: dict[str, Evaluation]
    against: dict[str, PairedDifference]


class _Side(NamedTuple):
    evaluation: Evaluation
    classes: dict[int, Floats]  # AP [R] over the resamples, by label
    without: Floats  # [I] AP without each image


def compare_runs(index: DetectionIndex, entries: Mapping[str, Results], repeats: int) -> Contest:
    """Compare the detections on the same resamples of the images. Raises ValueError for images the index lacks."""
    with Steps("comparing", len(entries) * len(index.classes)) as steps:
        sides = {name: _side(index, results, repeats, steps) for name, results in entries.items()}
    first, *others = sides.values()
    against = {name: _against(index, first, side) for name, side in zip(list(sides)[1:], others)}
    return Contest({name: side.evaluation for name, side in sides.items()}, against)


def _side(index: DetectionIndex, results: Results, repeats: int, steps: Steps) -> _Side:
    classes = match(index, results)
    weights = resamples(len(index), repeats, seed=0)
    samples = {matches.label: class_ap(matches, weights) for matches in classes}
    return _Side(evaluate(index, results), samples, leave_one_out(classes, len(index), steps.advance))


def _against(index: DetectionIndex, first: _Side, other: _Side) -> PairedDifference:
    repeats = max(map(len, first.classes.values()), default=0)
    samples = [mean_ap(side.classes.values(), repeats) for side in (other, first)]
    held = images_of(index)
    ap = _less(other.evaluation.metrics["AP"], first.evaluation.metrics["AP"])
    whole = _difference(ap, interval(samples[0] - samples[1]), int(held.any(axis=0).sum()))
    influence = (whole.ap or 0.0) - (other.without - first.without)
    return PairedDifference(whole, _classes(index, first, other, held.sum(axis=1)), influence)


def _classes(index: DetectionIndex, first: _Side, other: _Side, images: Ints) -> dict[str, Difference]:
    """The difference on each class that has objects, on so many images [C]."""
    gains = {}
    for label in sorted(first.classes):
        aps = [side.evaluation.per_class[index.classes[label]]["AP"] for side in (other, first)]
        gains[label] = _less(*aps)
    judged = {label: gain for label, gain in gains.items() if gain is not None and images[label] >= FEW}
    ends: dict[int, tuple[float, float]] = {}
    if judged:
        samples = np.stack([other.classes[label] - first.classes[label] for label in judged])
        ends = dict(zip(judged, zip(*simultaneous(np.array(list(judged.values())), samples))))
    return {
        index.classes[label]: _difference(gain, ends.get(label, (np.nan, np.nan)), int(images[label]))
        for label, gain in gains.items()
    }


def _less(ap: float | None, base: float | None) -> float | None:
    return None if ap is None or base is None else ap - base


def images_of(index: DetectionIndex) -> Bools:
    """[C, I] which images hold objects of a class that are counted."""
    held = np.zeros((len(index.classes), len(index)), dtype=np.bool_)
    held[index.labels[~index.ignore], index.image_of_boxes()[~index.ignore]] = True
    return held


def _difference(ap: float | None, ends: tuple[float, float], images: int) -> Difference:
    """From what AP differs by, and the ends of its interval, nan if there is none."""
    low, high = ends
    if ap is None or images < FEW or np.isnan(low):
        return Difference(ap, None, None, images)
    return Difference(ap, float(low), float(high), images)


def movers(against: PairedDifference, most: int = 10) -> dict[str, Difference]:
    """The classes whose AP differs most, those first; behind them those on too few images to say more."""
    moved = {name: one for name, one in against.classes.items() if one.ap}
    order = sorted(moved, key=lambda name: (moved[name].images < FEW, -abs(moved[name].ap or 0)))
    return {name: moved[name] for name in order[:most]}


def strongest(against: PairedDifference, most: int = 10) -> list[int]:
    """The positions of the images of most influence on the difference, those first; none that has no influence."""
    size = np.nan_to_num(np.abs(against.influence)).round(12)
    return [int(i) for i in np.argsort(-size, kind="stable")[:most] if size[i] > 0]
