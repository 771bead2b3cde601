"""Self-contained HTML page of a dataset check: findings with images, tables and histograms."""

from __future__ import annotations

from pathlib import Path

from cledet.data_check.check import Report
from cledet.data_check.findings import SEVERITIES
from cledet.data_check.tables import example_line, tables
from cledet.data_check.thumbnails import thumbnail
from cledet.errors import UserError
from cledet.io.atomic import write_whole
from cledet.visualization.html import generator, render

MARK = generator("check")


def refuse_target(path: Path) -> None:
    """Raise UserError for a file that the page must not or cannot be written to."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--html {path} is not an HTML file", "choose a name that ends in .html")
    if not path.parent.is_dir():
        raise UserError(f"--html {path}: the folder {path.parent} does not exist", "create it, or choose another")
    if path.exists() and not (path.is_file() and MARK.encode() in path.read_bytes()[:1000]):
        raise UserError(f"--html {path} exists and was not written by `cledet check`", "choose another name")


def write_page(report: Report, path: Path) -> None:
    """Write the page atomically; an earlier page of `cledet check` is replaced."""
    refuse_target(path)
    write_whole(path, render_page(report))


def render_page(report: Report) -> str:
    """Render a report as HTML with embedded images."""
    return render(
        "check.html",
        "check",
        report.name,
        counts={severity: report.count(severity) for severity in SEVERITIES},
        findings=[
            (finding, [(e, e.picture and thumbnail(e.picture)) for e in finding.examples])
            for finding in report.findings
        ],
        tables=tables(report, complete=True),
        example_line=example_line,
    )
