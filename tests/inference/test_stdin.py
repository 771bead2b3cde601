"""Standard input as a source: an image, a video, or paths and URLs, one a line."""

from __future__ import annotations

import io
import os
import threading

import numpy as np
import pytest
from clips import write_clip
from PIL import Image

from cledet.errors import UserError
from cledet.inference.sources import find_items, read_frames


@pytest.fixture
def feed():
    """Replaces the file descriptor 0 with a pipe, and writes to it from a thread: bytes, or several pieces of them."""
    before = os.dup(0)
    ends = []

    def run(*pieces: bytes, close: bool = True):
        read, write = os.pipe()
        os.dup2(read, 0)
        os.close(read)

        def work():
            for piece in pieces:
                os.write(write, piece)
            if close:
                os.close(write)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        ends.append(thread)
        return write

    yield run
    os.dup2(before, 0)
    os.close(before)


def encoded(format, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(np.full((60, 80, 3), 7, np.uint8)).convert(mode).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_an_image(feed, format):
    data = encoded(format)
    feed(data[:1], data[1:9], data[9:])
    (frame,) = read_frames("-")
    assert frame.image.shape == (60, 80, 3)
    assert (frame.path, frame.name, frame.number) == (None, "-", None)


@pytest.mark.parametrize("folder", ["BMW", "GIF8"])
def test_a_path_that_begins_like_an_image(feed, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "1.png").write_bytes(encoded("PNG"))
    feed(f"{folder}/1.png\n".encode())
    assert [frame.name for frame in read_frames("-")] == [f"{folder}/1.png"]


def test_blank_lines_alone_name_no_image(feed):
    feed(b"\n \n")
    with pytest.raises(UserError, match="standard input names no image"):
        list(read_frames("-"))


@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_a_video(feed, tmp_path, suffix):
    feed(write_clip(tmp_path / f"a.{suffix}", 6).read_bytes())
    assert [(frame.name, frame.number) for frame in read_frames("-")] == [("-", i) for i in range(6)]


def test_paths_one_a_line(feed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b c.png", os.fsdecode(b"\xe9.png"), "0"):
        with open(name, "wb") as file:
            file.write(encoded("PNG"))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "d.png").write_bytes(encoded("PNG"))
    feed(b"a.png\nb c.png\r\n\nfolder\n", b"\xe9.p", b"ng\n0\ngone.png\n-\n./a.png")
    errors = []
    found = [f.name for f in read_frames("-", on_error=lambda name, error: errors.append(name))]
    assert found == ["a.png", "b c.png", "folder/d.png", os.fsdecode(b"\xe9.png"), "0", "a.png"]
    assert errors == ["gone.png", "-"]


def test_a_line_is_taken_as_it_arrives(feed, tmp_path):
    (tmp_path / "a.png").write_bytes(encoded("PNG"))
    write = feed(os.fsencode(tmp_path / "a.png") + b"\n", close=False)
    items = find_items("-")
    assert next(items).read().path == tmp_path / "a.png"
    os.write(write, os.fsencode(tmp_path / "gone.png") + b"\n")
    with pytest.raises(UserError, match="not found"):
        next(items).read()
    os.close(write)
    assert list(items) == []


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", r"standard input is empty \(pipe an image into it, or paths, one a line\)"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "cannot decode image on standard input"),
        (b"\0\1\2\3" * 99, "^- cannot be opened as a video"),
    ],
)
def test_what_is_neither_is_one_sentence(feed, data, sentence):
    feed(data)
    with pytest.raises(UserError, match=sentence):
        list(read_frames("-"))
