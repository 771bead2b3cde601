"""Where a run's figures go beside results.csv: TensorBoard, Weights & Biases, MLflow, or a function of the user's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cledet.config.train import TrainSettings
from cledet.errors import UserError

Figures = Mapping[str, float | None]
Log = Callable[[int, Figures], None]
"""Takes the step and what was measured until then; None is nothing."""


def open_loggers(settings: TrainSettings, run: Path) -> list[Log]:
    """The loggers that the settings name, each through its own client. Raises UserError for one not installed."""
    return [LOGGERS[name](settings, run) for name in settings.loggers]


def callback(name: str | None) -> Callable[[str, dict[str, Any]], None]:
    """The function that `module:function` names, of the current folder or installed; of no effect without a name.

    Raises UserError where there is none.
    """
    if name is None:
        return lambda event, facts: None
    module, _, function = name.partition(":")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "write module:function, of a module in this folder or an installed one"
        raise UserError(f"--callback {name}: {error}", hint) from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise UserError(f"--callback {name} is no function")
    return found


def _tensorboard(settings: TrainSettings, run: Path) -> Log:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("tensorboard is not installed", "pip install 'cledet[tensorboard]'") from None
    writer = SummaryWriter(str(run))

    def log(step: int, figures: Figures) -> None:
        for name, value in _measured(figures).items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log


def _wandb(settings: TrainSettings, run: Path) -> Log:
    try:
        import wandb
    except ImportError:
        raise UserError("wandb is not installed", "pip install 'cledet[wandb]'") from None
    facts = settings.model_dump(mode="json")
    session = wandb.init(project="cledet", name=run.name, dir=str(run), id=_name(run), resume="allow", config=facts)
    return lambda step, figures: session.log(_measured(figures), step=step, commit=True)


def _mlflow(settings: TrainSettings, run: Path) -> Log:
    try:
        import mlflow
    except ImportError:
        raise UserError("mlflow is not installed", "pip install 'cledet[mlflow]'") from None
    mlflow.set_experiment("cledet")
    mine = mlflow.search_runs(filter_string=f"tags.cledet = '{_name(run)}'", output_format="list")
    session = mlflow.start_run(run_id=mine[0].info.run_id if mine else None, run_name=run.name, nested=True)
    if not mine:
        mlflow.set_tag("cledet", _name(run))
        mlflow.log_params({key: str(value)[:500] for key, value in settings.model_dump(mode="json").items()})
    identity = session.info.run_id

    def log(step: int, figures: Figures) -> None:
        mlflow.log_metrics(_measured(figures), step=step, run_id=identity)

    return log


def _name(run: Path) -> str:
    """A name for the run's folder that clients accept, the same when it is resumed."""
    return "-".join(run.absolute().parts[1:])[-100:].strip("-.")


def _measured(figures: Figures) -> dict[str, float]:
    return {name: float(value) for name, value in figures.items() if value is not None}


LOGGERS: dict[str, Callable[[TrainSettings, Path], Log]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
