"""The tracked video has the frames of its source."""

from __future__ import annotations

import cv2
import pytest
from clips import write_clip
from scripts import load_script
from untrained import untrained

pytest.importorskip("supervision")
pytest.importorskip("trackers")


def test_frames_are_tracked_and_counted(tmp_path, capsys):
    source, target = write_clip(tmp_path / "clip.mp4", 6), tmp_path / "tracked.mp4"
    untrained().save(tmp_path / "best.pt")
    load_script("supervision_video")["main"](str(source), str(target), str(tmp_path / "best.pt"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines[:6]] == [f"frame {i}" for i in range(6)]
    assert lines[-1].endswith("outwards")
    video = cv2.VideoCapture(str(target))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 6
