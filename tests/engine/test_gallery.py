"""The sheet of examples."""

from __future__ import annotations

import numpy as np
import torch

from cledet.engine.gallery import CELL, fit, sheet
from cledet.engine.predictor import Detections


def test_detections_move_with_their_image():
    """A 96x80 image fills a place of 480x400, less a margin of 8: by 4.9 = 392 / 80."""
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    found = Detections(None, np.zeros((80, 96, 3), np.uint8), boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64),
                       ("a",), (1,))  # fmt: skip
    placed = fit(found)
    assert placed.image.shape == (392, 470, 3)
    torch.testing.assert_close(placed.boxes, boxes * 4.9)


def test_pictures_stand_row_by_row():
    pictures = [np.full((100, 60 + i, 3), i, np.uint8) for i in range(5)]
    canvas = sheet(pictures, 2)
    assert canvas.shape == (3 * CELL[1], 2 * CELL[0], 3)
    centres = [canvas[CELL[1] * (i // 2) + CELL[1] // 2, CELL[0] * (i % 2) + CELL[0] // 2, 0] for i in range(6)]
    assert centres == [0, 1, 2, 3, 4, 255]
