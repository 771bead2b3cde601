"""Pictures of offenders: their boxes are on them, in place."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cledet.data_check.findings import Picture
from cledet.data_check.thumbnails import MARKED, OTHER, SIDE, thumbnail


@pytest.fixture
def gray(tmp_path: Path) -> str:
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((120, 240, 3), 60, dtype=np.uint8))
    return str(tmp_path / "gray.png")


def decode(content: bytes | None) -> np.ndarray:
    """RGB, as integers."""
    assert content is not None
    assert content.startswith(b"\xff\xd8")
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)


def near(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """[H, W] whether a pixel is about of that colour."""
    return np.abs(image - color).max(axis=2) < 90


def test_boxes_are_where_they_should_be(gray: str) -> None:
    image = decode(thumbnail(Picture(gray, (240, 120), ((40, 20, 60, 50),), ((150, 30, 70, 60),))))
    assert image.shape == (SIDE // 2, SIDE, 3)
    rows, columns = np.nonzero(near(image, MARKED))
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - [80, 40, 200, 140]).max() <= 3
    rows, columns = np.nonzero(near(image, OTHER))
    assert np.abs(np.array([columns.min(), rows.min(), columns.max(), rows.max()]) - [300, 60, 440, 180]).max() <= 3


def test_a_degenerate_box_is_circled(gray: str) -> None:
    marked = near(decode(thumbnail(Picture(gray, (240, 120), ((100, 60, 0, 0),)))), MARKED)
    rows, columns = np.nonzero(marked)
    assert 40 < np.ptp(rows) < 80
    assert np.abs([columns.mean() - 200, rows.mean() - 120]).max() < 3


def test_a_border_shows_boxes_outside_the_image(gray: str) -> None:
    image = decode(thumbnail(Picture(gray, (240, 120), ((220, 30, 60, 40), (-20, 30, 60, 40)))))
    height, width = image.shape[:2]
    assert (width, height) == (SIDE, round(SIDE * 120 / 300))
    columns = np.nonzero(near(image, MARKED))[1]
    assert columns.min() <= 2
    assert columns.max() >= width - 3
    far = decode(thumbnail(Picture(gray, (240, 120), ((1e12, 0, 5, 5), (-1e12, -1e12, 2e12, 2e12)))))
    assert far.shape[0] < 2 * far.shape[1]


def test_no_numbers_and_crowds_are_not_drawn(gray: str) -> None:
    plain = decode(thumbnail(Picture(gray, (240, 120))))
    nan = decode(thumbnail(Picture(gray, (240, 120), ((float("nan"), 1, 5, 5),))))
    assert np.array_equal(plain, nan)
    crowd = decode(thumbnail(Picture(gray, (240, 120), (), ((10, 10, 50, 50),) * 2000)))
    assert np.array_equal(plain, crowd)


def test_unreadable_images_have_no_thumbnail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    (tmp_path / "empty.jpg").touch()
    for name in ("text.png", "empty.jpg", "gone.jpg"):
        assert thumbnail(Picture(str(tmp_path / name), None)) is None
    assert capfd.readouterr().err == ""
