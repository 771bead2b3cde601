"""`cledet predict`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from cledet.commands.find_detector import find_detector
from cledet.commands.options import DOCUMENT, JSON_LINES
from cledet.config.base import PredictSettings
from cledet.console import Steps, printable, say, stdout_is_terminal, warn
from cledet.errors import UserError

if TYPE_CHECKING:
    from cledet.detector import Detector
    from cledet.inference.results import Results
    from cledet.inference.sinks import Sink

NAMED = 5
"""Most names of unread images in the last message."""


def predict(
    settings: PredictSettings,
    source: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Images, folders, patterns, lists (.txt), videos, URLs, a webcam's number, or - (standard input).",
        ),
    ],
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar=JSON_LINES,
            help="Print one JSON document on stdout; with -, one JSON object per image, as they are found.",
            rich_help_panel="Output",
        ),
    ] = None,
) -> None:
    """Detect objects in images and videos: annotated pictures and predictions.json.

    Exits with 1 if some images could not be read.

    Examples:
        cledet predict images/ --nms cl-balanced
        cledet predict photo.jpg clip.mp4 'more/*.png' --classes person,dog
        cledet predict photos/ -r --save crops,csv
        cledet predict rtsp://camera.local/stream --save none --json -
    """
    from cledet.inference.sources import Missing, expand_all

    if json not in STREAMS:
        raise UserError(f"--json takes no value, or - for JSON Lines, not {json!r}")
    first, *others = expand_all(source, recursive=settings.recursive)
    if isinstance(first, Missing) and not others:
        raise first.error  # before any weights are fetched
    detector = find_detector(settings, published="coco")
    unread = predict_sources(detector, source, settings, partial(STREAMS[json], sys.stdout))
    if unread:
        raise typer.Exit(1)


def predict_sources(
    detector: Detector, sources: Sequence[str], settings: PredictSettings, output: Callable[[float | None], Sink]
) -> list[str]:
    """Write the files of `settings.save` into a new run folder, and each result to the sink of `output`.

    `output` takes the minimum score, None if each class has its own. Returns the names of the images that could not be
    read. Raises UserError if that are all.
    """
    from cledet.inference.pipeline import ReadAhead, Writer
    from cledet.inference.sinks import open_sinks
    from cledet.inference.sources import expand_all, expected_count, open_entries

    entries = expand_all(sources, recursive=settings.recursive)
    predictor = detector.predictor(settings)
    items, unread = open_entries(entries, recursive=settings.recursive), Unread()
    run, writer = None, None
    try:
        with (
            Steps("predicting", expected_count(entries), hidden=stdout_is_terminal()) as steps,
            ReadAhead(items, unread.add) as frames,
            ExitStack() as stack,
        ):
            for count, result in enumerate(predictor.stream(frames, settings.batch), 1):
                if writer is None:
                    run = _run_folder(settings, sources[0])
                    sinks = [] if run is None else open_sinks(run, settings.saved)
                    writer = stack.enter_context(Writer([*sinks, output(predictor.conf)]))
                writer.put(result)
                unread.read(count)
                steps.advance()
        unread.report()
    finally:
        if run is not None:
            say(f"results: {run}")
    return unread.names


def _run_folder(settings: PredictSettings, source: str) -> Path | None:
    """Create the run folder, named after the first source; None if nothing is saved."""
    from cledet.inference.urls import is_url, shown_url
    from cledet.io.run_folders import name_from, new_run

    if not settings.saved:
        return None
    path = shown_url(source).partition("?")[0] if is_url(source) else source
    stem = "stdin" if source == "-" else Path(path).stem.strip("*?[]")
    return new_run(settings.project, "predict", settings.name or name_from(stem, "images"))


class Unread:
    """Images that could not be read: each is a warning, all are counted at the end.

    As long as no image was read, the warnings are kept back: a single one becomes the error of the command.
    """

    def __init__(self) -> None:
        self.names: list[str] = []
        self._count = 0
        self._kept: list[UserError] = []

    def add(self, name: str, error: UserError) -> None:
        """Count an image that could not be read."""
        self.names.append(name)
        self._kept.append(error)
        if self._count:
            self._warn()

    def read(self, count: int) -> None:
        """Set the number of images that were read."""
        self._count = count
        self._warn()

    def report(self) -> None:
        """Name the images that could not be read. Raises UserError if that are all."""
        if not self._count and len(self._kept) == 1:
            raise self._kept[0]
        self._warn()
        if not self.names:
            return
        more = f" and {len(self.names) - NAMED:,} more" if len(self.names) > NAMED else ""
        listed = f"{len(self.names):,} could not be read: {', '.join(self.names[:NAMED])}{more}"
        if not self._count:
            raise UserError(f"no image could be read; {listed}")
        warn(f"{self._count:,} images were read, {listed}")

    def _warn(self) -> None:
        for error in self._kept:
            warn(str(error))
        self._kept.clear()


class TextLines:
    """A line per image on an open stream: the number of detections of each class, flushed."""

    def __init__(self, stream: TextIO, conf: float | None) -> None:
        self._stream, self._conf = stream, conf

    def write(self, result: Results) -> None:
        """Write and flush one line."""
        print(printable(describe(result, self._conf)), file=self._stream, flush=True)

    def close(self) -> None:
        """Do nothing: the stream is the caller's."""


def describe(result: Results, conf: float | None) -> str:
    """Describe a result in one line: the number of detections of each class, or the score that came nearest.

    `conf` is the minimum score, None if each class has its own.
    """
    place = result.name if result.number is None else f"{result.name}, frame {result.number}"
    if len(result):
        return f"{place}: {result.summary()}"
    highest = result.highest_score
    limit = "the minimum score of its class" if conf is None else f"{conf:.2f}"
    is_near = highest is not None and (conf is None or highest <= conf)
    return f"{place}: nothing over {limit}{f'; the highest score is {highest:.2f}' if is_near else ''}"


def _json_document(stream: TextIO, _conf: float | None) -> Sink:
    from cledet.inference.sinks import JsonDocumentStream

    return JsonDocumentStream(stream)


def _json_lines(stream: TextIO, _conf: float | None) -> Sink:
    from cledet.inference.sinks import JsonLinesStream

    return JsonLinesStream(stream)


STREAMS: dict[str | None, Callable[[TextIO, float | None], Sink]] = {
    None: TextLines,
    DOCUMENT: _json_document,
    "-": _json_lines,
}
"""Output on stdout by the value of `--json`."""
