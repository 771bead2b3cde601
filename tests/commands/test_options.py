"""Settings as flags: --recipe of every command, help, booleans, and completion."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from cledet.cli import app
from cledet.commands.options import SWITCH, add_command
from cledet.config.base import CheckSettings, ExplainSettings, ExportSettings, PredictSettings
from cledet.config.evaluate import BenchSettings, CompareSettings, TuneSettings, ValSettings
from cledet.config.panels import PANEL_OF, PANELS, VALUE_NAMES, WORDS
from cledet.config.recipe import ReproduceSettings
from cledet.config.train import GridSettings
from cledet.errors import UserError
from cledet.models.backbones.build import known_backbones

SETTINGS = {
    "train": GridSettings,
    "val": ValSettings,
    "predict": PredictSettings,
    "explain": ExplainSettings,
    "export": ExportSettings,
    "compare": CompareSettings,
    "tune": TuneSettings,
    "check": CheckSettings,
    "bench": BenchSettings,
    "reproduce": ReproduceSettings,
}
COMMANDS = [*SETTINGS, "recipes", "info", "data download", "data list"]
ARGUMENTS = {"predict": ["a.jpg"], "explain": ["a.jpg"], "compare": ["a", "b"], "check": ["x"], "reproduce": ["table2"]}


def invoke(*words, columns=80):
    return CliRunner().invoke(app, words, env={"COLUMNS": str(columns)})


def settings_app(kind):
    """A program of one command that keeps the settings it is given."""
    received = []

    def command(settings: kind) -> None:
        received.append(settings)

    command.__annotations__["settings"] = kind
    program = typer.Typer()
    add_command(program, command)
    return program, received


@pytest.mark.parametrize(
    ("words", "environ", "data", "imgsz"),
    [
        ((), {}, "shapes", 192),
        ((), {"CLEDET_DATA": "photos"}, "photos", 800),
        (("--data", "photos"), {}, "photos", 800),
    ],
)
def test_the_recipe_of_the_embedded_data_set_is_for_no_other_one(words, environ, data, imgsz):
    program, received = settings_app(GridSettings)
    assert CliRunner().invoke(program, words, env={"CLEDET_DATA": None, **environ}).exit_code == 0
    assert (received[0].data, received[0].imgsz) == (data, imgsz)


@pytest.mark.parametrize("command", SETTINGS)
def test_every_command_with_settings_takes_a_recipe(command, tmp_path):
    """An unknown key proves that the command reads the file; a flag wins over it."""
    (tmp_path / "r.yaml").write_text("prject: x\n")
    result = invoke(command, *ARGUMENTS.get(command, ()), "--recipe", str(tmp_path / "r.yaml"))
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"unknown setting 'prject' in {tmp_path / 'r.yaml'}")


@pytest.mark.parametrize(
    ("kind", "line", "name", "value"),
    [
        (TuneSettings, "bootstrap: 7", "bootstrap", 7),
        (CompareSettings, "pictures: 3", "pictures", 3),
        (ExplainSettings, "center-unit: stride", "center_unit", "stride"),
        (CheckSettings, "imgsz: 640", "imgsz", 640),
        (ReproduceSettings, "gpu_tflops: 312", "gpu_tflops", 312),
    ],
)
def test_a_recipe_of_a_command_sets_its_values_and_a_flag_wins(kind, line, name, value, tmp_path):
    (tmp_path / "r.yaml").write_text(line)
    program, received = settings_app(kind)
    flag = f"--{name.replace('_', '-')}"
    other = "pixel" if isinstance(value, str) else str(value + 100)
    for words in (["--recipe", str(tmp_path / "r.yaml")], ["--recipe", str(tmp_path / "r.yaml"), flag, other]):
        result = CliRunner().invoke(program, words)
        assert result.exception is None, result.exception
    first, second = received
    assert (getattr(first, name), first.origins[name]) == (value, "recipe")
    assert (str(getattr(second, name)).removesuffix(".0"), second.origins[name]) == (other, "flag")


def test_train_without_data_takes_the_embedded_sets_recipe(tmp_path):
    program, received = settings_app(GridSettings)
    (tmp_path / "r.yaml").write_text("lr: 0.5\n")
    for words in ([], ["--data", "coco"], ["--recipe", str(tmp_path / "r.yaml")]):
        CliRunner().invoke(program, words)
    assert [(settings.data, settings.backbone, settings.lr) for settings in received] == [
        ("shapes", "r18", 0.0007), ("coco", "r50", None), ("shapes", "r50", 0.5),
    ]  # fmt: skip
    assert received[1].explicit == {"data": "coco"}


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--deterministic"], True),
        (["--deterministic", "--epochs", "3"], True),
        (["--deterministic", "true"], True),
        (["--deterministic", "off"], False),
        (["--deterministic=false"], False),
        ([], False),
    ],
)
def test_a_boolean_needs_no_value(words, value):
    program, received = settings_app(GridSettings)
    result = CliRunner().invoke(program, [*words, "--data", "x"])
    assert result.exception is None, result.exception
    assert received[0].deterministic is value


def test_a_boolean_of_another_value_is_one_sentence():
    program, _ = settings_app(ValSettings)
    result = CliRunner().invoke(program, ["--report", "maybe"])
    assert str(result.exception).startswith("--report maybe (from the flag): ")


@pytest.mark.parametrize("command", SETTINGS)
def test_every_field_has_a_panel_a_description_and_the_name_of_a_value(command):
    fields = SETTINGS[command].model_fields
    assert set(fields) <= set(PANEL_OF)
    for name, field in fields.items():
        assert field.description.endswith("."), name
        assert field.description[0].isupper() or field.description.startswith("--"), name
    text = invoke(command, "--help", columns=200).stdout
    for name in fields:
        flag = f"--{name.replace('_', '-')} "
        (line,) = [line for line in text.splitlines() if re.match(rf"  (-\w, )?{flag}", line)]
        assert line.partition(flag)[2].split()[0] not in ("VALUE", "TEXT")
        if field_is_boolean(fields[name]):
            assert SWITCH in line


def field_is_boolean(field):
    return field.annotation is bool


def test_no_field_is_in_two_panels():
    names = " ".join(PANELS.values()).split()
    assert len(names) == len(set(names))
    assert (set(VALUE_NAMES) | set(WORDS)) <= set(names)


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_no_help_text_is_cut_off(command, columns):
    text = invoke(*command.split(), "--help", columns=columns).stdout
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= columns


@pytest.mark.parametrize("command", ["train", "val", "tune", "predict", "export"])
def test_soft_vote_names_its_sources(command):
    text = " ".join(invoke(command, "--help").stdout.split())
    assert "soft-vote (linear Soft-NMS with box voting: Bodla et al. 2017; Gidaris and Komodakis 2015)" in text


def test_the_panels_of_train_come_in_order_and_examples_at_the_end():
    lines = invoke("train", "--help").stdout.splitlines()
    titles = [line.removesuffix(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    fields = set(GridSettings.model_fields)
    assert titles == ["Options", *(panel for panel, names in PANELS.items() if fields & set(names.split())), "Examples"]
    assert lines[-3:] == [
        "    cledet train --data coco.yaml --backbone r101",
        "    cledet train --data photos/ --ablation all --seeds 3",
        "    cledet train --resume runs/train/photos",
    ]


@pytest.mark.parametrize("command", SETTINGS)
def test_every_command_has_examples_that_its_parser_takes(command):
    """Each example is typed with --help behind it: the parser meets an unknown flag before it."""
    text = invoke(command, "--help").stdout.partition("\nExamples:\n")[2]
    examples = [line.split()[1:] for line in text.splitlines() if line.strip()]
    assert examples
    for words in examples:
        result = invoke(*words, "--help")
        assert result.exit_code == 0, words


def complete(*words):
    line = " ".join(("cledet", *words))
    environ = {"_CLEDET_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words))}
    code = "import sys; sys.argv[0] = 'cledet'; from cledet.cli import main; main()"
    command = [sys.executable, "-c", code]
    process = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60)
    return process.stdout.split()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "completions"),
    [
        (["train", "--head", "g"], ["gfl"]),
        (["predict", "--nms", "soft-"], ["soft-linear", "soft-vote"]),
        (["val", "--nms", "cl"], ["cl-balanced"]),
        (["train", "--backbone", "r1"], ["r18", "r101", "r152"]),
        (["train", "--recipe", "shap"], ["shapes", "shapes-gfl", "shapes-lite0", "shapes-quick"]),
    ],
)
def test_a_shell_completes_choices(words, completions):
    assert sorted(complete(*words)) == sorted(completions)


def test_completed_backbones_exist():
    assert set(WORDS["backbone"]) - {"timm:"} <= set(known_backbones())
