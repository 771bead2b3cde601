"""Dataset check: statistics and problems of a data set, which is read once and not changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cledet.config.base import CheckSettings
from cledet.data.formats.paths import match_split
from cledet.data.image_files import read_files
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource
from cledet.data_check.anchor_coverage import (
    FOREGROUND,
    TARGET,
    AnchorSettings,
    Coverage,
    best_iou,
    measure_coverage,
    suggest,
)
from cledet.data_check.boxes import check_boxes
from cledet.data_check.classes import check_classes
from cledet.data_check.findings import SEVERITIES, Example, Finding, box_example, collect
from cledet.data_check.images import check_files, check_leaks, find_unions
from cledet.data_check.near_duplicates import check_near_duplicates
from cledet.data_check.statistics import Objects, describe_split, objects_of
from cledet.distributed.devices import cores
from cledet.errors import UserError


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a dataset check."""

    name: str
    imgsz: int
    anchor_scale: float
    anchor_ratios: tuple[float, ...]
    splits: tuple[dict[str, Any], ...]
    """The statistics of `describe_split`."""
    anchors: dict[str, Coverage]
    suggestion: AnchorSettings | None
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
            "anchor_ratios": self.anchor_ratios,
            "splits": list(self.splits),
            "anchors": {name: coverage._asdict() for name, coverage in self.anchors.items()},
            "suggestion": self.suggestion._asdict() if self.suggestion else None,
            "findings": [finding.to_dict() for finding in self.findings],
        }


def check(source: DataSource, settings: CheckSettings, progress: Callable[[int, int], None] | None = None) -> Report:
    """Check the splits of the settings, by default all; `progress` is called with (files read, number of files).

    A split whose annotations cannot be read is reported as an error. Raises UserError for a split that does not exist.
    """
    indices, findings = _read_annotations(source, settings.splits)
    threads = settings.workers or 2 * cores()  # one thread decodes while another waits for the disk
    files, positions = read_files(list(indices.values()), threads=threads, progress=progress)
    splits = {name: (index, at) for (name, index), at in zip(indices.items(), positions)}
    unions = find_unions(splits)
    basic = {name: split for name, split in splits.items() if name not in unions}
    for name, (index, at) in basic.items():
        findings += check_files(name, index, files, at)
        findings += check_boxes(name, index)
    findings += check_leaks(basic, files)
    findings += check_near_duplicates(basic, files)
    findings += check_classes({name: index.class_counts() for name, (index, _) in basic.items()})
    sizes = {
        name: np.where((index.sizes <= 0).any(axis=1, keepdims=True), files.sizes[at], index.sizes)  # else as decoded
        for name, (index, at) in splits.items()
    }
    objects = {name: objects_of(index, sizes[name]) for name, index in indices.items()}
    described = tuple(
        describe_split(name, index, sizes[name], objects[name], settings.imgsz, unions.get(name, ()))
        for name, index in indices.items()
    )
    anchors, suggestion, advice = _check_anchors(indices, {name: objects[name] for name in basic}, settings)
    findings = sorted([*findings, *advice], key=lambda finding: SEVERITIES.index(finding.severity))
    used = (settings.imgsz, settings.anchor_scale, settings.anchor_ratios)
    return Report(source.name, *used, described, anchors, suggestion, tuple(findings))


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
            errors.append(Finding("error", "annotations", name, 1, str(error), tuple(map(Example, error.lines))))
    return indices, errors


def _check_anchors(
    indices: Mapping[str, DetectionIndex], objects: Mapping[str, Objects], settings: CheckSettings
) -> tuple[dict[str, Coverage], AnchorSettings | None, list[Finding]]:
    """Measure the anchor coverage of every split; for the training split, suggest better anchors."""
    imgsz, scale, ratios = settings.imgsz, settings.anchor_scale, settings.anchor_ratios
    resized = {name: some.resized(imgsz) for name, some in objects.items()}
    ious = {name: best_iou(some, scale, ratios) for name, some in resized.items()}
    coverages = {name: measure_coverage(resized[name], ious[name]) for name in objects}
    train = match_split("train", objects) or max(coverages, key=lambda name: coverages[name].objects, default="")
    share = coverages[train].reached if coverages else None
    if share is None or share >= TARGET:
        return coverages, None, []
    better = suggest(objects[train], imgsz, scale, ratios)
    missed = ious[train].argsort(stable=True)[: int((ious[train] < FOREGROUND).sum())].tolist()
    now = AnchorSettings(imgsz, scale, ratios, share)
    advice = "and no other scale, ratios or size tried is much better"
    if better is not None:
        advice = f"{better.flags(imgsz, ratios)} would cover {100 * better.reached:.1f} %"
    rest = f"no anchor of IoU {FOREGROUND:g} or more: {now.flags()} covers {100 * share:.1f} %, {advice}"

    def example(i: int) -> Example:
        return box_example(indices[train], int(objects[train].rows[i]), f"IoU {ious[train][i]:.2f}")

    words = (f"object has {rest}", f"objects have {rest}")
    return coverages, better, collect("warning" if better else "note", "anchors", train, missed, words, example)
