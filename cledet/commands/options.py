"""The frame of the commands: a function with typed settings becomes a subcommand, each field of them a flag."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer
from pydantic.fields import FieldInfo
from typer.core import TyperCommand, TyperGroup

from cledet.config.base import Settings
from cledet.config.loading import recipes, resolve
from cledet.config.panels import PANEL_OF, PANELS, SHORT, VALUE_NAMES, WORDS
from cledet.config.types import ablation_name
from cledet.console import printable
from cledet.errors import OutputClosed, interruption

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""Click's UsageError, bundled with newer versions of typer and imported by older ones."""
SWITCH = "[on|off]"
"""The value of a boolean flag, which may be left out for `on`."""
BOOLEANS = ("on", "off", "true", "false", "yes", "no")
JSON_LINES, DOCUMENT = "[-]", "document"
"""The value of a `--json` that also writes JSON Lines, and its value if it is left out."""
LONGEST_CHOICES = 20
"""Characters of choices that are shown as the name of a value; longer ones are listed in the help text."""
COMMANDS = (
    *("train", "val", "predict", "explain", "export", "bench", "compare", "tune", "check", "data", "recipes"),
    *("reproduce", "info"),
)
"""The files of this folder that hold a command of their name, in the order of the help."""

Json = Annotated[
    bool, typer.Option("--json", metavar="", help="Print one JSON document on stdout.", rich_help_panel="Output")
]


class Group(TyperGroup):
    """Group that prints its help on stdout if no command is named, and describes commands in whole sentences."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the group's own flags; without any word, print the help and exit with code 2."""
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each command with the first paragraph of its help."""
        commands: list[tuple[str, Any]] = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help.partition("\n\n")[0]) for name, command in commands])


class Commands(Group):
    """The commands of COMMANDS, each imported when it is run or described.

    Signals and closed pipes are left to `main`: typer has exit codes of its own for them, without a message.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of the help."""
        return [*COMMANDS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import a command's file and return the command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        function = getattr(import_module(f"cledet.commands.{cmd_name}"), cmd_name)
        if isinstance(function, typer.Typer):
            return typer.main.get_command(function)
        program = typer.Typer(add_completion=False, rich_markup_mode=None)
        add_command(program, function)
        return typer.main.get_command(program)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _own_ends():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _own_ends():
            return super().invoke(ctx)


@contextmanager
def _own_ends() -> Iterator[None]:
    """Raise Interrupted and OutputClosed, which click does not handle; escape control characters in usage errors."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise interruption(error) from None
    except BrokenPipeError:
        raise OutputClosed from None
    except USAGE_ERROR as error:
        error.message = "\n".join(map(printable, error.message.split("\n")))
        raise


class Command(TyperCommand):
    """Subcommand whose boolean flags need no value, and whose help groups flags by subject and ends with examples."""

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

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words behind the command's name in its usage line: every argument is required."""
        arguments = [param for param in self.params if param.param_type_name == "argument"]
        return ["[OPTIONS]", *map(_argument_name, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and flags by panel, then the examples of the function's docstring as they are."""
        panels: dict[str, list[Any]] = {}
        parameters: list[Any] = self.get_params(ctx)
        for param in parameters:
            if param.param_type_name == "argument":
                panels.setdefault("Arguments", []).append((_argument_name(param), param.help))
            else:
                panels.setdefault(param.rich_help_panel or "Options", []).append(param.get_help_record(ctx))
        for title in sorted(panels, key=["Arguments", "Options", *PANELS].index):
            with formatter.section(title):
                formatter.write_dl(panels[title])
        examples = (inspect.getdoc(self.callback) or "").partition("\nExamples:\n")[2]
        if examples:
            formatter.write(f"\nExamples:\n{examples}\n")


def _argument_name(argument: Any) -> str:
    """Return an argument's name in the help: SOURCE..., IMAGE."""
    return (argument.metavar or argument.name.upper()).removesuffix("...") + ("..." if argument.nargs == -1 else "")


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
    """Make a flag of `--recipe` and of each field, in the order of the panels.

    A flag that is not given is None; settings check the text of the others.
    """
    recipe = typer.Option(
        "--recipe",
        metavar="PATH|NAME",
        help="Read flags from this YAML file or shipped recipe.",
        autocompletion=_completion(recipes()),
    )
    fields = kind.model_fields
    options = {"recipe": recipe} | {name: _option(name, fields[name]) for name in PANEL_OF if name in fields}
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, keyword, default=None, annotation=Annotated[str | None, option])
        for name, option in options.items()
    ]


def _option(name: str, field: FieldInfo) -> Any:
    types = _leaves(field.annotation)
    choices = [word for word in types if isinstance(word, str)]
    return typer.Option(
        f"--{name.replace('_', '-')}",
        *([SHORT[name]] if name in SHORT else []),
        help=" ".join([str(field.description), *_default(name, field)]),
        show_default=False,
        metavar=VALUE_NAMES.get(name) or _value_name(types, choices),
        rich_help_panel=PANEL_OF[name],
        autocompletion=_completion(WORDS.get(name, choices)),
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


def _value_name(types: Sequence[Any], choices: Sequence[str]) -> str:
    """Name a flag's value by its type."""
    listed = "|".join([*choices, *(["FLOAT"] if choices and float in types else [])])
    if choices:
        return listed if len(listed) <= LONGEST_CHOICES else "NAME"
    names = {bool: SWITCH, int: "INT", float: "FLOAT", Path: "PATH"}
    return next((names[kind] for kind in types if kind in names), "NAME")


def _leaves(annotation: Any) -> list[Any]:
    """Return the types and words that an annotation is made of, without what is annotated to them."""
    parts = get_args(annotation)[: 1 if get_origin(annotation) is Annotated else None]
    return [leaf for part in parts for leaf in _leaves(part)] if parts else [annotation]


def _completion(words: Iterable[str]) -> Callable[[str], list[str]] | None:
    """Return a callback that completes one of `words`, or None without words, so that the shell completes files."""
    known = list(words)
    return (lambda incomplete: [word for word in known if word.startswith(incomplete)]) if known else None
