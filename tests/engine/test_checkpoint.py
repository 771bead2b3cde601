"""Checkpoints: whole or not at all, and never code."""

from __future__ import annotations

import os
import pickle

import pytest
import torch

from cledet.engine.checkpoint import load_checkpoint
from cledet.errors import UserError


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    with (tmp_path / "bad.pt").open("wb") as file:
        pickle.dump({"format": "cledet 1", "model": Attack(tmp_path / "pwned")}, file)
    torch.save({"format": "cledet 1", "model": Attack(tmp_path / "pwned")}, tmp_path / "zip.pt")
    for name in ("bad.pt", "zip.pt"):
        with pytest.raises(UserError, match="damaged or no checkpoint"):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


def test_a_truncated_file_is_named(tiny_run, tmp_path):
    data = (tiny_run / "weights" / "best.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"half\.pt is damaged"):
        load_checkpoint(tmp_path / "half.pt")


def test_other_weights_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
    with pytest.raises(UserError, match="neither a cledet checkpoint nor a torchvision RetinaNet"):
        load_checkpoint(tmp_path / "resnet.pth")


def test_a_missing_file_says_what_is_there(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(UserError, match=r"no weights at .*best\.pt \(.* holds last\.pt\)"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_failed_write_leaves_the_old_file(tiny_run, tmp_path, monkeypatch):
    model = load_checkpoint(tiny_run)
    path = tmp_path / "best.pt"
    model.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"best\.pt could not be written: No space left on device"):
        model.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["best.pt"]


def test_what_is_saved_is_what_is_loaded(tiny_run, tmp_path):
    model = load_checkpoint(tiny_run)
    model.save(tmp_path / "copy.pt")
    again = load_checkpoint(tmp_path / "copy.pt")
    assert again.architecture == model.architecture
    assert all(torch.equal(again.model[key], value) for key, value in model.model.items())
    x = torch.rand(1, 3, 64, 64) * 255
    a, b = model.network().eval()(x), again.network().eval()(x)
    assert torch.equal(a.logits, b.logits)
