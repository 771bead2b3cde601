"""Metric loggers beside results.csv: TensorBoard, Weights & Biases, MLflow, and the user's callback."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cledet.config.train import TrainSettings
from cledet.distributed import collectives
from cledet.errors import UserError

Log = Callable[[int, dict[str, float]], None]
"""Log the metrics of a step."""


@contextmanager
def open_loggers(settings: TrainSettings, run: Path) -> Iterator[list[Log]]:
    """Open the loggers that the settings name for the block, in the main process; their runs end with it, or fail.

    Raises UserError for a client that is not installed.
    """
    names = settings.loggers if collectives.is_main_process() else ()
    with ExitStack() as stack:
        yield [stack.enter_context(LOGGERS[name](settings, run)) for name in names]


def load_callback(name: str | None) -> Callable[[str, dict[str, Any]], None]:
    """Import the function `module:function`, from the current folder or an installed package.

    Without a name, returns a function without effect. Raises UserError if there is no such function.
    """
    if name is None:
        return lambda event, values: None
    sys.path.insert(0, "")
    try:
        callback = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        hint = "pass module:function, with a module in this folder or an installed one"
        raise UserError(f"--callback {name}: {error}", hint) from error
    finally:
        sys.path.remove("")
    if not callable(callback):
        raise UserError(f"--callback {name} is not a function")
    return callback


def _client(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(f"{name} is not installed", f"pip install 'cledet[{name}]'") from None


@contextmanager
def _tensorboard(settings: TrainSettings, run: Path) -> Iterator[Log]:
    _client("tensorboard")
    with _client("torch.utils.tensorboard").SummaryWriter(str(run)) as writer:

        def log(step: int, metrics: dict[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield log


@contextmanager
def _wandb(settings: TrainSettings, run: Path) -> Iterator[Log]:
    config = settings.model_dump(mode="json")
    named = {"project": "cledet", "name": run.name, "dir": str(run), "id": _run_id(run)}
    with _client("wandb").init(**named, resume="allow", config=config) as logged:
        yield lambda step, metrics: logged.log(metrics, step=step, commit=True)


@contextmanager
def _mlflow(settings: TrainSettings, run: Path) -> Iterator[Log]:
    mlflow = _client("mlflow")
    mlflow.set_experiment("cledet")
    earlier = mlflow.search_runs(filter_string=f"tags.cledet = '{_run_id(run)}'", output_format="list")
    earlier_id = earlier[0].info.run_id if earlier else None
    with mlflow.start_run(run_id=earlier_id, run_name=run.name, nested=True) as logged:
        if not earlier:
            mlflow.set_tag("cledet", _run_id(run))
            mlflow.log_params({key: str(value)[:500] for key, value in settings.model_dump(mode="json").items()})
        yield lambda step, metrics: mlflow.log_metrics(metrics, step=step, run_id=logged.info.run_id)


def _run_id(run: Path) -> str:
    """Return an id that clients accept, a function of the run folder, so that a resumed run keeps it."""
    return "-".join(run.absolute().parts[1:])[-100:].strip("-.")


LOGGERS: dict[str, Callable[[TrainSettings, Path], AbstractContextManager[Log]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
