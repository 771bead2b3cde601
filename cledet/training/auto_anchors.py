"""Anchors for the data: `--anchor-scale auto` and `--anchor-ratios auto`, resolved before a run begins."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cledet.config.train import GridSettings
from cledet.console import say
from cledet.data.images import image_size
from cledet.data.index import DetectionIndex
from cledet.data_check.anchor_coverage import (
    RATIO_SETS,
    SAMPLES,
    SCALES,
    AnchorSettings,
    choose_anchors,
    covered_share,
    suggest,
)
from cledet.data_check.statistics import Objects, objects_of

NAMES = ("anchor_scale", "anchor_ratios")
"""Settings that `auto` leaves to the data."""
ORIGIN = "data"
"""Their origin in config.yaml, beside default, recipe, environment and flag."""


def with_anchors(settings: GridSettings, index: DetectionIndex, pretrained: bool) -> GridSettings:
    """Replace `auto` by the anchor scale and ratios that cover most objects of the training split, and log them.

    A `pretrained` detector keeps its anchors: `auto` of a recipe becomes the default, and that of a flag stays, to be
    refused like any other value. Raises UserError for an unreadable image of unknown size.
    """
    names = [name for name in NAMES if getattr(settings, name) == "auto"]
    if not names:
        return settings
    if pretrained:
        return _changed(settings, {name: None for name in names if settings.origins[name] != "flag"})
    scale, ratios = settings.of_head("anchor_scale"), settings.of_head("anchor_ratios")
    objects = training_objects(index)
    now = AnchorSettings(settings.imgsz, scale, ratios, covered_share(objects, settings.imgsz, scale, ratios))
    scales = SCALES if "anchor_scale" in names else (scale,)
    ratio_sets = RATIO_SETS if "anchor_ratios" in names else ()
    better = choose_anchors(objects, settings.imgsz, scale, ratios, scales=scales, ratio_sets=ratio_sets)
    say(_describe(now, better, objects))
    chosen = better or now
    return _changed(settings, {name: getattr(chosen, name) for name in names})


def training_objects(index: DetectionIndex) -> Objects:
    """Return the objects of a split; if image sizes are missing, those of about SAMPLES boxes in evenly spaced images.

    Missing sizes are read from the images.
    """
    unknown = (index.sizes <= 0).any(axis=1)
    if not unknown.any():
        return objects_of(index, index.sizes)
    index = index.subset(np.arange(0, len(index), max(1, index.num_boxes // SAMPLES)))
    sizes, missing = index.sizes.copy(), np.flatnonzero((index.sizes <= 0).any(axis=1))
    with ThreadPoolExecutor(8) as pool:
        sizes[missing] = list(pool.map(image_size, index.paths[missing].tolist()))
    return objects_of(index, sizes)


def _changed(settings: GridSettings, values: dict[str, Any]) -> GridSettings:
    """Return a copy of the settings with these values, whose origin is the data."""
    changed = settings.model_copy(update=values)
    changed._origins = settings.origins | dict.fromkeys(values, ORIGIN)
    return changed


def _describe(now: AnchorSettings, better: AnchorSettings | None, objects: Objects) -> str:
    """Describe the chosen anchors with the coverage before and after, and a larger image size that would cover more."""
    count, share = f"{len(objects.rows):,} objects", f"{100 * now.reached:.1f} %"
    if not len(objects.rows):
        return f"auto anchors: {now.flags(now.imgsz)}, as there are no objects to choose by"
    chosen = better or now
    larger = suggest(objects, chosen.imgsz, chosen.anchor_scale, chosen.anchor_ratios)
    hint = ""
    if larger is not None and larger.imgsz > now.imgsz:
        hint = f"; --imgsz {larger.imgsz} would cover {100 * larger.reached:.1f} %"
    if better is None:
        why = f"which covers {share} of {count}; no other covers half a point more"
        return f"auto anchors: {now.flags(now.imgsz)}, {why}{hint}"
    after = f"{100 * better.reached:.1f} % of {count} instead of {share}"
    return f"auto anchors: {better.flags(now.imgsz)} covers {after}{hint}"
