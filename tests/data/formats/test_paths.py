"""Files that are none do not make a reader wait."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data.formats.annotation_errors import ErrorLog
from cledet.data.formats.paths import not_found_error, open_regular_file
from cledet.data.formats.voc import read_xml
from cledet.data.formats.yolo import read_labels
from cledet.data.image_files import read_files
from cledet.data.open import open_source
from cledet.errors import UserError
from cledet.metrics.results_file import read_results

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")


@pytest.fixture
def pipe(tmp_path: Path):
    """A named pipe that nobody writes to; who waits for it fails."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
    signal.alarm(10)
    os.mkfifo(tmp_path / "pipe")
    yield tmp_path / "pipe"
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_open_regular_file_opens_files_only(pipe: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with open(tmp_path / "a.txt", opener=open_regular_file) as file:
        assert (file.read(), os.get_blocking(file.fileno())) == ("a", True)
    for path, words in (
        (pipe, "it is a named pipe, not"),
        ("/dev/zero", "it is a device, not"),
        (tmp_path, "Is a directory"),
    ):
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError, match=words):
            open(path, opener=open_regular_file).close()
        assert len(os.listdir("/proc/self/fd")) == before


def test_a_pipe_is_not_reported_as_missing(pipe: Path) -> None:
    assert (
        str(not_found_error("data set", pipe))
        == f"data set cannot be read: {pipe} is a named pipe, socket or device (pass a file)"
    )
    with pytest.raises(UserError, match="data set cannot be read"):
        open_source(pipe)


def test_annotations_in_a_pipe_are_annotation_errors(pipe: Path) -> None:
    errors = ErrorLog()
    assert len(read_labels(str(pipe), keypoints=False, errors=errors)) == 0
    assert read_xml(pipe, ("cat",), errors) is None
    (error,) = errors.records()
    assert (error.kind, error.count) == ("annotation", 2)
    assert f"{pipe}: it is a named pipe, not a file" in error.examples


def test_images_and_results_in_a_pipe(pipe: Path, tmp_path: Path, make_index) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((80, 100, 3), np.uint8))
    index = make_index([], [], paths=[pipe, tmp_path / "a.png"])
    found, (at,) = read_files([index], threads=2)
    assert found.damage == {int(at[0]): ("unreadable", "it is a named pipe, not a file")}
    with pytest.raises(UserError, match=f"predictions file {pipe} cannot be read: it is a named pipe"):
        read_results(pipe, index)
