"""Numbers that no run can have: each setting refuses them in a sentence, wherever they come from."""

from __future__ import annotations

import math
import types
import typing

import pytest
import yaml

from cledet.config.base import CheckSettings, ExplainSettings, ExportSettings, PredictSettings, Settings
from cledet.config.evaluate import BenchSettings, CompareSettings, TuneSettings, ValSettings
from cledet.config.loading import resolve
from cledet.config.recipe import ReproduceSettings
from cledet.config.train import GridSettings, TrainSettings
from cledet.errors import UserError

COMMANDS = (
    TrainSettings,
    GridSettings,
    PredictSettings,
    ExplainSettings,
    ExportSettings,
    CheckSettings,
    ValSettings,
    CompareSettings,
    TuneSettings,
    BenchSettings,
    ReproduceSettings,
)
NEVER = (math.inf, -math.inf, math.nan, -1, 2**70, 1e308)


def numbers(annotation: object) -> int:
    """How many numbers a setting of this type takes; 0 for another one."""
    if annotation in (int, float):
        return 1
    parts = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return 0 if not numbers(parts[0]) else 1 if parts[-1] is ... else len(parts)
    unions = (typing.Union, types.UnionType, typing.Annotated)
    return max(map(numbers, parts), default=0) if typing.get_origin(annotation) in unions else 0


CASES = [
    (kind, name, count)
    for kind in COMMANDS
    for name, field in kind.model_fields.items()
    if (count := numbers(field.annotation))
]


def test_these_are_all_commands_and_their_numbers():
    def leaves(kind: type[Settings]) -> set[type[Settings]]:
        return {kind}.union(*map(leaves, kind.__subclasses__()))

    assert {kind for kind in leaves(Settings) if kind.__doc__.startswith("`cledet")} <= set(COMMANDS)
    names = {(kind, name) for kind, name, _ in CASES}
    assert len(names) > 100
    for name in ("batch", "lr", "lr_steps", "seed", "scale_jitter", "multi_scale", "warmup", "imgsz", "ema", "freeze"):
        assert (GridSettings, name) in names
    assert (ValSettings, "areas") in names
    assert (GridSettings, "flip") in names
    assert (GridSettings, "compile") not in names


@pytest.mark.parametrize(("kind", "name", "count"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_a_number_that_no_run_can_have_is_refused(tmp_path, kind, name, count):
    """As a flag's or the environment's text and as a recipe's number; the last of several in one setting."""
    good = kind.model_fields[name].get_default()
    good = [*good[: count - 1]] if isinstance(good, tuple) and count > 1 else []
    flag = f"^--{name.replace('_', '-')} .*from the"
    for number in NEVER:
        text = ",".join(map(str, [*good, number]))
        with pytest.raises(UserError, match=f"{flag} flag"):
            resolve(kind, {name: text}, environ={})
        with pytest.raises(UserError, match=f"{flag} environment"):
            resolve(kind, environ={f"CLEDET_{name.upper()}": text})
        if kind is TrainSettings:
            recipe = tmp_path / "recipe.yaml"
            recipe.write_text(yaml.safe_dump({name: [*good, number] if count > 1 or name == "lr_steps" else number}))
            with pytest.raises(UserError, match=f"{flag} recipe"):
                resolve(kind, recipe=recipe, environ={})


@pytest.mark.parametrize(("kind", "name", "count"), CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_zero_and_the_default_work_or_are_refused(kind, name, count):
    flag = f"--{name.replace('_', '-')}"
    try:
        assert getattr(resolve(kind, {name: ",".join(["0"] * count)}, environ={}), name) in (0, (0,) * count)
    except UserError as error:
        said = str(error)
    else:
        said = flag
    assert flag in said
    assert getattr(resolve(kind, environ={}), name) == kind.model_fields[name].get_default()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"batch": -1}, r"--batch -1 \(from the flag\): give a number from 1 to 65536, or auto"),
        ({"batch": "-1"}, r"--batch -1 \(from the flag\): give a number from 1 to 65536, or auto"),
        ({"imgsz": 100000}, r"--imgsz 100000 \(from the flag\): input should be less than or equal to 16384"),
        ({"lr_steps": "8e,infe"}, r"--lr-steps .*infe is no fraction of the run"),
        ({"lr_steps": "0.5,-0.1"}, r"--lr-steps .*-0\.1 is no fraction of the run"),
        ({"seed": 2**63 - 2, "seeds": 3}, r"--seed 9223372036854775806 and 3 --seeds go beyond the largest seed"),
    ],
)
def test_sentences(given, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(GridSettings, given, environ={})


def test_an_automatic_batch_stays_one_wherever_it_is_written(tmp_path):
    settings = resolve(GridSettings, {"batch": "auto"}, environ={})
    assert settings.batch == settings.runs()[0].batch == -1
    path = tmp_path / "config.yaml"
    path.write_text(settings.to_yaml())
    assert 'batch: "auto"  # flag' in path.read_text()
    assert resolve(GridSettings, recipe=path, environ={}).batch == -1


def test_the_largest_seed_makes_a_generator():
    torch = pytest.importorskip("torch")
    import numpy as np

    seed = resolve(TrainSettings, {"seed": 2**63 - 1}, environ={}).seed
    torch.manual_seed(seed)
    np.random.default_rng((seed, 0, 0))
