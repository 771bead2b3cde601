"""What `cledet compare` is given: runs of `val`, results files and models, each brought down to a detections file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cledet.data.formats.paths import not_found_error
from cledet.errors import UserError
from cledet.safe_yaml import read_yaml

DETECTIONS = "detections.json"
WEIGHTS = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class Entry:
    """Detections of a split in COCO's results format."""

    path: Path
    """As the user gave it."""
    file: Path
    """Where the detections are."""
    data: str | None = None
    """The data set that they were made on, where that is known."""
    split: str | None = None
    of_model: bool = False
    """Whether a model made them, which looked at no image without a file."""


def open_entries(
    paths: Sequence[Path], data: str | None, split: str | None, validate: Callable[[Path, str | None, str], Path]
) -> list[Entry]:
    """The entries at these paths, all of one data set and split.

    A model is validated by `validate(path, data, split)`, which returns the folder of that run of `val`, on the data
    set of the others, or else its own. Raises UserError for a path that is nothing to compare, and where two are of
    different data sets or splits and `data` or `split` do not say which to take.
    """
    found = [_open(path) for path in paths]
    known = [entry for entry in found if entry is not None]
    asked_data, asked_split = _agreed(known, data, split)
    entries: list[Entry] = []
    for path, entry in zip(paths, found):
        if entry is None:
            entry = _of_run(path, validate(path, asked_data, asked_split or "val"))
            asked_data, asked_split = _agreed([*known, *entries, entry], data, split)
        entries.append(entry)
    return entries


def common_ground(entries: Sequence[Entry], data: str | None, split: str | None) -> tuple[str, str]:
    """The data set and the split that all entries are to be judged on."""
    data, split = _agreed(entries, data, split)
    if data is None:
        raise UserError(f"{entries[0].path} does not say what data set it is of", "name it with --data, and --split")
    return data, split or "val"


def names(entries: Sequence[Entry]) -> list[str]:
    """What to call them: the last part of their paths, or, where two end alike, all of it."""
    short = [_short(entry.path) for entry in entries]
    called = [name if short.count(name) == 1 else str(entry.path) for name, entry in zip(short, entries)]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{twice} is there twice", "compare it with another one")
    return called


def _short(path: Path) -> str:
    path = path.absolute()
    return path.parent.name if path.name == DETECTIONS else path.name if path.is_dir() else path.stem


def _open(path: Path) -> Entry | None:
    """The entry at a path, or None for a model."""
    if not path.exists():
        raise not_found_error("run or results file", path.absolute())
    if path.is_file() and path.suffix == ".json":
        return _of_run(path, path.parent) if path.name == DETECTIONS else Entry(path, path)
    if (path / DETECTIONS).is_file():
        return _of_run(path, path)
    if path.suffix in WEIGHTS or (path / "weights" / "best.pt").is_file():
        return None
    if (path / "nms.csv").is_file():
        raise UserError(f"{path} compares NMS methods and holds no detections", "run `cledet val` with one --nms each")
    if list(path.glob("*/weights/best.pt")):
        raise UserError(f"{path} is a grid of runs", f"name some of the runs in it, or `cledet val --weights {path}`")
    what = f"a folder without {DETECTIONS} and weights" if path.is_dir() else "neither results (.json) nor weights"
    raise UserError(f"{path} is nothing to compare: {what}", "name a run of val or train, a results file or weights")


def _of_run(path: Path, folder: Path) -> Entry:
    """The detections of a run of `val`, with what its config.yaml says they were made on."""
    config = folder / "config.yaml"
    try:
        said = read_yaml(config) if config.is_file() else None
    except UserError as error:
        raise UserError(error.message, "name --data and --split") from None
    said = said if isinstance(said, dict) else {}
    data, split = (None if said.get(key) is None else str(said[key]) for key in ("data", "split"))
    return Entry(path, folder / DETECTIONS, data, split, bool(said) and said.get("predictions") is None)


def _agreed(entries: Sequence[Entry], data: str | None, split: str | None) -> tuple[str | None, str | None]:
    """The data set and split of all entries that know theirs; what is given counts instead."""
    known = [entry for entry in entries if entry.data is not None]
    for entry in known[1:]:
        first = known[0]
        if (data is None and entry.data != first.data) or (split is None and entry.split != first.split):
            raise UserError(
                f"{first.path} is of {first.data}, split {first.split}, and {entry.path} of {entry.data}, split "
                f"{entry.split}",
                "compare runs of one split; if these are the same images, say so with --data and --split",
            )
    if known:
        return data or known[0].data, split or known[0].split
    return data, split
