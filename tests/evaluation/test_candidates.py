"""What NMS chooses from: images, classes and pixels come back as they went in."""

from __future__ import annotations

import numpy as np
import torch

from cledet.evaluation.candidates import Candidates, all_candidates, by_image, from_results, original_scale, to_results
from cledet.models.nms import Kept

RESULTS = np.array(
    [
        [9.0, 1, 2, 30, 40, 0.5, 70],
        [4.0, 5, 5, 10, 20, 0.25, 3],
        [9.0, 0, 0, 8, 8, 0.75, 3],
    ]
)


def test_results_become_candidates_of_each_image_and_back():
    first, second = from_results(RESULTS)
    assert (first.image_id, second.image_id) == (4, 9)
    assert second.boxes.tolist() == [[1, 2, 31, 42], [0, 0, 8, 8]]
    assert second.labels.tolist() == [1, 0]
    assert second.category_ids.tolist() == [3, 70]
    np.testing.assert_array_equal(np.concatenate([all_candidates(first), all_candidates(second)]), RESULTS[[1, 0, 2]])


def test_no_results_are_no_candidates():
    assert list(from_results(np.zeros((0, 7)))) == []
    assert by_image(np.zeros((0, 7))) == []


def test_results_have_original_pixels_and_new_scores_and_boxes():
    ids = np.array([70, 3])
    scale = torch.tensor([2.0, 3.0, 2.0, 3.0])
    boxes = torch.tensor([[0.0, 0, 1, 1], [1, 1, 4, 2], [0, 0, 9, 9]])
    found = Candidates(5, boxes, torch.tensor([0.5, 0.25, 0.125]), torch.tensor([0, 1, 0]), scale, ids)
    kept = Kept(torch.tensor([1, 0]), torch.tensor([0.25, 0.0625]), torch.tensor([[1.0, 1, 4, 2], [0, 0, 2, 1]]))
    assert to_results(found, kept).tolist() == [[5, 2, 3, 6, 3, 0.25, 3], [5, 0, 0, 4, 3, 0.0625, 70]]
    nothing = Kept(torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0, 4))
    assert to_results(found, nothing).shape == (0, 7)


def test_boxes_are_rescaled_by_a_factor_per_side():
    """480x640 shrunk to 320x427: x by 640/427, y by 480/320."""
    scale = original_scale(torch.tensor([320, 427]), torch.tensor([480, 640]))
    torch.testing.assert_close(
        torch.tensor([[42.7, 32.0, 427.0, 320.0]]) * scale, torch.tensor([[64.0, 48.0, 640.0, 480.0]])
    )
