"""Annotated videos: MP4 files that can be played up to the last second that was written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cledet.errors import UserError
from cledet.inference.file_names import FileNames
from cledet.inference.results import Results
from cledet.inference.video import import_av
from cledet.io.atomic import unwritable

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

ENCODERS = ("libx264", "libopenh264", "mpeg4")
"""Encoders in order of preference, by their names in FFmpeg."""
TICKS = 90_000
"""Time stamps per second; frames keep their own times, also at a variable rate."""
NOMINAL_RATE = 30
"""Frame rate that the encoder assumes for its bit rate."""
_CONTAINER = {"movflags": "hybrid_fragmented+frag_keyframe", "flush_packets": "1"}
"""Write in fragments, so that a killed program leaves a file that plays; at the end it becomes an ordinary MP4."""
_ENCODER = {"preset": "veryfast", "crf": "23", "bf": "0"}
_KEYFRAMES = 60
"""Frames from one key frame, and so one fragment, to the next."""


class VideoFiles:
    """Sink of annotated videos: NAME.mp4 per video among the sources. Still images are left out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = FileNames()
        self._file: VideoFile | None = None
        self._stem = ""

    def write(self, result: Results) -> None:
        """Write a frame; the first one of a video starts its file."""
        stem = self._names.stem(result)
        if result.number is None or result.seconds is None:
            return
        if self._file is None or stem != self._stem:
            self.close()
            self._file, self._stem = VideoFile(self._folder / f"{stem}.mp4", result.image.shape[:2]), stem
        self._file.write(result.plot(), result.seconds)

    def close(self) -> None:
        """Complete the file."""
        if self._file is not None:
            file, self._file = self._file, None
            file.close()


class VideoFile:
    """One MP4 of RGB pictures, `size` (height, width) if it is even, else one pixel less."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        av = import_av()
        self._av, self._path = av, path
        self._time = -1
        encoder = next((name for name in ENCODERS if name in av.codecs_available), None)
        if encoder is None:
            raise UserError("this FFmpeg cannot encode video", "leave video out of --save")
        options = _ENCODER if encoder == "libx264" else {}
        try:
            self._container: OutputContainer = av.open(str(path), "w", format="mp4", options=_CONTAINER)
            self._stream: VideoStream = self._container.add_stream(encoder, rate=NOMINAL_RATE, options=options)
            self._stream.height, self._stream.width = (side // 2 * 2 for side in size)  # as its colours need
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.gop_size = _KEYFRAMES
            self._stream.codec_context.time_base = Fraction(1, TICKS)
        except av.FFmpegError as error:
            raise unwritable(path, error) from None

    def write(self, picture: NDArray[np.uint8], seconds: float) -> None:
        """Write a picture [H, W, 3] to be shown from `seconds` on; one of another size is resized."""
        height, width = self._stream.height, self._stream.width
        if picture.shape[0] // 2 * 2 == height and picture.shape[1] // 2 * 2 == width:
            picture = np.ascontiguousarray(picture[:height, :width])
        frame = self._av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame = frame.reformat(width, height, "yuv420p")
        self._time = max(round(seconds * TICKS), self._time + 1)  # the times of a damaged video may stand still
        frame.pts, frame.time_base = self._time, Fraction(1, TICKS)
        self._encode(frame)

    def close(self) -> None:
        """Complete the file. Raises UserError if that fails; the file is playable even so."""
        try:
            self._encode(None)
        finally:
            try:
                self._container.close()
            except self._av.FFmpegError as error:
                raise unwritable(self._path, error) from None

    def _encode(self, frame: VideoFrame | None) -> None:
        """Encode a frame, or those that the encoder keeps back, and write the packets."""
        try:
            self._container.mux(self._stream.encode(frame))
        except self._av.FFmpegError as error:
            raise unwritable(self._path, error) from None
