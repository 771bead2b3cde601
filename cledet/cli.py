"""The command line: flags become settings, settings go to the Detector, results are shown. Nothing else.

Every flag is a field of the command's settings in `cledet.config`; this file imports no torch before it must.
"""

from __future__ import annotations

import inspect
import io
import os
import platform
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from cledet import __version__
from cledet.choices import ablation_name
from cledet.config import CheckSettings, ExplainSettings, ExportSettings, PredictSettings, Settings, ValSettings
from cledet.console import Steps, fail, say, show, show_finding, show_json, show_table, transfer
from cledet.errors import Interrupted, ProcessFailed, UserError
from cledet.resolve import read_recipe, recipes, resolve
from cledet.train_config import GridSettings

app = typer.Typer(
    name="cledet",
    help="Object detection with classification and localization in equilibrium.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

data_app = typer.Typer(
    name="data", help="Data sets that come with the package: fetch them, list them.", no_args_is_help=True
)
app.add_typer(data_app)

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


@command(GridSettings)
def train(
    flags: dict[str, Any],
    recipe: Recipe = None,
    resume: Annotated[Path | None, typer.Option("--resume", help="go on with this run's or grid's folder")] = None,
    json: Json = False,
) -> None:
    """Train a detector, or a grid of them; without --data, on the embedded set `shapes` by its recipe."""
    given = {key: value for key, value in flags.items() if value is not None}
    if recipe is None and resume is None and "data" not in given:
        recipe = "shapes"
    resolve(GridSettings, given, recipe=recipe)  # complain before torch is imported
    from cledet.detector import Detector

    detector = Detector()
    run = detector.train(recipe=recipe, resume=resume, **given)
    if detector.model is None:
        say(f"done; the run is on the machine of rank 0: {run}")
        return
    if not (run / "weights").is_dir():
        show_json({"grid": str(run)}) if json else show(run)
        say(f"its table: cledet val --weights {run}")
        return
    if json:
        show_json({"run": str(run), **detector.model.metrics})
        return
    metrics = {key: value for key, value in detector.model.metrics.items() if key != "per_class"}
    if metrics:
        show_table("", list(metrics), [list(metrics.values())])
    show(run / "weights" / "best.pt")
    say(f"next: cledet val --weights {run}; cledet predict IMAGES --weights {run}; cledet export --weights {run}")


@command(ValSettings)
def val(flags: dict[str, Any], json: Json = False) -> None:
    """Evaluate a model, a grid of models, or a file of predictions, with pycocotools."""
    settings = resolve(ValSettings, flags)
    from cledet.commands import grid_to_folder, newest_detector, val_to_folder
    from cledet.detector import Detector
    from cledet.engine.grid import names_grid, summary
    from cledet.engine.report import as_document, val_tables

    if names_grid(settings):
        folder, grid = grid_to_folder(settings)
        show_json([row.to_dict() for row in grid]) if json else show_table("", *summary(grid))
        say(f"grid.md, grid.csv and grid.json: {folder}")
        return
    detector = Detector() if settings.predictions else newest_detector(settings)
    run, found = val_to_folder(detector, settings)
    if json:
        show_json(as_document(found))
        return
    for columns, rows in val_tables(found):
        show_table("", columns, rows)
    say(f"run folder: {run}")


@command(PredictSettings)
def predict(
    flags: dict[str, Any],
    source: Annotated[str, typer.Argument(help="an image, a folder, or a glob in quotes")],
    json: Json = False,
) -> None:
    """Detect in images: annotated pictures and predictions.json."""
    settings = resolve(PredictSettings, flags)
    from cledet.commands import newest_detector, predict_to_folder

    run, documents = predict_to_folder(newest_detector(settings), source, settings)
    if json:
        show_json(documents)
        return
    for document in documents:
        names = [found["name"] for found in document["detections"]]
        counts = ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))
        print(f"{document['file']}: {counts or 'nothing'}")
    say(f"pictures and predictions.json: {run}")


@command(ExplainSettings)
def explain(
    flags: dict[str, Any],
    image: Annotated[str, typer.Argument(help="an image")],
    json: Json = False,
) -> None:
    """Show why a model sees an image as it does: anchors, coefficients, clusters, and where each branch is best."""
    settings = resolve(ExplainSettings, flags)
    from cledet.commands import explain_to_folder, newest_detector

    run, document = explain_to_folder(newest_detector(settings), image, settings)
    show_json(document) if json else print(run / "explain.png")


@command(ExportSettings)
def export(flags: dict[str, Any], json: Json = False) -> None:
    """Write a model for another runtime, and prove that it computes the same there."""
    settings = resolve(ExportSettings, flags)
    from cledet.commands import newest_detector

    result = newest_detector(settings).export(settings=settings)
    show_json(result.to_dict()) if json else print(result.path)


@command(CheckSettings)
def check(
    flags: dict[str, Any],
    data: Annotated[str, typer.Argument(help="data set: YAML, folder, COCO annotation file, or a shipped name")],
    strict: Annotated[bool, typer.Option("--strict", help="exit code 1 if there are warnings")] = False,
    json: Json = False,
) -> None:
    """Examine a data set: what is in it, what is wrong. Exit code 2 with errors, 1 with warnings if --strict."""
    settings = resolve(CheckSettings, flags)
    from cledet.data.source import open_source
    from cledet.engine.doctor import check as examine
    from cledet.engine.doctor_page import refuse_target, write_page

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
    from cledet.engine.doctor_tables import example_line, tables

    for table in tables(report):
        show_table(*table)
    for finding in report.findings:
        lines = [example_line(example) for example in finding.examples[:5]]
        more = finding.count - len(lines) if lines else 0
        show_finding(finding.severity, f"{finding.split}: {finding.text}", lines, more)
    if not report.findings:
        print("nothing is wrong with it")


@data_app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(help="coco, voc, shapes, or a YAML that names its archives")],
    to: Annotated[Path | None, typer.Option("--to", help="the folder to put it in (default: the cache)")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="keep the archives beside the data set")] = False,
    json: Json = False,
) -> None:
    """Fetch a data set: resumed, verified, unpacked. The only command that downloads one."""
    from cledet.data.archives import open_set
    from cledet.data.download import download

    chosen = open_set(name, to)
    again = shlex.join(["cledet", "data", "download", name, *(["--to", str(to)] if to else []), *["--keep"][:keep]])
    try:
        fetched = download(chosen, transfer, keep=keep)
    except KeyboardInterrupt:
        fail(f"interrupted; what has arrived is kept, go on with: {again}")
        raise typer.Exit(130) from None
    if not fetched:
        say(f"{chosen.name} is there already")
    show_json(chosen.to_dict()) if json else print(chosen.root)
    say(f"train on it: cledet train --data {shlex.quote(str(chosen.copy or name))}")


@data_app.command("list")
def data_list(json: Json = False) -> None:
    """Show the data sets that come with the package, and which of them are there."""
    from cledet.data.download import listing

    sets = listing()
    if json:
        show_json(sets)
        return
    columns = ("name", "state", "MB to fetch", "folder")
    show_table("", columns, [(s["name"], s["state"], round(s["bytes"] / 1e6), s["folder"]) for s in sets])


@app.command()
def info(json: Json = False) -> None:
    """Show versions, devices, recipes and runs."""
    import torch
    import torchvision

    from cledet.engine.devices import amp_dtype, describe, pick_device
    from cledet.engine.runs import trained_runs

    device = pick_device("auto")
    facts = {
        "cledet": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "device": describe(device),
        "precision": str(amp_dtype(device, "auto") or torch.float32).removeprefix("torch."),
        "recipes": {name: read_recipe(path).get("data", "") for name, path in recipes().items()},
        "runs": [str(run) for run in trained_runs(Path("runs"))],
    }
    if json:
        show_json(facts)
        return
    show_table("", ["what", "which"], [(k, v if isinstance(v, str) else ", ".join(v)) for k, v in facts.items()])


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    if version:
        print(__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: 0 done, 1 a bug, 2 a user's mistake, 130 and 143 interrupted."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to stop
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as error:
        fail(str(error))
        sys.exit(2)
    except BrokenPipeError:  # the reader, say `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        fail("interrupted")
        sys.exit(130)
    except Interrupted as error:
        fail(str(error))
        sys.exit(128 + error.signal_number)
    except ProcessFailed as error:
        fail(str(error))
        sys.exit(1)
