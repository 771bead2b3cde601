"""The shipped recipes: each resolves, is of the paper's settings, builds, and takes two steps on its kind of data."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from cledet.config.loading import read_notes, read_recipe, recipes, resolve
from cledet.config.recipe import RecipeNotes
from cledet.config.train import GridSettings, TrainSettings
from cledet.errors import UserError
from cledet.training.init_model import build_architecture, init_model
from cledet.training.task import load_task
from cledet.training.trainer import Trainer

pytestmark = pytest.mark.slow

NAMES = sorted(recipes())
OF_PAPER = [name for name in NAMES if read_notes(name).paper]
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="session")
def slices(squares, voc_years):
    """A tiny slice of each data set that a recipe may be for, in its format."""
    return {"coco": squares, "shapes": squares, "voc": voc_years, None: voc_years.parent / "VOCdevkit" / "VOC2007"}


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_resolves_builds_and_takes_two_steps(name, slices, tmp_path, monkeypatch):
    """The recipe's own network and settings; only length, images, batch and random weights are for the test.

    Nothing is saved: half a gigabyte a recipe.
    """
    data = read_recipe(name).get("data")
    small = {"iters": 2, "imgsz": 64, "multi_scale": "0,0", "batch": 1, "accumulate": 1, "warmup": 0, "workers": 0}
    small |= {"data": str(slices[data]), "split": "train" if data else "trainval", "val_split": "none"}
    norm = build_architecture(resolve(TrainSettings, recipe=name, environ={}), 80, None).norm
    small |= {"backbone_weights": "none", "norm": norm, "device": "cpu", "amp": "off"}
    settings = resolve(TrainSettings, small, recipe=name, environ={})
    monkeypatch.setattr(Trainer, "_save", lambda *_: None)
    task = load_task(settings)
    trainer = Trainer(settings, task, *init_model(settings, task.train, None), tmp_path)
    before = trainer.train_step.network.head.state_dict()
    before = {key: value.clone() for key, value in before.items()}
    trainer.fit()
    assert trainer.state.step == 2
    assert trainer.state.bad_steps == 0
    after = trainer.train_step.network.head.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert not all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize("name", OF_PAPER)
def test_the_papers_rows_have_the_papers_settings(name):
    """Section 3.1: 16 images a step, lr 0.01, weight decay 0.0001, momentum 0.9, 500 iterations of warm-up."""
    settings = resolve(TrainSettings, recipe=name, environ={})
    assert (settings.batch, settings.learning_rate, settings.weight_decay) == (16, 0.01, 1e-4)
    assert (settings.momentum, settings.warmup, settings.optimizer, settings.schedule) == (0.9, 500, "sgd", "step")
    assert (settings.alpha, settings.score_threshold) == (0.75, 0.5)
    assert (settings.dc_form, settings.recall_target, settings.recall_min_iou) == ("as-printed", "hard", 0.4)
    table = read_notes(name).paper[0].table
    schedule = {1: (180000, (135000, 150000)), 2: (90000, (67500, 75000)), 3: (90000, (67500, 75000))}[table]
    schedule = (12000, (9000,)) if settings.data == "voc" else schedule
    assert (settings.iters, settings.lr_steps) == schedule
    assert settings.val_every > 13  # epochs: only the last weights are judged
    assert f"Table {table}" in read_notes(name).about


def test_the_rows_of_table_2_differ_by_their_components_only():
    for data in ("coco", "voc"):
        names = [name for name in OF_PAPER if name.startswith(f"table2-{data}-")]
        assert len(names) == 4
        settings = {name: resolve(TrainSettings, recipe=name, environ={}) for name in names}
        assert len({one.model_dump_json(exclude={"ablation"}) for one in settings.values()}) == 1
        rows = {"-".join(one.ablation) or "none": name for name, one in settings.items()}
        assert rows == {name.removeprefix(f"table2-{data}-"): name for name in names}


def test_the_papers_figures_are_the_papers():
    """Each of our method's rows, in full: Table 1's AP to APl, Table 2's two halves, Table 3's six."""
    rows = sorted((row.table, row.row, *row.figures.values()) for name in OF_PAPER for row in read_notes(name).paper)
    points = [(table, row, *(round(100 * figure, 1) for figure in figures)) for table, row, *figures in rows]
    assert points == [
        (1, 7, 40.6, 60.2, 43.5, 23.9, 43.9, 51.1),
        (1, 14, 42.2, 62.5, 45.1, 25.5, 44.9, 52.3),
        (1, 17, 48.9, 67.8, 53.2, 30.0, 52.2, 61.7),
        (2, 1, 35.9, 56.1, 38.6),
        (2, 1, 78.2),
        (2, 2, 36.4, 56.5, 39.1),
        (2, 2, 78.6),
        (2, 3, 37.1, 56.3, 39.7),
        (2, 3, 79.2),
        (2, 4, 37.5, 56.9, 40.0),
        (2, 4, 79.7),
        (3, 1, 36.4, 55.5, 39.0),
        (3, 2, 36.5, 55.7, 39.0),
        (3, 3, 37.0, 56.2, 39.3),
        (3, 4, 38.5, 57.6, 41.0),
        (3, 5, 38.6, 57.5, 41.4),
        (3, 6, 39.0, 58.0, 41.6),
    ]


@pytest.mark.parametrize("name", [name for name in NAMES if read_notes(name).measured])
def test_what_was_measured_stands_on_the_page_that_is_named(name):
    for one in read_notes(name).measured:
        page = (DOCS.parent / one.source).read_text()
        for value in one.figures.values():
            assert re.search(rf"\b{100 * value:.1f}\b|\b{value:.3f}\b", page), f"{value} is not in {one.source}"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("papr: []", r"unknown setting 'papr' in .*r.yaml \(did you mean paper\?\)"),
        ("paper: [{table: 4, row: 1, split: x}]", r"r.yaml: paper\[0\].table: input should be 1, 2 or 3"),
        ("paper: [{table: 2, row: 1, split: x, AP: 36.4}]", r"paper\[0\].AP: input should be less than or equal to 1"),
        ("paper: [{table: 2, row: 1, split: x, Ap: 0.3}]", r"paper\[0\].Ap: extra inputs are not permitted"),
        ("measured: [{split: x, AP: 0.3}]", r"measured\[0\].source: field required"),
        ("about: [a]", "about: input should be a valid string"),
    ],
)
def test_what_a_recipe_says_beside_its_settings_is_checked(text, sentence, tmp_path):
    (tmp_path / "r.yaml").write_text(f"batch: 4\n{text}\n")
    with pytest.raises(UserError, match=sentence):
        read_recipe(tmp_path / "r.yaml")


def test_notes_are_never_settings():
    assert not set(RecipeNotes.model_fields) & set(GridSettings.model_fields)
    assert "paper" not in read_recipe("table1-r101")
    assert read_notes("table1-r101").paper[0].figures["AP"] == 0.406
