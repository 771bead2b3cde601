"""Signals, and failures of one of several processes; `tests/faults` kills runs at random moments."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import yaml

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import GridSettings
from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.training import run as training_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "cledet", "train", *map(str, arguments)]


def environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def assert_same_run(killed: Path, whole: Path) -> None:
    for name in ("best.pt", "last.pt"):
        a, b = (load_checkpoint(run / "weights" / name) for run in (killed, whole))
        assert (a.step, a.metrics) == (b.step, b.metrics)
        assert a.model.keys() == b.model.keys()
        assert all(torch.equal(a.model[key], b.model[key]) for key in a.model), name
    rows = [[line.split(",")[:5] for line in (run / "results.csv").read_text().splitlines()] for run in (killed, whole)]
    assert rows[0] == rows[1]


def LONGER(tiny: dict[str, object]) -> dict[str, object]:  # noqa: N802
    return {**tiny, "iters": 9, "save_steps": 1, "ema": 0.9, "optimizer": "adamw", "schedule": "cosine"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_at_once(tiny, tmp_path, number):
    """The run of a hundred thousand steps ends a few steps after the signal."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tiny, "iters": 100_000, "name": "run"}))
    arguments = ("--recipe", recipe, "--project", tmp_path)
    process = subprocess.Popen(command(*arguments), env=environ(), stderr=subprocess.PIPE, text=True)
    rows = tmp_path / "train" / "run" / "results.csv"
    while not rows.exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    before = len(rows.read_text().splitlines())
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "go on with: cledet train --resume" in said
    assert len(rows.read_text().splitlines()) < before + 10
    assert load_checkpoint(tmp_path / "train" / "run" / "weights" / "last.pt").training["step"] > 0


def test_two_processes_killed_and_restarted_by_their_launcher_end_bit_identical(tiny, tmp_path):
    """A process of two is killed in its third step; --max-restarts starts both again from the last checkpoint."""
    settings = {**LONGER(tiny), "device": "cpu,cpu", "project": ".", "max_restarts": 1, "val_every": 9}
    (tmp_path / "killing.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "def hear(event, facts):\n"
        "    once = Path('killed')\n"
        "    if event == 'step' and facts['step'] == 2 and os.environ['RANK'] == '1' and not once.exists():\n"
        "        once.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    runs = {}
    for name, flags in (("whole", ()), ("killed", ("--callback", "killing:hear"))):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({**settings, "name": name}))
        done = subprocess.run(
            command("--recipe", recipe, *flags),
            env=environ(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stderr
        runs[name] = tmp_path / "train" / name
    assert (tmp_path / "killed").exists()
    assert_same_run(runs["killed"], runs["whole"])


def test_a_process_that_crashes_ends_the_other_and_its_traceback_is_shown_once(tiny, tmp_path):
    (tmp_path / "crashing.py").write_text(
        "import os\n"
        "def hear(event, facts):\n"
        "    if event == 'step' and os.environ['RANK'] == '1':\n"
        "        raise ArithmeticError('seven times six')\n"
    )
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**tiny, "device": "cpu,cpu", "project": ".", "name": "run"}))
    done = subprocess.run(
        command("--recipe", recipe, "--callback", "crashing:hear"),
        env=environ(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert done.stderr.count("ArithmeticError: seven times six") == 1
    assert "rank 1 of 2" in done.stderr


def test_a_batch_that_cannot_be_shared_is_refused_before_there_is_a_folder(tiny, tmp_path):
    with pytest.raises(UserError, match=r"--batch 2 cannot be shared equally by 3 processes \(give a multiple of 3\)"):
        Detector().train(**{**tiny, "device": "cpu,cpu,cpu"}, project=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_batch_that_cannot_be_shared_by_the_devices_of_a_resumed_run_is_refused(tiny, tmp_path, monkeypatch):
    def stop(trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "_fit", stop)
    with pytest.raises(KeyboardInterrupt):
        Detector().train(**tiny, project=tmp_path, name="run")
    run = tmp_path / "train" / "run"
    with pytest.raises(UserError, match=r"--batch 2 cannot be shared equally by 3 processes \(give a multiple of 3\)"):
        Detector().train(resume=run, device="cpu,cpu,cpu")
    assert not (run / "logs").exists()


@pytest.mark.parametrize(("batch", "world", "fits"), [(6, 3, True), (8, 3, False), (8, 4, True)])
def test_on_several_machines_the_launched_processes_check_the_batch(monkeypatch, batch, world, fits):
    """The other machine may have one device or two, which this one cannot know."""
    nodes = {"nnodes": 2, "rdzv_endpoint": "localhost"}
    settings = resolve(GridSettings, {**nodes, "device": "cpu,cpu", "batch": batch, "amp": "off"}, environ={})
    training_run._check_processes(settings)
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", world)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(training_run.collectives, "world_size", lambda: world)
    with (
        nullcontext()
        if fits
        else pytest.raises(UserError, match=f"--batch {batch} cannot be shared equally by {world} ")
    ):
        training_run._check_processes(settings)


def test_synchronised_norms_without_gpus_are_refused_before_there_is_a_folder(tiny, tmp_path):
    with pytest.raises(UserError, match="--norm sync of several processes needs CUDA GPUs"):
        Detector().train(**{**tiny, "device": "cpu,cpu", "norm": "sync"}, project=tmp_path)
    assert not list(tmp_path.iterdir())
    Detector().train(**{**tiny, "iters": 1, "val_split": "none", "norm": "sync"}, project=tmp_path)
