"""Settings: layers, origins, and a sentence for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cledet.config.base import PredictSettings, long_side
from cledet.config.evaluate import ValSettings
from cledet.config.loading import read_recipe, recipes, reopen, resolve
from cledet.config.train import GridSettings, TrainSettings
from cledet.config.types import COMPONENTS, NMS_METHODS, ablation_name, parse_ablation, parse_subsets
from cledet.errors import UserError


def test_the_later_layer_wins_and_is_named(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("lr: 0.1\nbatch: 4\nfpn-channels: 64\nabout: any text\n")
    environ = {"CLEDET_BATCH": "6", "CLEDET_EPOCHS": "3", "CLEDET_CACHE": "elsewhere"}
    settings = resolve(TrainSettings, {"epochs": "5", "seed": None}, recipe=recipe, environ=environ)
    assert (settings.lr, settings.batch, settings.epochs, settings.fpn_channels) == (0.1, 6, 5, 64)
    origins = settings.origins
    assert [origins[k] for k in ("lr", "batch", "epochs", "seed")] == ["recipe", "environment", "flag", "default"]


def test_epochs_replace_the_iters_of_a_weaker_layer(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("iters: 90000\nepochs: 7\n")
    for flags, environ, length, origins in (
        ({}, {}, (7, 90000), ["recipe", "recipe"]),
        ({"epochs": 3}, {}, (3, None), ["flag", "default"]),
        ({}, {"CLEDET_EPOCHS": "3"}, (3, None), ["environment", "default"]),
        ({"epochs": 3}, {"CLEDET_ITERS": "5"}, (3, None), ["flag", "default"]),
        ({"epochs": 3, "iters": 5}, {}, (3, 5), ["flag", "flag"]),
        ({"iters": 5}, {"CLEDET_EPOCHS": "3"}, (3, 5), ["environment", "flag"]),
    ):
        settings = resolve(TrainSettings, flags, recipe=recipe, environ=environ)
        assert (settings.epochs, settings.iters) == length
        assert [settings.origins[name] for name in ("epochs", "iters")] == origins
    assert resolve(TrainSettings, {"epochs": 3, "batch": 4}, recipe=recipe, environ={}).steps(10) == 8
    budget = tmp_path / "hours.yaml"
    budget.write_text("hours: 2\n")
    assert resolve(TrainSettings, {"epochs": 3}, recipe=budget, environ={}).hours == 2  # the earlier end counts


def test_config_yaml_reads_back_the_same(tmp_path):
    settings = resolve(TrainSettings, {"ablation": "dc", "scale_jitter": "0.5,2", "lr": 0.003}, environ={})
    path = tmp_path / "config.yaml"
    path.write_text(settings.to_yaml())
    assert "lr: 0.003  # flag" in path.read_text()
    assert "batch: 8  # default" in path.read_text()
    again = resolve(TrainSettings, recipe=path, environ={})
    assert again.model_dump() == settings.model_dump()


BAD_NAMES = ["../../x", "a/b", "/x", "a\\b", ".", "..", "a\0b", "a\nb", "a\x7f", "\ud800", "x" * 256, "é" * 128]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_runs_name_is_one_folders_wherever_it_comes_from(name, tmp_path):
    sentence = r"--name .*\(from the flag\): (a name (is one folder's|has at most 255)|it holds a character)"
    with pytest.raises(UserError, match=f"(?s){sentence}"):
        resolve(TrainSettings, {"name": name}, environ={})
    with pytest.raises(UserError, match=r"from the environment"):
        resolve(ValSettings, environ={"CLEDET_NAME": name})
    with pytest.raises(ValueError, match="name"):
        PredictSettings(name=name)


def test_names_that_folders_can_have_are_taken(tmp_path):
    for name in ("x" * 255, "é" * 127, "a b", ".a", "...", "-1"):
        assert resolve(TrainSettings, {"name": name}, environ={}).name == name
    with pytest.raises(UserError, match=r"--project a\0b \(from the flag\): a folder's path holds no NUL"):
        resolve(TrainSettings, {"project": "a\0b"}, environ={})


def test_a_recipe_cannot_run_code(tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text("callback: mine:hear\nlr: 0.1\n")
    sentence = r"r\.yaml names a callback, and a recipe cannot run code \(if you trust it, pass --callback mine:hear\)"
    for kind in (TrainSettings, GridSettings):
        with pytest.raises(UserError, match=sentence):
            resolve(kind, recipe=recipe, environ={})
    assert resolve(GridSettings, {"callback": "own:f"}, recipe=recipe, environ={}).callback == "own:f"
    assert resolve(GridSettings, recipe=recipe, environ={"CLEDET_CALLBACK": "own:f"}).callback == "own:f"
    recipe.write_text("callback: null\n")
    assert resolve(GridSettings, recipe=recipe, environ={}).callback is None


@pytest.mark.parametrize("project", ["/tmp/x", "..", "../x", "a/../../x", "./../x"])
def test_a_recipe_cannot_write_outside_of_the_current_folder(project, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"project: {project}\nname: ../../x\n")
    with pytest.raises(UserError, match=r"--name \.\./\.\./x \(from the recipe\): a name is one folder's"):
        resolve(ValSettings, recipe=recipe, environ={})
    recipe.write_text(f"project: {project}\n")
    with pytest.raises(UserError, match=r"r\.yaml has project .*, and a recipe cannot write outside .*pass --project"):
        resolve(ValSettings, recipe=recipe, environ={})
    assert str(resolve(ValSettings, {"project": project}, recipe=recipe, environ={}).project) == str(Path(project))


@pytest.mark.parametrize("project", ["runs", ".", "a/b", "./a/../b", "..a"])
def test_a_recipe_may_name_a_folder_in_the_current_one(project, tmp_path):
    (tmp_path / "r.yaml").write_text(f"project: {project}\n")
    assert resolve(ValSettings, recipe=tmp_path / "r.yaml", environ={}).project == Path(project)


def test_a_run_keeps_its_callback_for_the_user_who_made_it(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text(resolve(GridSettings, {"callback": "mine:hear"}, environ={}).to_yaml())
    assert reopen(path, GridSettings, {}).callback == "mine:hear"
    monkeypatch.setattr("os.geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(UserError, match=r"config\.yaml names a callback, and the file is another user's"):
        reopen(path, GridSettings, {})
    assert reopen(path, GridSettings, {"callback": "mine:hear"}).callback == "mine:hear"
    path.write_text(resolve(GridSettings, {}, environ={}).to_yaml())
    assert reopen(path, GridSettings, {}).callback is None


@pytest.mark.parametrize(
    ("text", "components"),
    [
        ("none", ()),
        ("", ()),
        ("clb,iac", ("iac", "clb")),
        (" DC ", ("dc",)),
        (["clb", "dc", "dc"], ("dc", "clb")),
        ("iac,dc,clb", COMPONENTS),
    ],
)
def test_ablation_in_any_order_and_case(text, components):
    assert parse_ablation(text) == components
    assert parse_ablation(ablation_name(components)) == components


def test_settings_of_a_run_come_back_with_their_origins(tmp_path):
    path = tmp_path / "config.yaml"
    settings = resolve(TrainSettings, {"lr": 0.003}, environ={"CLEDET_BATCH": "4"})
    path.write_text(settings.to_yaml())
    again = reopen(path, TrainSettings, {"workers": 0})
    assert again.model_dump() == settings.model_dump() | {"workers": 0}
    assert again.origins == settings.origins | {"workers": "flag"}
    assert (again.origins["lr"], again.origins["batch"], again.origins["seed"]) == ("flag", "environment", "default")


@pytest.mark.parametrize(
    ("text", "subsets"),
    [
        ("all", ((), ("iac",), ("iac", "dc"), COMPONENTS)),
        ("none", ((),)),
        ("clb,iac", (("iac", "clb"),)),
        ("none; dc ;clb,dc; dc", ((), ("dc",), ("dc", "clb"))),
        (["dc", "iac"], (("iac", "dc"),)),
        ([], ((),)),
        ([[], ["dc"]], ((), ("dc",))),
        (["none", "iac,dc"], ((), ("iac", "dc"))),
        (((), ("dc",)), ((), ("dc",))),
    ],
)
def test_several_ablations_are_a_grid(text, subsets):
    assert parse_subsets(text) == subsets


def test_every_is_all_eight():
    assert len(set(parse_subsets("every"))) == 8
    assert all(components == parse_ablation(ablation_name(components)) for components in parse_subsets("every"))


def test_a_grid_is_runs_that_differ_by_components_and_seed(tmp_path):
    grid = resolve(GridSettings, {"ablation": "none;dc", "seeds": 2, "seed": 5, "lr": 0.1}, environ={})
    runs = grid.runs()
    assert [(run.seed, run.ablation) for run in runs] == [(5, ()), (5, ("dc",)), (6, ()), (6, ("dc",))]
    assert {run.lr for run in runs} == {0.1}
    assert runs[0].origins["lr"] == "flag"
    assert runs[0].origins["epochs"] == "default"
    (tmp_path / "grid.yaml").write_text(grid.to_yaml())
    assert resolve(GridSettings, recipe=tmp_path / "grid.yaml", environ={}).model_dump() == grid.model_dump()
    (tmp_path / "config.yaml").write_text(runs[2].to_yaml())
    (again,) = resolve(GridSettings, recipe=tmp_path / "config.yaml", environ={}).runs()
    assert again.model_dump() == runs[2].model_dump()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"batch": "abc"}, r"--batch abc \(from the flag\): give a number from 1 to 65536, or auto"),
        ({"batch": 0}, r"--batch 0 \(from the flag\): give a number from 1 to 65536, or auto"),
        ({"reg_loss": "gou"}, r"--reg-loss gou .* is not a choice \(did you mean giou\?\)"),
        ({"nms": "clbalanced"}, "did you mean cl-balanced"),
        ({"ablation": "iac,dcl"}, "unknown component 'dcl'"),
        ({"bacth": 3}, r"unknown setting 'bacth' \(did you mean batch\?\)"),
        ({"scale_jitter": "2,1"}, "LOW <= HIGH"),
        (
            {"scale_jitter": "2"},
            r"--scale-jitter 2 \(from the flag\): expected LOW,HIGH .* <= 4, not 2",
        ),
        ({"multi_scale": "800,480"}, r"--multi-scale 800,480 \(from the flag\): expected LOW,HIGH with 32 <= LOW"),
        ({"multi_scale": "0,480"}, "--multi-scale 0,480 .*or 0,0 for none"),
        ({"multi_scale": "480"}, "expected LOW,HIGH with .*, or 0,0 for none, not 480"),
        ({"multi_scale": "480,x"}, "valid integer"),
        ({"mosaic": "1.5"}, "--mosaic 1.5"),
        ({"crop": "-1"}, "--crop -1"),
        ({"copy_paste": "-1"}, "--copy-paste -1"),
        ({"conf": 1.5}, "less than or equal to 1"),
        ({"nnodes": 2}, "--nnodes 2 needs --rdzv-endpoint"),
        ({"nnodes": 2, "rdzv_endpoint": "a", "node_rank": 2}, "--node-rank 2 is not under --nnodes 2"),
    ],
)
def test_a_wrong_flag_is_one_sentence(flags, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(TrainSettings, flags, environ={})


def test_a_wrong_key_in_a_recipe_names_the_file_and_the_nearest(tmp_path):
    (tmp_path / "r.yaml").write_text("bakcbone: r18\n")
    with pytest.raises(UserError, match=r"'bakcbone' in .*r.yaml \(did you mean backbone\?\)"):
        read_recipe(tmp_path / "r.yaml")


@pytest.mark.parametrize("content", ["- a\n- b\n", "just text", "a: [unclosed"])
def test_what_is_no_recipe_is_refused(tmp_path, content):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(UserError, match=r"r\.yaml (is not valid YAML|holds no settings)"):
        read_recipe(tmp_path / "r.yaml")


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(UserError, match="did you mean shapes"):
        resolve(TrainSettings, recipe="shape", environ={})


@pytest.mark.parametrize("name", sorted(recipes()))
def test_every_shipped_recipe_resolves(name):
    settings = resolve(TrainSettings, recipe=name, environ={})
    assert settings.origins["backbone"] == "recipe"
    assert "about" in yaml.safe_load(recipes()[name].read_text())


def test_the_learning_rate_scales_with_the_batch_unless_given():
    assert resolve(TrainSettings, {"batch": 16}, environ={}).learning_rate == pytest.approx(0.01)
    assert resolve(TrainSettings, {"batch": 4}, environ={}).learning_rate == pytest.approx(0.0025)
    assert resolve(TrainSettings, {"batch": 4, "lr": 0.01}, environ={}).learning_rate == 0.01
    adamw = resolve(TrainSettings, {"batch": 8, "optimizer": "adamw"}, environ={})
    assert adamw.learning_rate == pytest.approx(1e-4)


def test_steps_cover_every_epoch_whole():
    assert resolve(TrainSettings, {"epochs": 3, "batch": 4}, environ={}).steps(10) == 8  # 30 samples in fours
    assert resolve(TrainSettings, {"iters": 5}, environ={}).steps(10) == 5
    assert resolve(TrainSettings, {"epochs": 1, "batch": 8}, environ={}).steps(1) == 1


def test_commands_differ_where_users_expect_it():
    assert PredictSettings().conf == "auto"
    assert TrainSettings().conf == 0.05
    assert long_side(800) == 1333


@pytest.mark.parametrize(
    ("text", "components", "methods"),
    [
        ("auto", (), ("standard",)),
        ("auto", ("clb",), ("cl-balanced",)),
        ("soft", ("clb",), ("soft",)),
        (" soft , diou,soft", (), ("soft", "diou")),
        (["diou", "standard"], (), ("diou", "standard")),
        ("all", (), NMS_METHODS),
    ],
)
def test_val_takes_several_nms_methods(text, components, methods):
    assert ValSettings(nms=text).nms_methods(components) == methods


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"nms": "soft,dioo"}, r"--nms soft,dioo \(from the flag\): unknown NMS method 'dioo' \(did you mean diou\?\)"),
        ({"nms": "soft,auto"}, "unknown NMS method 'auto'"),
        ({"nms": ""}, "unknown NMS method ''"),
        ({"nms": []}, "unknown NMS method ''"),
        ({"bootstrap": 100}, "name several with --nms, or all"),
        ({"bootstrap": -1, "nms": "all"}, "greater than or equal to 0"),
    ],
)
def test_wrong_nms_methods_are_one_sentence(given, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(ValSettings, given, environ={})


@pytest.mark.parametrize(
    ("components", "nms", "method"),
    [
        ((), "auto", "standard"),
        (("dc",), "auto", "standard"),
        (("clb",), "auto", "cl-balanced"),
        (("clb",), "soft", "soft"),
    ],
)
def test_nms_follows_the_components_unless_chosen(components, nms, method):
    assert PredictSettings(nms=nms).nms_for(components) == method


@pytest.mark.slow
def test_help_and_settings_import_no_torch():
    code = "import sys, cledet.cli, cledet.config.base; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "line",
    [
        "ablation: [1]", "ablation: [[1]]", "ablation: [{a: b}]", "ablation: 3", "lr_steps: [[1]]",
        "lr_steps: {a: 1}",
        "lr_steps: null", "nms: 3", "nms: {a: b}", "logger: 3", "logger: [[wandb]]", "head: [gfl]", "head: {a: b}",
        "batch: [1]", "scale_jitter: 5", "multi_scale: {a: 1, b: 2}", "name: 2", "name: [a]", "project: 3",
        "seed: 1e400", "lr: 2020-01-01", "epochs: .nan", "paper: 3", "about: [a]", "measured: [~]", "2020-01-01: 3",
    ],
)  # fmt: skip
def test_a_value_of_another_kind_in_a_recipe_is_one_sentence(line, tmp_path):
    (tmp_path / "r.yaml").write_text(line)
    with pytest.raises(UserError):
        resolve(GridSettings, recipe=tmp_path / "r.yaml", environ={})


def test_a_long_value_is_cut_in_the_sentence(tmp_path):
    (tmp_path / "r.yaml").write_text(f"optimizer: {'x' * 5000}")
    with pytest.raises(UserError, match=r"--optimizer x{100} .* is not a choice") as refused:
        resolve(TrainSettings, recipe=tmp_path / "r.yaml", environ={})
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("recipe", ["x" * 300, "a\0b"])
def test_a_recipe_that_no_file_can_be_is_unknown(recipe):
    with pytest.raises(UserError, match="no recipe"):
        resolve(TrainSettings, recipe=recipe, environ={})


def test_class_weights_as_text_mapping_and_recipe(tmp_path):
    assert resolve(TrainSettings, {"class_weights": " inverse-sqrt "}, environ={}).class_weights == "inverse-sqrt"
    given = resolve(TrainSettings, {"class_weights": "dog = 2, a=b=0.5"}, environ={})
    assert given.class_weights == {"dog": 2.0, "a=b": 0.5}
    (tmp_path / "config.yaml").write_text(given.to_yaml())
    assert resolve(TrainSettings, recipe=tmp_path / "config.yaml", environ={}).class_weights == given.class_weights
    (tmp_path / "r.yaml").write_text("class-weights: {'bowl, deep': 3, 7: '0.25'}")
    mapping = resolve(TrainSettings, recipe=tmp_path / "r.yaml", environ={}).class_weights
    assert mapping == {"bowl, deep": 3.0, "7": 0.25}


@pytest.mark.parametrize("value", ["dog", "dog=1,dog=2", "=2", "", {}, 3, ["dog"], {"dog": "x"}, "dog=0", "dog=nan"])
def test_class_weights_that_are_none_are_refused(value):
    with pytest.raises(
        UserError, match=r"^--class-weights .*\(from the flag\): (give none, inv|the weight of dog is a)"
    ):
        resolve(TrainSettings, {"class_weights": value}, environ={})
