"""A page that needs nothing else: its frame with the style inside, tables, and pictures as data."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from cledet.console import Bar, is_number

FOLDED = 24
"""A table of more rows is folded."""


def generator(command: str) -> str:
    """What tells a page of ours, which may be written again, from another file."""
    return f'<meta name="generator" content="cledet {command}">'


def frame(command: str, name: str, header: str, main: str) -> str:
    """A page of what a command found: the heading's HTML under the name, and sections."""
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{generator(command)}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(f"{name}: cledet {command}")}</title>
<style>
{Path(__file__).with_name("page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escape(name)}</h1>
{header}
</header>
<main>
{main}
</main>
</body>
</html>
"""
    return text.encode("utf-8", "xmlcharrefreplace").decode("utf-8")  # names of files may hold half a character


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table with its title; numbers are set to the right; many rows are folded."""
    right = [all(map(is_number, column)) for column in zip(*rows)] or [False] * len(columns)
    head = "".join(_cell("th", name, number) for name, number in zip(columns, right))
    body = "".join(f"<tr>{''.join(map(_cell, ['td'] * len(row), row, right))}</tr>\n" for row in rows)
    whole = f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'
    if len(rows) > FOLDED:
        return f"<details><summary>{escape(title)}</summary>\n{whole}</details>\n"
    return (f"<h3>{escape(title)}</h3>\n" if title else "") + whole


def image(content: bytes, kind: str, alt: str = "") -> str:
    """A picture, "jpeg" or "png", inside the page."""
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def named(path: str) -> str:
    """A file's name, its whole path shown when pointed at."""
    return f'<b title="{escape(path)}">{escape(Path(path).name)}</b>'


def _cell(tag: str, value: Any, right: bool) -> str:
    if isinstance(value, Bar):
        return f'<{tag} class="bar"><i style="width:{100 * value.share:.1f}%"></i></{tag}>'
    text = "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return f"<{tag}{' class=number' if right else ''}>{escape(text)}</{tag}>"
