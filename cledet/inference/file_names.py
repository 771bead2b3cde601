"""Names for the files that are written about an image."""

from __future__ import annotations

import re
from pathlib import Path

from cledet.inference.results import Results
from cledet.io.run_folders import name_from

DIGITS = 6
"""Digits of a frame's number, so that the files of a video sort in its order."""
_STDIN = {"-": "stdin"}
_FRAME = re.compile(rf"(.+)-\d{{{DIGITS},}}")
"""Name of a video's frame, or of an image that is named like one."""


class FileNames:
    """Distinct names for the files about images, derived from the images' own: "a", then "a-2" for another "a".

    Case does not distinguish names. Sinks that see the same images use the same names.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        """Images by their own name, and the names that were given."""
        self._videos: set[str] = set()
        """Names of videos."""
        self._like_frames: set[str] = set()
        """Names of videos whose frames images are named like."""
        self._video = ("", "")
        """The name of the current video, and of its files."""
        self._number = -1

    def stem(self, result: Results) -> str:
        """Return the name for a still image or, the same for all its frames, a video; without suffix.

        A frame that does not follow the one before belongs to another video.
        """
        if result.number is None:
            return self._distinct(result.name, video=False)
        if result.name != self._video[0] or result.number <= self._number:
            self._video = result.name, self._distinct(result.name, video=True)
        self._number = result.number
        return self._video[1]

    def name(self, result: Results) -> str:
        """Return the name for one image, or one frame of a video; without suffix."""
        stem = self.stem(result)
        return stem if result.number is None else f"{stem}-{result.number:0{DIGITS}d}"

    def _distinct(self, name: str, video: bool) -> str:
        own = name_from(_STDIN.get(name, Path(name).stem), "image")
        count = self._counts.get(own.casefold(), 0) + 1
        stem = own if count == 1 else f"{own}-{count}"
        while (count > 1 and stem.casefold() in self._counts) or self._meets_frames(stem.casefold(), video):
            count += 1
            stem = f"{own}-{count}"
        self._counts[own.casefold()] = count
        self._counts.setdefault(stem.casefold(), 1)
        if video:
            self._videos.add(stem.casefold())
        elif frame := _FRAME.fullmatch(stem.casefold()):
            self._like_frames.add(frame[1])
        return stem

    def _meets_frames(self, stem: str, video: bool) -> bool:
        """Return whether frames of a video would have the name of an image."""
        if video:
            return stem in self._like_frames
        frame = _FRAME.fullmatch(stem)
        return frame is not None and frame[1] in self._videos
