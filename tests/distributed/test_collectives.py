"""Two processes with gloo compute what one does: losses, gradients, weights, and the figures of an evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cledet.data.open import open_source
from cledet.evaluation.nms_methods import gather_results

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from cledet.config.train import TrainSettings
from cledet.distributed import collectives
from cledet.signals import Interrupts
from cledet.training.task import load_task
from cledet.training.init_model import init_model
from cledet.training.trainer import Trainer
from cledet.config.loading import resolve

torch.set_num_threads(1)
job = json.loads(sys.argv[1])

def main():
    settings = resolve(TrainSettings, job["settings"], environ={})
    task = load_task(settings)
    model, network = init_model(settings, task.train, None)
    trainer = Trainer(settings, task, model, network, Path(job["run"]))
    seen, gradients = [], trainer.train_step.compute_gradients
    def record(parts, step):
        losses = gradients(parts, step)
        seen.append([float(losses.classification), float(losses.regression), float(losses.positives)])
        return losses
    trainer.train_step.compute_gradients = record
    trainer.fit()
    if collectives.is_main_process():
        Path(job["out"]).write_text(json.dumps({"losses": seen}))

with collectives.process_group():
    main()
sys.stderr.flush()
os._exit(0)  # once in many runs a thread of torch aborted the interpreter's exit, after all work was done
"""

SETTINGS: dict[str, Any] = {
    "backbone": "r18", "backbone_weights": "none", "norm": "group", "fpn_channels": 16, "head_conv": "depthwise",
    "head_init": "he", "anchor_scale": 2.0, "anchor_ratios": [0.5, 1.0, 1.5], "imgsz": 64, "batch": 8, "iters": 20,
    "workers": 0, "lr": 0.005, "warmup": 5, "device": "cpu", "amp": "off", "val_every": 100, "dc_balance": "class",
}  # fmt: skip
FURTHER = {"iters": 10, "lr": 1e-5, "warmup": 0}
"""A training further, so slow that differences in the last bit do not grow."""


def train(processes: int, settings: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[str]]:
    folder.mkdir()
    job = {"settings": settings, "run": str(folder / "run"), "out": str(folder / "out.json")}
    (folder / "run").mkdir()
    (folder / "job.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(folder / "job.py"), json.dumps(job)]
    root = Path(__file__).resolve().parents[2]
    environ = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environ, check=True, timeout=600)
    rows = (folder / "run" / "results.csv").read_text().splitlines()
    return json.loads((folder / "out.json").read_text()), rows


@pytest.fixture(scope="module")
def settings(squares, tmp_path_factory) -> dict[str, Any]:
    """Settings that train a detector of the squares further."""
    start = {**SETTINGS, "data": str(squares)}
    folder = tmp_path_factory.mktemp("start") / "run"
    train(1, start, folder)
    return {**start, **FURTHER, "weights": str(folder / "run")}


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory) -> Callable[[str], tuple[dict[str, Any], list[str]]]:
    """Trains with some components in one process, once."""

    @cache
    def train_alone(ablation: str) -> tuple[dict[str, Any], list[str]]:
        return train(1, {**settings, "ablation": ablation}, tmp_path_factory.mktemp("alone") / "run")

    return train_alone


@pytest.mark.parametrize(
    ("processes", "accumulate", "ablation"),
    [(2, 1, "iac,dc,clb"), (4, 1, "iac,dc,clb"), (2, 2, "iac,clb")],  # with DC, Eq. 3 is over a part
)
def test_losses_and_figures_are_those_of_one_process(settings, alone, tmp_path, processes, accumulate, ablation):
    """Ten steps of 8 images: in one process, in several, and in several in parts."""
    one_run, rows = alone(ablation)
    several, others = train(
        processes, {**settings, "ablation": ablation, "accumulate": accumulate}, tmp_path / "several"
    )
    assert len(one_run["losses"]) == len(several["losses"]) == 10
    for one, other in zip(one_run["losses"], several["losses"]):
        assert other == pytest.approx(one, rel=1e-5)
    names = rows[0].split(",")
    assert float(rows[-1].split(",")[names.index("AP")]) > 0
    for key in ("loss_cls", "loss_reg", "positives", "AP", "AP50"):
        at = names.index(key)
        assert others[-1].split(",")[at] == rows[-1].split(",")[at], key


def test_a_repeated_or_missing_image_is_an_error(squares):
    index = open_source(squares).index("val")
    ids = index.image_ids.tolist()
    with pytest.raises(AssertionError, match="twice"):
        gather_results([*ids, ids[0]], {}, index, complete=True)
    with pytest.raises(AssertionError, match="not evaluated"):
        gather_results(ids[1:], {}, index, complete=True)
    assert gather_results(ids[1:], {}, index, complete=False) == {}
