"""For which detectors CL-B gains over standard NMS: the hypotheses of docs/protocol.md on several detectors.

    python benchmarks/when_clb.py \\
        --detector ../shared/data/coco2017_sub val ../shared/data/coco2017_sub/detections/yolox_nano_raw.json \\
        --detector ../shared/data/bccd test runs/train/bccd --detector shapes test runs/train/shapes

Each detector is a data set, a split, and the weights or run folder of a model, or a .json of raw detections. The
candidates are those of `cledet tune`, in float32. For each detector it prints the measurements within the clusters
(`cledet.evaluation.cluster_alignment`); `kept`, the score-IoU correlation of `cledet val`, over the boxes that standard
NMS keeps; the mean IoU of the true positives of standard NMS and of CL-B; and the gain in AP with its 95 % interval
over images. Then it tests each hypothesis on the detectors whose interval excludes 0. Thresholds are chosen on the
detectors of the other data sets: halfway between two neighbours, such that most signs are right. At last come the
classes with ten or more clusters of three or more boxes: their measurements and the change of their AP.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cledet.config.evaluate import TuneSettings
from cledet.config.loading import resolve
from cledet.data.index import DetectionIndex
from cledet.detector import Detector
from cledet.evaluation.candidates import to_results
from cledet.evaluation.cluster_alignment import ClusterAlignment, cluster_alignment
from cledet.evaluation.misalignment import MisalignmentMeter
from cledet.evaluation.tune.search import TrialRunner
from cledet.evaluation.tune.tuner import open_candidates, weights
from cledet.metrics.bootstrap import PairedDifference, paired_differences
from cledet.metrics.coco import evaluate, spearman
from cledet.metrics.results_file import DetectionRows
from cledet.models.nms import apply_nms

METHODS = ("standard", "cl-balanced")
FEWEST = 10
"""Fewest clusters of three or more boxes of a class that is measured."""


class ClassMeasured(NamedTuple):
    """Measurements of one class of a detector."""

    name: str
    clusters: ClusterAlignment
    standard: float
    """AP of standard NMS."""
    balanced: float
    """AP of CL-B."""


@dataclass(frozen=True)
class Measured:
    """Measurements of one detector."""

    data: str
    name: str
    clusters: ClusterAlignment
    kept: float
    """Rank correlation of score and IoU over the true positives of standard NMS."""
    ious: tuple[float, float]
    """Mean IoU of the true positives of each of METHODS."""
    ap: float
    gain: PairedDifference
    classes: list[ClassMeasured]

    @property
    def sign(self) -> int:
        """1 if CL-B gains, -1 if it loses, 0 if the interval contains 0."""
        return {"better": 1, "worse": -1}.get(self.gain.conclusion, 0)


@torch.inference_mode()
def measure(data: str, split: str, source: str) -> Measured:
    own = {"predictions": source} if source.endswith(".json") else {"device": "cpu", "workers": 0}
    settings = resolve(TuneSettings, {"data": data, "split": split, "amp": "off", **own}, environ={})
    model = None if settings.predictions else Detector(source).model
    candidates, index, options = open_candidates(model, settings)
    options = replace(options, method="standard")
    runner = TrialRunner(candidates, index, settings.metric, *weights(index, settings))
    standard, balanced = (runner(replace(options, method=method)) for method in METHODS)
    samples = balanced.samples[None], standard.samples
    (gain,) = paired_differences([balanced.metric], standard.metric, *samples, [runner.images])
    meter = MisalignmentMeter(index, options.iou, options.max_det)
    for image in candidates:
        meter.start_image(image)
        for method in METHODS:
            kept = apply_nms(image.boxes, image.scores, image.labels, replace(options, method=method))
            meter.add(method, to_results(image, kept), kept.keep.numpy())
    first, second = (meter.metrics(method) for method in METHODS)
    ious = (first["kept_iou"], second["kept_iou"])
    clusters = cluster_alignment(candidates, index, options)
    results = [runner.detections(replace(options, method=method)) for method in METHODS]
    classes = measure_classes(clusters, index, results)
    path = Path(source)
    name = path.stem if settings.predictions else path.parents[1].name if path.suffix == ".pt" else path.name
    return Measured(Path(data).name, name, clusters[None], first["spearman"], ious, standard.metric, gain, classes)


def measure_classes(
    clusters: Mapping[str | None, ClusterAlignment], index: DetectionIndex, results: Sequence[DetectionRows]
) -> list[ClassMeasured]:
    """Select the classes with enough clusters, with the AP of the results of each of METHODS."""
    standard, balanced = (evaluate(index, rows).per_class for rows in results)
    return [
        ClassMeasured(name, clusters[name], standard[name]["AP"], balanced[name]["AP"])
        for name in index.classes
        if clusters[name].choices >= FEWEST
    ]


def shown(value: float | None, form: str) -> str:
    """Format a number; nothing where there is none."""
    return "" if value is None else format(value, form)


def print_heading() -> None:
    print("| data, detector | boxes | score | closeness | kept | IoU: standard, CL-B | AP | gain | 95 % from | to |")
    print("|---|" + "--:|" * 9)


def print_row(row: Measured) -> None:
    clusters, gain = row.clusters, row.gain
    of_gain = (shown(None if value is None else 100 * value, "+.2f") for value in (gain.value, gain.low, gain.high))
    of_clusters = (shown(value, ".3f") for value in (clusters.score, clusters.closeness, row.kept))
    ious = ", ".join(shown(value, ".3f") for value in row.ious)
    cells = [
        f"{row.data}, {row.name}",
        shown(clusters.boxes, ".1f"),
        *of_clusters,
        ious,
        f"{100 * row.ap:.1f}",
        *of_gain,
    ]
    print(f"| {' | '.join(cells)} |", flush=True)


def choose_threshold(values: Sequence[float], signs: Sequence[int]) -> float:
    """Return the threshold under which most positive signs and over which most negative ones lie.

    It lies halfway between two neighbouring values, or beyond all of them; of equal ones, the first.
    """
    ordered = sorted(values)
    halfway = [(a + b) / 2 for a, b in itertools.pairwise(ordered)]
    options = [-np.inf, *halfway, np.inf]
    return max(options, key=lambda at: sum((value < at) == (sign > 0) for value, sign in zip(values, signs)))


def print_test(
    name: str, rows: Sequence[Measured], value: Callable[[Measured], float], threshold: float | None
) -> None:
    """Test the hypothesis that CL-B gains where a value is below a threshold, by default one that is chosen."""
    gains = np.array([row.gain.value for row in rows])
    correlation = shown(spearman(np.array([value(row) for row in rows]), gains), "+.2f")
    print(f"{name}: rank correlation with the gain over {len(rows)} detectors {correlation}")
    clear = [row for row in rows if row.sign]
    if threshold is None and len({row.data for row in clear}) < 2:
        print("  not tested: the threshold is chosen on other data sets, and no two have a detector with a clear sign")
        return
    right = 0
    for row in clear:
        others = [other for other in clear if other.data != row.data]
        at = threshold
        if at is None:
            at = choose_threshold([value(other) for other in others], [other.sign for other in others])
        right += (value(row) < at) == (row.sign > 0)
    gained = sum(row.sign > 0 for row in clear)
    print(f"  sign right for {right} of {len(clear)} detectors with a clear sign, of which {gained} gain")


def print_classes(rows: Sequence[Measured]) -> None:
    """Print the classes, and how the change of their AP goes with their correlations."""
    print("| data, detector | class | boxes | score | closeness | AP | change |")
    print("|---|---|" + "--:|" * 5)
    margins, changes = [], []
    for row in rows:
        for one in row.classes:
            clusters, change = one.clusters, one.balanced - one.standard
            print(
                f"| {row.data}, {row.name} | {one.name} | {clusters.boxes:.1f} | {clusters.score:.3f} "
                f"| {clusters.closeness:.3f} | {100 * one.standard:.1f} | {100 * change:+.2f} |"
            )
            margins.append(clusters.closeness - clusters.score)
            changes.append(change)
    margin, change = np.array(margins), np.array(changes)
    right = int(((margin > 0) == (change > 0)).sum())
    correlation = shown(spearman(margin, change), "+.2f")
    print(f"\n4. closeness - score of a class: rank correlation with the change {correlation}")
    print(f"  sign right for {right} of {len(change)} classes, of which {int((change > 0).sum())} gain")
    for name, part in (("above", margin > 0), ("below", margin <= 0)):
        if part.any():
            print(f"  closeness {name} score: {part.sum()} classes, mean change {100 * change[part].mean():+.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", nargs=3, metavar=("DATA", "SPLIT", "SOURCE"), action="append", required=True)
    args, rows = parser.parse_args(), []
    print_heading()
    for detector in args.detector:
        rows.append(measure(*detector))
        print_row(rows[-1])
    rows = [row for row in rows if row.clusters.score is not None and row.gain.value is not None]
    print()
    print_test("1. score - closeness below 0", rows, lambda row: row.clusters.score - row.clusters.closeness, 0.0)
    print_test("2. score below a threshold", rows, lambda row: row.clusters.score, None)
    print_test("3. boxes above a threshold", rows, lambda row: -row.clusters.boxes, None)
    print()
    print_classes(rows)


if __name__ == "__main__":
    main()
