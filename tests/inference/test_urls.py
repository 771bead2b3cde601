"""Images and videos at URLs, from a server on this machine."""

from __future__ import annotations

import io
import socket

import numpy as np
import pytest
from clips import level, write_clip
from PIL import Image

from cledet.errors import UserError
from cledet.inference import urls
from cledet.inference.sources import read_frames
from cledet.inference.urls import is_image_url, is_url, shown_url, url_suffix


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("name", ["a.png", "a.png?size=large", "no-suffix"])
def test_an_image_is_fetched(server, name):
    server.files |= {name: png()}
    (frame,) = read_frames(f"{server.url}/{name}")
    assert frame.image.shape == (6, 8, 3)
    assert (frame.image == (1, 2, 3)).all()
    assert (frame.path, frame.name) == (None, f"{server.url}/{name}")
    assert {asked.agent for asked in server.asked} == {"cledet"}


def test_a_video_is_streamed(server, tmp_path):
    server.files["clip.mp4"] = write_clip(tmp_path / "clip.mp4", 5).read_bytes()
    frames = list(read_frames(f"{server.url}/clip.mp4"))
    assert [frame.number for frame in frames] == [0, 1, 2, 3, 4]
    assert [abs(int(frame.image[30, 30, 0]) - level(i)) <= 3 for i, frame in enumerate(frames)] == [True] * 5


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda server: f"{server.url}/gone.png", "could not be fetched: the server answered 404"),
        (lambda server: f"{server.url}/gone.mp4", "cannot be opened as a video"),
        (lambda server: f"{server.url}/gone", "could not be fetched: the server answered 404"),
        (lambda server: f"http://127.0.0.1:{closed_port()}/a.png", "could not be fetched: .*refused"),
        (lambda server: f"rtsp://127.0.0.1:{closed_port()}/live", "cannot be opened as a video: .*refused"),
        (lambda server: "http://[::1/a.png", "http://"),
        (lambda server: "http:///a.png", "could not be fetched"),
        (lambda server: f"{server.url}/text.png", "cannot decode image .*text.png: it is not an image"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(server, make, sentence):
    server.files["text.png"] = b"no image"
    with pytest.raises(UserError, match=sentence):
        list(read_frames(make(server)))


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_a_file_that_is_too_large_is_refused(server, monkeypatch):
    monkeypatch.setattr(urls, "MAX_BYTES", 50)
    server.files["a.png"] = png()
    with pytest.raises(UserError, match="has more than 0 MB"):
        list(read_frames(f"{server.url}/a.png"))


def test_passwords_are_not_shown(server):
    address = server.url.partition("://")[2]
    server.files["a.png"] = png()
    assert shown_url("rtsp://user:p@ss@host/x") == "rtsp://host/x"
    with pytest.raises(UserError) as raised:
        list(read_frames(f"http://name:secret@{address}/b.png"))
    assert "secret" not in str(raised.value)
    with pytest.raises(UserError) as raised:
        list(read_frames(f"rtsp://name:secret@127.0.0.1:{closed_port()}/b"))
    assert "secret" not in str(raised.value)


def test_names_with_spaces_and_letters_beyond_ascii(server):
    server.files["a%20%C3%BC.png"] = png()
    (frame,) = read_frames(f"{server.url}/a ü.png")
    assert frame.image.shape == (6, 8, 3)


def test_kinds_of_urls():
    assert all(is_url(url) for url in ("http://x", "RTSP://x/y", "rtmp+x://a"))
    assert not any(is_url(text) for text in ("a.jpg", "/a://b", "C:\\x", "a:b", "1://x"))
    assert is_image_url("https://x/a.JPG?b=c.mp4")
    assert not is_image_url("rtsp://x/a.jpg")
    assert url_suffix("http://x/a.tar.gz?q=.png") == ".gz"
    assert np.all([is_image_url(f"http://x/a{suffix}") for suffix in (".png", ".webp", ".tiff")])
