"""The shipped recipes: each resolves, is of the paper's settings, builds, and takes two steps on its kind of data."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from cledet import Detector
from cledet.engine.setup import architecture
from cledet.errors import UserError
from cledet.models.network import build_network
from cledet.recipe_config import RecipeNotes
from cledet.resolve import read_notes, read_recipe, recipes, resolve
from cledet.train_config import GridSettings, TrainSettings

NAMES = sorted(recipes())
OF_PAPER = [name for name in NAMES if read_notes(name).paper]
DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="session")
def slices(squares, tmp_path_factory):
    """A tiny slice of each data set that a recipe may be for, in its format: COCO's folder, or VOC's two years."""
    root = tmp_path_factory.mktemp("slices") / "VOCdevkit"
    rng = np.random.default_rng(0)
    for year, split, stems in (("VOC2007", "trainval", "ab"), ("VOC2012", "trainval", "cd"), ("VOC2007", "test", "ef")):
        for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / year / name).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            cv2.imwrite(str(root / year / "JPEGImages" / f"{stem}.jpg"), rng.integers(0, 255, (60, 80, 3), np.uint8))
            (root / year / "Annotations" / f"{stem}.xml").write_text(
                "<annotation><size><width>80</width><height>60</height><depth>3</depth></size><object><name>cat</name>"
                "<bndbox><xmin>9</xmin><ymin>9</ymin><xmax>50</xmax><ymax>40</ymax></bndbox></object></annotation>"
            )
        (root / year / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems))
    own = yaml.safe_load((Path(__file__).resolve().parents[1] / "cledet/data/sets/voc.yaml").read_text())
    voc = root.parent / "voc.yaml"  # the shipped file, pointing here, without its archives
    voc.write_text(yaml.safe_dump({key: own[key] for key in ("train", "val", "names")} | {"path": str(root)}))
    return {"coco": squares, "shapes": squares, "voc": voc, None: root / "VOC2007"}


@pytest.mark.parametrize("name", NAMES)
def test_each_recipe_resolves_builds_and_takes_two_steps(name, slices, tmp_path):
    """The recipe's own network and settings; only length, size of images and of the batch are small."""
    full = resolve(TrainSettings, recipe=name, environ={})
    arch = architecture(full, 80, None)
    with torch.device("meta"):
        build_network(arch)
    small = {"iters": 2, "imgsz": 64, "batch": 1, "workers": 0, "warmup": 0, "device": "cpu", "amp": "off"}
    small |= {"data": str(slices[read_recipe(name).get("data")]), "val_split": "none", "backbone_weights": "none"}
    small |= {"norm": arch.norm, "multi_scale": "0,0"}
    small |= {"split": "trainval"} if read_recipe(name).get("data") is None else {}
    run = Detector().train(recipe=name, project=tmp_path, **small)
    rows = (run / "results.csv").read_text().splitlines()
    assert rows[-1].split(",")[1] == "2"
    trained = yaml.safe_load((run / "config.yaml").read_text())
    changed = {key for key in full.model_dump() if trained[key] != yaml.safe_load(full.to_yaml())[key]}
    assert changed <= {*small, "project"}


@pytest.mark.parametrize("name", OF_PAPER)
def test_the_papers_rows_have_the_papers_settings(name):
    """Section 3.1: 16 images a step, lr 0.01, weight decay 0.0001, momentum 0.9, 500 iterations of warm-up."""
    settings = resolve(TrainSettings, recipe=name, environ={})
    assert (settings.batch, settings.learning_rate, settings.weight_decay) == (16, 0.01, 1e-4)
    assert (settings.momentum, settings.warmup, settings.optimizer, settings.schedule) == (0.9, 500, "sgd", "step")
    assert (settings.alpha, settings.score_threshold) == (0.75, 0.5)
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
