import math

import pytest
import torch
import torchvision

import cledet.ops
from cledet.components import cl_balanced_nms
from cledet.models.nms import NMS
from cledet.ops import batched_nms, suppress

Detections = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def scene(seed: int, n: int = 40, classes: int = 3) -> Detections:
    generator = torch.Generator().manual_seed(seed)
    corner, side = torch.rand(2, n, 2, generator=generator) * 20
    boxes = torch.cat([corner, corner + side + 1], 1)
    scores = torch.rand(n, generator=generator)
    if seed % 2:
        boxes, scores = boxes.round(), (scores * 5).round() / 5
    return boxes, scores, torch.randint(classes, (n,), generator=generator)


@pytest.mark.parametrize("classes", [1, 3, 80])
def test_standard_is_torchvision_class_by_class(classes: int) -> None:
    for seed in range(30):
        boxes, scores, labels = scene(seed, 80, classes)
        wanted = []
        for c in labels.unique():
            index = (labels == c).nonzero().squeeze(1)
            wanted += index[torchvision.ops.nms(boxes[index], scores[index], 0.5)].tolist()
        wanted.sort(key=lambda i: (-scores[i].item(), i))
        keep, kept = batched_nms(boxes, scores, labels, 0.5)
        assert keep.tolist() == wanted
        assert torch.equal(kept, scores[keep])


def test_soft_by_hand() -> None:
    # the same box twice: the second is decayed by exp(-1 / 0.5); another class is left alone
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(3, 1)
    scores, labels = torch.tensor([0.8, 0.9, 0.7]), torch.tensor([0, 0, 1])
    keep, kept = batched_nms(boxes, scores, labels, 0.5, method="soft")
    assert keep.tolist() == [1, 2, 0]
    assert kept.tolist() == pytest.approx([0.9, 0.7, 0.8 * math.exp(-2)])
    assert suppress(boxes, scores, labels, 0.5, method="soft", min_score=0.2).keep.tolist() == [1, 2]
    wide = suppress(boxes, scores, labels, 0.5, method="soft", sigma=2.0).scores
    assert wide[2].item() == pytest.approx(0.8 * math.exp(-0.5))


def test_cl_balanced_passes_its_options() -> None:
    boxes, scores, labels = scene(4, n=200, classes=1)
    options = {"localization": "as-printed", "cl_norm": "diagonal", "cl_score": "max"}
    ours = suppress(boxes, scores, labels, 0.3, method="cl-balanced", **options)  # type: ignore[arg-type]
    wanted = cl_balanced_nms(boxes, scores, labels, 0.3, **options)
    assert torch.equal(ours[0], wanted[0])
    assert torch.equal(ours[1], wanted[1])
    assert not torch.equal(ours[1], batched_nms(boxes, scores, labels, 0.3, method="cl-balanced")[1])


@pytest.mark.parametrize("method", NMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_empty_and_one_box(method: str, dtype: torch.dtype) -> None:
    for n in (0, 1):
        boxes = torch.tensor([[0.0, 0, 5, 5]], dtype=dtype)[:n]
        keep, kept, moved = suppress(boxes, torch.ones(n, dtype=dtype), torch.zeros(n).long(), 0.5, method=method)
        assert (keep.tolist(), kept.tolist(), keep.dtype, kept.dtype) == (
            [0][:n],
            [1][:n],
            torch.int64,
            dtype,
        )
        assert torch.equal(moved, boxes)
        assert moved.dtype == dtype


@pytest.mark.parametrize("method", NMS)
def test_ties_go_to_the_lower_index(method: str) -> None:
    step = torch.tensor([0.0, 100, 0, 200])[:, None]
    keep, _, _ = suppress(
        torch.tensor([[0.0, 0, 9, 9]]) + step,
        torch.full((4,), 0.5),
        torch.tensor([5, 1, 5, 0]),
        0.5,
        method=method,
    )
    assert keep[:3].tolist() == [0, 1, 3]


def test_an_unknown_method_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"standard, soft, .*, cl-balanced, not 'hard'"):
        batched_nms(*scene(0), 0.5, method="hard")


def test_every_public_name_can_be_imported() -> None:
    assert all(callable(getattr(cledet.ops, name)) for name in cledet.ops.__all__)
    with pytest.raises(AttributeError):
        _ = cledet.ops.nothing
