"""The doctor's report as one page that needs nothing else: tables, histograms, and pictures of the offenders."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from cledet.console import Bar, is_number
from cledet.data.findings import SEVERITIES, Example, Finding, counted
from cledet.engine.doctor import Report
from cledet.engine.doctor_tables import Table, example_line, tables
from cledet.engine.runs import write_whole
from cledet.engine.thumbnails import thumbnail
from cledet.errors import UserError

MARK = '<meta name="generator" content="cledet check">'
"""What tells a page of ours, which may be written again, from another file."""
FOLDED = 24
"""A table of more rows is folded."""


def refuse_target(path: Path) -> None:
    """Raise UserError for a file that the page must not or cannot be written to."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html {path} is no name of a page", "it ends in .html")
    if not path.parent.is_dir():
        raise UserError(f"--html {path}: the folder {path.parent} is not there", "make it, or choose another")
    if path.exists() and not (path.is_file() and MARK.encode() in path.read_bytes()[:1000]):
        raise UserError(f"--html {path} is there and was not written by `cledet check`", "choose another name")


def write_page(report: Report, path: Path) -> None:
    """Write the page, whole or not at all; a page of ours is replaced."""
    refuse_target(path)
    write_whole(path, page(report))


def page(report: Report) -> str:
    """The report as HTML, pictures inside."""
    title = escape(f"{report.name}: cledet check")
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{Path(__file__).with_name("doctor_page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<header>
<h1>{escape(report.name)}</h1>
<p class="verdict">{_verdict(report)}</p>
</header>
<main>
<section>
<h2>Findings</h2>
<p class="more">In pictures, what a finding is about is magenta; other boxes are blue.</p>
{"".join(map(_finding, report.findings)) or '<p class="fine">Nothing is wrong with it.</p>'}
</section>
<section class="tables">
<h2>What is in it</h2>
{"".join(map(_table, tables(report, whole=True)))}
</section>
</main>
</body>
</html>
"""
    return text.encode("utf-8", "xmlcharrefreplace").decode("utf-8")  # names of files may hold half a character


def _verdict(report: Report) -> str:
    counts = [(severity, report.count(severity)) for severity in SEVERITIES]
    return " ".join(
        f'<span class="{severity}">{counted(count, severity, severity + "s")}</span>'
        for severity, count in counts
        if count
    )


def _finding(finding: Finding) -> str:
    contents = [thumbnail(e.picture) if e.picture is not None else None for e in finding.examples]
    figures = "".join(_figure(e, content) for e, content in zip(finding.examples, contents) if content)
    words = "".join(
        f"<li>{escape(example_line(e))}</li>" for e, content in zip(finding.examples, contents) if not content
    )
    examples = f'<div class="examples">{figures}</div>' if figures else ""
    examples += f"<ul>{words}</ul>" if words else ""
    more = finding.count - len(finding.examples) if finding.examples else 0
    rest = f'<p class="more">and {more:,} more</p>' if more > 0 else ""
    return (
        f'<article class="{finding.severity}">\n<h3><span class="{finding.severity}">{finding.severity}</span> '
        f"<b>{escape(finding.split)}</b> {escape(finding.text)}</h3>\n"
        f"{examples}{rest}\n</article>\n"
    )


def _figure(example: Example, content: bytes) -> str:
    assert example.picture is not None
    path = example.picture.path
    image = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(content).decode()}">'
    text = f"<br>{escape(example.text)}" if example.text else ""
    name = f'<b title="{escape(path)}">{escape(Path(path).name)}</b>'
    return f"<figure>{image}<figcaption>{name}{text}</figcaption></figure>"


def _table(table: Table) -> str:
    right = [all(map(is_number, column)) for column in zip(*table.rows)]
    head = "".join(_cell("th", name, number) for name, number in zip(table.columns, right))
    rows = "".join(f"<tr>{''.join(map(_cell, ['td'] * len(row), row, right))}</tr>\n" for row in table.rows)
    whole = f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n'
    title = escape(table.title)
    if len(table.rows) > FOLDED:
        return f"<details><summary>{title}</summary>\n{whole}</details>\n"
    return (f"<h3>{title}</h3>\n" if title else "") + whole


def _cell(tag: str, value: Any, right: bool) -> str:
    if isinstance(value, Bar):
        return f'<{tag} class="bar"><i style="width:{100 * value.share:.1f}%"></i></{tag}>'
    text = "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return f"<{tag}{' class=number' if right else ''}>{escape(text)}</{tag}>"
