"""Ablation grids: training, interruption, resuming, lookup by components, and their table."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from cledet import Detector
from cledet.commands.val import grid_to_folder
from cledet.config.evaluate import ValSettings
from cledet.config.loading import resolve
from cledet.errors import Interrupted, UserError
from cledet.models.checkpoint import load_checkpoint
from cledet.training.ablation import find_grid, members, names_grid, rows_of, spread_of, summary

pytestmark = pytest.mark.slow

ROWS = "none;dc;dc,clb"


def figures(ap, **others):
    return dict.fromkeys(("AP50", "AP75", "APs", "APm", "APl")) | {"AP": ap} | others


def val_settings(**given):
    return resolve(ValSettings, {"device": "cpu", "workers": 0, **given}, environ={})


@pytest.fixture(scope="module")
def grid(tiny, tmp_path_factory):
    """A grid of three rows and two seeds, to be read only."""
    project = tmp_path_factory.mktemp("grid")
    return Detector().train(**{**tiny, "iters": 2}, project=project, name="g", ablation=ROWS, seeds=2)


def test_a_grid_has_one_run_per_row_and_seed_in_one_folder(grid):
    assert sorted(path.parent.name for path in grid.glob("*/weights")) == [
        "dc+clb-seed0", "dc+clb-seed1", "dc-seed0", "dc-seed1", "none-seed0", "none-seed1",
    ]  # fmt: skip
    for name, components, seed in (("none-seed1", (), 1), ("dc+clb-seed0", ("dc", "clb"), 0)):
        model = load_checkpoint(grid / name)
        assert model.components == components
        assert model.settings["seed"] == seed
        assert model.settings["ablation"] == list(components)


def test_a_row_that_differs_by_clb_only_has_the_same_weights(grid):
    twin, other = load_checkpoint(grid / "dc-seed1").model, load_checkpoint(grid / "dc+clb-seed1").model
    assert all(torch.equal(other[key], twin[key]) for key in twin)
    plain = load_checkpoint(grid / "none-seed1").model
    assert not all(torch.equal(plain[key], twin[key]) for key in twin)


def test_a_run_of_the_grid_equals_the_same_run_alone(grid, tiny, tmp_path):
    alone = Detector().train(**{**tiny, "iters": 2}, project=tmp_path, ablation="dc", seed=1)
    one, two = load_checkpoint(alone).model, load_checkpoint(grid / "dc-seed1").model
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_an_interrupted_grid_is_resumed(grid, tmp_path):
    place = tmp_path / "train" / "g"
    shutil.copytree(grid, place)
    shutil.rmtree(place / "none-seed1")
    shutil.rmtree(place / "dc+clb-seed0")
    before = {path: path.stat().st_mtime_ns for path in place.glob("*/weights/last.pt")}
    assert Detector().train(resume=place) == place
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what was finished stayed as it was
    for name in ("none-seed1", "dc+clb-seed0"):
        one, two = load_checkpoint(place / name), load_checkpoint(grid / name)
        assert one.components == two.components
        assert all(torch.equal(one.model[key], two.model[key]) for key in two.model)


def test_a_resumed_grid_keeps_the_origins_of_its_settings(tiny, tiny_run, tmp_path):
    settings = {key: value for key, value in tiny.items() if key not in ("backbone", "fpn_channels")}
    weights = {"weights": str(tiny_run), "iters": 1, "ablation": "none;clb;dc", "project": tmp_path, "name": "g"}
    place = Detector().train(**settings | weights)
    before = (place / "grid.yaml").read_text()
    shutil.rmtree(place / "dc-seed0")
    stamp = (place / "clb-seed0" / "weights" / "best.pt").stat().st_mtime_ns
    Detector().train(resume=place)  # the backbone was not given: the weights decide, as at first
    assert (place / "grid.yaml").read_text() == before
    assert 'backbone: "r50"  # default' in (place / "dc-seed0" / "config.yaml").read_text()
    assert (place / "clb-seed0" / "weights" / "best.pt").stat().st_mtime_ns == stamp


def test_a_grid_from_weights_in_memory_is_resumed_from_them_wherever_it_is(tiny, tiny_run, tmp_path):
    settings = {key: value for key, value in tiny.items() if key not in ("backbone", "fpn_channels")}
    given = {"iters": 1, "val_split": "none", "ablation": "none;dc", "project": tmp_path, "name": "g"}
    place = Detector(tiny_run).train(**settings | given)
    own, start = load_checkpoint(place / "initial.pt"), load_checkpoint(tiny_run)
    assert own.architecture == start.architecture
    assert all(torch.equal(own.model[key], start.model[key]) for key in start.model)
    assert f'weights: "{place}/initial.pt"  # flag' in (place / "grid.yaml").read_text()
    whole = load_checkpoint(place / "dc-seed0")
    moved = shutil.move(place, tmp_path / "moved")
    shutil.rmtree(moved / "dc-seed0")
    Detector().train(resume=moved)
    again = load_checkpoint(moved / "dc-seed0")
    assert again.architecture == whole.architecture == start.architecture
    assert all(torch.equal(again.model[key], whole.model[key]) for key in whole.model)
    by_path = Detector().train(**settings | given, weights=str(tiny_run))
    assert not (by_path / "initial.pt").exists()
    same = load_checkpoint(by_path / "dc-seed0")
    assert all(torch.equal(same.model[key], whole.model[key]) for key in whole.model)


def test_a_signal_names_the_grids_folder(tiny, tmp_path, monkeypatch):
    import cledet.training.trainer as trainer

    def stopped(self):
        raise Interrupted(2, self.run)

    monkeypatch.setattr(trainer.Trainer, "fit", stopped)
    with pytest.raises(Interrupted, match=r"--resume .*train/g$"):
        Detector().train(**tiny, project=tmp_path, name="g", ablation="all")


def test_another_machine_launches_once_per_run_that_is_trained(tmp_path, monkeypatch):
    """The four rows of Table 2 are three trainings, as the last has the weights of the third."""
    launched = []
    monkeypatch.setattr("cledet.training.run._launch", lambda settings, folder: launched.append(folder))
    machines = {"nnodes": 2, "node_rank": 1, "rdzv_endpoint": "127.0.0.1:1", "device": "cpu"}
    folder = Detector().train(data="squares", ablation="all", seeds=2, name="grid", project=tmp_path, **machines)
    assert launched == [folder] * 6


def test_the_table_has_one_row_per_ablation_in_the_requested_order(grid, tmp_path):
    settings = val_settings(weights=str(grid), ablation="dc,clb;none", project=tmp_path)
    assert names_grid(settings)
    folder, rows = grid_to_folder(settings)
    assert [row.components for row in rows] == [("dc", "clb"), ()]
    expected = Detector(grid / "none-seed1").val(workers=0, device="cpu").metrics
    assert rows[1].metrics["AP"][1] == expected["AP"]
    document = json.loads((folder / "grid.json").read_text())
    assert document[1]["AP"]["values"] == rows[1].metrics["AP"]
    assert (folder / "grid.md").read_text().startswith("| components | seeds | AP |")


def test_without_ablation_a_grid_folder_stands_for_all_its_rows(grid):
    assert names_grid(val_settings(weights=str(grid)))
    assert not names_grid(val_settings(weights=str(grid / "dc-seed0")))
    assert not names_grid(val_settings(ablation="dc"))
    assert list(find_grid(grid, str(grid), None)) == [(), ("dc",), ("dc", "clb")]


def test_the_newest_grid_with_the_rows_is_found(grid):
    project = grid.parent.parent
    assert find_grid(project, None, ((), ("dc",)))[("dc",)] == {0: grid / "dc-seed0", 1: grid / "dc-seed1"}
    with pytest.raises(UserError, match=r"exactly `iac` \(.*g has `none`, `dc`, `dc,clb`\)"):
        find_grid(project, None, ((), ("iac",)))
    with pytest.raises(UserError, match="there is no grid in"):
        find_grid(project / "nowhere", None, ((), ("iac",)))


def test_an_unfinished_run_is_skipped_with_a_warning(grid, tmp_path, capsys):
    place = tmp_path / "g"
    shutil.copytree(grid, place)
    results = (place / "dc-seed1" / "results.csv").read_text().splitlines()
    (place / "dc-seed1" / "results.csv").write_text(results[0] + "\n" + results[1].replace(",2,", ",1,", 1) + "\n")
    assert list(members(place)[("dc",)]) == [0, 1]  # ended early by --patience
    for status in (None, "unfinished\n", "failed\n"):  # none: of cledet 0.1, whose runs have their epochs only
        if status is None:
            (place / "dc-seed1" / "status").unlink()
        else:
            (place / "dc-seed1" / "status").write_text(status)
        assert list(members(place)[("dc",)]) == [0]
        assert "dc-seed1 is not finished and is left out" in capsys.readouterr().err


def test_several_methods_or_predictions_make_no_grid(grid, tmp_path):
    with pytest.raises(UserError, match="takes no --predictions and one --nms"):
        grid_to_folder(val_settings(weights=str(grid), nms="all", project=tmp_path))


def test_differences_are_between_runs_of_the_same_seed():
    rows = rows_of({
        (): {0: figures(0.40), 1: figures(0.50)},
        ("dc",): {1: figures(0.53), 2: figures(0.60)},
    })  # fmt: skip
    assert rows[1].difference == [pytest.approx(0.03), None]
    assert rows[0].difference == [0, 0]


def test_mean_and_deviation_by_hand():
    for values, mean, std in (([0.1, 0.2, 0.3], 0.2, 0.1), ([0.4, None], 0.4, None), ([None], None, None)):
        assert spread_of(values) == {"mean": pytest.approx(mean), "std": pytest.approx(std), "values": values}


def test_the_table_is_in_points():
    rows = rows_of({(): {0: figures(0.40), 1: figures(0.50)}, ("dc",): {0: figures(0.46), 1: figures(0.52)}})
    columns, body = summary(rows)
    assert columns == ["components", "seeds", "AP", "AP50", "AP75", "APs", "APm", "APl", "AP to first row"]
    assert body[0] == ["none", 2, "45.0 ± 7.1", "-", "-", "-", "-", "-", ""]
    assert body[1] == ["dc", 2, "49.0 ± 4.2", "-", "-", "-", "-", "-", "+4.0 ± 2.8"]
