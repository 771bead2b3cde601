"""How often `cledet tune` says "beyond the noise" where nothing is to be gained: `python benchmarks/false_alarms.py`.

Each made-up setting takes the detections of a photo from one of two NMS methods, by the toss of a coin. So all
settings, the default too, are worth the same on photos not yet seen, and every gain that is found is an accident of the
photos. Their accidents are independent, which those of real settings, of IoU 0.5 and 0.55 say, are not: so this is the
worst case.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from cledet.config.evaluate import TuneSettings
from cledet.data.index import DetectionIndex
from cledet.data.open import open_source
from cledet.evaluation.candidates import from_results
from cledet.evaluation.tune.search import Bench
from cledet.evaluation.tune.tuner import Tuned, judge, weights
from cledet.metrics.bootstrap import interval
from cledet.metrics.results_file import Results, read_results
from cledet.models.nms import NMSOptions

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "coco2017_sub"
TWO = (NMSOptions(method="standard", conf=0), NMSOptions(method="weighted", conf=0))


class Tossed(Bench):
    """Settings, numbered by their IoU threshold, each of which tosses a coin for every photo."""

    def __init__(self, two: tuple[Results, ...], index: DetectionIndex, seed: int, settings: TuneSettings) -> None:
        super().__init__([], index, settings.metric, *weights(index, settings))
        self.two, self.seed = two, seed

    def detections(self, post: NMSOptions) -> tuple[Results, float]:
        of_first = np.random.default_rng((self.seed, int(post.iou))).random(len(self.index)) < 0.5
        parts = [
            results[np.isin(results[:, 0], self.index.image_ids[chosen])]
            for results, chosen in zip(self.two, (of_first, ~of_first))
        ]
        return np.concatenate(parts), 0.0


def world(two: tuple[Results, ...], index: DetectionIndex, seed: int, others: int) -> Tuned:
    """A default and so many other settings, judged as `cledet tune` judges them."""
    settings = TuneSettings()
    bench = Tossed(two, index, seed, settings)
    default = NMSOptions(iou=0)
    trials = [bench(NMSOptions(iou=number)) for number in range(others + 1)]
    best = max(trials[1:], key=lambda trial: trial.figure)
    return judge(bench, default, {default.method: best})


def main() -> None:
    """Print how many worlds gave a false alarm, for several numbers of settings; and how many would have given one, had
    the best setting's own interval been asked.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--settings", type=int, nargs="*", default=[1, 4, 16])
    args = parser.parse_args()
    index = open_source(REAL).index("val", need_images=False)
    raw = list(from_results(read_results(REAL / "detections" / "yolox_nano_raw.json", index)))
    bench = Bench(raw, index, "AP", *weights(index, TuneSettings()))
    two = tuple(bench.detections(post)[0] for post in TWO)
    print(f"{'settings':>8} {'worlds':>6} {'said by tune':>12} {'by the best one alone':>21}")
    for others in args.settings:
        found = [world(two, index, seed, others) for seed in range(args.worlds)]
        said = sum(not one.noise for one in found)
        alone = sum(interval(one.methods["standard"].samples - one.default.samples)[0] > 0 for one in found)
        print(f"{others:>8} {args.worlds:>6} {said:>12} {alone:>21}", flush=True)


if __name__ == "__main__":
    main()
