"""Cached candidates are unchanged, and opened only for the same weights, images and options."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cledet import Detector
from cledet.config.evaluate import TuneSettings
from cledet.config.loading import resolve
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.evaluation.candidates import Candidates
from cledet.evaluation.tune import candidate_cache
from cledet.evaluation.tune.candidate_cache import cache_path, find, origin, store
from cledet.evaluation.tune.tuner import open_candidates
from cledet.models.network import RetinaNet


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "cache"))


def made(image_id, count):
    generator = torch.Generator().manual_seed(image_id)
    boxes = 100 * torch.rand(count, 4, generator=generator)
    labels = torch.arange(count) % 3
    scale = torch.tensor([1.5, 0.7, 1.5, 0.7])
    return Candidates(image_id, boxes, torch.rand(count, generator=generator), labels, scale, np.array([9, 4, 7]))


def test_stored_candidates_are_unchanged_and_can_be_iterated_repeatedly():
    """Images without any are there too."""
    wanted = [made(12, 5), made(3, 0), made(2**40, 2)]
    found = store({"of": "a"}, iter(wanted))
    assert len(found) == 3
    for _ in range(2):
        for one, other in zip(found, wanted, strict=True):
            assert one.image_id == other.image_id
            assert torch.equal(one.boxes, other.boxes)
            assert torch.equal(one.scores, other.scores)
            assert torch.equal(one.labels, other.labels)
            assert one.labels.dtype == torch.int64
            assert torch.equal(one.scale, other.scale)
            np.testing.assert_array_equal(one.category_ids, [9, 4, 7])
    assert [path.suffix for path in found.path.parent.iterdir()] == [".npz"]


def test_no_images_and_no_candidates():
    assert list(store({"of": "nothing"}, iter(()))) == []
    assert [len(one.boxes) for one in store({"of": "empty"}, iter([made(1, 0)]))] == [0]


def test_only_undamaged_candidates_of_the_same_origin_are_opened():
    assert find({"of": "a"}) is None
    path = store({"of": "a"}, iter([made(1, 4)])).path
    assert find({"of": "a"}) is not None
    assert find({"of": "b"}) is None
    whole = path.read_bytes()
    inside = whole.index(made(1, 4).boxes[2].numpy().tobytes())
    flipped = whole[:inside] + bytes([whole[inside] ^ 1]) + whole[inside + 1 :]
    for content in (b"", b"no archive", whole[:-9], flipped):
        path.write_bytes(content)
        assert find({"of": "a"}) is None, content
    assert len(next(iter(store({"of": "a"}, iter([made(1, 4)])))).boxes) == 4  # in the damaged one's place
    assert find({"of": "a"}) is not None


def test_a_cache_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLEDET_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="could not be written: Not a directory"):
        store({"of": "a"}, iter([made(1, 1)]))


def test_an_interrupted_pass_leaves_nothing():
    def broken():
        yield made(1, 4)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store({"of": "a"}, broken())
    assert not list(cache_path({}).parent.parent.glob("**/*.npz*"))


def test_the_least_recently_used_set_is_evicted(monkeypatch):
    monkeypatch.setattr(candidate_cache, "KEPT", 3)
    names = sorted("abcd", key=lambda name: cache_path({"of": name}))
    for time, name in enumerate((names[3], names[0], names[1])):  # the last by name is the oldest
        os.utime(store({"of": name}, iter([made(1, 1)])).path, (time, time))
    store({"of": names[2]}, iter([made(1, 1)]))
    assert [find({"of": name}) is None for name in names] == [False, False, False, True]
    os.utime(cache_path({"of": names[0]}), (1, 1))
    os.utime(cache_path({"of": names[1]}), (2, 2))
    assert find({"of": names[0]}) is not None  # and so used now
    store({"of": names[3]}, iter([made(1, 1)]))
    assert [find({"of": name}) is None for name in names] == [False, True, False, False]


def test_the_origin_depends_on_weights_images_and_options(tiny_run, squares, tmp_path):
    model, index = Detector(tiny_run).model, open_source(squares).index("val")
    plain = origin(model, index, imgsz=64)
    assert plain == origin(Detector(tiny_run).model, index, imgsz=64)
    assert plain == json.loads(json.dumps(plain))
    others = [origin(model, index, imgsz=96), origin(model, index.subset([0, 1]), imgsz=64)]
    others += [origin(model, replace(index, **part), imgsz=64) for part in (
        {"classes": ("blue", "green")}, {"category_ids": index.category_ids + 1}, {"image_ids": index.image_ids + 1}
    )]  # fmt: skip
    anchors = model.architecture.model_copy(update={"anchors_from_image": True})
    others.append(origin(replace(model, architecture=anchors), index, imgsz=64))
    first = next(iter(model.model))
    bit = {**model.model, first: model.model[first].clone()}
    bit[first][0] += 2**-10
    name = {one if one != first else f"{one}_": value for one, value in model.model.items()}
    others += [origin(replace(model, model=weights), index, imgsz=64) for weights in (bit, name)]
    photos = tmp_path / "val"
    shutil.copytree(squares / "val", photos)
    moved = replace(index, paths=np.array([str(photos / Path(path).name) for path in index.paths.tolist()]))
    others.append(origin(model, moved, imgsz=64))
    os.utime(moved.paths[0], (1, 1))
    others.append(origin(model, moved, imgsz=64))
    assert len({cache_path(of) for of in [plain, *others]}) == 1 + len(others) == 11


def test_the_network_runs_once_for_two_searches(tiny_run, monkeypatch, capsys):
    """And its candidates are those that `val` chooses from; what makes them others makes it run again."""
    calls = []
    forward = RetinaNet.forward
    monkeypatch.setattr(RetinaNet, "forward", lambda self, images: calls.append(1) or forward(self, images))
    given = {"device": "cpu", "workers": 0, "batch": 4, "conf": 0.001, "amp": "off"}
    settings = resolve(TuneSettings, given, environ={})
    model = Detector(tiny_run).model
    first, index, default = open_candidates(model, settings)
    second = open_candidates(model, settings)[0]
    assert len(calls) == 1
    said = capsys.readouterr().err
    assert said.count("4 images on cpu") == said.count("the cache holds the candidates of this network") == 1
    assert said.count(f"{sum(len(one.boxes) for one in first):,} candidates: {first.path}") == 2
    assert sum(len(one.boxes) for one in first) == sum(len(one.boxes) for one in second) > 0
    assert (default.method, default.iou, default.conf) == ("cl-balanced", 0.5, 0.001)
    assert len(first) == len(index) == 4
    for number, other in enumerate(({"conf": 0.002}, {"imgsz": 96}, {"amp": "bf16"}), 2):
        open_candidates(model, resolve(TuneSettings, given | other, environ={}))
        assert len(calls) == number, other
