"""Jobs of a table, their commands and cost, and the comparison with the paper."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cledet.config.loading import resolve
from cledet.config.train import GridSettings
from cledet.errors import UserError
from cledet.models.flops import costs
from cledet.models.network import Architecture
from cledet.training.reproduce_jobs import data_bytes, estimate, jobs_of, lines, side_by_side, to_document

GRID = "none;iac;iac,dc;iac,dc,clb"


@pytest.fixture(scope="module")
def table2():
    return jobs_of("table2", {}, Path("runs"))


def test_rows_that_differ_by_components_are_one_grid(table2):
    assert [job.name for job in table2] == ["table2-coco", "table2-voc"]
    coco = table2[0]
    assert [entry.recipe for entry in coco.entries] == [
        f"table2-coco-{row}" for row in ("none", "iac", "iac-dc", "iac-dc-clb")
    ]
    assert coco.trainings == 3  # the fourth takes the third's weights
    assert [job.name for job in jobs_of("table2", {}, Path("runs"), "voc")] == ["table2-voc"]
    assert [job.trainings for job in jobs_of("table2", {"seeds": "3"}, Path("runs"))] == [9, 9]
    for given in ({}, {"backbone": "r18"}):  # in the paper's order, and not made one by what they have in common
        assert [job.name for job in jobs_of("table3", given, Path("runs"))] == ["table3-r50", "table3-r101"]


def test_the_commands_reproduce_the_settings_of_the_jobs(table2):
    """A user who copies the first gets the settings that reproduce trains with."""
    given = {"batch": "4", "iou": "0.6"}
    for job in (*jobs_of("table2", given, Path("runs")), *jobs_of("table1", given, Path("runs"))):
        words = job.train_command()
        assert words[:4] == ["cledet", "train", "--recipe", job.entries[0].recipe]
        read = {key.removeprefix("--").replace("-", "_"): value for key, value in zip(words[4::2], words[5::2])}
        assert resolve(GridSettings, read, recipe=words[3], environ={}).model_dump() == job.settings.model_dump()
        assert "--iou" in job.val_commands()[0]
    commands = to_document("table2", table2, 989, 0.11)["commands"]
    assert commands[0] == (
        f"cledet train --recipe table2-coco-none --ablation {shlex.quote(GRID)} --project runs/reproduce/table2 "
        "--name table2-coco"
    )
    assert commands[3].startswith("cledet val --weights runs/reproduce/table2/train/table2-coco/iac+dc-seed0 ")
    r50 = jobs_of("table3", {"device": "cuda:1"}, Path("runs"))[0].val_commands()
    assert len(r50) == 1
    words = " ".join(r50[0])
    assert "--weights runs/reproduce/table3/train/table3-r50 --nms standard,soft,cl-balanced --device cuda:1" in words


@pytest.mark.parametrize(
    ("table", "given", "data", "sentence"),
    [
        ("table2", {"bacth": "3"}, None, r"unknown setting 'bacth' \(did you mean batch\?\)"),
        ("table2", {"ablation": "dc"}, None, "--set ablation is not for table2"),
        ("table1", {"project": "x"}, None, "--set project is not for reproduce"),
        ("table1", {}, "voc", r"table1 has no recipes of 'voc' \(.*coco.*--set data=voc\)"),
    ],
)
def test_settings_that_a_table_does_not_take_are_refused(table, given, data, sentence):
    with pytest.raises(UserError, match=sentence):
        jobs_of(table, given, Path("runs"), data)


@pytest.mark.slow
def test_hours_are_operations_over_speed(table2):
    """Three trainings of 90,000 steps of 16 photos of 800x1067, six operations a multiply-add."""
    one = costs(Architecture(backbone="r50", classes=80), (800, 1067))
    found = estimate(table2[0], 100, 0.25)
    assert found["images"] == 3 * 90_000 * 16
    assert found["gpu_hours"] == pytest.approx(found["images"] * one.multiply_adds * 6 / 25e12 / 3600)
    # best.pt, and last.pt and the one before with momentum, of three; the fourth's best.pt
    assert found["checkpoint_bytes"] == 4 * one.parameters * (3 * 5 + 1)
    gfl = jobs_of("table1", {"imgsz": "64", "multi_scale": "64,128"}, Path("runs"))[2]
    assert (
        estimate(gfl, 1, 1)["multiply_adds"]
        == costs(
            Architecture(backbone="x101-32x4d-dcn-c4c5", classes=80, head="gfl", anchor_scale=8), (98, 130)
        ).multiply_adds
    )  # (64² + 64 x 128 + 128²) / 3 is 97.8²


@pytest.mark.slow
def test_checkpoints_are_as_large_as_estimated(tiny, tiny_run):
    """The checkpoints of a run with momentum against the estimate; two classes instead of 80."""
    given = {key: str(tiny[key]) for key in ("backbone", "fpn_channels", "imgsz", "backbone_weights")}
    job = jobs_of("table3", given | {"norm": "batch"}, Path("runs"))[0]
    there = sum(path.stat().st_size for path in (tiny_run / "weights").iterdir())
    assert estimate(job, 1, 1)["checkpoint_bytes"] == pytest.approx(there, rel=0.15)


def test_a_document_adds_up(table2):
    document = to_document("table2", table2, 989, 0.11)
    assert document["gpu_hours"] == pytest.approx(sum(job["gpu_hours"] for job in document["jobs"]))
    assert document["data_bytes"] == {"coco": 20405354669, "voc": 2910691840}
    assert data_bytes(jobs_of("table2", {"data": "elsewhere.yaml"}, Path("runs"))) == {}


def test_the_table_has_the_papers_metrics_and_the_measured_ones():
    """Two seeds of one row, 36 and 38: mean 37, deviation sqrt(2)."""
    jobs = jobs_of("table2", {"seeds": "2", "seed": "5"}, Path("runs"))
    nothing = dict.fromkeys(("AP50", "AP75"))
    measured = {
        "table2-coco-iac": {"": [{"AP": 0.36, **nothing}, {"AP": 0.38, **nothing}]},
        "table2-voc-none": {"": [{"AP": 0.5, "VOC07": 0.8}, {"AP": 0.5, "VOC07": 0.8}]},
    }
    found = lines(jobs, measured)
    columns, rows = side_by_side(found)
    assert columns[:3] == ["recipe", "AP paper", "ours"]
    assert columns[-4:-2] == ["VOC07 paper", "ours"]
    assert rows[0][:3] == ["table2-coco-none", "35.9", "-"]
    assert rows[1][:5] == ["table2-coco-iac", "36.4", "37.0 ± 1.4", "56.5", "-"]
    assert rows[4][-4:] == ["78.2", "80.0 ± 0.0", "VOC2007 test", "voc"]
    assert [row[:2] for row in rows][4] == ["table2-voc-none", "-"]
    assert found[1].to_dict()["ours"]["AP"]["values"] == [0.36, 0.38]


def test_table_3_has_one_row_per_nms_method():
    jobs = jobs_of("table3", {}, Path("runs"))
    figures = {name: [{"AP": ap, "AP50": 0.5, "AP75": 0.4}] for name, ap in (("standard", 0.3), ("cl-balanced", 0.4))}
    rows = side_by_side(lines(jobs, {"table3-r50": figures}))[1]
    assert [row[:4] for row in rows[:3]] == [
        ["table3-r50", "standard", "36.4", "30.0"],
        ["table3-r50", "soft", "36.5", "-"],
        ["table3-r50", "cl-balanced", "37.0", "40.0"],
    ]
    assert len(rows) == 6
