"""The public names, as `tests/fixtures/public-VERSION.json` holds them for a version.

`python tests/support/public_api.py > tests/fixtures/public-0.2.json` writes the file for a release.
"""

from __future__ import annotations

import inspect
import json
from importlib import import_module

import typer

from cledet.cli import app
from cledet.commands.options import COMMANDS


def command_flags() -> dict[str, set[str]]:
    """Flags of each command and subcommand by its words, as "val" and "data convert"."""
    group, known = typer.main.get_command(app), {}
    for name in COMMANDS:
        command = group.get_command(None, name)
        subcommands = getattr(command, "commands", {})
        for words, one in [(name, command), *((f"{name} {sub}", found) for sub, found in subcommands.items())]:
            known[words] = {"-h", "--help", *(flag for parameter in one.params for flag in parameter.opts)}
            known[words] |= {flag for parameter in one.params for flag in parameter.secondary_opts}
    return known


def public_api() -> dict[str, list[str]]:
    """Names by their place: of modules, members of classes, keywords of functions, flags, columns of results.csv."""
    from cledet.training.history import COLUMNS

    found = {f"cledet {words}": sorted(flags) for words, flags in command_flags().items()}
    found["results.csv"] = list(COLUMNS)
    for module in map(import_module, ("cledet", "cledet.components", "cledet.ops")):
        found[module.__name__] = sorted(module.__all__)
        for name in module.__all__:
            found |= _keywords(f"{module.__name__}.{name}", getattr(module, name))
    return found


def _keywords(place: str, value: object) -> dict[str, list[str]]:
    """Keywords of a function; members of a class, and the keywords of its methods."""
    if inspect.isfunction(value):
        return {place: [name for name in inspect.signature(value).parameters if name != "self"]}
    if not inspect.isclass(value):
        return {}
    names = {*vars(value), *getattr(value, "__annotations__", ())}
    members = sorted(name for name in names if not name.startswith("_"))
    found = {place: members}
    for name in members:
        found |= _keywords(f"{place}.{name}", vars(value).get(name))
    return found


if __name__ == "__main__":
    lines = (f"{json.dumps(place)}: {json.dumps(names)}" for place, names in sorted(public_api().items()))
    print("{\n" + ",\n".join(lines) + "\n}")
