"""Types of settings and their notation: components, ablation grids, NMS methods, ranges."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from cledet.errors import nearest

Component = Literal["iac", "dc", "clb"]
LARGEST = 2**31 - 1
"""Largest count: the largest int32, which torch, NumPy and exported files all hold."""
LARGEST_SEED = 2**63 - 1
Subsets = tuple[tuple[Component, ...], ...]
COMPONENTS: tuple[Component, ...] = ("iac", "dc", "clb")
"""The paper's components, in the paper's order."""
TABLE_2: Subsets = ((), ("iac",), ("iac", "dc"), COMPONENTS)
"""The rows of the paper's Table 2."""
EVERY: Subsets = (*TABLE_2[:2], ("dc",), ("clb",), ("iac", "dc"), ("iac", "clb"), ("dc", "clb"), COMPONENTS)
"""All eight ablations."""


def parse_ablation(value: Any) -> Any:
    """Parse `none`, or some of iac, dc and clb separated by commas; returns the components in the paper's order."""
    if not isinstance(value, str | list | tuple) or not all(isinstance(word, str) for word in value):
        return value
    words = value.split(",") if isinstance(value, str) else list(value)
    words = [word.strip().lower() for word in words if word.strip().lower() not in ("", "none")]
    for word in words:
        if word not in COMPONENTS:
            raise ValueError(f"unknown component {word!r} ({nearest(word, (*COMPONENTS, 'none', 'all', 'every'))})")
    return tuple(name for name in COMPONENTS if name in words)


def parse_subsets(value: Any) -> Any:
    """Parse ablations separated by semicolons, `all` (the four rows of Table 2) or `every` (all eight)."""
    if isinstance(value, str):
        named = {"all": TABLE_2, "every": EVERY}.get(value.strip().lower())
        return named or parse_subsets([part.split(",") for part in value.split(";")])
    if not isinstance(value, list | tuple) or not all(isinstance(part, str | list | tuple) for part in value):
        return value
    if all(isinstance(part, str) and part in COMPONENTS for part in value):
        value = [value]  # one subset, as a list
    subsets = [parse_ablation(part) for part in value]
    return tuple(dict.fromkeys(subsets)) if all(isinstance(one, tuple) for one in subsets) else subsets


def ablation_name(components: tuple[str, ...]) -> str:
    """Format a set of components: `iac,dc`, or `none`."""
    return ",".join(components) or "none"


def parse_milestones(value: Any) -> Any:
    """Parse steps of a schedule: fractions and iterations become numbers, epochs stay as `8e`."""
    words = [word.strip() for word in str(value).split(",")] if isinstance(value, str | int | float) else value
    if not isinstance(words, list | tuple) or not all(isinstance(word, str | int | float) for word in words):
        return value
    return tuple(_milestone(word) for word in words)


def _milestone(word: Any) -> float | str:
    epochs = isinstance(word, str) and word.endswith("e")
    number = float(word[:-1] if epochs else word)
    if not (number > 0 if epochs else number >= 0) or number > LARGEST:
        raise ValueError(f"{word} is no fraction of the run, number of iterations, or number of epochs as 8e")
    return str(word) if epochs else number


AUTO = -1
"""Batch size that is chosen by the available memory before a run begins."""
LARGEST_BATCH = 65536


def parse_batch(value: Any, check: ValidatorFunctionWrapHandler) -> int:
    """Parse a number of images, or `auto` as AUTO; users cannot give AUTO itself."""
    if value == "auto":
        return AUTO
    try:
        return int(check(value))
    except ValidationError:
        raise ValueError(f"give a number from 1 to {LARGEST_BATCH}, or auto") from None


def _expecting(expected: str) -> WrapValidator:
    """Return the validator whose error names the expected values."""

    def check(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
        try:
            return parse(value)
        except ValidationError:
            raise ValueError(f"give {expected}") from None

    return WrapValidator(check)


def parse_ratios(value: Any, check: ValidatorFunctionWrapHandler) -> tuple[float, ...]:
    """Parse different ratios, a list or separated by commas; returns them in ascending order."""
    words = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int | float) else value
    try:
        ratios = tuple(sorted(check(words)))
    except ValidationError:
        ratios = ()
    if not ratios or len(set(ratios)) < len(ratios):
        raise ValueError(f"give up to {MOST_RATIOS} different numbers from 0.01 to 100, as 0.5,1,2")
    return ratios


def parse_size(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    """Parse a short side, or height and width of a fixed input, H,W, in multiples of 32."""
    words = value.split(",") if isinstance(value, str) and "," in value else value
    try:
        size = check(words)
    except ValidationError:
        raise ValueError("give the short side in pixels, from 32 to 16384, or height and width as 640,640") from None
    if isinstance(size, tuple) and any(side % 32 for side in size):
        padded = ",".join(str(-(-side // 32) * 32) for side in size)
        raise ValueError(f"height and width of a fixed input must be multiples of 32, as {padded}")
    return size


def format_numbers(values: Iterable[float]) -> str:
    """Format numbers as flags take them: `0.5,1,2`."""
    return ",".join(f"{value:g}" for value in values)


def _numbers(expected: str, count: int, valid: Callable[..., bool]) -> WrapValidator:
    """Return the validator of `count` numbers, separated by commas, that are `valid` together."""

    def check(value: Any, parse: ValidatorFunctionWrapHandler) -> Any:
        words = value.split(",") if isinstance(value, str) else value
        numbers = () if isinstance(words, tuple | list) and len(words) != count else parse(words)
        if not numbers or not valid(*numbers):
            raise ValueError(f"expected {expected}, not {','.join(map(str, words))}")
        return numbers

    return WrapValidator(check)


def parse_words(value: Any, kind: str, known: tuple[str, ...], alone: tuple[str, ...]) -> Any:
    """Check a word of `alone`, or words of `known` (a list, or separated by commas); duplicates are removed."""
    if not isinstance(value, str | list | tuple):
        return value
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else list(value)
    if len(words) == 1 and words[0] in alone:
        return words[0]
    for word in words or [""]:
        if word not in known:
            raise ValueError(f"unknown {kind} {word!r} ({nearest(word, (*known, *alone))})")
    return ",".join(dict.fromkeys(words))


HIGHEST_WEIGHT = 1000.0
"""Limit of a class's weight; the lowest is its inverse."""


def parse_class_weights(value: Any) -> Any:
    """Parse `none`, `inverse-sqrt`, or weights by class name: a mapping, or NAME=W,... as text."""
    if isinstance(value, str) and value.strip() in ("none", "inverse-sqrt"):
        return value.strip()
    if isinstance(value, str):
        pairs = [word.rpartition("=")[::2] for word in value.split(",")]
        value = {name.strip(): weight for name, weight in pairs}
        if len(value) < len(pairs) or "" in value:
            raise ValueError("give none, inverse-sqrt, or each class once as NAME=W,..., for example person=2,dog=0.5")
    if not isinstance(value, dict) or not value:
        raise ValueError("give none, inverse-sqrt, or weights by class name")
    return {str(name): _class_weight(name, weight) for name, weight in value.items()}


def _class_weight(name: Any, weight: Any) -> float:
    try:
        number = float(weight)
    except (TypeError, ValueError):
        number = 0.0
    if not 1 / HIGHEST_WEIGHT <= number <= HIGHEST_WEIGHT:
        raise ValueError(f"the weight of {name} is a number from {1 / HIGHEST_WEIGHT:g} to {HIGHEST_WEIGHT:g}")
    return number


def check_name(name: str) -> str:
    """Check that a run's name is one component of a path. Raises ValueError if not."""
    if name in (".", "..") or re.search(r"[/\\\x00-\x1f\x7f-\x9f]", name):
        raise ValueError("a name is one folder's, without / or \\ or control characters")
    if len(_encoded(name)) > 255:
        raise ValueError("a name has at most 255 bytes")
    return name


def _check_folder(folder: Path) -> Path:
    if b"\0" in _encoded(str(folder)):
        raise ValueError("a folder's path holds no NUL character")
    return folder


def _encoded(path: str) -> bytes:
    try:
        return os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("it holds a character that file names cannot have") from None


Ablation = Annotated[tuple[Component, ...], BeforeValidator(parse_ablation)]
Ablations = Annotated[Subsets, BeforeValidator(parse_subsets)]
Milestones = Annotated[tuple[float | str, ...], BeforeValidator(parse_milestones)]
Jitter = Annotated[
    tuple[float, float],
    _numbers("LOW,HIGH with 0.1 <= LOW <= HIGH <= 4", 2, lambda low, high: 0.1 <= low <= high <= 4),
]
PixelRange = Annotated[
    tuple[int, int],
    _numbers(
        "LOW,HIGH with 32 <= LOW <= HIGH <= 4096, or 0,0 for none",
        2,
        lambda low, high: 32 <= low <= high <= 4096 or low == high == 0,
    ),
]
COCO_MAX_DETS = (1, 10, 100)
MaxDets = Annotated[
    tuple[int, int, int],
    _numbers("three numbers that rise from 1 on, as 1,10,100", 3, lambda a, b, c: 0 < a < b < c <= LARGEST),
]
Areas = Annotated[
    tuple[float, float],
    _numbers("SMALL,MEDIUM with 0 < SMALL < MEDIUM < 100000", 2, lambda small, medium: 0 < small < medium < 1e5),
]
RunName = Annotated[str, AfterValidator(check_name)]
Project = Annotated[Path, AfterValidator(_check_folder)]
Unit = Annotated[float, Field(ge=0, le=1)]
Confidence = Annotated[Unit | Literal["auto", "per-class"], _expecting("a number from 0 to 1, auto or per-class")]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Resamples = Annotated[int, Field(ge=0, le=100_000)]
"""Number of bootstrap resamples, which are held in memory together."""
Images = Annotated[int, Field(ge=1, le=LARGEST_BATCH)]
Batch = Annotated[Images, WrapValidator(parse_batch), PlainSerializer(lambda batch: "auto" if batch == AUTO else batch)]
Side = Annotated[int, Field(ge=32, le=16384)]
"""Short side in pixels. OpenCV takes images below 2^31 bytes; 16384 x 27299 pixels in three colors are below."""

InputSize = Annotated[Side | tuple[Side, Side], WrapValidator(parse_size)]
"""Short side, or height and width of a fixed input."""
AnchorScale = Annotated[float, Field(ge=0.01, le=1000)]
AutoAnchorScale = Annotated[AnchorScale | Literal["auto"] | None, _expecting("a number from 0.01 to 1000, or auto")]
MOST_RATIOS = 16
AnchorRatios = Annotated[
    tuple[Annotated[float, Field(ge=0.01, le=100)], ...],
    Field(min_length=1, max_length=MOST_RATIOS),
    WrapValidator(parse_ratios),
]
"""Aspect ratios (height / width) of the anchors, ascending."""
Factor = Annotated[float, Field(ge=0, le=1e15)]
"""Factor whose product with another one is a finite float32."""
Hours = Annotated[float, Field(gt=0, le=10_000)]
Workers = Annotated[int, Field(ge=0, le=1024)]
AmpName = Literal["auto", "off", "bf16", "fp16"]
NMSName = Literal["standard", "soft-linear", "soft", "diou", "weighted", "cl-balanced", "soft-vote", "agreement"]
NMS_METHODS: tuple[str, ...] = get_args(NMSName)
MethodList = Annotated[
    str, BeforeValidator(lambda value: parse_words(value, "NMS method", NMS_METHODS, ("all", "auto")))
]
LoggerList = Annotated[
    str, BeforeValidator(lambda value: parse_words(value, "logger", ("tensorboard", "wandb", "mlflow"), ("none",)))
]
SAVED = ("pictures", "video", "json", "jsonl", "coco", "txt", "crops", "csv")
"""Kinds of files that `cledet predict` writes."""
SaveList = Annotated[str, BeforeValidator(lambda value: parse_words(value, "kind of file", SAVED, ("auto", "none")))]
ClassWeights = Annotated[str | dict[str, float], BeforeValidator(parse_class_weights)]
ClassNames = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda value: [word.strip() for word in value.split(",")] if isinstance(value, str) else value),
    Field(min_length=1),
]


RENAMED = {"nms": ("soft-mean", "soft-vote"), "localization": ("literal", "as-printed")}
"""Choices that were renamed since cledet 0.1.0: setting -> (old, new)."""


def rename_choice(setting: str, value: Any) -> Any:
    """Replace a choice's name of cledet 0.1.0 by today's; an old name gives a FutureWarning."""
    old, new = RENAMED.get(setting, ("", ""))
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else [value]
    if not old or old not in words:
        return value
    warnings.warn(f"--{setting} {old} is now called {new}", FutureWarning, stacklevel=2)
    return ",".join(new if word == old else word for word in words)
