"""What kinds of error cost AP50: those of TIDE, each measured by putting right all errors of the kind.

A detection that is neither right nor ignored is of the first kind that fits, IoU being that with its best object:

- localization: an object of its class at IoU 0.1 to 0.5
- classification: an object of another class at IoU 0.5 or more
- duplicate: an object of its class at IoU 0.5 or more, which a detection of higher score has
- background: no object at more than IoU 0.1
- both: what is left, an object of another class at IoU 0.1 to 0.5
- missed: an object that is not found and that no error of the first two kinds is about

Put right means: of those about an object that is not found, the one of highest score becomes right, the others go; the
other kinds of detections go; missed objects are taken from the objects there are. `false positives`: all wrong
detections go. `false negatives`: all objects that are not found are taken from those there are. A class that has no
object left then has lost nothing more: AP 1. The costs do not add up to what is lacking to 1, for AP is no sum.

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
    """The errors of a split and what they cost."""

    kind: Ints
    """[D] of every detection, as in KINDS; -1: it is right or ignored."""
    about: Ints
    """[D] the object (box row) that an error of classification or localization is about, else -1."""
    missed: Bools
    """[B] which ground truths are missed."""
    found: Bools
    """[B] which are found."""
    ap50: Floats
    """[C] AP50 of every class, nan without objects."""
    fixed: dict[str, Floats]
    """[C] AP50 of every class with the errors of a kind put right, KINDS and SPECIAL."""

    @property
    def counts(self) -> dict[str, int]:
        """How many errors of each of KINDS there are."""
        counts = np.bincount(self.kind[self.kind >= 0], minlength=MISSED)
        return dict(zip(KINDS, [*counts.tolist(), int(self.missed.sum())]))

    @property
    def cost(self) -> dict[str, float]:
        """The AP50 that each of KINDS and SPECIAL costs, at least 0."""
        base = mean(self.ap50)
        return {name: max((mean(ap) or 0.0) - (base or 0.0), 0.0) for name, ap in self.fixed.items()}

    def class_cost(self) -> Floats:
        """[6, C] the AP50 of the class that each of KINDS costs, at least 0; nan without objects."""
        return np.stack([np.maximum(self.fixed[name] - self.ap50, 0) for name in KINDS])

    def to_dict(self) -> dict[str, Any]:
        """AP50, and of every kind its cost and, but for SPECIAL, its count."""
        counts = self.counts
        return {
            "AP50": mean(self.ap50),
            **{
                name: {"cost": cost} | ({"count": counts[name]} if name in counts else {})
                for name, cost in self.cost.items()
            },
        }


def find_errors(o: Overlaps, match: Match) -> Errors:
    """Sort the errors by kind and measure each; `match` at IoU 0.5."""
    found = np.zeros(o.index.num_boxes, dtype=np.bool_)
    found[match.gt[match.correct]] = True
    kind, about = _kinds(o, match)
    open_about = about.copy()
    aimed = np.flatnonzero(about >= 0)
    open_about[aimed[found[about[aimed]]]] = -1
    missed = o.objects & ~found
    missed[open_about[open_about >= 0]] = False
    objects = o.counts(o.objects)
    return Errors(
        kind=kind,
        about=about,
        missed=missed,
        found=found,
        ap50=class_ap(o.label, match.correct, match.ignored, objects),
        fixed=_fixed(o, match, kind, open_about, missed, found),
    )


def _kinds(o: Overlaps, match: Match) -> tuple[Ints, Ints]:
    """The kind of every detection [D], and the object that it is about [D]."""
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


def _fixed(o: Overlaps, match: Match, kind: Ints, open_about: Ints, missed: Bools, found: Bools) -> dict[str, Floats]:
    """AP50 [C] with each kind put right."""
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
    fixed["false negatives"] = _without(o, match, objects, o.objects & ~found)
    return fixed


def _without(o: Overlaps, match: Match, objects: Ints, gts: Bools) -> Floats:
    """AP50 [C] were these ground truths [B] not there."""
    left = objects - o.counts(gts)
    ap = class_ap(o.label, match.correct, match.ignored, left)
    return np.where((objects > 0) & (left == 0), 1.0, ap)
