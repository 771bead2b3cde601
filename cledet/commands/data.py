"""The commands about data sets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from cledet.commands.options import Json, app, command
from cledet.config.base import CheckSettings
from cledet.config.loading import resolve
from cledet.console import Steps, fail, say, show, show_finding, show_json, show_table, transfer
from cledet.errors import interruption

data_app = typer.Typer(
    name="data", help="Data sets that come with the package: fetch them, list them.", no_args_is_help=True
)
app.add_typer(data_app)


@command(CheckSettings)
def check(
    flags: dict[str, Any],
    data: Annotated[str, typer.Argument(help="data set: YAML, folder, COCO annotation file, or a shipped name")],
    strict: Annotated[bool, typer.Option("--strict", help="exit code 1 if there are warnings")] = False,
    json: Json = False,
) -> None:
    """Examine a data set: what is in it, what is wrong. Exit code 2 with errors, 1 with warnings if --strict."""
    settings = resolve(CheckSettings, flags)
    from cledet.data.open import open_source
    from cledet.data_check.check import check as examine
    from cledet.data_check.html import refuse_target, write_page

    source = open_source(data)
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


def _show_report(report: Any) -> None:
    from cledet.data_check.tables import example_line, tables

    for table in tables(report):
        show_table(*table)
    for finding in report.findings:
        lines = [example_line(example) for example in finding.examples[:5]]
        more = finding.count - len(lines) if lines else 0
        show_finding(finding.severity, f"{finding.split}: {finding.text}", lines, more)
    if not report.findings:
        show("nothing is wrong with it")


@data_app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(help="coco, voc, shapes, or a YAML that names its archives")],
    to: Annotated[Path | None, typer.Option("--to", help="the folder to put it in (default: the cache)")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep the archives beside the data set")] = False,
    json: Json = False,
) -> None:
    """Fetch a data set: resumed, verified, unpacked. The only command that downloads one."""
    from cledet.data.download.archives import open_set
    from cledet.data.download.download import download

    chosen = open_set(name, to)
    again = shlex.join(["cledet", "data", "download", name, *(["--to", str(to)] if to else []), *["--keep"][:keep]])
    try:
        fetched = download(chosen, transfer, keep=keep)
    except KeyboardInterrupt as error:
        stopped = interruption(error)
        fail(f"{stopped}; what has arrived is kept, go on with: {again}")
        raise typer.Exit(128 + stopped.signal_number) from None
    if not fetched:
        say(f"{chosen.name} is there already")
    show_json(chosen.to_dict()) if json else show(chosen.root)
    say(f"train on it: cledet train --data {shlex.quote(str(chosen.copy or name))}")


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """Show the data sets that come with the package, and which of them are there."""
    from cledet.data.download.download import listing

    sets = listing()
    if json:
        show_json(sets)
        return
    columns = ("name", "state", "MB to fetch", "folder")
    show_table("", columns, [(s["name"], s["state"], round(s["bytes"] / 1e6), s["folder"]) for s in sets])
