"""Preview sheets of detections and batches."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from untrained import untrained

from cledet.config.loading import resolve
from cledet.config.train import TrainSettings
from cledet.data.dataset import Sample, collate
from cledet.data.open import open_source
from cledet.inference.results import Results
from cledet.training.previews import CELL, HEAD, fit_to_cell, save_batch, save_val_previews, sheet
from cledet.visualization.draw import class_color, hatch


def test_detections_move_with_their_image():
    """A 96x80 image fills a place of 480x400, less a margin of 8: by 4.9 = 392 / 80."""
    boxes = torch.tensor([[10.0, 20.0, 30.0, 40.0]])
    found = Results(None, np.zeros((80, 96, 3), np.uint8), boxes, torch.ones(1), torch.zeros(1, dtype=torch.int64),
                       ("a",), (1,))  # fmt: skip
    placed = fit_to_cell(found)
    assert placed.image.shape == (392, 470, 3)
    torch.testing.assert_close(placed.boxes, boxes * 4.9)


def test_ground_truth_is_beside_the_detections(tiny, squares, tmp_path):
    """Of four images, each twice in a row; the best weights of an untrained network detect much."""
    untrained(imgsz=64).save(tmp_path / "weights" / "best.pt")
    index = open_source(squares).index("val")
    save_val_previews(tmp_path, index, resolve(TrainSettings, tiny), torch.device("cpu"))
    picture = cv2.imread(str(tmp_path / "val.jpg"))[:, :, ::-1].astype(int)
    assert picture.shape == (HEAD + 2 * CELL[1], 4 * CELL[0], 3)
    assert [(picture[:HEAD, i * CELL[0] : (i + 1) * CELL[0]] < 100).any() for i in range(4)] == [True] * 4
    scale, (x1, y1, x2, _) = 392 / 80, index.boxes(1)[0]  # 96x80 pixels are 470x392 in a place of 480x400
    top, left, column = HEAD + 4 + round(y1 * scale), 2 * CELL[0] + 5, slice(round(x1 * scale), round(x2 * scale))
    line = picture[top, left:][column]
    color = class_color(int(index.labels[index.rows(1)][0]))
    assert (np.abs(line - color).max(axis=1) < 60).mean() > 0.9


def test_pictures_stand_row_by_row():
    pictures = [np.full((100, 60 + i, 3), i, np.uint8) for i in range(5)]
    canvas = sheet(pictures, 2)
    assert canvas.shape == (3 * CELL[1], 2 * CELL[0], 3)
    centres = [canvas[CELL[1] * (i // 2) + CELL[1] // 2, CELL[0] * (i % 2) + CELL[0] // 2, 0] for i in range(6)]
    assert centres == [0, 1, 2, 3, 4, 255]


def sample(boxes, labels, ignored, size=(64, 96)):
    image = torch.full((3, *size), 255, dtype=torch.uint8)
    tensors = [torch.tensor(rows, dtype=torch.float32).reshape(-1, 4) for rows in (boxes, ignored)]
    return Sample(image, tensors[0], torch.tensor(labels, dtype=torch.int64), tensors[1], 0, 0, size, 0)


def test_a_batch_is_drawn_as_the_network_gets_it(tmp_path):
    """Two images of 96x64, the second 48 wide and padded; a place of 480x400 holds them 472 / 96 times as large."""
    batch = collate([sample([[20, 10, 80, 50]], [1], [[0, 40, 10, 60]]), sample([], [], [], (64, 48))])
    save_batch(batch, ("a", "b"), tmp_path / "a.jpg")
    drawn = cv2.imread(str(tmp_path / "a.jpg"))[:, :, ::-1].astype(int)
    assert drawn.shape == (CELL[1], 2 * CELL[0], 3)
    scale, left, top = 472 / 96, 4, (400 - round(64 * 472 / 96)) // 2

    def at(x, y, cell=0):
        return drawn[top + round(y * scale), cell * CELL[0] + left + round(x * scale)]

    assert np.abs(at(80, 30) - class_color(1)).max() < 60  # the box's right side
    assert np.abs(at(50, 30) - 255).max() < 10  # inside, away from its caption
    assert np.abs(at(70, 30, cell=1) - (124, 116, 104)).max() < 10  # padding
    region = drawn[top + round(42 * scale) : top + round(58 * scale), left + 10 : left + round(9 * scale)]
    assert 0.05 < (region.mean(axis=2) < 200).mean() < 0.5  # hatched


def test_a_large_batch_is_drawn_in_part(tmp_path):
    save_batch(collate([sample([], [], [])] * 20), ("a",), tmp_path / "a.jpg", most=6)
    assert cv2.imread(str(tmp_path / "a.jpg")).shape == (2 * CELL[1], 4 * CELL[0], 3)


def test_hatching_leaves_the_rest_and_the_original_alone():
    white = np.full((60, 60, 3), 255, np.uint8)
    drawn = hatch(white, np.array([[10, 20, 40, 50]], dtype=np.float32))
    assert (white == 255).all()
    changed = (drawn != 255).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 50, 10, 40)
    assert np.array_equal(hatch(white, np.zeros((0, 4), np.float32)), white)
