"""The frame of the commands: a function with typed settings becomes a subcommand, each field of them a flag."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup

from cledet.config.base import Settings
from cledet.config.loading import recipes, resolve
from cledet.config.panels import PANELS, SHORT, VALUE_NAMES, WORDS, panel_of
from cledet.config.types import ablation_name
from cledet.console import printable
from cledet.errors import interruption

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""Click's UsageError, bundled with newer versions of typer and imported by older ones."""
SWITCH = "[on|off]"
"""The value of a boolean flag, which may be left out for `on`."""
BOOLEANS = ("on", "off", "true", "false", "yes", "no")
JSON_LINES, DOCUMENT = "[-]", "document"
"""The value of a `--json` that also writes JSON Lines, and its value if it is left out."""
LONGEST_CHOICES = 20
"""Characters of choices that are shown as the name of a value; longer ones are listed in the help text."""
ORDER = [name for names in PANELS.values() for name in names]

Json = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one JSON document on stdout.", rich_help_panel="Output")
]


class Commands(TyperGroup):
    """Group of subcommands that leaves signals and closed pipes to `main`.

    Typer has exit codes of its own for them, without a message.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _own_ends():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _own_ends():
            return super().invoke(ctx)


@contextmanager
def _own_ends() -> Iterator[None]:
    """Raise Interrupted and BrokenPipeError as such; escape control characters in usage errors."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise interruption(error) from None
    except BrokenPipeError:
        raise BrokenPipeError from None
    except USAGE_ERROR as error:
        error.message = "\n".join(map(printable, error.message.split("\n")))
        raise
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # rich's way, in the text of --help
            raise BrokenPipeError from None
        raise


class Command(TyperCommand):
    """Subcommand whose boolean flags need no value, and whose help ends with examples."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give values to flags without one, `on` to boolean flags and `document` to JSON_LINES, then parse.

        In a command with arguments, the word behind a boolean flag is its value only if it is one of BOOLEANS.
        """
        switches, documents = self._flags(SWITCH), self._flags(JSON_LINES)
        arguments = any(param.param_type_name == "argument" for param in self.params)
        words: list[str] = []
        for word, following in zip(args, [*args[1:], "--"]):
            bare = following.startswith("-") or (arguments and following.lower() not in BOOLEANS)
            words.append(word)
            if word in switches and bare:
                words.append("on")
            elif word in documents and following != "-":
                words.append(DOCUMENT)
        return super().parse_args(ctx, words)

    def _flags(self, metavar: str) -> set[str]:
        """Return the flags whose value is shown as `metavar`."""
        return {flag for param in self.params if getattr(param, "metavar", "") == metavar for flag in param.opts}

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, then the examples of the function's docstring as they are."""
        super().format_help(ctx, formatter)
        examples = (inspect.getdoc(self.callback) or "").partition("\nExamples:\n")[2]
        if examples:
            formatter.write(f" Examples:\n{examples}\n")


def add_command(app: typer.Typer, function: Callable[..., None], name: str | None = None) -> None:
    """Add a function to `app` as a subcommand.

    The fields of its parameter `settings`, if it has one, become flags beside `--recipe`; the function is called with
    the resolved settings and its other parameters.
    """
    parameters = inspect.signature(function, eval_str=True).parameters
    kind: type[Settings] | None = parameters["settings"].annotation if "settings" in parameters else None
    own = [p.replace(kind=p.KEYWORD_ONLY) for p in parameters.values() if p.name != "settings"]
    options = [*(_options(kind) if kind is not None else ()), *own]

    def run(**values: Any) -> None:
        arguments = {parameter.name: values.pop(parameter.name) for parameter in own}
        if kind is not None:
            recipe = values.pop("recipe")
            flags = {key: value for key, value in values.items() if value is not None}
            arguments["settings"] = resolve(kind, flags, recipe=recipe or kind.default_recipe(flags))
        function(**arguments)

    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in options}
    summary = (inspect.getdoc(function) or "").partition("\n\nExamples:\n")[0]
    app.command(name or function.__name__, cls=Command, help=summary)(run)


def _options(kind: type[Settings]) -> list[inspect.Parameter]:
    """Make a flag of `--recipe` and of each field, in the order of the panels."""
    recipe = typer.Option(
        "--recipe",
        metavar="PATH|NAME",
        help="Read flags from this YAML file or shipped recipe.",
        autocompletion=_complete_recipe,
    )
    fields = sorted(kind.model_fields.items(), key=lambda item: ORDER.index(item[0]) if item[0] in ORDER else 0)
    return [_parameter("recipe", recipe), *(_parameter(name, _option(name, field)) for name, field in fields)]


def _complete_recipe(incomplete: str) -> list[str]:
    return [name for name in recipes() if name.startswith(incomplete)]


def _parameter(name: str, option: Any) -> inspect.Parameter:
    """Make a parameter that is None if the flag is not given; settings check its text."""
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])


def _option(name: str, field: FieldInfo) -> Any:
    choices = _choices(field.annotation)
    return typer.Option(
        f"--{name.replace('_', '-')}",
        *([SHORT[name]] if name in SHORT else []),
        help=" ".join([str(field.description), *_default(name, field)]),
        show_default=False,
        metavar=VALUE_NAMES.get(name) or _value_name(field.annotation, choices),
        rich_help_panel=panel_of(name),
        autocompletion=_completion(choices or WORDS.get(name, ())),
    )


def _default(name: str, field: FieldInfo) -> list[str]:
    """Format the default as a sentence; none for a default of None, which the description explains."""
    default = field.get_default()
    if default is None or default == "":
        return []
    if name == "ablation":
        default = ";".join(map(ablation_name, default))
    elif isinstance(default, bool):
        default = "on" if default else "off"
    elif isinstance(default, tuple | float):
        default = ",".join(f"{number:g}" for number in (default if isinstance(default, tuple) else (default,)))
    return [f"Default: {default}."]


def _value_name(annotation: Any, choices: tuple[str, ...]) -> str:
    """Name a flag's value by its type."""
    if choices:
        listed = "|".join([*choices, *(["FLOAT"] if float in _alternatives(annotation) else [])])
        return listed if len(listed) <= LONGEST_CHOICES else "NAME"
    names = {bool: SWITCH, int: "INT", float: "FLOAT", Path: "PATH"}
    return next((names[kind] for kind in _alternatives(annotation) if kind in names), "TEXT")


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the words of a Literal, alone or in a union; none for another type."""
    literals = [kind for kind in _alternatives(annotation) if get_origin(kind) is Literal]
    return tuple(str(word) for literal in literals for word in get_args(literal))


def _alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for member in get_args(annotation) for kind in _alternatives(member)]
    return [annotation]


def _completion(words: tuple[str, ...]) -> Callable[[str], list[str]] | None:
    """Return a callback that completes one of `words`, or None without words, so that the shell completes files."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete if words else None
