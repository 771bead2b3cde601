"""The command line's frame: how a function becomes a command whose flags are the fields of its settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cledet import __version__
from cledet.config.base import Settings
from cledet.config.types import ablation_name
from cledet.console import printable
from cledet.errors import interruption

USAGE_ERROR: Any = typer.BadParameter.__mro__[1]
"""Click's UsageError, which newer versions of typer bring along and older ones import."""


class Commands(TyperGroup):
    """The commands, whose ends typer is to leave to `main`.

    Typer has codes of its own for a closed pipe and, in some versions, for Ctrl-C, and says nothing.
    """

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _own_ends():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _own_ends():
            return super().invoke(ctx)


@contextmanager
def _own_ends() -> Iterator[None]:
    """Raise what typer lets pass: Interrupted, and a BrokenPipeError without a number; escape what it prints."""
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


app = typer.Typer(
    name="cledet",
    cls=Commands,
    help="Object detection with classification and localization in equilibrium.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout")]
Recipe = Annotated[str | None, typer.Option("--recipe", help="a YAML of these flags, or the name of a shipped one")]


def command(settings: type[Settings]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command whose flags are the fields of `settings`.

    The function's own parameters come first; it is called with them and with `flags`, what was given explicitly.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "flags"]
        fields = [_option(name, field) for name, field in settings.model_fields.items()]

        def run(**given: Any) -> None:
            mine = {p.name: given.pop(p.name) for p in own}
            function(**mine, flags=given)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = inspect.Signature(own + fields)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in own + fields}
        app.command()(run)
        return run

    return register


def _option(name: str, field: Any) -> inspect.Parameter:
    """A settings field as a flag; what is not given is None, and settings check the rest."""
    default = field.get_default()
    shown = ";".join(map(ablation_name, default)) if name == "ablation" and default else default
    shown = ",".join(str(v) for v in shown) if isinstance(shown, tuple) else shown
    text = field.description + ("" if default is None else f" (default: {shown})")
    option = typer.Option(f"--{name.replace('_', '-')}", help=text, show_default=False, metavar="VALUE")
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit
