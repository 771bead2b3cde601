"""Keyword arguments of the Python API, typed like the settings' fields.

A keyword may also be given as the text of its flag, where its type is wider than the field's. Fields that have a
meaning for the command only are left out: `weights`, which the Detector already has, and names of output folders.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from cledet.config.base import Settings
from cledet.config.types import AmpName, NMSName, Subsets

F = TypeVar("F", bound=Callable[..., Any])
WIDTH = 100


class SuppressionKeywords(TypedDict, total=False):
    """Fields of `SuppressionSettings` without `nms`, which differs, and `conf`."""

    iou: float
    max_det: int
    localization: Literal["proximity", "as-printed"]
    cl_norm: Literal["max", "diagonal"]
    cl_score: Literal["own", "max"]


class DetectionKeywords(SuppressionKeywords, total=False):
    """Fields of `DetectionSettings`."""

    device: str
    amp: AmpName
    imgsz: int | None


class PredictKeywords(DetectionKeywords, total=False):
    """Fields of `PredictSettings`."""

    nms: Literal["auto", NMSName]
    conf: float | Literal["auto", "per-class"]
    classes: str | tuple[str, ...] | list[str] | None
    agnostic: bool
    batch: int
    recursive: bool
    slice: int | None
    overlap: float
    tta: bool


class ValKeywords(DetectionKeywords, total=False):
    """Fields of `ValSettings`."""

    nms: str
    conf: float
    data: str | None
    split: str
    predictions: str | Path | None
    bootstrap: int
    eval_max_dets: str | tuple[int, int, int]
    areas: str | tuple[float, float]
    evaluator: Literal["fast", "pycocotools"]
    batch: int
    workers: int


class ExplainKeywords(TypedDict, total=False):
    """Fields of `ExplainSettings`."""

    data: str | None
    device: str
    imgsz: int | None
    alpha: float | None
    score_threshold: float | None
    recall_min_iou: float | None
    center_unit: Literal["pixel", "stride", "size"] | None
    conf: float | None
    iou: float | None
    localization: Literal["proximity", "as-printed"] | None
    cl_norm: Literal["max", "diagonal"] | None


class ExportKeywords(SuppressionKeywords, total=False):
    """Fields of `ExportSettings` without `format`."""

    nms: Literal["none", "auto", NMSName]
    conf: float
    imgsz: int | tuple[int, int] | None
    int8: bool
    max_drop: float
    data: str | None
    photo_input: bool
    project: str | Path
    name: str | None


class TrainKeywords(SuppressionKeywords, total=False):
    """Fields of `GridSettings`."""

    project: str | Path
    name: str | None
    nms: Literal["auto", NMSName]
    conf: float
    device: str
    amp: AmpName
    data: str
    split: str
    val_split: str
    sampler: Literal["uniform", "repeat-factor"]
    repeat_threshold: float
    class_weights: str | dict[str, float]
    val_fraction: float
    few: int
    val_every: int
    weights: str | None
    backbone: str
    backbone_weights: str
    head: Literal["retinanet", "gfl", "fcos"]
    fpn_channels: int
    head_conv: Literal["standard", "depthwise"]
    head_init: Literal["normal", "he"]
    anchor_scale: float | Literal["auto"] | None
    anchor_ratios: str | tuple[float, ...] | Literal["auto"] | None
    assign: Literal["auto", "iou", "atss", "fcos", "paa", "tal"]
    center_sampling: float
    cls_loss: Literal["auto", "focal", "ghm", "mal", "qfl", "varifocal"]
    norm: Literal["auto", "frozen", "batch", "sync", "group"]
    freeze: int | None
    alpha: float
    score_threshold: float
    recall_min_iou: float
    recall_relative: float
    recall_center: bool
    recall_overlap: Literal["anchor", "predicted"]
    recall_cap: int
    recall_fill: int
    recall_start: float
    recall_box_loss: bool
    recall_target: Literal["soft", "hard"]
    recall_fade: bool
    correlation: float
    normalizer: Literal["positives", "matched"]
    center_unit: Literal["pixel", "stride", "size"]
    dc_form: Literal["as-printed", "zero-based", "iou"]
    dc_scope: Literal["row", "class"]
    dc_balance: Literal["batch", "class"]
    dc_start: float
    reg_loss: Literal["auto", "smooth_l1", "l1", "giou", "diou", "ciou", "dfl"]
    epochs: int | None
    iters: int | None
    hours: float | None
    batch: int | Literal["auto"]
    accumulate: int
    imgsz: int
    flip: float
    vflip: float
    scale_jitter: str | tuple[float, float]
    photometric: float
    multi_scale: str | tuple[int, int]
    crop: float
    mosaic: float
    mosaic_until: float
    copy_paste: int
    optimizer: Literal["sgd", "adamw"]
    lr: float | None
    backbone_lr: float
    momentum: float
    weight_decay: float
    schedule: Literal["step", "cosine", "onecycle"]
    lr_steps: str | tuple[float | str, ...]
    warmup: int | None
    clip: float
    ema: float
    patience: int
    seed: int
    deterministic: bool
    compile: bool
    workers: int
    logger: str
    callback: str | None
    save_steps: int
    save_minutes: float
    nnodes: int
    node_rank: int
    rdzv_endpoint: str
    max_restarts: int
    ablation: str | Subsets
    seeds: int


class _Signature(inspect.Signature):
    """A signature that is shown on several lines."""

    def __str__(self) -> str:
        return _wrapped(super().__str__())


def _wrapped(text: str) -> str:
    """Wrap a text, with its further lines indented."""
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def takes(keywords: type[Any], settings: type[Settings], describe: bool = True) -> Callable[[F], F]:
    """Show the keywords of a function's `**given` in its signature, with their defaults, and describe them.

    `help` and completion in a notebook read the signature; type checkers read `Unpack[keywords]`. Keywords that the
    function has by itself are left as they are.
    """

    def show(function: F) -> F:
        signature = inspect.signature(function)
        own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        fields = {name: field for name, field in settings.model_fields.items() if name in keywords.__annotations__}
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.get_default())
            for name, field in fields.items()
            if name not in signature.parameters
        ]
        result = signature.return_annotation
        function.__signature__ = _Signature([*own, *shown], return_annotation=result)  # type: ignore[attr-defined]
        if describe:
            lines = [
                textwrap.indent(_wrapped(f"{name}: {field.description}"), "    ") for name, field in fields.items()
            ]
            text = "\n".join(["Keywords:", *lines])
            function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{text}"
        return function

    return show
