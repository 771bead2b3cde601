"""The arguments of `cledet compare`: runs of `val`, predictions and models, each resolved to its detections."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cledet.data.formats.paths import not_found_error
from cledet.errors import UserError
from cledet.evaluation.splits import same_data
from cledet.metrics.predictions.text_folders import text_files
from cledet.safe_yaml import read_yaml

DETECTIONS = "detections.json"
WEIGHTS = (".pt", ".pth", ".safetensors")
PREDICTIONS = (".json", ".jsonl", ".csv")


@dataclass(frozen=True)
class Entry:
    """Detections of a split."""

    path: Path
    """Path that the user gave."""
    file: Path
    """File of the detections, or folder of their text files."""
    data: str | None = None
    """Data set of the detections, if known."""
    split: str | None = None
    of_model: bool = False
    """True for detections of a model, for which all images must have files."""


def open_entries(
    paths: Sequence[Path], data: str | None, split: str | None, validate: Callable[[Path, str | None, str], Path]
) -> list[Entry]:
    """Open the entries at these paths, all of one data set and split.

    A model is evaluated by `validate(path, data, split)`, which returns the folder of its run of `val`, on the data set
    of the other entries or else on its own. Raises UserError for a path that cannot be compared, and for different data
    sets or splits unless `data` or `split` override them.
    """
    opened = [_open(path) for path in paths]
    known = [entry for entry in opened if entry is not None]
    common_data, common_split = _common_split(known, data, split)
    entries: list[Entry] = []
    for path, entry in zip(paths, opened):
        if entry is None:
            entry = _of_run(path, validate(path, common_data, common_split or "val"))
            common_data, common_split = _common_split([*known, *entries, entry], data, split)
        entries.append(entry)
    return entries


def common_ground(entries: Sequence[Entry], data: str | None, split: str | None) -> tuple[str, str]:
    """Return the data set and the split of all entries."""
    data, split = _common_split(entries, data, split)
    if data is None:
        raise UserError(f"the data set of {entries[0].path} is unknown", "name it with --data, and --split")
    return data, split or "val"


def names(entries: Sequence[Entry]) -> list[str]:
    """Name the entries by the last part of their paths, or by the path where two are equal."""
    short = [_short(entry.path) for entry in entries]
    unique = [name if short.count(name) == 1 else str(entry.path) for name, entry in zip(short, entries)]
    repeated = next((name for name in unique if unique.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{repeated} is given twice", "compare it with another one")
    return unique


def sides_of(called: Sequence[str], per_side: int) -> dict[str, list[str]]:
    """Divide names into sides of `per_side` each, and name each side by what its names have in common.

    Raises UserError unless the names make at least two whole sides.
    """
    if len(called) % per_side or len(called) < 2 * per_side:
        raise UserError(
            f"{len(called)} runs do not make two or more sides of {per_side}", "name as many runs of each side"
        )
    sides = [list(called[i : i + per_side]) for i in range(0, len(called), per_side)]
    common = [re.sub(r"(seed\d*)?[-_./]*$", "", os.path.commonprefix(side)).rstrip("-_./") for side in sides]  # noqa: RUF071
    unique = all(common) and len(set(common)) == len(common)
    return {name if unique else side[0]: side for name, side in zip(common, sides)}


def check_seeds(entries: Sequence[Entry], per_side: int) -> None:
    """Check that runs with known seeds are paired with runs of the same seed, and that no side has a seed twice.

    Runs of one seed on different data count as different. Raises UserError.
    """
    trainings = [_training(entry) for entry in entries]
    seeds = [seed for seed, _ in trainings]
    for number, (entry, training) in enumerate(zip(entries, trainings)):
        same = trainings.index(training, number - number % per_side)
        if training[0] is not None and same < number:
            raise UserError(
                f"{entries[same].path} and {entry.path} are of one side and of one seed, {training[0]}",
                "name one run of each seed: others vary less than seeds do",
            )
        partner = number % per_side
        if None not in (seeds[number], seeds[partner]) and seeds[number] != seeds[partner]:
            raise UserError(
                f"{entries[partner].path} has seed {seeds[partner]} and its partner {entry.path} seed {seeds[number]}",
                "name the runs of every side in the order of their seeds",
            )


def _training(entry: Entry) -> tuple[int | None, Any]:
    """Return the seed and the data of the training run of an entry's detections; None where they are unknown."""
    weights = Path(str(_config(entry.file.parent).get("weights") or entry.path))
    config = _config(weights if weights.is_dir() else weights.parent.parent)
    seed = config.get("seed")
    return (seed if isinstance(seed, int) else None), config.get("data")


def _config(folder: Path) -> dict[str, Any]:
    """Read the config.yaml of a run; empty without one."""
    file = folder / "config.yaml"
    content = read_yaml(file) if file.is_file() else None
    return content if isinstance(content, dict) else {}


def _short(path: Path) -> str:
    path = path.absolute()
    return path.parent.name if path.name == DETECTIONS else path.name if path.is_dir() else path.stem


def _open(path: Path) -> Entry | None:
    """Open the entry at a path; None for a model."""
    if not path.exists():
        raise not_found_error("run or predictions", path.absolute())
    if path.is_file() and path.suffix in PREDICTIONS:
        return _of_run(path, path.parent) if path.name == DETECTIONS else Entry(path, path)
    if (path / DETECTIONS).is_file():
        return _of_run(path, path)
    if path.suffix in WEIGHTS or (path / "weights" / "best.pt").is_file():
        return None
    if (path / "nms.csv").is_file():
        raise UserError(f"{path} compares NMS methods and holds no detections", "run `cledet val` with one --nms each")
    if list(path.glob("*/weights/best.pt")):
        raise UserError(f"{path} is a grid of runs", f"name some of the runs in it, or `cledet val --weights {path}`")
    if text_files(path) or text_files(path / "labels"):
        return Entry(path, path)
    kind = (
        f"a folder without {DETECTIONS}, weights and predictions"
        if path.is_dir()
        else "neither predictions (.json, .jsonl, .csv) nor weights"
    )
    raise UserError(f"{path} cannot be compared: {kind}", "name a run of val or train, predictions or weights")


def _of_run(path: Path, folder: Path) -> Entry:
    """Open the detections of a run of `val`, with the data set and split of its config.yaml."""
    try:
        values = _config(folder)
    except UserError as error:
        raise UserError(error.message, "name --data and --split") from None
    data, split = (None if values.get(key) is None else str(values[key]) for key in ("data", "split"))
    return Entry(path, folder / DETECTIONS, data, split, bool(values) and values.get("predictions") is None)


def _common_split(entries: Sequence[Entry], data: str | None, split: str | None) -> tuple[str | None, str | None]:
    """Return the data set and split of the entries, overridden by those given. Raises UserError if they differ."""
    known = [entry for entry in entries if entry.data is not None]
    for entry in known[1:]:
        first = known[0]
        if (data is None and not same_data(entry.data, first.data)) or (split is None and entry.split != first.split):
            raise UserError(
                f"{first.path} is of {first.data}, split {first.split}, and {entry.path} of {entry.data}, split "
                f"{entry.split}",
                "compare runs of one split; if the images are the same, set --data and --split",
            )
    if known:
        return data or known[0].data, split or known[0].split
    return data, split
