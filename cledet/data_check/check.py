"""Dataset check: statistics and problems of a data set, which is read once and not changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cledet.config.base import CheckSettings
from cledet.data.formats.paths import match_split
from cledet.data.index import DetectionIndex, Ints
from cledet.data.open import DataSource
from cledet.data_check.anchor_coverage import (
    FOREGROUND,
    TARGET,
    Coverage,
    Suggestion,
    best_iou,
    measure_coverage,
    suggest,
)
from cledet.data_check.boxes import check_boxes
from cledet.data_check.classes import check_classes
from cledet.data_check.findings import EXAMPLES, SEVERITIES, Finding, box_example, counted
from cledet.data_check.image_files import ImageFiles, default_threads, read_files
from cledet.data_check.images import check_files, check_leaks, find_unions
from cledet.data_check.statistics import Objects, Sizes, SplitStatistics, describe_split, objects_of
from cledet.errors import UserError


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A readable split."""

    index: DetectionIndex
    at: Ints
    """[I] position of each image's file in ImageFiles."""
    sizes: Sizes
    """[I, 2] width and height as annotated, else as decoded."""
    objects: Objects
    parts: tuple[str, ...]
    """The splits whose union it is, if it is one."""


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a dataset check."""

    name: str
    imgsz: int
    anchor_scale: float
    splits: tuple[SplitStatistics, ...]
    anchors: dict[str, Coverage]
    suggestion: Suggestion | None
    findings: tuple[Finding, ...]
    """Errors first."""

    def count(self, severity: str) -> int:
        """Count the findings of a severity."""
        return sum(finding.severity == severity for finding in self.findings)

    def exit_code(self, strict: bool) -> int:
        """Return 2 with errors, 1 with warnings if `strict`, else 0."""
        return 2 if self.count("error") else int(strict and self.count("warning") > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values, for JSON."""
        return {
            "name": self.name,
            "ok": not self.count("error"),
            **{f"{severity}s": self.count(severity) for severity in SEVERITIES},
            "imgsz": self.imgsz,
            "anchor_scale": self.anchor_scale,
            "splits": [split.to_dict() for split in self.splits],
            "anchors": {name: coverage._asdict() for name, coverage in self.anchors.items()},
            "suggestion": asdict(self.suggestion) if self.suggestion else None,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check(source: DataSource, settings: CheckSettings, progress: Callable[[int, int], None] | None = None) -> Report:
    """Check the splits of the settings, by default all; `progress` is called with (files read, number of files).

    A split whose annotations cannot be read is reported as an error. Raises UserError for a split that does not exist.
    """
    indices, findings = _read_annotations(source, settings.splits)
    files, positions = read_files(
        list(indices.values()), threads=settings.workers or default_threads(), progress=progress
    )
    splits = _splits(indices, files, positions)
    basic = {name: split for name, split in splits.items() if not split.parts}
    for name, split in basic.items():
        findings += check_files(name, split.index, files, split.at)
        findings += check_boxes(name, split.index)
    findings += check_leaks({name: (split.index, split.at) for name, split in basic.items()}, files)
    findings += check_classes({name: split.index.class_counts() for name, split in basic.items()})
    anchors, suggestion, advice = _check_anchors(basic, settings)
    findings = sorted([*findings, *advice], key=lambda finding: SEVERITIES.index(finding.severity))
    described = (
        describe_split(name, s.index, s.sizes, s.objects, settings.imgsz, s.parts) for name, s in splits.items()
    )
    return Report(
        source.name, settings.imgsz, settings.anchor_scale, tuple(described), anchors, suggestion, tuple(findings)
    )


def _read_annotations(source: DataSource, asked: Sequence[str]) -> tuple[dict[str, DetectionIndex], list[Finding]]:
    """Read the splits; return their indices by name, and an error for each unreadable one."""
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
    """Combine the indices with their files, image sizes, objects and parts."""
    parts = find_unions({name: (index, at) for (name, index), at in zip(indices.items(), positions)})
    splits = {}
    for (name, index), at in zip(indices.items(), positions):
        unknown = (index.sizes <= 0).any(axis=1, keepdims=True)
        sizes = np.where(unknown, files.sizes[at], index.sizes)
        splits[name] = Split(index, at, sizes, objects_of(index, sizes), parts.get(name, ()))
    return splits


def _check_anchors(
    splits: Mapping[str, Split], settings: CheckSettings
) -> tuple[dict[str, Coverage], Suggestion | None, list[Finding]]:
    """Measure the anchor coverage of every split; for the training split, suggest better anchors."""
    imgsz, scale = settings.imgsz, settings.anchor_scale
    resized = {name: split.objects.resized(imgsz) for name, split in splits.items()}
    ious = {name: best_iou(objects, scale) for name, objects in resized.items()}
    coverages = {name: measure_coverage(resized[name], ious[name]) for name in splits}
    train = match_split("train", splits) or max(coverages, key=lambda name: coverages[name].objects, default="")
    share = coverages[train].reached if coverages else None
    if share is None or share >= TARGET:
        return coverages, None, []
    split = splits[train]
    better = suggest(split.objects, imgsz, scale)
    missed = int((ious[train] < FOREGROUND).sum())
    count = counted(missed, "object has", "objects have")
    now = f"--imgsz {imgsz} --anchor-scale {scale:g} covers {100 * share:.1f} %"
    text = f"{count} no anchor of IoU {FOREGROUND:g} or more: {now}, {_advice(better, imgsz)}"
    worst = ious[train].argsort(stable=True)[: min(EXAMPLES, missed)].tolist()
    examples = tuple(box_example(split.index, int(split.objects.rows[i]), f"IoU {ious[train][i]:.2f}") for i in worst)
    return coverages, better, [Finding("warning" if better else "note", "anchors", train, missed, text, examples)]


def _advice(better: Suggestion | None, imgsz: int) -> str:
    if better is None:
        return "and no other scale or size tried is much better"
    size = f"--imgsz {better.imgsz} " if better.imgsz != imgsz else ""
    return f"{size}--anchor-scale {better.anchor_scale:g} would cover {100 * better.reached:.1f} %"
