"""Frames of video files, network streams and cameras, decoded by PyAV (FFmpeg)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cledet.errors import UserError
from cledet.inference.frame import Frame, Item, broken
from cledet.inference.urls import shown_url

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv",
     ".3gp", ".mxf")
)  # fmt: skip
STREAM_SUFFIXES = frozenset((".m3u8", ".mpd", ".mjpg", ".mjpeg", ".sdp"))
"""Suffixes of playlists and camera streams on a server."""
STREAM_SCHEMES = ("http", "https", "rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt")
TIMEOUT = 30.0
"""Seconds without data after which a stream counts as lost."""
MAX_PIXELS = 8192 * 8192
"""Limit on pixels per frame; a video that claims more is refused before it fills the memory."""
_FILE_PROTOCOLS = "file,crypto,data"
"""Protocols that a local file may refer to, as a playlist does: none that reaches for the network."""
_NETWORK_PROTOCOLS = "http,https,httpproxy,tls,tcp,udp,rtp,rtsp,rtmp,rtmps,srt,crypto,data"
"""Protocols of a stream: a playlist on a server cannot name a local file."""


class Readable(Protocol):
    """A source of bytes that need not be seekable."""

    def read(self, size: int, /) -> bytes:
        """Read at most `size` bytes; empty at the end."""


def video_items(path: Path) -> Iterator[Item]:
    """Yield the frames of a video file."""
    return _items(path, str(path.absolute()), str(path), {"protocol_whitelist": _FILE_PROTOCOLS})


def file_items(file: Readable, name: str) -> Iterator[Item]:
    """Yield the frames of a video that is read from an open file."""
    return _items(None, file, name, {"protocol_whitelist": _FILE_PROTOCOLS})


def stream_items(url: str) -> Iterator[Item]:
    """Yield the frames of a network stream."""
    scheme, name = url.partition("://")[0].lower(), shown_url(url)
    if scheme not in STREAM_SCHEMES:
        hint = f"cledet reads {', '.join(STREAM_SCHEMES)}; pass a file by its path"
        return iter([broken(name, UserError(f"{name} has the scheme {scheme}, which is not read", hint))])
    options = {"protocol_whitelist": _NETWORK_PROTOCOLS}
    if scheme.startswith("rtsp"):
        options["rtsp_transport"] = "tcp"  # lost packets of UDP become grey areas of the picture
    return _items(None, url, name, options, timeout=TIMEOUT)


def camera_items(number: int) -> Iterator[Item]:
    """Yield the frames of a camera, counted from 0, without an end."""
    name = f"webcam {number}"
    try:
        if sys.platform not in CAMERAS:
            raise UserError(f"cameras cannot be read on {sys.platform}", "pass a file or the URL of a stream")
        device, place, options = CAMERAS[sys.platform](number)
    except UserError as error:
        return iter([broken(name, error)])
    return _items(None, place, name, options, format=device)


def count_frames(path: Path) -> int | None:
    """Return the number of frames that a video file claims to hold; None if it does not tell or cannot be opened."""
    try:
        av = import_av()
    except UserError:
        return None
    options = {"protocol_whitelist": _FILE_PROTOCOLS}
    try:
        with av.open(str(path.absolute()), options=options, metadata_errors="replace") as container:
            stream = container.streams.video[0]
            duration = (container.duration or 0) / av.time_base
            return int(stream.frames or round(duration * float(stream.average_rate or 0))) or None
    except (av.FFmpegError, IndexError):  # IndexError: no video
        return None


def _items(
    path: Path | None,
    file: str | Readable,
    name: str,
    options: dict[str, str],
    *,
    format: str | None = None,
    timeout: float | None = None,
) -> Iterator[Item]:
    """Open a video and yield its frames; what cannot be read of it is an item that fails, the last one."""
    try:
        av = import_av()
    except UserError as error:
        yield broken(name, error)
        return
    count = damaged = 0
    try:
        options |= {"max_pixels": str(MAX_PIXELS)}
        with av.open(file, format=format, options=options, timeout=timeout, metadata_errors="replace") as container:
            stream = _video_stream(container, name)
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    damaged += 1
                    continue
                for frame in frames:
                    yield Item(name, partial(_to_frame, frame, path, name, count, _seconds(frame, stream, count)))
                    count += 1
        if not count:
            raise UserError(f"{name} holds no frames that can be decoded")
        if damaged:
            raise UserError(f"{name} is damaged: {damaged} of its packets could not be decoded")
    except UserError as error:
        yield broken(name, error)
    except av.FFmpegError as error:
        problem = f"breaks off after {count} frames" if count else "cannot be opened as a video"
        yield broken(name, UserError(f"{name} {problem}: {error.strerror or error}"))


def import_av() -> Any:
    """Import PyAV. Raises UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        missing = "videos need PyAV, which is not installed" if error.name == "av" else f"PyAV does not load: {error}"
        raise UserError(missing, "pip install 'cledet[video]'") from None
    return av


def _video_stream(container: InputContainer, name: str) -> VideoStream:
    """Return the first video stream. Raises UserError if there is none, or if FFmpeg lacks its codec."""
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type or "unknown data" for stream in container.streams}))
        raise UserError(f"{name} holds no video", f"it holds {kinds or 'nothing'}")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        hint = "convert it with: ffmpeg -i IN -c:v libx264 OUT.mp4"
        raise UserError(f"{name} has a codec that this FFmpeg cannot decode", hint)
    stream.thread_type = "AUTO"
    stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
    return stream


def _seconds(frame: VideoFrame, stream: VideoStream, number: int) -> float:
    """Return the time of a frame from the start of its video; by the frame rate if it has no time stamp."""
    if frame.pts is None or frame.time_base is None:
        return number / float(stream.average_rate or 30)
    return float((frame.pts - (stream.start_time or 0)) * frame.time_base)


def _to_frame(frame: VideoFrame, path: Path | None, name: str, number: int, seconds: float) -> Frame:
    """Convert a decoded frame to RGB, upright as players show it."""
    image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
    upright = np.ascontiguousarray(image, dtype=np.uint8)
    return Frame(upright, path, name, number, seconds)


def _linux_camera(number: int) -> tuple[str, str, dict[str, str]]:
    """Raises UserError if there is no such device."""
    names = sorted(path.name.removeprefix("video") for path in Path("/dev").glob("video[0-9]*"))
    if str(number) not in names:
        hint = f"there are {', '.join(names)}" if names else "this machine has none"
        raise UserError(f"there is no webcam {number}", hint)
    return "v4l2", f"/dev/video{number}", {}


def _mac_camera(number: int) -> tuple[str, str, dict[str, str]]:
    return "avfoundation", str(number), {"framerate": "30"}


def _windows_camera(number: int) -> tuple[str, str, dict[str, str]]:
    """Return the camera of this number in DirectShow's list. Raises UserError if it is shorter."""
    names = [info.name for info in import_av().enumerate_input_devices("dshow") if "video" in info.media_types]
    if number >= len(names):
        raise UserError(f"there is no webcam {number}", f"this machine has {len(names)}")
    return "dshow", f"video={names[number]}", {}


CAMERAS: dict[str, Callable[[int], tuple[str, str, dict[str, str]]]] = {
    "linux": _linux_camera,
    "darwin": _mac_camera,
    "win32": _windows_camera,
}
"""FFmpeg's input device of a camera by system: format, name and options."""
