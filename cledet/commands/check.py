"""`cledet check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cledet.commands.options import Json
from cledet.config.base import CheckSettings
from cledet.console import Steps, say, show, show_finding, show_json, show_table, transfer

if TYPE_CHECKING:
    from cledet.data_check.check import Report


def check(
    settings: CheckSettings,
    data: Annotated[str, typer.Argument(help="Data set: YAML, folder, annotation file, .zip, or a shipped name.")],
    strict: Annotated[bool, typer.Option("--strict", metavar="", help="Exit with code 1 on warnings.")] = False,
    json: Json = False,
) -> None:
    """Check a data set: statistics and annotation errors. Exits with 2 on errors, with 1 on warnings if --strict.

    Examples:
        cledet check photos/ --html report.html
        cledet check coco.yaml --split train --imgsz 640
    """
    from cledet.data.open import open_source
    from cledet.data_check.check import check as examine
    from cledet.data_check.html import refuse_target, write_page

    source = open_source(data, transfer)
    say(str(source))
    if settings.html is not None:
        refuse_target(settings.html)
    with Steps(f"reading {source.name}", 0) as steps:
        report = examine(source, settings, steps.set)
    if settings.html is not None:
        write_page(report, settings.html)
        say(f"page: {settings.html}")
    show_json(report.to_dict()) if json else _show_report(report)
    code = report.exit_code(strict)
    if code:
        raise typer.Exit(code)


def _show_report(report: Report) -> None:
    from cledet.data_check.tables import example_line, tables

    for table in tables(report):
        show_table(*table)
    for finding in report.findings:
        lines = [example_line(example) for example in finding.examples[:5]]
        show_finding(finding.severity, f"{finding.split}: {finding.text}", lines, finding.more(len(lines)))
    if not report.findings:
        show("no problems were found")
