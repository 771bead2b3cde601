"""Search for NMS settings, with confidence intervals of the gains."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from cledet.config.evaluate import TuneSettings
from cledet.console import Steps, say
from cledet.data.index import DetectionIndex
from cledet.distributed.devices import amp_dtype, describe, pick_device, precision
from cledet.errors import Interrupted, UserError
from cledet.evaluation.candidates import Candidates, from_results
from cledet.evaluation.cluster_alignment import ClusterAlignment, cluster_alignment
from cledet.evaluation.evaluator import network_stream, nms_options
from cledet.evaluation.score_file import above_conf, explicit_conf, load_predictions, predictions_split
from cledet.evaluation.splits import load_split
from cledet.evaluation.tune import candidate_cache
from cledet.evaluation.tune.search import METRIC, Trial, TrialRunner, raise_conf, search, within
from cledet.metrics.bootstrap import (
    HeldOut,
    PairedDifference,
    Weights,
    halves,
    held_out,
    paired_differences,
    resamples,
)
from cledet.metrics.confidence import OperatingPoint, operating_point
from cledet.models.checkpoint import Checkpoint
from cledet.models.nms import NMSOptions
from cledet.signals import Stop, interrupts

NO_GAIN = PairedDifference(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class TuningResult:
    """Result of a search."""

    default: Trial
    methods: dict[str, Trial]
    """The best setting of each method that was searched."""
    gains: dict[str, PairedDifference]
    """Metric of each of these minus that of the default; the intervals of all settings hold simultaneously."""
    held_out: HeldOut
    """Gain of the choice among all settings of the search on images that it did not use."""
    searched: list[Trial]
    """All settings of the search in the order of the trials."""
    confs: list[Trial] = field(default_factory=list)
    """The recommended setting at increasing conf."""
    conf: float = 0.0
    """The highest of these whose cost is within the tolerance."""
    clusters: dict[str | None, ClusterAlignment] = field(default_factory=dict)
    """How score and closeness order the boxes within the clusters of the default setting: of each class, and of all
    under None; empty if interrupted."""
    cl_balanced: PairedDifference | None = None
    """Gain of cl-balanced over standard, both otherwise with the default setting; None if one was not tried."""
    operating_point: OperatingPoint | None = None
    """Confidence of the highest F1 of the recommended setting at IoU 0.5."""
    seconds: float = 0.0
    stopped: int | None = None
    """The signal that interrupted the search."""

    @property
    def best(self) -> Trial:
        """Return the best setting of all; the default if none is better."""
        return max([self.default, *self.methods.values()], key=METRIC)

    @property
    def gain(self) -> PairedDifference:
        """Return the gain of the best setting."""
        return NO_GAIN if self.best is self.default else self.gains[self.best.options.method]

    @property
    def significant(self) -> Trial | None:
        """Return the best setting whose interval lies above 0."""
        above = [trial for name, trial in self.methods.items() if self.gains[name].conclusion == "better"]
        return max(above, key=METRIC, default=None)

    @property
    def within_noise(self) -> bool:
        """Return whether no gain is significant, or none remains on held-out images."""
        return self.significant is None or not self.held_out.gain > 0

    @property
    def recommended(self) -> Trial:
        """Return the best significant setting, or the default where the gain is within the noise."""
        return self.confs[0]


def open_candidates(
    model: Checkpoint | None, settings: TuneSettings
) -> tuple[Iterable[Candidates], DetectionIndex, NMSOptions]:
    """Open the candidates of a model or a file.

    Returns the candidates, the index of the split, and the default setting at the lowest conf to evaluate.
    """
    if settings.predictions is not None:
        index, floor = predictions_split(settings), explicit_conf(settings)
        results = above_conf(load_predictions(settings.predictions, index).rows, settings)
        plain = settings.model_copy(update={"nms": "auto", "conf": floor or 0.0})
        return list(from_results(results)), index, nms_options(plain, ())
    assert model is not None
    index = load_split(settings.data, settings.split, model.data)
    plain = settings.model_copy(update={"nms": "auto"})
    return _of_network(model, index, settings), index, nms_options(plain, model.components)


def _of_network(model: Checkpoint, index: DetectionIndex, settings: TuneSettings) -> candidate_cache.CachedCandidates:
    """Return the network's candidates: from the cache, or by one pass that fills it."""
    device = pick_device(settings.device)
    dtype = amp_dtype(device, settings.amp)
    options = {"conf": settings.conf, "precision": str(dtype), "on": device.type}
    origin = candidate_cache.origin(model, index, imgsz=settings.imgsz or model.imgsz, **options)
    cached = candidate_cache.find(origin)
    if cached is None:
        say(f"{index.name}: {len(index)} images on {describe(device)}, {precision(dtype)}")
        network = model.network().to(device)
        stream = network_stream(network, index, model, settings, device, dtype)
        cached = candidate_cache.store(origin, stream)
    else:
        say("the cache holds the candidates of this network on these images")
    say(f"{len(cached.rows):,} candidates: {cached.path}")
    return cached


def tune(
    candidates: Iterable[Candidates], index: DetectionIndex, default: NMSOptions, settings: TuneSettings
) -> TuningResult:
    """Search the settings of the methods and compare the best of each with the default setting.

    A signal ends the search, and the trials so far are evaluated. Raises Interrupted if there are none.
    """
    methods = (default.method,) if settings.nms == "auto" else settings.nms_methods(())
    began = time.perf_counter()
    best_of: dict[str, Trial] = {}
    with interrupts() as caught, Steps("tuning", len(methods)) as steps:
        runner = TrialRunner(candidates, index, settings.metric, *weights(index, settings))
        try:
            with caught.abandoning():
                for trial in search(runner, default, methods):
                    name = trial.options.method
                    best_of[name] = trial
                    count = sum(options.method == name for options in runner.tried)
                    say(f"{name}: best {settings.metric} {trial.metric:.4f} of {count} settings")
                    steps.advance()
        except Stop:
            say("stopped: the trials so far are evaluated")
    if default not in runner.tried:
        assert caught.number is not None
        raise Interrupted(caught.number)
    if np.isnan(runner(default).metric):
        raise UserError(f"{index.name} has no objects that count for {settings.metric}", "tune on another split")
    tuned = assess_gains(runner, default, best_of)
    confs = tuned.confs if caught.number else raise_conf(runner, tuned.recommended, settings.tolerance)
    conf = within(confs, settings.tolerance)[-1].options.conf
    clusters = {} if caught.number else cluster_alignment(candidates, index, default)
    tuned = replace(tuned, confs=confs, conf=conf, clusters=clusters, cl_balanced=cl_balanced_gain(runner, default))
    return replace(tuned, seconds=time.perf_counter() - began, stopped=caught.number)


def weights(index: DetectionIndex, settings: TuneSettings) -> tuple[Weights, Weights]:
    """Return the halves and the resamples of the images that every setting is evaluated on."""
    return halves(len(index), settings.repeats), resamples(len(index), settings.bootstrap, seed=0)


def assess_gains(runner: TrialRunner, default: NMSOptions, best_of: dict[str, Trial]) -> TuningResult:
    """Compute the intervals of the gains over the default, and the gain on held-out images.

    `best_of` holds the best trial of each method that was searched; the best trial of a method that a signal
    interrupted is added.
    """
    trials, base = list(runner.tried.values()), runner.tried[default]
    interrupted = [trial for trial in trials if trial.options.method not in best_of]
    for trial in sorted(interrupted, key=METRIC):
        best_of[trial.options.method] = trial
    samples = np.stack([trial.samples for trial in trials])
    counts = [runner.images] * len(trials)
    metrics = [trial.metric for trial in trials]
    gains = paired_differences(metrics, base.metric, samples, base.samples, counts, joint=True)
    gain_of = {trial.options: gain for trial, gain in zip(trials, gains)}
    by_method = {name: gain_of[trial.options] for name, trial in best_of.items()}
    tuned = TuningResult(base, best_of, by_method, held_out(np.stack([trial.halves for trial in trials])), trials)
    chosen = base if tuned.within_noise or tuned.significant is None else tuned.significant
    point = operating_point(runner.index, runner.detections(chosen.options))
    return replace(tuned, confs=[chosen], conf=chosen.options.conf, operating_point=point)


def cl_balanced_gain(runner: TrialRunner, default: NMSOptions) -> PairedDifference | None:
    """Return the gain of cl-balanced over standard, both otherwise with the default setting, if both were tried."""
    standard, balanced = (runner.tried.get(replace(default, method=name)) for name in ("standard", "cl-balanced"))
    if standard is None or balanced is None:
        return None
    samples = balanced.samples[None], standard.samples
    return paired_differences([balanced.metric], standard.metric, *samples, [runner.images])[0]
