"""Tuning: candidates, the search, and how far its gain is to be trusted."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from cledet.config.evaluate import TuneSettings
from cledet.console import Steps, say
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.distributed.devices import amp_dtype, describe, pick_device
from cledet.errors import Interrupted, UserError
from cledet.evaluation.candidates import Candidates, from_results
from cledet.evaluation.evaluator import network_stream, nms_options
from cledet.evaluation.score_file import given_conf, over_floor, predictions_split
from cledet.evaluation.splits import load_index
from cledet.evaluation.tune import candidate_cache as candidate_store
from cledet.evaluation.tune.search import Bench, Trial, expected, raise_conf, search, within
from cledet.metrics.bootstrap import Weights, resamples, simultaneous
from cledet.metrics.confidence import OperatingPoint, operating_point
from cledet.metrics.holdout import HeldOut, halves, held_out
from cledet.metrics.results_file import read_results
from cledet.models.checkpoint import Checkpoint
from cledet.models.nms import NMSOptions
from cledet.signals import Stop, interrupts


class Gain(NamedTuple):
    """A figure less that of the default setting, and its 95 % interval over images, see `simultaneous`."""

    gain: float
    low: float
    high: float


NONE = Gain(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Tuned:
    """What a search has found."""

    default: Trial
    methods: dict[str, Trial]
    """The best setting of each method that was searched."""
    gains: dict[str, Gain]
    held_out: HeldOut
    """Of choosing among all settings of the search."""
    searched: list[Trial]
    """All settings of the search, in the order they were tried."""
    confs: list[Trial] = field(default_factory=list)
    """The recommended setting at higher and higher conf."""
    conf: float = 0.0
    """The highest of them that costs no more than was allowed."""
    operating: OperatingPoint | None = None
    """Where the F1 of the recommended setting is best, at IoU 0.5."""
    seconds: float = 0.0
    stopped: int | None = None
    """The signal that broke the search off."""

    @property
    def best(self) -> Trial:
        """The best setting of all; the default if none is better."""
        return max([self.default, *self.methods.values()], key=lambda trial: trial.figure)

    @property
    def gain(self) -> Gain:
        """That of the best setting."""
        return NONE if self.best is self.default else self.gains[self.best.post.method]

    @property
    def sure(self) -> Trial | None:
        """The best of those whose interval lies above 0."""
        above = [trial for name, trial in self.methods.items() if self.gains[name].low > 0]
        return max(above, key=lambda trial: trial.figure, default=None)

    @property
    def noise(self) -> bool:
        """Whether all gains may be accidents of the images: their intervals hold 0, or other halves show none."""
        return self.sure is None or not self.held_out.gain > 0

    @property
    def recommended(self) -> Trial:
        """The best setting that is `sure`, or the default where the gain is inside the noise."""
        return self.confs[0]


def open_candidates(
    model: Checkpoint | None, settings: TuneSettings
) -> tuple[Iterable[Candidates], DetectionIndex, NMSOptions]:
    """The candidates of a model or a file, the split's index, and the default setting at the lowest conf to look at."""
    if settings.predictions is not None:
        index, floor = predictions_split(settings), given_conf(settings)
        results = over_floor(read_results(settings.predictions, index), settings)
        return list(from_results(results)), index, _default(settings, (), floor or 0.0)
    assert model is not None
    index = load_index(open_source(settings.data or model.data), settings.split)
    return _of_network(model, index, settings), index, _default(settings, model.components, settings.conf)


def _default(settings: TuneSettings, components: tuple[str, ...], conf: float) -> NMSOptions:
    plain = settings.model_copy(update={"nms": "auto", "conf": conf})
    return nms_options(plain, components)


def _of_network(model: Checkpoint, index: DetectionIndex, settings: TuneSettings) -> candidate_store.Stored:
    """The network's candidates, from the cache if it has looked at the same images before."""
    device = pick_device(settings.device)
    dtype = amp_dtype(device, settings.amp)
    how = {"imgsz": settings.imgsz or model.imgsz, "conf": settings.conf, "precision": str(dtype), "on": device.type}
    of = candidate_store.origin(model, index, **how)
    found = candidate_store.find(of)
    if found is None:
        say(f"{index.name}: {len(index)} images on {describe(device)}")
        network = model.network().to(device)
        stream = network_stream(network, index, model, settings, device, dtype)
        found = candidate_store.store(of, stream)
    else:
        say("the network has seen these images before: its candidates are taken from the cache")
    say(f"{len(found.columns['scores']):,} candidates: {found.folder}")
    return found


def tune(candidates: Iterable[Candidates], index: DetectionIndex, default: NMSOptions, settings: TuneSettings) -> Tuned:
    """Search the settings of the methods, and judge what was found beside the default setting.

    A signal ends the search, and what was found so far is judged. Raises Interrupted if that is nothing.
    """
    methods = (default.method,) if settings.nms == "auto" else settings.nms_methods(())
    began = time.perf_counter()
    found: dict[str, Trial] = {}
    with interrupts() as caught, Steps("tuning", expected(methods)) as steps:
        bench = Bench(candidates, index, settings.metric, *weights(index, settings), steps.advance)
        try:
            with caught.abandoning():
                for trial in search(bench, default, methods):
                    found[trial.post.method] = trial
                    say(_line(trial, settings.metric, bench))
        except Stop:
            say("stopped: what was found so far is judged")
    if default not in bench.tried:
        assert caught.number is not None
        raise Interrupted(caught.number)
    if np.isnan(bench(default).figure):
        raise UserError(f"{index.name} has no objects that count for {settings.metric}", "tune on another split")
    judged = judge(bench, default, found)
    judged = replace(judged, seconds=time.perf_counter() - began, stopped=caught.number)
    return judged if judged.stopped else _with_conf(judged, bench, settings.tolerance)


def weights(index: DetectionIndex, settings: TuneSettings) -> tuple[Weights, Weights]:
    """The halves and the resamples of the images that every setting is measured on."""
    return halves(len(index), settings.repeats), resamples(len(index), settings.bootstrap, seed=0)


def _line(trial: Trial, metric: str, bench: Bench) -> str:
    count = sum(post.method == trial.post.method for post in bench.tried)
    return f"{trial.post.method}: best {metric} {trial.figure:.4f} of {count} settings"


def judge(bench: Bench, default: NMSOptions, found: dict[str, Trial]) -> Tuned:
    """The best of each method, `found` and what a signal broke off, with intervals and the held-out gain."""
    trials, base = list(bench.tried.values()), bench.tried[default]
    broken_off = [trial for trial in trials if trial.post.method not in found]
    for trial in sorted(broken_off, key=lambda trial: trial.figure):
        found[trial.post.method] = trial
    gains = np.array([trial.figure - base.figure for trial in trials])
    ends = simultaneous(gains, np.stack([trial.samples - base.samples for trial in trials]))
    of = {trial.post: Gain(*map(float, one)) for trial, *one in zip(trials, gains, *ends)}
    by_method = {name: of[trial.post] for name, trial in found.items()}
    tuned = Tuned(base, found, by_method, held_out(np.stack([trial.halves for trial in trials])), trials)
    chosen = base if tuned.noise or tuned.sure is None else tuned.sure
    point = operating_point(bench.index, bench.detections(chosen.post)[0])
    return replace(tuned, confs=[chosen], conf=chosen.post.conf, operating=point)


def _with_conf(tuned: Tuned, bench: Bench, tolerance: float) -> Tuned:
    """The same with the highest conf that costs no more than the tolerance."""
    confs = raise_conf(bench, tuned.recommended, tolerance)
    return replace(tuned, confs=confs, conf=within(confs, tolerance)[-1].post.conf)
