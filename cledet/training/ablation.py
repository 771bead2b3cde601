"""Ablation grids: runs in one folder that differ only in components and seed, and their table (the paper's Table 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cledet.config.evaluate import ValSettings
from cledet.config.loading import reopen
from cledet.config.train import GridSettings, TrainSettings
from cledet.config.types import EVERY, LARGEST, Subsets, ablation_name
from cledet.console import say, warn
from cledet.distributed import collectives
from cledet.errors import Interrupted, UserError
from cledet.io.atomic import is_there, write_whole
from cledet.io.run_folders import status_of
from cledet.metrics.metric_tables import SIZES, Table
from cledet.models.checkpoint import load_checkpoint
from cledet.training.history import read_history

GRID = "grid.yaml"
"""File with the settings of a grid, in its folder."""

Metrics = Mapping[str, float | None]
Members = dict[tuple[str, ...], dict[int, Path]]
"""Runs by components and seed."""


class Row(NamedTuple):
    """Metrics [S] of one set of components per seed, and the difference in AP from the first row."""

    components: tuple[str, ...]
    seeds: list[int]
    metrics: dict[str, list[float | None]]
    difference: list[float | None]

    def to_dict(self) -> dict[str, Any]:
        """Return mean, standard deviation and values per metric."""
        spread = {name: spread_of(values) for name, values in {**self.metrics, "difference": self.difference}.items()}
        return {"components": ablation_name(self.components), "seeds": self.seeds, **spread}


def run_name(settings: TrainSettings) -> str:
    """Return the folder name of a grid's run, for example `iac+dc-seed0`."""
    return f"{ablation_name(settings.ablation).replace(',', '+')}-seed{settings.seed}"


def train_grid(settings: GridSettings, group: Path, train: Callable[[TrainSettings, Path], object]) -> None:
    """Train the unfinished runs of a grid, each in its folder within `group`.

    CL-B does not affect training: a run copies the weights of its twin without it, see `twin_of`. `train` starts or
    resumes a run in the given folder and returns at its end.
    """
    runs = sorted(settings.runs(), key=lambda run: (run.seed, "clb" in run.ablation))
    if collectives.is_main_process():
        write_whole(group / GRID, settings.to_yaml())
    for number, run in enumerate(runs, 1):
        folder, twin = group / run_name(run), twin_of(run, settings)
        say("", f"[{number}/{len(runs)}] {folder}")
        try:
            if twin is None:
                train(run, folder)
            elif collectives.is_main_process() and not (folder / "config.yaml").is_file():  # it is written last
                take_weights(group / run_name(twin), folder, run)
        except Interrupted as stopped:
            raise Interrupted(stopped.signal_number, group) from None


def twin_of(run: TrainSettings, grid: GridSettings) -> TrainSettings | None:
    """Return the run of a grid that differs from this one in lacking `clb`, and so has its weights, if there is one."""
    without_clb = tuple(name for name in run.ablation if name != "clb")
    if without_clb == run.ablation or without_clb not in grid.ablation:
        return None
    return run.model_copy(update={"ablation": without_clb})


def take_weights(twin: Path, folder: Path, settings: TrainSettings) -> None:
    """Copy the weights of a run without CL-B into the folder of the same run with it."""
    changed = {"components": settings.ablation, "settings": settings.model_dump(mode="json"), "metrics": {}}
    replace(load_checkpoint(twin), **changed).save(folder / "weights" / "best.pt")  # type: ignore[arg-type]
    write_whole(folder / "config.yaml", settings.to_yaml())
    say(f"weights copied from {twin.name}, as CL-B does not affect training")


def names_grid(settings: ValSettings) -> bool:
    """Return whether the settings of val name several ablations or the folder of a grid."""
    return len(settings.ablation or ()) > 1 or (
        settings.weights is not None and (Path(settings.weights) / GRID).is_file()
    )


def find_grid(project: Path, weights: str | None, wanted: Subsets | None) -> Members:
    """Find the finished runs of each wanted set of components, in the given grid or the newest one that has them all.

    `wanted` None stands for all sets of the grid. Raises UserError if no grid has them.
    """
    files = [Path(weights) / GRID] if weights is not None else (project / "train").glob(f"*/{GRID}")
    newest_first = sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)
    by_grid = {path.parent: members(path.parent) for path in newest_first}
    if not by_grid:
        raise UserError(f"there is no grid in {project / 'train'}", "train one: cledet train --ablation all")
    for runs in by_grid.values():
        if runs and all(subset in runs for subset in wanted or ()):
            return {subset: runs[subset] for subset in wanted or runs}
    listed = "; ".join(f"{group} has {', '.join(map(_quoted, runs)) or 'none'}" for group, runs in by_grid.items())
    newest = next(iter(by_grid.values()))
    missing = next((_quoted(subset) for subset in wanted or () if subset not in newest), "anything")
    raise UserError(f"no grid has a finished run trained with exactly {missing}", listed)


def _quoted(components: tuple[str, ...]) -> str:
    return f"`{ablation_name(components)}`"


def members(group: Path) -> Members:
    """List the finished runs of a grid, in the order of EVERY and by seed; warn about unfinished ones."""
    runs: Members = {components: {} for components in EVERY}
    for path in sorted(group.glob("*/config.yaml")):
        settings = reopen(path, TrainSettings, {})
        if _finished(path.parent, settings):
            runs[settings.ablation][settings.seed] = path.parent
        else:
            warn(f"{path.parent} is not finished and is left out; go on with: cledet train --resume {group}")
    return {components: dict(sorted(by_seed.items())) for components, by_seed in runs.items() if by_seed}


def _finished(run: Path, settings: TrainSettings) -> bool:
    if not is_there(run / "weights" / "last.pt"):  # copied weights, or none yet
        return "clb" in settings.ablation and (run / "weights" / "best.pt").is_file()
    if status := status_of(run):
        return status == "finished"  # also if `patience` ended it early
    history = read_history(run / "results.csv")
    done, wanted = ("step", settings.iters) if settings.iters else ("epoch", settings.epochs or LARGEST)
    return bool(history) and int(history[-1][done]) >= wanted


def rows_of(measured: Mapping[tuple[str, ...], Mapping[int, Metrics]]) -> list[Row]:
    """Build the rows of Table 2 from the metrics of each run; differences are between runs of the same seed."""
    first = next(iter(measured.values()))
    return [
        Row(
            components=components,
            seeds=list(runs),
            metrics={name: [metrics[name] for metrics in runs.values()] for name in SIZES},
            difference=[_gain(metrics["AP"], first.get(seed, {}).get("AP")) for seed, metrics in runs.items()],
        )
        for components, runs in measured.items()
    ]


def _gain(ap: float | None, before: float | None) -> float | None:
    return None if ap is None or before is None else ap - before


def spread_of(values: Sequence[float | None]) -> dict[str, Any]:
    """Return the values, with mean and sample standard deviation of those that are not None.

    The mean of no value and the deviation of a single one are None.
    """
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "std": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "values": list(values),
    }


def in_points(values: Sequence[float | None], sign: str = "") -> str:
    """Format mean and standard deviation of fractions in percentage points; "-" without a value."""
    spread = spread_of(values)
    if spread["mean"] is None:
        return "-"
    return f"{100 * spread['mean']:{sign}.1f}" + ("" if spread["std"] is None else f" ± {100 * spread['std']:.1f}")


def summary(rows: Sequence[Row]) -> Table:
    """Format Table 2: mean and standard deviation over the seeds, in percentage points."""
    body: list[list[Any]] = [
        [
            ablation_name(row.components),
            len(row.seeds),
            *(in_points(row.metrics[name]) for name in SIZES),
            in_points(row.difference, sign="+") if i else "",
        ]
        for i, row in enumerate(rows)
    ]
    return ["components", "seeds", *SIZES, "AP to first row"], body
