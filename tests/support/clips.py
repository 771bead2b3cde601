"""Video clips for tests, written by PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_clip(
    path: Path, count: int, *, size: tuple[int, int] = (64, 80), codec: str = "libx264", rate: int = 25
) -> Path:
    """Write frames [H, W] = `size` whose gray level rises by 8 from 16 on, so that each can be told from the others."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(count):
            gray = np.full((*size, 3), level(i), np.uint8)
            frame = av.VideoFrame.from_ndarray(gray, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def level(number: int) -> int:
    """The gray level of a frame."""
    return 16 + 8 * number % 232


def write_sound(path: Path) -> Path:
    """Write a file of sound without pictures."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
