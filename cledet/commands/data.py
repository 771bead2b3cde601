"""`cledet data`: download, convert, divide, merge and sample data sets."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cledet.commands.data_copies import convert, merge, sample, split
from cledet.commands.options import Group, Json, add_command
from cledet.console import fail, say, show, show_json, show_table, transfer
from cledet.errors import interruption

data = typer.Typer(
    name="data",
    help="Download, convert, divide, merge and sample data sets.",
    cls=Group,
    add_completion=False,
    rich_markup_mode=None,
)


def download(
    name: Annotated[str, typer.Argument(help="coco, voc, shapes, or a YAML that lists archives.")],
    to: Annotated[Path | None, typer.Option("--to", metavar="PATH", help="Target folder. Default: the cache.")] = None,
    keep: Annotated[bool, typer.Option("--keep", metavar="", help="Keep the archives beside the data set.")] = False,
    json: Json = False,
) -> None:
    """Download a data set: resumable, verified, unpacked. No other command downloads one.

    Examples:
        cledet data download voc
        cledet data download coco --to /data
    """
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


def list_sets(json: Json = False) -> None:
    """List the data sets that come with the package, and whether each is downloaded."""
    from cledet.data.download.archives import SHIPPED, open_set

    sets = [open_set(name).to_dict() for name in SHIPPED]
    if json:
        show_json(sets)
        return
    columns = ("name", "state", "MB to fetch", "folder")
    show_table("", columns, [(s["name"], s["state"], round(s["bytes"] / 1e6), s["folder"]) for s in sets])


add_command(data, download)
add_command(data, list_sets, name="list")
for copy in (convert, split, merge, sample):
    add_command(data, copy)
