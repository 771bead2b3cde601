"""The doctor's report as one page that needs nothing else: tables, histograms, and pictures of the offenders."""

from __future__ import annotations

from html import escape
from pathlib import Path

from cledet.data_check.check import Report
from cledet.data_check.findings import SEVERITIES, Example, Finding, counted
from cledet.data_check.tables import example_line, tables
from cledet.data_check.thumbnails import thumbnail
from cledet.errors import UserError
from cledet.io.atomic import write_whole
from cledet.visualization.html import frame, generator, image, named, table

MARK = generator("check")


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
    main = f"""<section>
<h2>Findings</h2>
<p class="more">In pictures, what a finding is about is magenta; other boxes are blue.</p>
{"".join(map(_finding, report.findings)) or '<p class="fine">Nothing is wrong with it.</p>'}
</section>
<section class="tables">
<h2>What is in it</h2>
{"".join(table(*one) for one in tables(report, whole=True))}
</section>"""
    return frame("check", report.name, f'<p class="verdict">{_verdict(report)}</p>', main)


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
    text = f"<br>{escape(example.text)}" if example.text else ""
    return f"<figure>{image(content, 'jpeg')}<figcaption>{named(example.picture.path)}{text}</figcaption></figure>"
