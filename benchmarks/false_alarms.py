"""False positive rate of `cledet tune` where no setting is better: `python benchmarks/false_alarms.py`.

Each synthetic setting takes the detections of an image from one of two NMS methods at random. So all settings,
the default included, have the same expected AP, and every gain is due to chance. Their errors are independent, unlike
those of similar real settings, so this is the worst case.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cledet.config.evaluate import TuneSettings
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.evaluation.candidates import from_results
from cledet.evaluation.tune.search import TrialRunner
from cledet.evaluation.tune.tuner import TuningResult, assess_gains, weights
from cledet.metrics.bootstrap import interval
from cledet.metrics.results_file import DetectionRows, read_results
from cledet.models.nms import NMSOptions

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco2017_sub"
TWO = (NMSOptions(method="standard", conf=0), NMSOptions(method="weighted", conf=0))


class RandomRunner(TrialRunner):
    """Runner of random settings, numbered by their IoU threshold."""

    def __init__(
        self, two: tuple[DetectionRows, ...], index: DetectionIndex, seed: int, settings: TuneSettings
    ) -> None:
        super().__init__([], index, settings.metric, *weights(index, settings))
        self.two, self.seed = two, seed

    def detections(self, options: NMSOptions) -> DetectionRows:
        of_first = np.random.default_rng((self.seed, int(options.iou))).random(len(self.index)) < 0.5
        parts = [
            results[np.isin(results[:, 0], self.index.image_ids[chosen])]
            for results, chosen in zip(self.two, (of_first, ~of_first))
        ]
        return np.concatenate(parts)


def run_search(two: tuple[DetectionRows, ...], index: DetectionIndex, seed: int, others: int) -> TuningResult:
    """Compare a default with a number of other settings as `cledet tune` does."""
    settings = TuneSettings()
    runner = RandomRunner(two, index, seed, settings)
    default = NMSOptions(iou=0)
    trials = [runner(NMSOptions(iou=number)) for number in range(others + 1)]
    best = max(trials[1:], key=lambda trial: trial.metric)
    return assess_gains(runner, default, {default.method: best})


def main() -> None:
    """Print the number of false positives for several numbers of settings, also by the interval of the best alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--settings", type=int, nargs="*", default=[1, 4, 16])
    args = parser.parse_args()
    index = open_source(REAL).index("val", need_images=False)
    raw = list(from_results(read_results(REAL / "detections" / "yolox_nano_raw.json", index)))
    runner = TrialRunner(raw, index, "AP", *weights(index, TuneSettings()))
    two = tuple(runner.detections(options) for options in TWO)
    print(f"{'settings':>8} {'searches':>8} {'tune':>6} {'best alone':>10}")
    for others in args.settings:
        results = [run_search(two, index, seed, others) for seed in range(args.searches)]
        significant = sum(not one.within_noise for one in results)
        alone = sum(interval(one.methods["standard"].samples - one.default.samples)[0] > 0 for one in results)
        print(f"{others:>8} {args.searches:>8} {significant:>6} {alone:>10}", flush=True)


if __name__ == "__main__":
    main()
