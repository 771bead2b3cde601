"""The largest batch that fits, from the peak memory of one image and of two."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from cledet import Detector
from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.errors import UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.models.network import Architecture
from cledet.training import auto_batch

pytestmark = pytest.mark.slow

ARCHITECTURE = Architecture(backbone="r18", classes=2, fpn_channels=16, norm="group")
CPU = torch.device("cpu")


def settings(**given):
    values = {"backbone": "r18", "backbone_weights": "none", "fpn_channels": 16, "imgsz": 64, "batch": "auto", **given}
    return resolve(TrainSettings, values, environ={})


@pytest.mark.parametrize(
    ("free", "peaks", "accumulate", "batch"),
    [
        (1000, {1: 200, 2: 300}, 1, 7),  # 80 % of 1000: 200 for the first, six more at 100
        (1000, {1: 200, 2: 300}, 3, 21),
        (1000, {1: 200, 2: None}, 1, 1),
        (10**9, {1: 200, 2: 201}, 1, auto_batch.MAX_IMAGES),
        (1000, {1: 800, 2: 900}, 1, 1),
    ],
)
def test_the_batch_follows_from_two_measurements(monkeypatch, free, peaks, accumulate, batch):
    monkeypatch.setattr(auto_batch, "_free_memory", lambda device: free)
    monkeypatch.setattr(auto_batch, "_measure_peak", lambda job, images: peaks[images])
    assert auto_batch.find_largest_batch(settings(accumulate=accumulate), ARCHITECTURE, 5, CPU) == batch


def test_on_cuda_the_result_is_measured_too(monkeypatch):
    tried = []

    def peak(job, images):
        tried.append(images)
        return 100 + 100 * images if images <= 4 else None

    monkeypatch.setattr(auto_batch, "_free_memory", lambda device: 1250)
    monkeypatch.setattr(auto_batch, "_measure_peak", peak)
    assert auto_batch.find_largest_batch(settings(), ARCHITECTURE, 5, torch.device("cuda", 0)) == 4
    assert tried == [1, 2, 9, 6, 4]


def test_one_image_that_does_not_fit_is_an_error(monkeypatch):
    monkeypatch.setattr(auto_batch, "_free_memory", lambda device: 100)
    monkeypatch.setattr(auto_batch, "_measure_peak", lambda job, images: 200 * images)
    with pytest.raises(UserError, match=r"not even one image fits into the memory of cpu \(lower --imgsz"):
        auto_batch.find_largest_batch(settings(), ARCHITECTURE, 5, CPU)


def test_the_measured_batch_has_the_largest_padded_size():
    batch = auto_batch.build_largest_images(2, 800, 37)
    assert batch.images.shape == (2, 3, 800, 1344)
    assert batch.counts.tolist() == [37, 37]
    assert (batch.boxes[..., 2:] > batch.boxes[..., :2]).all()


def test_the_largest_size_of_multi_scale_is_measured(monkeypatch):
    sizes = []
    monkeypatch.setattr(auto_batch, "build_largest_images", lambda images, short, boxes: sizes.append(short))
    monkeypatch.setattr(auto_batch.TrainStep, "compute_gradients", lambda self, parts, step: None)
    monkeypatch.setattr(auto_batch.TrainStep, "update", lambda self, step: None)
    for given in ({}, {"multi_scale": "48,96"}, {"multi_scale": "32,48"}):
        job = {"architecture": ARCHITECTURE.model_dump(), "boxes": 2, "device": "cpu", "images": 1}
        auto_batch.measure_steps({**job, "settings": settings(batch=1, **given).model_dump(mode="json")})
    assert sizes == [64, 96, 48]


def test_training_is_imported_where_there_is_no_module_resource():
    """On Windows, which lacks fcntl too."""
    program = "import sys; sys.modules.update(resource=None, fcntl=None); import cledet.training.run"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_auto_is_recorded_as_a_number(tiny, tmp_path, monkeypatch):
    """A real measurement, with little free memory."""
    one = {"architecture": ARCHITECTURE.model_dump(), "boxes": 2, "device": "cpu", "images": 1}
    peak = auto_batch._measure_peak({**one, "settings": settings(batch=1).model_dump(mode="json")}, 1)
    assert peak is not None
    assert peak > 50_000_000
    monkeypatch.setattr(auto_batch, "_free_memory", lambda device: int((peak * 1.05) / auto_batch.SHARE))
    monkeypatch.setattr(auto_batch, "MAX_IMAGES", 4)
    run = Detector().train(**{**tiny, "batch": "auto", "iters": 1, "val_split": "none"}, project=tmp_path)
    assert 1 <= load_checkpoint(run / "weights" / "last.pt").settings["batch"] <= 4
