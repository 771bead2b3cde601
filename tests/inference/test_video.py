"""Video files and cameras: their frames in order, and the sentence for a video that cannot be read."""

from __future__ import annotations

import sys
from itertools import pairwise

import av
import numpy as np
import pytest
from clips import level, write_clip, write_sound

from cledet.errors import UserError
from cledet.inference import video
from cledet.inference.sources import read_frames


def gray_levels(frames):
    return [round(float(frame.image.mean())) for frame in frames]


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")]
)
def test_frames_come_in_order_with_number_and_time(tmp_path, suffix, codec):
    clip = write_clip(tmp_path / f"a.{suffix}", 12, codec=codec)
    frames = list(read_frames(clip))
    assert [frame.number for frame in frames] == list(range(12))
    assert [frame.seconds for frame in frames] == pytest.approx([i / 25 for i in range(12)], abs=2e-3)
    assert gray_levels(frames) == pytest.approx([level(i) for i in range(12)], abs=3)
    assert {(frame.path, frame.name) for frame in frames} == {(clip, str(clip))}
    assert frames[0].image.shape == (64, 80, 3)
    assert frames[0].image.flags.c_contiguous


def test_a_folder_holds_images_and_videos(tmp_path):
    from PIL import Image

    write_clip(tmp_path / "b.mp4", 2)
    Image.new("RGB", (5, 5)).save(tmp_path / "a.png")
    assert [frame.number for frame in read_frames(tmp_path)] == [None, 0, 1]


def test_odd_sizes_are_kept(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = 31, 45, "yuv444p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((31, 45, 3), 99, np.uint8), format="rgb24")))
        container.mux(stream.encode())
    (frame,) = read_frames(tmp_path / "a.mkv")
    assert frame.image.shape == (31, 45, 3)
    assert abs(int(frame.image[3, 3, 0]) - 99) <= 2


def test_a_rotated_video_is_upright(tmp_path, monkeypatch):
    """Phones store the rotation beside the picture; FFmpeg tells it as degrees counterclockwise."""
    (frame,) = av.open("testsrc=size=32x24:rate=1:duration=1", format="lavfi").decode(video=0)
    image = frame.to_ndarray(format="rgb24")

    class Rotated:
        rotation = -90

        def to_ndarray(self, format):
            return image

    upright = video._to_frame(Rotated(), None, "a", 0, 0.0).image
    assert upright.shape == (32, 24, 3)
    assert (upright[0] == image[::-1, 0]).all()  # clockwise: the left column, from below, is the first row


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: path.write_bytes(b""), r"a\.mp4 cannot be opened as a video: "),
        (lambda path: path.write_bytes(b"no video" * 99), r"a\.mp4 cannot be opened as a video: Invalid data"),
        (lambda path: path.write_bytes(write_clip(path, 9).read_bytes()[:800]), "cannot be opened as a video"),
        (lambda path: write_sound(path), r"a\.mp4 holds no video \(it holds audio\)"),
        (lambda path: empty(path), r"a\.mp4 holds no "),
        (lambda path: unknown_codec(path), "has a codec that this FFmpeg cannot decode"),
    ],
)
def test_what_is_no_video_is_one_sentence(tmp_path, make, sentence):
    make(tmp_path / "a.mp4")
    with pytest.raises(UserError, match=sentence):
        list(read_frames(tmp_path / "a.mp4"))


def empty(path):
    """A video stream without frames."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 80, "yuv420p"
        container.start_encoding()
        container.mux(stream.encode())


def unknown_codec(path):
    data = write_clip(path, 3).read_bytes()
    assert data.count(b"avc1") >= 1
    head = data.rindex(b"avc1")
    path.write_bytes(data[:head] + b"zzzz" + data[head + 4 :])


def test_a_playlist_in_a_file_does_not_reach_for_the_network(server, tmp_path):
    server.files["a.ts"] = write_clip(tmp_path / "a.ts", 50).read_bytes()
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{server.url}/a.ts\n#EXT-X-ENDLIST\n"
    (tmp_path / "b.mp4").write_text(text)
    with pytest.raises(UserError, match=r"b\.mp4 "):
        list(read_frames(tmp_path / "b.mp4"))
    assert server.asked == []
    server.files["c.m3u8"] = text.encode()
    assert len(list(read_frames(f"{server.url}/c.m3u8"))) == 50  # from a server it does


def test_a_playlist_of_a_server_does_not_read_files(server, tmp_path):
    clip = write_clip(tmp_path / "a.ts", 3)
    server.files["c.m3u8"] = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(UserError, match=r"c\.m3u8 "):
        list(read_frames(f"{server.url}/c.m3u8"))


def test_damage_is_named_after_the_frames_that_are_whole(tmp_path):
    clip = write_clip(tmp_path / "a.avi", 40, codec="mjpeg")
    data = bytearray(clip.read_bytes())
    starts = [i for i in range(len(data) - 2) if data[i : i + 3] == b"\xff\xd8\xff"]
    for start, following in pairwise(starts[10:14]):
        data[start : following - 16] = bytes(following - 16 - start)
    clip.write_bytes(data)
    errors = []
    frames = list(read_frames(clip, on_error=lambda name, error: errors.append(str(error))))
    assert 36 <= len(frames) < 40
    assert len(errors) == 1
    assert "a.avi is damaged: 3 of its packets could not be decoded" in errors[0]


def test_frames_that_are_too_large_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "MAX_PIXELS", 1000)
    with pytest.raises(UserError, match=r"a\.mkv "):
        list(read_frames(write_clip(tmp_path / "a.mkv", 3)))


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    clip = write_clip(tmp_path / "a.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"videos need PyAV, which is not installed \(pip install 'cledet\[video\]'\)"):
        list(read_frames(clip))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems list cameras otherwise")
def test_a_camera_that_is_not_there(monkeypatch):
    with pytest.raises(UserError, match=r"there is no webcam 98765 \(.*\)"):
        list(read_frames(98765))


def test_a_camera_is_read_frame_by_frame(monkeypatch):
    """FFmpeg's generator of test pictures in place of a camera."""
    monkeypatch.setitem(video.CAMERAS, sys.platform, lambda number: ("lavfi", "testsrc=size=64x48:rate=5", {}))
    frames = read_frames("0")
    first, second = next(frames), next(frames)
    frames.close()
    assert (first.name, first.number, second.number, second.seconds) == ("webcam 0", 0, 1, 0.2)
    assert first.image.shape == (48, 64, 3)


def test_closing_the_frames_closes_the_video(tmp_path):
    clip = write_clip(tmp_path / "a.mp4", 30)
    frames = read_frames(clip)
    next(frames)
    frames.close()
    with pytest.raises(StopIteration):
        next(frames)
