"""Held-out images of a training run whose data set has no validation split."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cledet.config.train import GridSettings, TrainingSettings
from cledet.console import Steps, say, transfer, warn
from cledet.data.formats.division import Division
from cledet.data.formats.paths import match_split
from cledet.data.index import DetectionIndex
from cledet.data.open import DataSource, open_source
from cledet.data.splitting import divide
from cledet.distributed.devices import cores
from cledet.errors import UserError
from cledet.io.atomic import write_whole
from cledet.io.run_folders import SPLITS, name_from


def hold_out(settings: TrainingSettings) -> Division | None:
    """Divide the training split by content if the data set has no validation split; None if it has one.

    See `cledet.data.splitting.divide` for the choice. Prints its result in one line, and warns of classes without
    images in a part.
    """
    source = open_source(settings.data, transfer)
    if not lacks_val(source, settings):
        return None
    index = source.index(settings.split)
    with Steps(f"reading {source.name}", 0) as steps:
        division = divide(index, settings.val_fraction, threads=2 * cores(), progress=steps.set)
    val, train = (index.subset(np.flatnonzero(part)) for part in (division.val, ~division.val))
    together = "near-duplicates" if division.near_duplicates else "identical images"
    say(
        f"{source.name} has no val split: {len(val)} of its {len(index)} images are held out for evaluation "
        f"(--val-fraction {settings.val_fraction:g}, by content, {together} together); --val-split train holds out none"
    )
    if not division.near_duplicates:
        warn(
            f"most images of {source.name} are near-duplicates of one another, and both parts hold some: metrics may "
            "be too high for other images; better is a val split of your own"
        )
    for part, name, other in ((val, "held-out", train), (train, "training", val)):
        if classes := _absent_classes(part, other):
            warn(f"{', '.join(classes[:5])}: {len(classes)} classes of {source.name} have no object in {name} images")
    split = source.find(settings.split)
    assert split is not None  # else there is no index
    return Division(settings.data, split, tuple(train.paths.tolist()), tuple(val.paths.tolist()))


def lacks_val(source: DataSource, settings: TrainingSettings) -> bool:
    """Return whether a validation split is wanted that the data set does not have."""
    trained, wanted = source.find(settings.split), settings.val_split
    if settings.val_fraction == 0 or wanted in ("none", settings.split, trained):
        return False
    if not source.single and match_split(wanted, source.splits) is not None:
        return False
    return source.find(wanted) is not None or match_split("val", [wanted]) is not None


def _absent_classes(part: DetectionIndex, other: DetectionIndex) -> list[str]:
    """List the classes with objects in the other part only."""
    own, others = part.class_counts(), other.class_counts()
    return [name for name, count in others.items() if count and not own[name]]


def record_division(division: Division, settings: GridSettings, run: Path) -> GridSettings:
    """Write the division into the run folder, and return the settings with it as their data set.

    So every command that works with the run takes the same images.
    """
    name = name_from(Path(settings.data).stem, "data")
    for file, content in division.files(name).items():
        write_whole(run / SPLITS / file, content)
    return settings.model_copy(update={"data": str((run / SPLITS / f"{name}.yaml").absolute())})


def first_images(index: DetectionIndex, few: int) -> DetectionIndex:
    """Return the index of the first `few` images, in the order of the split; of all for 0 or more than there are."""
    if not 0 < few < len(index):
        return index
    say(f"{index.name}: only the first {few} of {len(index)} images are trained on (--few)")
    return index.subset(np.arange(few))


def require_objects(index: DetectionIndex) -> DetectionIndex:
    """Return the index. Raises UserError if it has no object to train on; its last note is the hint."""
    if not index.objects().any():
        hint = index.notes[-1].rstrip(".") if index.notes else "`cledet check` counts what is annotated"
        raise UserError(f"{index.name} has no object to train on in its {len(index)} images", hint)
    return index
