"""Loading of settings from defaults, a recipe, the environment and flags, with the origin of each value.

A setting is written `--fpn-channels`, `fpn-channels:` in a recipe's YAML, or `CLEDET_FPN_CHANNELS`; a flag wins over
the environment, which wins over the recipe.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from cledet.config.base import Settings
from cledet.config.components import EARLIER
from cledet.errors import UserError, nearest

if TYPE_CHECKING:
    from cledet.config.recipe import RecipeNotes

PACKAGE = Path(__file__).resolve().parents[1]
RECIPE_FOLDERS = (PACKAGE / "recipes", PACKAGE.parent / "recipes")
"""Folders of the shipped recipes: in an installed wheel, and in a checkout."""

REPLACED = {"epochs": "iters"}
"""Settings that replace another one of weaker layers: --epochs gives the length instead of a recipe's iters."""

S = TypeVar("S", bound=Settings)


def resolve(
    kind: type[S],
    flags: Mapping[str, Any] | None = None,
    *,
    recipe: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> S:
    """Merge defaults, recipe, environment and flags into checked settings.

    `flags` holds the values that were given explicitly (None: not given). Raises UserError for an unknown key, with
    the nearest known one, and for an invalid value, with its origin.
    """
    environ = os.environ if environ is None else environ
    keys = kind.model_fields
    layers = {
        "recipe": read_recipe(recipe, kind) if recipe is not None else {},
        "environment": {key: environ[f"CLEDET_{key.upper()}"] for key in keys if f"CLEDET_{key.upper()}" in environ},
        "flag": {key: value for key, value in (flags or {}).items() if value is not None},
    }
    values: dict[str, Any] = {}
    origins = dict.fromkeys(keys, "default")
    for origin, layer in layers.items():
        for key in layer:
            if key not in keys:
                raise UserError(f"unknown setting {key!r}", nearest(key, keys))
            if (other := REPLACED.get(key)) in values:
                del values[other]
                origins[other] = "default"
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    try:
        settings = kind(**values)
    except ValidationError as error:
        raise _explain(error, kind, origins) from None
    settings._origins.update(origins)
    _refuse_reach(settings, recipe)
    return settings


def _refuse_reach(settings: Settings, recipe: str | Path | None) -> None:
    """Raise UserError if an untrusted recipe imports code or writes outside the current folder."""
    taken = {key: value for key, value in settings if settings.origins[key] == "recipe"}
    if taken.get("callback") is not None:
        hint = f"if you trust it, pass --callback {taken['callback']}"
        raise UserError(f"{recipe} names a callback, and a recipe cannot run code", hint)
    project = os.path.normpath(taken.get("project", "."))
    if os.path.isabs(project) or project.split(os.sep)[0] == "..":
        message = f"{recipe} has project {project}, and a recipe cannot write outside of the current folder"
        raise UserError(message, "leave it out and pass --project")


def read_recipe(recipe: str | Path, kind: type[Settings] | None = None) -> dict[str, Any]:
    """Read the settings of a recipe, by default of training: a YAML file, or the name of a shipped one."""
    return _read(recipe, kind)[0]


def read_notes(recipe: str | Path) -> RecipeNotes:
    """Read the notes of a recipe beside its settings: description, the paper's metrics, and ours."""
    return _read(recipe, None)[1]


def _read(recipe: str | Path, kind: type[Settings] | None) -> tuple[dict[str, Any], RecipeNotes]:
    """Read a recipe's settings and notes. Raises UserError for an unknown recipe or key, and for invalid notes."""
    from cledet.config.recipe import RecipeNotes
    from cledet.config.train import TrainSettings
    from cledet.safe_yaml import read_yaml

    fields = (kind or TrainSettings).model_fields
    path = Path(recipe) if os.path.isfile(recipe) else recipes().get(str(recipe))
    if path is None:
        hint = nearest(Path(recipe).stem, recipes())
        raise UserError(f"no recipe {str(recipe)!r}, neither a file nor one that ships", hint)
    content = read_yaml(path) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings", "write one `key: value` a line")
    content = {str(key).replace("-", "_"): value for key, value in content.items()}
    if "node_rank" in content:  # the config.yaml of a run, which names every setting that its version had
        content |= {key: value for key, value in EARLIER.items() if key not in content}
    notes = {key: content.pop(key) for key in RecipeNotes.model_fields if key in content}
    for key in content:
        if key not in fields:
            raise UserError(f"unknown setting {key!r} in {path}", nearest(key, (*fields, *RecipeNotes.model_fields)))
    try:
        return content, RecipeNotes(**notes)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).removeprefix(".")
        message = f"{path}: {place}: {first['msg'][0].lower()}{first['msg'][1:]}"
        raise UserError(message, "docs/recipes.md describes the keys") from None


def reopen(path: Path, kind: type[S], given: Mapping[str, Any]) -> S:
    """Read the settings of a run from its folder, with their origins; `given` values override them as flags.

    Raises UserError for a callback in a file that is another user's.
    """
    settings = resolve(kind, {**read_recipe(path, kind), **given}, environ={})
    code = getattr(settings, "callback", None)
    if code is not None and "callback" not in given and path.stat().st_uid != os.geteuid():
        message = f"{path} names a callback, and the file is another user's"
        raise UserError(message, f"if you trust it, pass --callback {code}")
    for line in path.read_text().splitlines():
        key, origin = line.partition(":")[0], line.rpartition("  # ")[2]
        if key not in given and key in settings._origins:
            settings._origins[key] = origin
    return settings


def recipes() -> dict[str, Path]:
    """Return the paths of the shipped recipes by name."""
    found = [path for folder in RECIPE_FOLDERS if folder.is_dir() for path in sorted(folder.glob("*.yaml"))]
    return {path.stem: path for path in found}


def _explain(error: ValidationError, kind: type[Settings], origins: Mapping[str, str]) -> UserError:
    """Describe the first of pydantic's errors in one sentence."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return UserError(message)
    key = str(first["loc"][0])
    shown = f"--{key.replace('_', '-')} {first['input']!s:.100}"
    if first["type"] == "literal_error":
        expected = first.get("ctx", {}).get("expected", "")
        choices = [word for word in expected.replace(" or ", ", ").replace("'", "").split(", ") if word]
        return UserError(f"{shown} (from the {origins[key]}) is not a choice", nearest(str(first["input"]), choices))
    return UserError(f"{shown} (from the {origins[key]}): {message[0].lower()}{message[1:]}")
