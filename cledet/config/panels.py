"""Presentation of settings as flags: the help panel of each field, value names, and words for shell completion."""

from __future__ import annotations

from cledet.config.evaluate import BENCH_ROWS
from cledet.config.types import COMPONENTS, NMS_METHODS, SAVED

PANELS = {
    "Data": "data split val_split val_fraction few imgsz batch sampler repeat_threshold recursive accumulate "
    "predictions html areas eval_max_dets",
    "Model": "weights backbone backbone_weights head fpn_channels head_conv head_init norm freeze anchor_scale "
    "anchor_ratios assign center_sampling cls_loss class_weights reg_loss normalizer",
    "Components (IAC, DC, CL-B)": "ablation alpha score_threshold recall_min_iou recall_relative recall_center "
    "recall_overlap recall_cap recall_fill recall_start recall_box_loss recall_target recall_fade center_unit dc_form "
    "dc_scope dc_balance dc_start correlation",
    "Schedule and optimizer": "epochs iters hours optimizer lr backbone_lr momentum weight_decay schedule lr_steps "
    "warmup clip ema val_every patience seed seeds deterministic",
    "Augmentation": "flip vflip scale_jitter multi_scale crop mosaic mosaic_until copy_paste photometric",
    "NMS": "nms conf iou max_det classes agnostic localization cl_norm cl_score",
    "Views of an image": "slice overlap tta",
    "Statistics": "per_side metric tolerance bootstrap repeats rounds gpu_tflops utilization",
    "Devices and processes": "device amp workers compile nnodes node_rank rdzv_endpoint max_restarts",
    "Output": "project name save format photo_input int8 max_drop formats files report suspects evaluator pictures "
    "save_steps save_minutes logger callback",
}
"""Panels of `--help` in their order, each with its fields in their order. Every field of every command is in one."""
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names.split()}
"""The panel of each field, in the order of the help."""

VALUE_NAMES = {
    "ablation": "NAMES",
    "anchor_ratios": "RATIO,...",
    "areas": "SMALL,MEDIUM",
    "backbone_weights": "auto|none|FILE",
    "callback": "MODULE:FUNCTION",
    "class_weights": "none|inverse-sqrt|NAME=W,...",
    "classes": "NAME,...",
    "data": "DATA",
    "device": "auto|cpu|mps|GPU",
    "eval_max_dets": "INT,INT,INT",
    "files": "FILE,...",
    "formats": "NAME,...",
    "logger": "NAMES",
    "lr_steps": "STEP,...",
    "multi_scale": "LOW,HIGH",
    "rdzv_endpoint": "HOST[:PORT]",
    "save": "auto|none|KIND,...",
    "scale_jitter": "LOW,HIGH",
    "weights": "PATH|NAME",
}
"""Names of values in `--help`, for fields whose type does not tell."""

WORDS = {
    "ablation": ("none", *COMPONENTS, ",".join(COMPONENTS), "all", "every"),
    "backbone": (
        *("r18", "r34", "r50", "r101", "r152", "x50", "x101", "x101-32x4d", "x101-64x4d"),
        *("lite0", "lite2", "timm:"),
    ),
    "backbone_weights": ("auto", "none"),
    "class_weights": ("none", "inverse-sqrt"),
    "data": ("coco", "shapes", "voc"),
    "device": ("auto", "cpu", "mps"),
    "formats": ("all", *BENCH_ROWS),
    "logger": ("none", "tensorboard", "wandb", "mlflow"),
    "nms": ("auto", "all", *NMS_METHODS),
    "save": ("auto", "none", *SAVED),
}
"""Words that a shell completes, for fields whose type does not list them."""


SHORT = {"recursive": "-r"}
"""Flags with a short form."""
