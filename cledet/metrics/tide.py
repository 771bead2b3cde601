"""Error analysis by TIDE: the AP50 that each kind of error costs, measured by correcting all errors of the kind.

A false positive is of the first kind that applies, with IoU as that with its best object:

- localization: an object of its class at IoU 0.1 to 0.5
- classification: an object of another class at IoU 0.5 or more
- duplicate: an object of its class at IoU 0.5 or more that a detection of higher score matches
- background: no object at IoU above 0.1
- both: the rest, an object of another class at IoU 0.1 to 0.5
- missed: an undetected object that is not the target of a localization or classification error

Localization and classification errors are corrected as follows: for each undetected target, the error of highest score
becomes a true positive; the others are removed. Errors of other kinds are removed, and missed objects are not counted.
`false positives`: all false positives are removed. `false negatives`: no undetected object is counted. A class without
remaining objects has AP 1. The costs do not add up to 1 - AP50, because AP is not additive.

Source: Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cledet.data.index import Bools, Floats, Ints
from cledet.metrics.average_precision import class_ap, mean
from cledet.metrics.matching import BACKGROUND, FOREGROUND, Match, Overlaps

KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, FALSE_ALARM, MISSED = range(6)
SPECIAL = ("false positives", "false negatives")


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of a split and their cost in AP50."""

    kind: Ints
    """[D] index into KINDS of every detection; -1 for true positives and ignored ones."""
    about: Ints
    """[D] target (box row) of a classification or localization error, else -1."""
    missed: Bools
    """[B] mask of missed ground truths."""
    ap50: Floats
    """[C] AP50 per class, nan without objects."""
    fixed: dict[str, Floats]
    """AP50 per class [C] with the errors corrected, for each of KINDS and SPECIAL."""

    @property
    def counts(self) -> dict[str, int]:
        """Count the errors of each of KINDS."""
        counts = np.bincount(self.kind[self.kind >= 0], minlength=MISSED)
        return dict(zip(KINDS, [*counts.tolist(), int(self.missed.sum())]))

    @property
    def cost(self) -> dict[str, float]:
        """Compute the AP50 that each of KINDS and SPECIAL costs, at least 0."""
        base = mean(self.ap50)
        return {name: max((mean(ap) or 0.0) - (base or 0.0), 0.0) for name, ap in self.fixed.items()}

    def class_cost(self) -> Floats:
        """Compute the AP50 per class [6, C] that each of KINDS costs, at least 0; nan without objects."""
        return np.stack([np.maximum(self.fixed[name] - self.ap50, 0) for name in KINDS])

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain data: AP50, and the cost and count of every kind."""
        counts = {name: {"count": count} for name, count in self.counts.items()}
        costs = {name: {"cost": cost} | counts.get(name, {}) for name, cost in self.cost.items()}
        return {"AP50": mean(self.ap50), **costs}


def find_errors(o: Overlaps, match: Match) -> Errors:
    """Classify the errors by kind and compute their cost; `match` is that at IoU 0.5."""
    detected = np.zeros(o.index.num_boxes, dtype=np.bool_)
    detected[match.gt[match.correct]] = True
    kind, about = _kinds(o, match)
    open_about = about.copy()
    aimed = np.flatnonzero(about >= 0)
    open_about[aimed[detected[about[aimed]]]] = -1
    missed = o.objects & ~detected
    missed[open_about[open_about >= 0]] = False
    objects = o.counts(o.objects)
    return Errors(
        kind=kind,
        about=about,
        missed=missed,
        ap50=class_ap(o.label, match.correct, match.ignored, objects),
        fixed=_fixed(o, match, kind, open_about, missed, detected),
    )


def _kinds(o: Overlaps, match: Match) -> tuple[Ints, Ints]:
    """Return the kind [D] and the target [D] of every detection."""
    real = o.pairs.where(o.objects[o.pairs.gt])
    same = o.label[real.detection] == o.index.labels[real.gt]
    count = len(o.score)
    own, own_iou = real.where(same).best(count)
    other, other_iou = real.where(~same).best(count)
    is_kind = [
        (own_iou >= BACKGROUND) & (own_iou < FOREGROUND),
        other_iou >= FOREGROUND,
        own_iou >= FOREGROUND,
        np.maximum(own_iou, other_iou) <= BACKGROUND,
    ]
    kind = np.select(is_kind, [LOCALIZATION, CLASSIFICATION, DUPLICATE, FALSE_ALARM], BOTH)
    kind[match.correct | match.ignored] = -1
    about = np.select([kind == LOCALIZATION, kind == CLASSIFICATION], [own, other], -1)
    return kind, about


def _fixed(
    o: Overlaps, match: Match, kind: Ints, open_about: Ints, missed: Bools, detected: Bools
) -> dict[str, Floats]:
    """Compute AP50 [C] with each kind corrected."""
    objects = o.counts(o.objects)
    candidates = np.flatnonzero(open_about >= 0)  # highest score first
    _, first = np.unique(open_about[candidates], return_index=True)
    chosen = candidates[first]
    fixed = {}
    for number, name in enumerate(KINDS[:MISSED]):
        mine = chosen[kind[chosen] == number]
        label, correct, gone = o.label.copy(), match.correct.copy(), match.ignored | (kind == number)
        label[mine], correct[mine], gone[mine] = o.index.labels[open_about[mine]], True, False
        fixed[name] = class_ap(label, correct, gone, objects)
    fixed["missed"] = _without(o, match, objects, missed)
    fixed["false positives"] = class_ap(o.label, match.correct, ~match.correct, objects)
    fixed["false negatives"] = _without(o, match, objects, o.objects & ~detected)
    return fixed


def _without(o: Overlaps, match: Match, objects: Ints, gts: Bools) -> Floats:
    """Compute AP50 [C] without these ground truths [B]."""
    left = objects - o.counts(gts)
    ap = class_ap(o.label, match.correct, match.ignored, left)
    return np.where((objects > 0) & (left == 0), 1.0, ap)
