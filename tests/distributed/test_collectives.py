"""Two processes with gloo compute what one does: losses, gradients, weights, and the figures of an evaluation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cledet.data.open import open_source
from cledet.evaluation.nms_methods import gather_results

pytestmark = pytest.mark.slow

SCRIPT = """
import json, sys
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
"""

SETTINGS: dict[str, Any] = {
    "backbone": "r18", "backbone_weights": "none", "norm": "group", "fpn_channels": 16, "imgsz": 64, "batch": 8,
    "iters": 20, "workers": 0, "lr": 0.005, "warmup": 2, "device": "cpu", "amp": "off", "val_every": 100,
}  # fmt: skip


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


@pytest.mark.parametrize(("processes", "accumulate"), [(2, 1), (2, 2), (4, 1)])
def test_losses_gather_results_are_those_of_one(squares, tmp_path, processes, accumulate):
    """Twenty steps of 8 images: in one process, in several, and in several in parts."""
    settings = {**SETTINGS, "data": str(squares)}
    if accumulate > 1:
        settings["ablation"] = "iac,clb"  # with DC, Eq. 3 is over a part
    alone, rows = train(1, settings, tmp_path / "one")
    several, others = train(processes, {**settings, "accumulate": accumulate}, tmp_path / "several")
    assert len(alone["losses"]) == 20
    for one, other in zip(alone["losses"], several["losses"]):
        assert other == pytest.approx(one, rel=1e-5)
    names = rows[0].split(",")
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
