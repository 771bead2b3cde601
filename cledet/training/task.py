"""The data of a training run: the split to train on and the split to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass

from cledet.config.train import TrainSettings
from cledet.console import say, transfer, warn
from cledet.data.formats.division import Division, read_division
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource, open_division, open_source
from cledet.distributed import collectives
from cledet.errors import UserError
from cledet.evaluation.splits import load_index
from cledet.training.held_out import first_images, require_objects


@dataclass(frozen=True, kw_only=True)
class Task:
    """The split to train on and the split to evaluate on after each epoch, if any."""

    train: DetectionIndex
    val: DetectionIndex | None


def load_task(settings: TrainSettings, division: Division | None = None) -> Task:
    """Load the splits to train on and to evaluate on; the main process draws or indexes them for the others.

    A division of the data set is only read in the main process, where its lists are.
    """
    division = division or collectives.from_main(lambda: read_division(settings.data))
    with collectives.main_process_first():
        return _load_task(
            settings, open_division(division, transfer) if division else open_source(settings.data, transfer)
        )


def _load_task(settings: TrainSettings, source: DataSource) -> Task:
    say(str(source))
    train = require_objects(first_images(load_index(source, settings.split), settings.few))
    if settings.val_split == "none":
        return Task(train=train, val=None)
    evaluated = source.find(settings.val_split)
    if evaluated is None:
        hint = f"pass --val-split with one of {', '.join(source.splits)}, or none to skip evaluation"
        raise UserError(f"{source.name} has no split '{settings.val_split}' to evaluate on", hint)
    same = evaluated == source.find(settings.split)
    val = train if same else load_index(source, settings.val_split)  # with --few, the few images
    unknown = set(val.classes) - set(train.classes)
    if unknown:
        raise UserError(f"{val.name} has classes that {train.name} does not: {', '.join(sorted(unknown)[:5])}")
    if set(val.paths.tolist()) & set(train.paths.tolist()):
        warn(f"{val.name} shares images with {train.name}: its metrics do not generalize to other images")
    if val.ignore.all():
        warn(f"{val.name} has no objects, so it gives no AP: best.pt will hold the newest weights")
    return Task(train=train, val=val)
