"""The dataset doctor: reads everything once, says what there is and what is wrong with it, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cledet.config.base import CheckSettings
from cledet.data.formats.paths import match_split
from cledet.data.index import DetectionIndex, Ints
from cledet.data.open import DataSource
from cledet.data_check.anchor_coverage import FOREGROUND, TARGET, Fit, Suggestion, best_iou, fit, suggest
from cledet.data_check.boxes import check_boxes
from cledet.data_check.classes import check_classes, count_classes
from cledet.data_check.findings import EXAMPLES, SEVERITIES, Finding, box_example, counted
from cledet.data_check.image_files import ImageFiles, default_threads, read_files
from cledet.data_check.images import check_files, check_leaks, compounds
from cledet.data_check.statistics import Objects, Sizes, SplitStatistics, describe_split, objects_of
from cledet.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One split that could be read."""

    index: DetectionIndex
    at: Ints
    """[I] where each image is among the files."""
    sizes: Sizes
    """[I, 2] as annotated, else as decoded."""
    objects: Objects
    parts: tuple[str, ...]
    """The splits that it is made of, if it is others together."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor found."""

    name: str
    imgsz: int
    anchor_scale: float
    splits: tuple[SplitStatistics, ...]
    anchors: dict[str, Fit]
    suggestion: Suggestion | None
    findings: tuple[Finding, ...]
    """Errors first."""

    def count(self, severity: str) -> int:
        """How many findings of this severity there are."""
        return sum(finding.severity == severity for finding in self.findings)

    def exit_code(self, strict: bool) -> int:
        """2 with errors, 1 with warnings if `strict`, else 0."""
        return 2 if self.count("error") else int(strict and self.count("warning") > 0)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        return {
            "name": self.name,
            "ok": not self.count("error"),
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "imgsz": self.imgsz,
            "anchor_scale": self.anchor_scale,
            "splits": [split.to_dict() for split in self.splits],
            "anchors": {name: one._asdict() for name, one in self.anchors.items()},
            "suggestion": asdict(self.suggestion) if self.suggestion else None,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check(source: DataSource, settings: CheckSettings, progress: Callable[[int, int], None] | None = None) -> Report:
    """Examine the splits that are asked for, or all; `progress` is told (files read, files in all).

    A split whose annotations cannot be read is an error of that split. Raises UserError for a split that is not there.
    """
    indices, findings = _read_annotations(source, settings.splits)
    files, positions = read_files(
        list(indices.values()), threads=settings.workers or default_threads(), progress=progress
    )
    splits = _splits(indices, files, positions)
    whole = {name: split for name, split in splits.items() if not split.parts}
    for name, split in whole.items():
        findings += check_files(name, split.index, files, split.at)
        findings += check_boxes(name, split.index)
    findings += check_leaks({name: (split.index, split.at) for name, split in whole.items()}, files)
    findings += check_classes({name: count_classes(split.index) for name, split in whole.items()})
    anchors, suggestion, advice = _check_anchors(whole, settings)
    findings = sorted([*findings, *advice], key=lambda finding: SEVERITIES.index(finding.severity))
    described = (
        describe_split(name, s.index, s.sizes, s.objects, settings.imgsz, s.parts) for name, s in splits.items()
    )
    return Report(
        source.name, settings.imgsz, settings.anchor_scale, tuple(described), anchors, suggestion, tuple(findings)
    )


def _read_annotations(source: DataSource, asked: Sequence[str]) -> tuple[dict[str, DetectionIndex], list[Finding]]:
    """The splits that can be read, by name, and an error for each that cannot."""
    indices: dict[str, DetectionIndex] = {}
    errors = []
    for name in dict.fromkeys(source.find(split) or split for split in asked or source.splits):
        try:
            indices[name] = source.index(name, need_images=False, allow_errors=True)
        except UserError as error:
            if name not in source.splits:
                raise
            errors.append(Finding("error", "annotations", name, 1, str(error)))
    return indices, errors


def _splits(indices: Mapping[str, DetectionIndex], files: ImageFiles, positions: Sequence[Ints]) -> dict[str, Split]:
    """The splits with their images' places and sizes, and which of them are others together."""
    parts = compounds({name: (index, at) for (name, index), at in zip(indices.items(), positions)})
    splits = {}
    for (name, index), at in zip(indices.items(), positions):
        unknown = (index.sizes <= 0).any(axis=1, keepdims=True)
        sizes = np.where(unknown, files.sizes[at], index.sizes)
        splits[name] = Split(index, at, sizes, objects_of(index, sizes), parts.get(name, ()))
    return splits


def _check_anchors(
    splits: Mapping[str, Split], settings: CheckSettings
) -> tuple[dict[str, Fit], Suggestion | None, list[Finding]]:
    """What the anchors reach in every split, and for the one to train on what would reach more."""
    imgsz, scale = settings.imgsz, settings.anchor_scale
    resized = {name: split.objects.resized(imgsz) for name, split in splits.items()}
    ious = {name: best_iou(objects, scale) for name, objects in resized.items()}
    fits = {name: fit(resized[name], ious[name]) for name in splits}
    train = match_split("train", splits) or max(fits, key=lambda name: fits[name].objects, default="")
    share = fits[train].reached if fits else None
    if share is None or share >= TARGET:
        return fits, None, []
    split = splits[train]
    better = suggest(split.objects, imgsz, scale)
    missed = int((ious[train] < FOREGROUND).sum())
    have = counted(missed, "object has", "objects have")
    now = f"--imgsz {imgsz} --anchor-scale {scale:g} reaches {100 * share:.1f} %"
    text = f"{have} no anchor of IoU {FOREGROUND:g} or more: {now}, {_advice(better, imgsz)}"
    worst = ious[train].argsort(stable=True)[: min(EXAMPLES, missed)].tolist()
    examples = (box_example(split.index, int(split.objects.rows[i]), f"IoU {ious[train][i]:.2f}") for i in worst)
    return fits, better, [Finding("warning" if better else "note", "anchors", train, missed, text, tuple(examples))]


def _advice(better: Suggestion | None, imgsz: int) -> str:
    if better is None:
        return "and no other scale or size tried is much better"
    size = f"--imgsz {better.imgsz} " if better.imgsz != imgsz else ""
    return f"{size}--anchor-scale {better.anchor_scale:g} would reach {100 * better.reached:.1f} %"
