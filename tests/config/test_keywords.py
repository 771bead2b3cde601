"""Keyword arguments of the Python API equal the settings, and `help` shows them."""

from __future__ import annotations

import inspect
import pydoc
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from cledet import Detector, UserError
from cledet.config import keywords
from cledet.config.base import ExplainSettings, ExportSettings, PredictSettings
from cledet.config.evaluate import ValSettings
from cledet.config.train import GridSettings

MODEL = {"weights", "ablation"}
"""Of commands that look for a model; a Detector has it."""
FOLDER = {"project", "name"}
"""Of commands that write a folder where the method of the same name writes nothing."""
PAIRS = {
    "predict": (keywords.PredictKeywords, PredictSettings, MODEL | FOLDER | {"save"}),
    "val": (keywords.ValKeywords, ValSettings, MODEL | FOLDER | {"report", "suspects"}),
    "explain": (keywords.ExplainKeywords, ExplainSettings, MODEL | FOLDER),
    "export": (keywords.ExportKeywords, ExportSettings, MODEL | {"format"}),
    "train": (keywords.TrainKeywords, GridSettings, set()),
}


def members(kind: Any) -> set[Any]:
    """The alternatives of a type: the members of its unions, the words of its literals."""
    if get_origin(kind) in (Union, types.UnionType):
        return {one for member in get_args(kind) for one in members(member)}
    return set(get_args(kind)) if get_origin(kind) is Literal else {kind}


@pytest.mark.parametrize("method", PAIRS)
def test_the_keywords_are_the_fields(method):
    given, settings, left_out = PAIRS[method]
    assert set(get_type_hints(given)) == set(settings.model_fields) - left_out


@pytest.mark.parametrize("method", PAIRS)
def test_a_keyword_takes_every_value_of_its_field(method):
    given, settings, _ = PAIRS[method]
    fields = get_type_hints(settings)
    for name, kind in get_type_hints(given).items():
        lacking = members(fields[name]) - members(kind)
        assert not lacking, f"{name}: {lacking}"


@pytest.mark.parametrize("method", [*PAIRS, "predict_one", "compare_nms"])
def test_help_and_completion_show_the_keywords_with_their_defaults(method):
    given, settings, _ = PAIRS[{"predict_one": "predict", "compare_nms": "val"}.get(method, method)]
    function = getattr(Detector, method)
    parameters = inspect.signature(function).parameters
    assert not any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for name in get_type_hints(given):
        default = settings.model_fields[name].get_default()
        assert parameters[name].default == default
    assert "settings" in parameters


def test_help_reads_well():
    text = pydoc.plain(pydoc.render_doc(Detector))
    assert max(map(len, text.splitlines())) <= 125
    assert "conf: Discard detections with a lower score." in text
    assert "**given" not in text.replace("**given: Any", "")
    assert text.count("tta: Test-time augmentation") == 1  # of predict, not of predict_one again


def test_an_unknown_keyword_is_a_user_error_with_the_nearest():
    with pytest.raises(UserError, match=r"unknown setting 'cnf' \(did you mean conf\?\)"):
        Detector("r50").predict("x.jpg", cnf=0.3)
