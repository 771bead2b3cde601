"""Suspected label errors: labels that confident detections contradict, and confident detections without a label.

A suspect is of one of four kinds:

- wrong class: a detection of another class lies on the label (IoU 0.5 or more)
- misplaced: a detection of the label's class lies beside it (IoU 0.1 to 0.5)
- missing label: a detection lies on no label
- spurious label: no detection lies on the label, though others of its class and size are detected

The trust in a detection is the mean of its score and of the precision of the 50 detections of its class with the
nearest scores, made monotone. So it is comparable between classes and detectors, and scores need not be calibrated. A
label is confirmed by the trust in the detection that matches it. Scores of suspects are products of these:

- wrong class: trust x (1 - confirmed), with the precision among detections that lie on a label
- misplaced: trust x (1 - confirmed)
- missing label: trust x the smallest `confirmed` of the labels of its class beside it x (1 - the highest IoU with
  these)
- spurious label: half the recall of the 50 labels of its class with the nearest areas x (1 - confirmed)

From the highest score down, each label and each detection takes part in one suspect, and detections that overlap one
in use (IoU 0.5 or more) in none. Labels that are ignored, and detections inside them, are never suspects.

Sources: ObjectLab (Tkachenko et al., 2023, arXiv:2309.00832) for the kinds overlooked, badly located and swapped;
TIDE (Bolya et al., 2020) for the IoU thresholds. The scores, the fourth kind and the exclusion are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.metrics.average_precision import envelope
from cledet.metrics.matching import FOREGROUND, Match, Overlaps, Pairs, box_iou, by_class

KINDS = ("wrong class", "misplaced", "missing label", "spurious label")
LEAST = 0.4
"""Lowest score of a suspect."""
NEIGHBOURS = 50
"""Detections of a class over which precision, and labels over which recall is computed."""
UNSURE = 0.5
"""Weight of spurious labels: an object that the model misses is more frequent than a label without an object."""


class Suspect(NamedTuple):
    """A suspected label error."""

    kind: str
    """One of KINDS."""
    image: int
    """Image position."""
    gt: int
    """Box row of the label, -1 for none."""
    detection: int
    """Position of the detection in the Overlaps, -1 for none."""
    score: float
    """0 to 1, see the module."""

    def text(self, o: Overlaps) -> str:
        """Describe the suspect in a few words."""
        names, parts = o.index.classes, []
        if self.gt >= 0:
            parts.append(f"labelled {names[o.index.labels[self.gt]]}")
        if self.detection >= 0:
            parts.append(f"detected {names[o.label[self.detection]]} {o.score[self.detection]:.2f}")
        return f"{self.kind}: {', '.join(parts)}"

    def to_dict(self, o: Overlaps) -> dict[str, Any]:
        """Convert to plain data with boxes as left, top, width and height in pixels."""
        index, label, detection = o.index, None, None
        if self.gt >= 0:
            label = {"class": index.classes[index.labels[self.gt]], "bbox": index.xywh[self.gt].tolist()}
        if self.detection >= 0:
            name, box = index.classes[o.label[self.detection]], o.xywh[self.detection].tolist()
            detection = {"class": name, "bbox": box, "score": float(o.score[self.detection])}
        image = {"image_id": int(index.image_ids[self.image]), "file": str(index.paths[self.image])}
        return {"kind": self.kind, "score": self.score, **image, "label": label, "detection": detection}


class Candidates(NamedTuple):
    """Possible suspects of one kind."""

    gt: Ints  # [S] box row, -1 for none
    detection: Ints  # [S] -1 for none
    score: Floats  # [S]


@dataclass(frozen=True, eq=False)
class Evidence:
    """Evidence of D detections for and against B labels; `match` is that at IoU 0.5."""

    o: Overlaps
    match: Match

    @cached_property
    def outside(self) -> Bools:
        """Return the mask [D] of the detections that do not lie in an ignored label."""
        pairs, outside = self.o.pairs, ~self.match.ignored
        outside[pairs.detection[~self.o.objects[pairs.gt] & (pairs.iou >= FOREGROUND)]] = False
        return outside

    @cached_property
    def free(self) -> Bools:
        """Return the mask [D] of the detections outside ignored labels that match no label."""
        return self.outside & ~self.match.correct

    @cached_property
    def pairs(self) -> Pairs:
        """Return the pairs of free detections and labels, of any classes, from IoU 0.1 on."""
        pairs = self.o.pairs
        return pairs.where(self.free[pairs.detection] & self.o.objects[pairs.gt])

    @cached_property
    def same(self) -> Bools:
        """Return the mask [P] of `pairs` of equal class."""
        return self.o.label[self.pairs.detection] == self.o.index.labels[self.pairs.gt]

    @cached_property
    def trust(self) -> Floats:
        """Compute the trust [D] in the claim of a detection that an object of its class is there."""
        return self._trust(self.match.correct | self.free)

    @cached_property
    def class_trust(self) -> Floats:
        """Compute the trust [D] in the class of a detection, among those that match or lie on labels."""
        on = self.match.correct.copy()
        on[self.pairs.detection[~self.same & (self.pairs.iou >= FOREGROUND)]] = True
        return self._trust(on)

    def _trust(self, counted: Bools) -> Floats:
        trust = np.zeros(len(counted))
        for rows in by_class(self.o.label, counted, len(self.o.index.classes)):
            score = self.o.score[rows]
            precision = envelope(_moving_mean(self.match.correct[rows]))
            last = np.searchsorted(-score, -score, side="right") - 1  # of those with an equal score
            trust[rows] = (precision[last] + np.clip(score, 0, 1)) / 2
        return trust

    @cached_property
    def confirmed(self) -> Floats:
        """Return the trust [B] in the detection that matches each label, 0 without one."""
        confirmed, matched = np.zeros(self.o.index.num_boxes), np.flatnonzero(self.match.correct)
        confirmed[self.match.gt[matched]] = self.trust[matched]
        return confirmed

    @cached_property
    def recall(self) -> Floats:
        """Compute the share [B] of detected labels among those of the same class nearest in area."""
        recall = np.zeros(self.o.index.num_boxes)
        area = self.o.index.xywh[:, 2] * self.o.index.xywh[:, 3]
        for rows in by_class(self.o.index.labels, self.o.index.objects(), len(self.o.index.classes)):
            rows = rows[np.argsort(area[rows], kind="stable")]
            recall[rows] = _moving_mean(self.confirmed[rows] > 0)
        return recall


def find_suspects(o: Overlaps, match: Match, most: int) -> list[Suspect]:
    """Find the `most` suspects of highest score; `match` is the matching at IoU 0.5."""
    evidence = Evidence(o, match)
    parts = [find(evidence) for find in (wrong_classes, misplaced, missing_labels, spurious_labels)]
    kind = np.repeat(np.arange(len(KINDS)), [len(part.gt) for part in parts])
    gt, detection, score = (np.concatenate(column) for column in zip(*parts))
    score = score.round(9)  # so that equal ones are equal on every machine
    # of equal scores, the higher score of the detection first, then the order of the kinds
    order = np.lexsort((np.arange(len(score)), -np.where(detection >= 0, np.append(o.score, 0)[detection], 0), -score))
    order = order[score[order] >= LEAST]
    return _select(o, [column[order].tolist() for column in (kind, gt, detection, score)], most)


def wrong_classes(evidence: Evidence) -> Candidates:
    """Pair labels with free detections of other classes on them."""
    pairs = evidence.pairs.where(~evidence.same & (evidence.pairs.iou >= FOREGROUND))
    score = evidence.class_trust[pairs.detection] * (1 - evidence.confirmed[pairs.gt])
    return Candidates(pairs.gt, pairs.detection, score)


def misplaced(evidence: Evidence) -> Candidates:
    """Pair labels with free detections of their class beside them."""
    pairs = evidence.pairs.where(evidence.same)
    score = evidence.trust[pairs.detection] * (1 - evidence.confirmed[pairs.gt])
    return Candidates(pairs.gt, pairs.detection, score)


def missing_labels(evidence: Evidence) -> Candidates:
    """Take free detections, less those that a label could explain."""
    explained, near = np.ones(len(evidence.free)), np.zeros(len(evidence.free))
    own = evidence.pairs.where(evidence.same)
    np.minimum.at(explained, own.detection, evidence.confirmed[own.gt])
    np.maximum.at(near, own.detection, own.iou)
    near[evidence.pairs.detection[evidence.pairs.iou >= FOREGROUND]] = 1
    free = np.flatnonzero(evidence.free)
    score = evidence.trust[free] * explained[free] * (1 - near[free])
    return Candidates(np.full(len(free), -1), free, score)


def spurious_labels(evidence: Evidence) -> Candidates:
    """Take labels that no trusted detection matches."""
    gt = np.flatnonzero(evidence.o.index.objects())
    score = UNSURE * evidence.recall[gt] * (1 - evidence.confirmed[gt])
    return Candidates(gt, np.full(len(gt), -1), score)


def _moving_mean(values: Bools) -> Floats:
    """Compute the mean [N] over the NEIGHBOURS nearest values; at the ends, over the first and the last of them."""
    width, total = min(NEIGHBOURS, len(values)), np.append(0, np.cumsum(values))
    first = np.clip(np.arange(len(values)) - width // 2, 0, len(values) - width)
    return np.asarray((total[first + width] - total[first]) / max(width, 1), dtype=np.float64)


def _select(o: Overlaps, columns: list[list[Any]], most: int) -> list[Suspect]:
    """Take candidates (kind, label, detection, score) in order, each label and each place of a detection once."""
    chosen: list[Suspect] = []
    labels: set[int] = set()
    places: dict[int, list[int]] = {}  # detections of the chosen suspects, by image
    for kind, gt, detection, score in zip(*columns):
        if len(chosen) == most:
            break
        image = int(o.gt_image[gt] if detection < 0 else o.image[detection])
        others = places.setdefault(image, [])
        if gt in labels or (detection >= 0 and _overlaps_any(o.xywh, detection, others)):
            continue
        if gt >= 0:
            labels.add(gt)
        if detection >= 0:
            others.append(detection)
        chosen.append(Suspect(KINDS[kind], image, gt, detection, score))
    return chosen


def _overlaps_any(xywh: Floats, one: int, others: list[int]) -> bool:
    return bool((box_iou(np.repeat(xywh[[one]], len(others), axis=0), xywh[others]) >= FOREGROUND).any())
