"""Self-contained HTML pages from jinja2 templates: the page frame with its style, tables, and embedded pictures."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from cledet.console import Bar, is_number

FOLDED = 24
"""Tables with more rows are folded."""


def generator(command: str) -> Markup:
    """Return the tag that marks a page of a command, which may be overwritten."""
    return Markup('<meta name="generator" content="cledet {}">').format(command)


def render(template: str, command: str, name: str, **values: Any) -> str:
    """Render a template that extends page.html; strings are escaped unless they are Markup."""
    css = Markup(Path(__file__).with_name("page.css").read_text(encoding="utf-8"))
    page = ENVIRONMENT.get_template(template)
    text = page.render(command=command, name=name, generator=generator(command), css=css, **values)
    return text.encode("utf-8", "xmlcharrefreplace").decode("utf-8")  # file names may hold lone surrogates


def _cell_text(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _number_columns(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> list[bool]:
    return [all(map(is_number, column)) for column in zip(*rows)] or [False] * len(columns)


def _code_spans(text: str) -> Markup:
    """Escape a text and set parts in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)
ENVIRONMENT.globals["folded"] = FOLDED
ENVIRONMENT.tests["bar"] = lambda value: isinstance(value, Bar)
ENVIRONMENT.filters |= {
    "base64": lambda content: base64.b64encode(content).decode(),
    "basename": lambda path: Path(path).name,
    "cell": _cell_text,
    "code_spans": _code_spans,
    "number_columns": _number_columns,
}
