"""A table of the paper, filled for real on tiny data: trained, gone on with, judged, and written beside the paper's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import yaml

from cledet.commands.fill_table import fill_table
from cledet.commands.recipes import recipes
from cledet.commands.reproduce import parse_overrides, reproduce
from cledet.config.recipe import ReproduceSettings
from cledet.errors import Interrupted, Terminated, UserError
from cledet.evaluation.report import val_folder
from cledet.training.reproduce_jobs import jobs_of

pytestmark = pytest.mark.slow

SMALL = {
    "backbone": "r18", "backbone_weights": "none", "fpn_channels": "16", "imgsz": "64", "batch": "2", "iters": "2",
    "workers": "0", "device": "cpu", "amp": "off",
}  # fmt: skip


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".pt", ".csv", ".json")}


@pytest.fixture(scope="module")
def on_coco(squares, tmp_path_factory):
    """Table 2's COCO half on the squares: its jobs, its folder and its rows."""
    jobs = jobs_of("table2", SMALL | {"data": str(squares)}, tmp_path_factory.mktemp("table2"), "coco")
    return jobs, *fill_table("table2", jobs)


def test_the_table_is_filled_from_the_runs(on_coco):
    _, folder, rows = on_coco
    assert [row.recipe for row in rows] == [f"table2-coco-{row}" for row in ("none", "iac", "iac-dc", "iac-dc-clb")]
    for row in rows:
        metrics = json.loads((folder / "val" / row.recipe / "metrics.json").read_text())
        assert row.ours == {name: [metrics[name]] for name in ("AP", "AP50", "AP75")}
    config = yaml.safe_load((folder / "train" / "table2-coco" / "iac+dc-seed0" / "config.yaml").read_text())
    assert (config["lr_steps"], config["warmup"], config["iters"]) == ([67500, 75000], 500, 2)
    assert json.loads((folder / "table2.json").read_text()) == [row.to_dict() for row in rows]
    assert (folder / "table2.md").read_text().splitlines()[2].startswith("| table2-coco-none | 35.9 |")


def test_a_second_call_goes_on_where_the_first_stopped(on_coco, tmp_path):
    jobs, folder, rows = on_coco
    before = stamps(folder / "train") | stamps(folder / "val")
    assert fill_table("table2", jobs)[1] == rows
    assert stamps(folder / "train") | stamps(folder / "val") == before  # nothing was trained or judged again
    copy = tmp_path / "reproduce" / "table2"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "train" / "table2-coco" / "iac-seed0")
    shutil.rmtree(copy / "val" / "table2-coco-iac")
    moved = jobs_of("table2", dict(jobs[0].given), tmp_path, "coco")
    assert fill_table("table2", moved)[1] == rows
    assert [path.name for path in (copy / "train").iterdir()] == ["table2-coco"]


def test_what_was_begun_with_other_settings_is_not_gone_on_with(on_coco):
    jobs, folder, _ = on_coco
    project = folder.parent.parent
    with pytest.raises(UserError, match=r"table2-coco was begun with --lr 0.01, not 0.1 \(give the same"):
        fill_table("table2", jobs_of("table2", {**jobs[0].given, "lr": "0.1"}, project, "coco"))
    assert fill_table("table2", jobs_of("table2", {**jobs[0].given, "workers": "1"}, project, "coco"))[0] == folder


def test_vocs_half_has_vocs_figure(voc_years, tmp_path):
    (job,) = jobs_of("table2", SMALL | {"data": str(voc_years)}, tmp_path, "voc")
    plain = replace(job, entries=job.entries[:1], settings=job.settings.model_copy(update={"ablation": ((),)}))
    folder, (row,) = fill_table("table2", [plain])
    metrics = json.loads((folder / "val" / "table2-voc-none" / "metrics.json").read_text())
    assert row.ours == {"VOC07": [metrics["VOC07"]]}
    assert "| table2-voc-none | 78.2 | " in (folder / "table2.md").read_text()


def test_table_3_judges_its_methods_in_one_pass(squares, tmp_path):
    jobs = jobs_of("table3", SMALL | {"data": str(squares)}, tmp_path)[:1]
    folder, rows = fill_table("table3", jobs)
    methods = json.loads((folder / "val" / "table3-r50" / "metrics.json").read_text())["methods"]
    assert [(row.paper.nms, row.ours["AP50"]) for row in rows] == [
        (name, [methods[name]["AP50"]]) for name in ("standard", "soft", "cl-balanced")
    ]


def test_a_signal_says_that_the_same_command_goes_on(squares, tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise Interrupted(2, tmp_path)

    monkeypatch.setattr("cledet.training.run.train", stopped)
    with pytest.raises(Interrupted, match=r"^stopped by SIGINT$"):
        fill_table("table3", jobs_of("table3", SMALL | {"data": str(squares)}, tmp_path))
    assert "the same command continues with table3" in capsys.readouterr().err


def test_a_signal_while_judging_leaves_no_half_of_a_validation(on_coco, monkeypatch, tmp_path, capsys):
    """The first row is judged, the second is being written; the same command then judges three."""
    jobs, folder, rows = on_coco
    shutil.copytree(folder / "train", tmp_path / "reproduce" / "table2" / "train")
    jobs = jobs_of("table2", dict(jobs[0].given), tmp_path, "coco")
    write = val_folder.write_json

    def terminated(path, document):
        if path.parent.name == "table2-coco-iac":
            raise Terminated
        write(path, document)

    monkeypatch.setattr(val_folder, "write_json", terminated)
    with pytest.raises(Interrupted, match=r"^stopped by SIGTERM$"):
        fill_table("table2", jobs)
    monkeypatch.setattr(val_folder, "write_json", write)
    assert "the same command continues with table2" in capsys.readouterr().err
    copy = tmp_path / "reproduce" / "table2"
    assert [path.name for path in (copy / "val").iterdir()] == ["table2-coco-none"]
    written = [row["ours"]["AP"]["values"] for row in json.loads((copy / "table2.json").read_text())]
    assert written == [rows[0].ours["AP"], [], [], []]
    assert fill_table("table2", jobs)[1] == rows
    assert len(list((copy / "val").iterdir())) == 4


def test_under_torchrun_it_is_refused(monkeypatch, tmp_path):
    for key, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(UserError, match="the commands of --dry-run"):
        fill_table("table3", jobs_of("table3", {}, tmp_path))


def test_settings_are_written_as_flags_or_with_underscores():
    assert parse_overrides(["--lr-steps=5,6", "fpn_channels = 16"]) == {"lr_steps": "5,6", "fpn_channels": "16"}
    with pytest.raises(UserError, match="--set batch is not KEY=VALUE"):
        parse_overrides(["batch"])


def test_the_plan_is_printed_and_nothing_is_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    reproduce(ReproduceSettings(), table="table3", data=None, given=["batch=8"], dry_run=True, json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["commands"][0].startswith("cledet train --recipe table3-r50 --batch 8 --project")
    assert document["gpu_hours"] > 0
    reproduce(ReproduceSettings(), table="table3", data=None, given=["batch=8"], dry_run=True, json=False)
    shown = capsys.readouterr().out
    assert shown.startswith(document["commands"][0] + "\n")
    assert "at 11% of 989 TFLOPS" in shown
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"there is no 'tabel2' in the paper \(did you mean table2\?\)"):
        reproduce(ReproduceSettings(), table="tabel2", data=None, given=None, dry_run=True, json=True)


def test_recipes_are_listed_with_both_figures(capsys):
    recipes(json=True)
    found = {recipe["name"]: recipe for recipe in json.loads(capsys.readouterr().out)}
    assert found["table2-coco-none"]["paper"] == [
        {"split": "COCO val2017", "AP": 0.359, "AP50": 0.561, "AP75": 0.386, "table": 2, "row": 1}
    ]
    assert found["shapes"]["measured"][0]["AP50"] > 0.8
    assert found["coco-r50-best"]["paper"] == found["coco-r50-best"]["measured"] == []
    names = list(found)
    assert names.index("table2-coco-none") < names.index("table2-coco-iac") < names.index("table2-coco-iac-dc-clb")
    recipes(json=False)
    assert "36.4 / 36.5 / 37.0" in capsys.readouterr().out
