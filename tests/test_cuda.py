"""The same on a CUDA GPU as on the CPU; skipped where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cledet import Detector
from cledet.components.iac import assign_iac
from cledet.errors import UserError
from cledet.models.assignment import Targets
from cledet.models.checkpoint import load_checkpoint
from cledet.models.criterion import Criterion
from cledet.models.network import Architecture, build_network
from cledet.models.nms import NMS, suppress
from cledet.ops.nms_clusters import find_clusters

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")
ROOT = Path(__file__).resolve().parents[1]


def crowded(n, classes, seed):
    """Boxes [n, 4] in groups of about six, scores with ties, labels."""
    generator = torch.Generator().manual_seed(seed)
    near = torch.randint(max(1, n // 6), (n,), generator=generator)
    corner = (torch.rand(max(1, n // 6), 2, generator=generator) * 500)[near] + torch.rand(
        n, 2, generator=generator
    ) * 8
    side = torch.rand(n, 2, generator=generator) * 10 + 40
    scores = torch.randint(1, 1000, (n,), generator=generator) / 1000
    return torch.cat([corner, corner + side], 1), scores, near % classes


@pytest.mark.parametrize("method", NMS)
@pytest.mark.parametrize(("n", "classes"), [(0, 1), (1, 1), (700, 1), (3000, 1), (3000, 80), (9000, 3)])
def test_every_nms_method_keeps_the_same(method, n, classes):
    sample = crowded(n, classes, n + classes)
    for more in ({}, {"cl_norm": "diagonal", "localization": "as-printed"})[: 1 + (method == "cl-balanced")]:
        here = suppress(*sample, 0.5, method=method, **more)
        there = suppress(*(part.cuda() for part in sample), 0.5, method=method, **more)
        assert there.keep.is_cuda
        assert there.boxes.is_cuda
        assert torch.equal(there.keep.cpu(), here.keep)
        torch.testing.assert_close(there.scores.cpu(), here.scores, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(there.boxes.cpu(), here.boxes, rtol=1e-6, atol=1e-4)


def test_clusters_are_the_same():
    for seed in range(20):
        sample = crowded(int(torch.randint(1, 4000, (1,), generator=torch.Generator().manual_seed(seed))), 5, seed)
        for here, there in zip(find_clusters(*sample, 0.5), find_clusters(*(part.cuda() for part in sample), 0.5)):
            assert torch.equal(there.cpu(), here)


def test_iac_assigns_the_same():
    boxes, prob, _ = crowded(4000, 1, 0)
    objects = boxes[:40]
    here = assign_iac(boxes, objects, torch.zeros(40, dtype=torch.int64), prob[:, None])
    there = assign_iac(boxes.cuda(), objects.cuda(), torch.zeros(40, dtype=torch.int64).cuda(), prob[:, None].cuda())
    assert torch.equal(there.cpu(), here)


def test_losses_and_gradients_are_those_of_the_cpu():
    torch.manual_seed(0)
    network = build_network(Architecture(backbone="r18", classes=3, fpn_channels=32, norm="batch")).eval()
    boxes = torch.tensor([[[4.0, 4, 60, 70], [30, 20, 90, 90]], [[10, 10, 50, 40], [0, 0, 0, 0]]])
    targets = Targets(boxes, torch.tensor([[0, 2], [1, 0]]), torch.zeros(2, 0, 4))
    images, found = torch.rand(2, 3, 96, 96) * 255, []
    for device in ("cpu", "cuda"):
        network.to(device)
        network.zero_grad()
        losses = Criterion()(network(images.to(device)), Targets(*(part.to(device) for part in targets)))
        (losses.classification + losses.regression).backward()
        gradient = network.head.classification.predict.weight.grad
        found.append([*(value.detach().cpu().double() for value in losses), gradient.cpu().double()])
    for here, there in zip(*found):
        torch.testing.assert_close(there, here, rtol=2e-3, atol=1e-4)  # convolutions in TF32


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_a_run_repeats_to_the_bit_and_is_resumed_to_the_bit(tiny, tmp_path, amp):
    settings = {**tiny, "device": "cuda", "amp": amp, "deterministic": True, "ema": 0.9, "iters": 6}
    settings["project"] = str(tmp_path)
    script = (
        "import sys, json; from cledet import Detector; "
        "settings = json.loads(sys.argv[1]); resume = settings.pop('resume', None); "
        "Detector().train(resume=resume) if resume else Detector().train(**settings)"
    )
    (tmp_path / "stopping.py").write_text(
        "import os, signal\n"
        "def hear(event, facts):\n"
        "    if event == 'step' and facts['step'] == 3 and not os.path.exists('stopped'):\n"
        "        open('stopped', 'w').close(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run(script, {**settings, "name": "a"}, tmp_path)
    run(script, {**settings, "name": "b"}, tmp_path)
    run(script, {**settings, "name": "c", "save_steps": 1, "callback": "stopping:hear"}, tmp_path, code=-9)
    run(script, {"resume": str(tmp_path / "train" / "c")}, tmp_path)
    first, *others = (load_checkpoint(tmp_path / "train" / name / "weights" / "last.pt") for name in "abc")
    for other in others:
        assert other.step == first.step == 6
        assert all(torch.equal(first.model[key], other.model[key]) for key in first.model)
        assert first.training["scaler"] == other.training["scaler"]
    assert all(torch.isfinite(value).all() for value in first.model.values())


def run(script, settings, folder, code=0):
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-c", script, json.dumps(settings)]
    done = subprocess.run(command, env=environ, cwd=folder, capture_output=True, text=True)
    assert done.returncode == code, done.stderr


def test_a_model_finds_the_same_on_the_gpu(tiny_run, squares):
    detector = Detector(tiny_run)
    given = {"data": str(squares), "conf": 0.01, "workers": 0}
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    here, there = (detector.val(device=device, amp="off", **given).metrics for device in ("cpu", "cuda"))
    assert {name: pytest.approx(value, abs=0.02) for name, value in here.items()} == there
    images = sorted((squares / "val").glob("*.png"))
    for a, b in zip(*(detector.predict(images, conf=0.05, device=device, amp="off") for device in ("cpu", "cuda"))):
        torch.testing.assert_close(a.scores[:5], b.scores[:5], rtol=1e-3, atol=1e-4)


def test_a_batch_that_does_not_fit_is_said_in_one_sentence(tiny, tmp_path):
    free = torch.cuda.mem_get_info()[0]
    hoard = torch.empty(int(free * 0.97), dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(UserError, match="is too small") as caught:
            Detector().train(**{**tiny, "imgsz": 3072, "fpn_channels": 256, "device": "cuda", "project": tmp_path})
    finally:
        del hoard
        torch.cuda.empty_cache()
    assert "--batch auto" in caught.value.hint


def test_batch_auto_fits_and_trains(tiny, tmp_path):
    settings = {**tiny, "device": "cuda", "batch": "auto", "iters": 2, "project": tmp_path}
    assert (Detector().train(**settings) / "weights" / "last.pt").exists()


PAIR = """
import sys, torch, torch.distributed as dist
from cledet.data.dataset import Batch
from cledet.training.train_step import TrainStep
from cledet.training.auto_batch import build_largest_images
from cledet.models.criterion import Criterion
from cledet.models.network import Architecture, build_network
from cledet.config.train import TrainSettings

rank, size, file, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if size > 1:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=size)
torch.backends.cudnn.allow_tf32 = False
torch.manual_seed(0)
settings = TrainSettings(norm="sync", imgsz=96, backbone_weights="none", batch=4, amp="off", warmup=0, lr=0.01)
network = build_network(Architecture(backbone="r18", classes=2, fpn_channels=32, norm="batch"))
learner = TrainStep(network, Criterion(), settings, torch.device("cuda", 0), 10)
batch = build_largest_images(4, 96, 3)
own = slice(rank * 4 // size, (rank + 1) * 4 // size)
batch = Batch(*(getattr(batch, field)[own] for field in Batch.__dataclass_fields__))
for step in range(2):
    losses = learner.compute_gradients([batch], step)
    learner.update(step)
if rank == 0:
    torch.save({"losses": [float(v) for v in losses], "model": learner.network.state_dict()}, out)
if size > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


def test_two_processes_with_synchronized_batch_norm_are_one(tmp_path):
    """Over gloo, for NCCL refuses two processes on a GPU: DDP, SyncBatchNorm and the sums over processes on CUDA."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    for size in (1, 2):
        command = [sys.executable, "-c", PAIR]
        rest = [str(size), str(tmp_path / f"meet{size}"), str(tmp_path / f"{size}.pt")]
        processes = [subprocess.Popen([*command, str(rank), *rest], env=environ) for rank in range(size)]
        assert [process.wait(timeout=200) for process in processes] == [0] * size
    one, two = (torch.load(tmp_path / f"{size}.pt", map_location="cpu") for size in (1, 2))
    assert two["losses"] == pytest.approx(one["losses"], rel=2e-3)
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=1e-2, atol=1e-3)
