"""Run folders: create `runs/<command>/<name>/` without overwriting, and find trained runs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cledet.config.types import Subsets, ablation_name, check_name, parse_ablation
from cledet.console import say
from cledet.errors import UserError
from cledet.safe_yaml import read_yaml

if TYPE_CHECKING:
    from cledet.config.evaluate import ValSettings
    from cledet.config.train import GridSettings

S = TypeVar("S", "ValSettings", "GridSettings")
STATUS = "status"
"""File in a training run's folder: unfinished, finished, diverged or failed."""
FAILED = ("diverged", "failed")
SPLITS = "splits"
"""Folder of a run or grid that holds the division of its data set, if the run made one."""


def new_run(project: Path, command: str, name: str) -> Path:
    """Create and return a new folder `project/command/name`; a second run of that name gets the suffix -2.

    Raises UserError for an invalid name, and if the folder cannot be created.
    """
    try:
        check_name(name)
    except ValueError as error:
        raise UserError(f"a run cannot be called {name!r}: {error}", "choose another --name") from None
    folder, number = project / command / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = folder.with_name(f"{name}-{number}")
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"the run folder {folder} could not be made: {reason}", "choose a --project") from None


def name_from(text: str, default: str) -> str:
    """Derive a run's name from that of a file or data set: no separators or control characters, at most 200 bytes."""
    name = re.sub(r"[/\\\x00-\x1f\x7f-\x9f]", "-", text)
    while len(os.fsencode(name)) > 200:
        name = name[:-1]
    return name if name.strip(".") else default


@contextmanager
def whole_run(project: Path, command: str, name: str) -> Iterator[Path]:
    """Create a run folder, and delete it if the block is interrupted, for example by a signal or a full disk."""
    folder = new_run(project, command, name)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def data_beside(file: Path, data: str) -> str:
    """Return the data set `data` of a run's file; if it is the run's own division, where the run folder is now."""
    given = Path(data)
    if given.parent.name != SPLITS:
        return data
    places = (folder / SPLITS / given.name for folder in file.absolute().parents[:3])  # weights/, the run, its grid
    return next((str(place) for place in places if place.is_file()), data)


def status_of(run: Path) -> str:
    """Read the status of a training run; an empty string if none was written, as before cledet 0.2."""
    file = run / STATUS
    return file.read_text(errors="replace").strip()[:20] if file.is_file() else ""


def trained_runs(project: Path) -> list[Path]:
    """List the training runs with a best.pt, including those of grids and failed ones, newest first."""
    return _newest_first(p for depth in ("*", "*/*") for p in (project / "train").glob(f"{depth}/weights/best.pt"))


def newest_run(folder: Path) -> Path:
    """Return the folder if it is a run folder, else the newest run in it."""
    return folder if (folder / "weights").is_dir() else _newest_first(folder.glob("*/weights/best.pt"))[0]


def _newest_first(weights: Iterable[Path]) -> list[Path]:
    return [path.parent.parent for path in sorted(weights, key=lambda path: path.stat().st_mtime, reverse=True)]


def components_of(run: Path) -> tuple[str, ...] | None:
    """Read the components that a run was trained with from its config.yaml; None if unreadable."""
    try:
        settings = read_yaml(run / "config.yaml")
        return tuple(parse_ablation(settings["ablation"]))
    except (UserError, KeyError, TypeError, ValueError):
        return None


def find_weights(
    project: Path, weights: str | None, ablation: Subsets | None, published: str | None = None
) -> str | Path:
    """Return the weights of a command: `weights`, else best.pt of the newest run, with exactly these components.

    Diverged and failed runs are passed over, with a notice. Where there is no run at all, the `published` weights are
    returned, with a notice, if any are named.
    """
    if ablation is not None and len(ablation) > 1:
        raise UserError(f"--ablation names {len(ablation)} models and this command takes one", "try `cledet val`")
    if weights is not None:
        return weights
    found = trained_runs(project)
    if not found and published is not None and ablation is None:
        say(f"there is no trained run in {project / 'train'}: the published weights {published!r} are used")
        return published
    if not found:
        raise UserError(f"there is no trained run in {project / 'train'}", "run `cledet train`, or pass --weights FILE")
    runs = [run for run in found if status_of(run) not in FAILED]
    if not runs:
        message = f"{found[0]} has {status_of(found[0])}, and there is no other trained run"
        raise UserError(message, f"its best epoch is --weights {found[0]}")
    for run in found[: found.index(runs[0])]:
        say(f"{run} has {status_of(run)} and is passed over; its best epoch is --weights {run}")
    if ablation is None:
        return runs[0] / "weights" / "best.pt"
    for run in runs:
        if components_of(run) == ablation[0]:
            return run / "weights" / "best.pt"
    available = "; ".join(
        f"{run.relative_to(project / 'train')}: {ablation_name(components_of(run) or ())}" for run in runs[:10]
    )
    raise UserError(f"no run was trained with exactly {ablation_name(ablation[0])}", f"there is {available}")


def from_anywhere(settings: S) -> S:
    """Make the paths of data set and weights absolute, so that the run can be used and resumed from any folder."""
    given = {name: getattr(settings, name, None) for name in ("data", "weights", "backbone_weights")}
    names_path = {
        "data": os.path.exists,
        "weights": lambda value: os.path.isfile(value) or os.path.isdir(os.path.join(value, "weights")),
        "backbone_weights": lambda value: value not in ("auto", "none") and os.path.isfile(value),
    }
    paths = {name: str(Path(value).absolute()) for name, value in given.items() if value and names_path[name](value)}
    return settings.model_copy(update=paths)
