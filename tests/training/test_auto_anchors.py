"""`--anchor-scale auto` and `--anchor-ratios auto`: chosen for the training split and recorded as numbers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cledet import Detector
from cledet.config.loading import reopen, resolve
from cledet.config.train import GridSettings, TrainSettings
from cledet.data.open import open_source
from cledet.data_check.anchor_coverage import covered_share
from cledet.data_check.statistics import objects_of
from cledet.errors import UserError
from cledet.models.checkpoint import Checkpoint, load_checkpoint
from cledet.models.network import Architecture, build_network
from cledet.training.auto_anchors import training_objects, with_anchors
from cledet.training.init_model import build_architecture

SMALL = [[(0, x, y, 18, 18) for x in range(10, 700, 70)] for y in range(10, 700, 70)]
"""Ten images of 10 objects of 18 px: default anchors, from 32 px up, cover none."""
LONG = [[(0, x, y, 160, 26) for x in range(10, 600, 200)] for y in range(10, 700, 70)]
"""Objects of a ratio of 1:6.2."""
BIG = [(800, 800)] * 10
SHORT = {"iters": 1, "val_split": "none"}


def settings(environ=None, **flags):
    return resolve(GridSettings, flags, environ=environ or {})


def test_the_scale_is_recorded_as_a_number_of_the_data(make_index, capsys):
    index = make_index(*SMALL, sizes=BIG)
    asked = settings(anchor_scale="auto", ablation="none;dc", seeds=2)
    found = with_anchors(asked, index, pretrained=False)
    share = covered_share(objects_of(index, index.sizes), 800, found.anchor_scale)
    assert share > 0.95
    assert found.anchor_ratios is None
    assert capsys.readouterr().err == (
        f"auto anchors: --anchor-scale {found.anchor_scale:g} covers {100 * share:.1f} % of 100 objects "
        "instead of 0.0 %\n"
    )
    assert f"anchor_scale: {found.anchor_scale}  # data\n" in found.to_yaml()
    assert "seeds: 2  # flag\n" in found.to_yaml()
    assert asked.origins["anchor_scale"] == "flag"  # the settings asked for are not changed
    runs = found.runs()
    assert {(run.anchor_scale, run.origins["anchor_scale"]) for run in runs} == {(found.anchor_scale, "data")}
    assert len(runs) == 4


def test_ratios_alone_and_both_together(make_index, tmp_path):
    index = make_index(*LONG, sizes=BIG)
    shapes = with_anchors(settings(anchor_ratios="auto"), index, pretrained=False)
    assert (shapes.anchor_scale, shapes.anchor_ratios) == (None, (0.33, 1.0, 3.0))
    small = make_index(*[[(0, *(np.array(row[1:]) / 4)) for row in rows] for rows in LONG], sizes=BIG)
    both = with_anchors(settings(anchor_scale="auto", anchor_ratios="auto"), small, pretrained=False)
    assert both.anchor_scale < 4
    assert both.anchor_ratios == (0.33, 1.0, 3.0)
    (tmp_path / "config.yaml").write_text(both.to_yaml())
    again = reopen(tmp_path / "config.yaml", GridSettings, {})
    assert again == both
    assert (again.origins["anchor_scale"], again.origins["anchor_ratios"]) == ("data", "data")
    arch = build_architecture(again.runs()[0].model_copy(update={"backbone_weights": "none"}), 2, None)
    assert (arch.anchor_scale, arch.ratios) == (both.anchor_scale, both.anchor_ratios)


def test_the_default_stays_where_nothing_covers_more(make_index, capsys):
    index = make_index(*[[(0, 8, 8, 64, 64)]] * 10, sizes=BIG)
    found = with_anchors(settings(anchor_scale="auto", anchor_ratios="auto"), index, pretrained=False)
    assert (found.anchor_scale, found.anchor_ratios) == (4.0, (0.5, 1.0, 2.0))
    assert "--anchor-scale 4, which covers 100.0 % of 10 objects; no other covers half" in capsys.readouterr().err
    nothing = with_anchors(settings(anchor_scale="auto"), make_index([], []), pretrained=False)
    assert nothing.anchor_scale == 4
    assert "there are no objects" in capsys.readouterr().err


def test_a_larger_image_size_is_mentioned_and_not_taken(make_index, capsys):
    index = make_index(*[[(0, x, y, 5, 5) for x in range(8, 90, 9)] for y in range(8, 70, 7)], sizes=[(100, 80)] * 9)
    found = with_anchors(settings(anchor_scale="auto", imgsz=64), index, pretrained=False)
    assert found.imgsz == 64
    assert "; --imgsz 128 would cover " in capsys.readouterr().err


def test_without_auto_nothing_is_done(make_index):
    given = settings(anchor_scale=3, anchor_ratios="1,0.4")
    assert given.anchor_ratios == (0.4, 1.0)
    assert with_anchors(given, make_index([]), pretrained=False) is given


def test_sizes_that_the_annotations_lack_are_read_from_the_images(make_index, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    for path in paths:
        cv2.imwrite(str(path), np.zeros((800, 800), dtype=np.uint8))
    known, unknown = make_index(*SMALL, sizes=BIG), make_index(*SMALL, sizes=[(0, 0), *BIG[1:]], paths=paths)
    for one, other in zip(training_objects(known), training_objects(unknown), strict=True):
        assert np.array_equal(one, other)
    paths[0].unlink()
    with pytest.raises(UserError, match=r"0\.png"):
        training_objects(unknown)


def test_of_many_images_of_unknown_size_a_sample_is_read(make_index, tmp_path, monkeypatch):
    monkeypatch.setattr("cledet.training.auto_anchors.SAMPLES", 20)
    paths = [tmp_path / f"{i}.png" for i in range(0, 10)]
    for path in paths[::5]:  # the others do not exist
        cv2.imwrite(str(path), np.zeros((800, 800), dtype=np.uint8))
    assert len(training_objects(make_index(*SMALL, sizes=[(0, 0)] * 10, paths=paths)).rows) == 20


def test_given_weights_keep_their_anchors(make_index):
    """A flag is refused like any other that contradicts the weights; auto in a recipe or the environment gives way."""
    arch = Architecture(backbone="r18", classes=2, fpn_channels=16, anchor_ratios=(1.0, 3.0))
    start = Checkpoint(
        architecture=arch, model=build_network(arch).state_dict(), classes=("a", "b"), category_ids=(1, 2)
    )
    index = make_index(*SMALL, sizes=BIG)
    soft = with_anchors(settings({"CLEDET_ANCHOR_RATIOS": "auto"}), index, pretrained=True)
    assert soft.anchor_ratios is None
    assert build_architecture(soft.runs()[0], 2, start).anchor_ratios == (1.0, 3.0)
    for flag, value, message in (
        ("anchor_scale", "auto", "--anchor-scale auto does not fit the given weights, which have 4.0"),
        ("anchor_ratios", "auto", "--anchor-ratios auto does not fit the given weights, which have 1,3"),
        ("anchor_ratios", "0.5,1,2", "--anchor-ratios 0.5,1,2 does not fit the given weights, which have 1,3"),
    ):
        hard = with_anchors(settings(**{flag: value}), index, pretrained=True)
        with pytest.raises(UserError, match=message):
            build_architecture(hard.runs()[0], 2, start)
    same = settings(anchor_ratios="3,1").runs()[0]
    assert build_architecture(same, 2, start).anchor_ratios == (1.0, 3.0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"head": "gfl", "anchor_ratios": "auto"},
            "--anchor-ratios is for --head retinanet: --head gfl has one square",
        ),
        ({"head": "fcos", "anchor_ratios": "1"}, "--anchor-ratios is for --head retinanet: --head fcos has one square"),
        ({"head": "gfl", "anchor_scale": "auto"}, "--anchor-scale auto is for --head retinanet"),
        ({"anchor_scale": "aut"}, "--anchor-scale aut .from the flag.: give a number from 0.01 to 1000, or auto"),
        ({"anchor_scale": 0}, "--anchor-scale 0 .from the flag.: give a number"),
        ({"anchor_ratios": "1,1"}, "--anchor-ratios 1,1 .from the flag.: give up to 16 different numbers"),
        ({"anchor_ratios": "0.5,x"}, "--anchor-ratios 0.5,x .from the flag.: give up to 16 different numbers"),
        ({"anchor_ratios": ""}, "--anchor-ratios  .from the flag.: give up to 16 different numbers"),
        ({"anchor_ratios": "0,1"}, "from 0.01 to 100, as 0.5,1,2"),
        ({"anchor_ratios": "inf"}, "from 0.01 to 100, as 0.5,1,2"),
        ({"anchor_ratios": ",".join(map(str, range(1, 18)))}, "give up to 16 different numbers"),
    ],
)
def test_invalid_values_are_one_sentence(flags, message):
    with pytest.raises(UserError, match=message):
        settings(**flags)


@pytest.mark.slow
def test_a_run_with_auto_needs_no_data_afterwards(tiny, squares, tmp_path, capsys):
    """Trained as a grid: one choice for all runs, in every config.yaml and checkpoint; exported and explained."""
    chosen = {"anchor_scale": "auto", "anchor_ratios": "auto", "ablation": "none;iac,dc"}
    grid = Detector().train(**tiny | SHORT, **chosen, project=tmp_path)
    assert capsys.readouterr().err.count("auto anchors: ") == 1
    runs = sorted(path.parent for path in grid.glob("*/config.yaml"))
    assert len(runs) == 2
    index = open_source(squares).index("train")
    wanted = with_anchors(settings(**tiny | SHORT, **chosen), index, pretrained=False)
    for run in runs:
        recorded = reopen(run / "config.yaml", TrainSettings, {})
        assert (recorded.anchor_scale, recorded.anchor_ratios) == (wanted.anchor_scale, wanted.anchor_ratios)
        model = load_checkpoint(run)
        assert (model.architecture.anchor_scale, model.architecture.ratios) == (
            wanted.anchor_scale,
            wanted.anchor_ratios,
        )
        assert model.settings["anchor_scale"] == wanted.anchor_scale
    assert Detector().train(resume=grid) == grid


@pytest.mark.slow
@pytest.mark.parametrize("assign", ["iou", "atss", "paa"])
def test_other_ratios_are_trained_exported_and_explained(tiny, squares, tmp_path, assign):
    ratios = "0.25,0.5,1,2,4"
    components = "iac,dc,clb" if assign == "iou" else "dc,clb"
    own = {"anchor_ratios": ratios, "assign": assign, "ablation": components}
    run = Detector().train(**tiny | SHORT, **own, project=tmp_path)
    detector = Detector(run)
    assert detector.model.architecture.anchor_ratios == (0.25, 0.5, 1.0, 2.0, 4.0)
    assert len(detector.model.model["head.regression.predict.bias"]) == 15 * 4
    image = str(squares / "val" / "1.png")
    found = detector.explain(image, device="cpu").to_dict()
    assert len(found["positives"]["anchors"]) > 0
    weights = detector.export("safetensors", project=tmp_path)
    results = [next(Detector(path).predict(image, conf=0.01, device="cpu")) for path in (run, weights.path)]
    assert np.array_equal(results[0].boxes, results[1].boxes)
    pytest.importorskip("onnxruntime")
    if assign == "iou":
        exported = detector.export(project=tmp_path)
        assert exported.max_score_error < 1e-4
