"""Targets: what good data a case starts from, how it is broken, and what cledet is asked to do with it."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import seeds
import weights
from breakages import corrupt
from commands import OUT, use_command
from formats import OBJECTS, encode
from mutations import Files

from cledet import Detector
from cledet.config.base import CheckSettings, ExportSettings, PredictSettings
from cledet.config.evaluate import TuneSettings, ValSettings
from cledet.config.loading import reopen, resolve
from cledet.config.train import GridSettings
from cledet.data.augment import Augment
from cledet.data.dataset import DetectionDataset, collate
from cledet.data.download.archives import open_set
from cledet.data.download.extract import unpack
from cledet.data.images import image_files, image_size, read_image
from cledet.data.open import DataSource, open_source
from cledet.data_check.check import check
from cledet.errors import UserError
from cledet.evaluation.pycocotools_evaluator import coco_annotations
from cledet.evaluation.score_file import score_file
from cledet.inference.sources import expand, open_entries
from cledet.io.run_folders import new_run
from cledet.io.weight_files import read_weights
from cledet.models.checkpoint import load_checkpoint
from cledet.training.loggers import load_callback

KINDS = {"train": GridSettings, "val": ValSettings, "predict": PredictSettings, "export": ExportSettings,
         "check": CheckSettings, "tune": TuneSettings}  # fmt: skip


def use_data(folder: Path, rng: random.Random) -> None:
    """What `cledet check --json` does, then what training reads: the index, and a batch of images."""
    file = folder / "data.yaml"
    if os.path.lexists(file):
        with suppress(UserError):
            open_set(str(file))
    else:
        annotations = [path for suffix in ("json", "csv", "xml") for path in folder.glob(f"*.{suffix}")]
        file = rng.choice([folder, *sorted([*folder.glob("annotations/*.json"), *annotations])])
    use_source_of_data(open_source(file))


def use_zip(folder: Path, rng: random.Random) -> None:
    """The same with a zip file, which is unpacked into the cache."""
    os.environ["CLEDET_CACHE"] = str(folder / OUT)
    use_source_of_data(open_source(next(iter(folder.glob("data*")), folder / "data.zip")))


def use_source_of_data(source: DataSource) -> None:
    report = check(source, CheckSettings(imgsz=64, workers=1))
    json.dumps(report.to_dict(), default=str, allow_nan=False)
    for split in source.splits:
        index = source.index(split)
        json.dumps(coco_annotations(index))
        data = DetectionDataset(index, short=64, long=96, augment=Augment(crop=0.5, mosaic=0.5, copy_paste=1))
        collate([data[0, i] for i in range(min(len(data), 3))])


def use_results(folder: Path, rng: random.Random) -> None:
    score_file(resolve(ValSettings, {"data": str(folder), "predictions": str(folder / "results.json")}, environ={}))


def use_predictions(folder: Path, rng: random.Random) -> None:
    found = next(iter(folder.glob("found*")), folder / "found.json")
    score_file(resolve(ValSettings, {"data": str(folder), "predictions": str(found)}, environ={}))


def use_recipe(folder: Path, rng: random.Random) -> None:
    """What a command does with a recipe before it begins to work: settings, a run's folder, the callback."""
    sys.modules.pop("planted", None)
    file = next(folder.glob("*.[yY]*"), folder / "train.yaml")
    kind = KINDS.get(file.stem, GridSettings)
    settings = resolve(kind, recipe=file, environ={})
    (folder / OUT / "config.yaml").write_text(settings.to_yaml())
    try:
        reopen(folder / OUT / "config.yaml", kind, {})
    except UserError as error:
        raise AssertionError(f"what was written is not read back: {error}") from error
    if name := getattr(settings, "name", None):
        new_run(folder / OUT, "train", name)
    if isinstance(settings, GridSettings):
        load_callback(settings.callback)
        settings.runs()


def use_image(folder: Path, rng: random.Random) -> None:
    for file in (*folder.glob("x*"), *image_files(folder)):
        with suppress(UserError):
            image_size(file)
        read_image(file, rng.choice((None, (seeds.WIDTH, seeds.HEIGHT))))


def use_source(folder: Path, rng: random.Random) -> None:
    """Read the frames of a list or a video."""
    entries = expand(next(iter(folder.glob("source*")), folder / "source.txt"))
    for item in islice(open_entries(entry for entry in entries if not isinstance(entry, str)), 100):  # no URLs
        assert item.read().image.ndim == 3


def use_checkpoint(folder: Path, rng: random.Random) -> None:
    """Load a detector and let it see one picture."""
    path = next(iter(folder.glob("*.*")), folder / "best.pt")
    detector = Detector(path)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for found in detector.predict(pixels, imgsz=64, conf=0.001, device="cpu"):
        json.dumps(found.to_dict())
        found.plot()


def use_foreign(folder: Path, rng: random.Random) -> None:
    load_checkpoint(folder / "model.pth")


def use_weights(folder: Path, rng: random.Random) -> None:
    path = next(iter(folder.glob("weights*")), folder / "weights.pkl")
    read_weights(path)
    with suppress(UserError):
        load_checkpoint(path)


def use_archive(folder: Path, rng: random.Random) -> None:
    unpack(next(iter(folder.glob("data*")), folder / "data.zip"), folder / OUT, _quiet)


@contextmanager
def _quiet(title: str, total: int) -> Iterator[SimpleNamespace]:
    yield SimpleNamespace(set=lambda done, total: None)


@dataclass(frozen=True)
class Target:
    """A part of cledet that reads files."""

    seed: Callable[[random.Random], Files]
    use: Callable[[Path, random.Random], None]
    share: int
    """Cases of a thousand."""
    extra: tuple[Any, ...] = ()
    """Values that are put where others should be, beside those of every target."""


TARGETS = {
    "coco": Target(seeds.coco, use_data, 150),
    "voc": Target(seeds.voc, use_data, 130),
    "yolo": Target(seeds.yolo, use_data, 110),
    "csv": Target(seeds.csv_files, use_data, 80),
    "labelme": Target(seeds.labelme, use_data, 50),
    "cvat": Target(seeds.cvat, use_data, 60),
    "label-studio": Target(seeds.label_studio, use_data, 60),
    "zip": Target(seeds.zipped, use_zip, 20, ("../x", "/x", "a\\b", "a/../../x", "C:x")),
    "datafile": Target(seeds.datafile, use_data, 150),
    "layout": Target(seeds.layout, use_data, 100),
    "results": Target(seeds.results, use_results, 100),
    "predictions": Target(seeds.predictions, use_predictions, 100),
    "recipe": Target(seeds.recipe, use_recipe, 120),
    "image": Target(seeds.image, use_image, 120),
    "source": Target(seeds.source, use_source, 40),
    "archive": Target(seeds.archive, use_archive, 40, ("../x", "/x", "a\\b", "a/../../x", "C:x")),
    "checkpoint": Target(weights.checkpoint, use_checkpoint, 30, OBJECTS),
    "safetensors": Target(weights.safetensors, use_checkpoint, 15),
    "foreign": Target(weights.foreign, use_foreign, 12, OBJECTS),
    "weights": Target(weights.arrays, use_weights, 18, OBJECTS),
    "check": Target(seeds.coco, partial(use_command, "check . --html out/page.html"), 1),
    "check-voc": Target(seeds.voc, partial(use_command, "check . --json"), 1),
    "check-yaml": Target(seeds.datafile, partial(use_command, "check data.yaml"), 1),
    "val": Target(
        lambda rng: seeds.results(rng) | {"val.yaml": seeds.RECIPES["val"]},
        partial(use_command, "val --recipe val.yaml --predictions results.json --data . --project out"),
        1,
    ),
    "predict": Target(
        lambda rng: weights.checkpoint(rng) | seeds.image(rng),
        partial(use_command, "predict . --weights best.pt --imgsz 64 --device cpu --project out"),
        1,
    ),
}
"""All targets, by name."""


def make(target: str, number: int) -> tuple[dict[str, Any], random.Random]:
    """The files of a case, and the generator for what is left to chance; the case of number 0 is good data."""
    rng = random.Random(f"{target} {number}")
    files = TARGETS[target].seed(rng)
    return (corrupt(files, rng, TARGETS[target].extra) if number else encode(files, rng)), rng
