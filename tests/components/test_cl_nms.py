import math

import numpy as np
import pytest
import torch
import torchvision
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cledet.components import cl_balanced_nms
from cledet.ops import nms_clusters as module
from cledet.ops.nms_clusters import find_clusters


def scene(seed: int, max_boxes: int = 60) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Boxes around a few objects: 1 to 80 classes, one of them often crowded; rounding makes ties and duplicates."""
    generator = torch.Generator().manual_seed(seed)

    def randint(high: int) -> int:
        return int(torch.randint(high, (), generator=generator))

    n, classes, objects = randint(max_boxes + 1), (1, 2, 5, 80)[randint(4)], 1 + randint(8)
    of = torch.randint(objects, (n,), generator=generator)
    center, side = torch.rand(2, objects, 2, generator=generator) * 60 + 4
    noise = torch.randn(2, n, 2, generator=generator)
    center, side = center[of] + noise[0] * 3, (side[of] * (1 + 0.2 * noise[1])).clamp(min=0)
    boxes = torch.cat([center - side / 2, center + side / 2], 1)
    labels = torch.randint(classes, (n,), generator=generator)
    labels[torch.rand(n, generator=generator) < 0.5] = 0
    scores = torch.rand(n, generator=generator)
    if randint(2):
        boxes, scores = boxes.round(), (scores * 5).round() / 5
    if n > 3:
        boxes[1], boxes[2, 2:] = boxes[0], boxes[2, :2]  # a duplicate, and a point
    return boxes, scores, labels


def ious(boxes: np.ndarray) -> np.ndarray:
    """Of all pairs, in float32, operation by operation, as torchvision's kernel; then doubles, as the threshold is."""
    a, b = boxes[:, None], boxes[None]
    sides = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    shared, area = sides[..., 0] * sides[..., 1], (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = area[:, None] + area[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0).astype(np.float64)


def loop(boxes, scores, labels, threshold=0.5, localization="proximity", cl_norm="max", cl_score="own"):  # type: ignore[no-untyped-def]
    """Compute Eq. 8-9 cluster by cluster in double precision."""
    box, score, label = boxes.tolist(), scores.tolist(), labels.tolist()
    overlap, kept = ious(boxes.numpy()).tolist(), []
    for c in sorted(set(label)):
        left = sorted((i for i in range(len(box)) if label[i] == c), key=lambda i: (-score[i], i))
        while left:
            cluster = [i for i in left if i == left[0] or overlap[left[0]][i] > threshold]
            left = [i for i in left if i not in cluster]
            middle = {i: ((box[i][0] + box[i][2]) / 2, (box[i][1] + box[i][3]) / 2) for i in cluster}
            weight = {i: math.exp(score[i]) for i in cluster}
            agreed = [sum(weight[i] * middle[i][k] for i in cluster) / sum(weight.values()) for k in (0, 1)]
            d = {i: math.dist(middle[i], agreed) for i in cluster}
            corner = [pick(box[i][k] for i in cluster) for k, pick in enumerate((min, min, max, max))]
            length = max(d.values()) if cl_norm == "max" else math.dist(corner[:2], corner[2:])
            d = {i: d[i] / length if length > 0 else 0.0 for i in cluster}
            total = {i: score[i] + (1 - d[i] if localization == "proximity" else d[i]) for i in cluster}
            best = min(cluster, key=lambda i: (-float(np.float32(total[i])), i))
            kept.append((best, score[best] if cl_score == "own" else score[cluster[0]]))
    kept.sort(key=lambda item: (-item[1], item[0]))
    return [i for i, _ in kept], [s for _, s in kept]


@pytest.mark.parametrize("shift", [2**31, 2**40, -(2**31), -(2**62)])
def test_equals_loop_with_labels_beyond_32_bits(shift: int) -> None:
    for seed in range(20):
        boxes, scores, labels = scene(seed)
        for moved in (labels + shift, labels * 2**32 + shift, torch.where(labels % 2 == 0, labels, labels + shift)):
            keep, kept = cl_balanced_nms(boxes, scores, moved)
            assert (keep.tolist(), kept.tolist()) == loop(boxes, scores, moved)


@pytest.mark.parametrize("large", [0, 12, 10**6])
def test_equals_loop_on_a_thousand_scenes(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # 12: classes of up to 12 boxes by windows, some at a time, the crowded one by NMS
    monkeypatch.setattr(module, "LARGE", {False: large})
    monkeypatch.setattr(module, "PAIRS", {False: 100})
    options = [(a, b, c) for a in ("proximity", "as-printed") for b in ("max", "diagonal") for c in ("own", "max")]
    for seed in range(500):
        boxes, scores, labels = scene(seed + 1000 * min(large, 2), 40)
        localization, cl_norm, cl_score = options[seed % len(options)]
        threshold = (0.5, 0.6, 0.3)[seed % 3]
        keep, kept = cl_balanced_nms(
            boxes, scores, labels, threshold, localization=localization, cl_norm=cl_norm, cl_score=cl_score
        )
        wanted = loop(boxes, scores, labels, threshold, localization, cl_norm, cl_score)
        assert (keep.tolist(), kept.tolist()) == wanted, f"seed {seed}"


def test_scenes_contain_the_cases_they_test() -> None:
    scenes = [scene(seed, 40) for seed in range(200)]
    classes = {int(labels.max()) + 1 for _, _, labels in scenes if len(labels) > 30}
    assert 1 in classes
    assert max(classes) > 60
    assert any((labels == 0).float().mean() > 0.5 and len(labels.unique()) > 10 for _, _, labels in scenes)
    assert any(len(scores) > 20 and len(scores.unique()) <= 6 for _, scores, _ in scenes)


@pytest.mark.parametrize("large", [0, 12, 10**6])
@pytest.mark.parametrize("pairs", [50, 10**6])
def test_kept_boxes_are_those_of_standard_nms(large: int, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE", {False: large})
    monkeypatch.setattr(module, "PAIRS", {False: pairs})
    for seed in range(20):
        boxes, scores, labels = scene(seed, 100)
        keepers, cluster_index = find_clusters(boxes, scores, labels, 0.6)
        wanted = []
        for c in labels.unique():
            index = (labels == c).nonzero().squeeze(1)
            wanted += index[torchvision.ops.nms(boxes[index], scores[index], 0.6)].tolist()
        assert keepers.tolist() == sorted(wanted)
        assert cluster_index[keepers].tolist() == keepers.tolist()
        assert set(cluster_index.tolist()) == set(wanted)
        by_score = torchvision.ops.nms(boxes, scores, 0.6)
        alone = find_clusters(boxes, scores, torch.zeros_like(labels), 0.6)[0]
        assert alone[scores[alone].argsort(descending=True, stable=True)].tolist() == by_score.tolist()


@pytest.mark.parametrize("large", [0, 10**6])
def test_a_chain_is_settled_to_its_end(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # each box overlaps the next by 8 / 12, the one after by 6 / 14: every second one stays and takes the next
    monkeypatch.setattr(module, "LARGE", {False: large})
    x = torch.arange(300.0)[:, None] * 2
    boxes = torch.cat([x, x * 0, x + 10, x * 0 + 10], 1)
    keepers, cluster_index = find_clusters(boxes, torch.linspace(1, 0, 300), torch.zeros(300, dtype=torch.long), 0.5)
    assert keepers.tolist() == list(range(0, 300, 2))
    assert cluster_index.tolist() == [i - i % 2 for i in range(300)]


@pytest.mark.parametrize("large", [0, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_iou_at_the_threshold_is_treated_as_in_torchvision(
    large: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # n / d in whole pixels is met exactly, above or below n / d as a double, all by how it is rounded
    monkeypatch.setattr(module, "LARGE", {False: large})
    decisions = set()
    for d in range(2, 24):
        for n in range(1, d):
            boxes = torch.tensor([[0, 0, d, 1], [0, 0, n, 1]], dtype=dtype)
            scores = torch.tensor([0.9, 0.8], dtype=dtype)
            wanted = torchvision.ops.nms(boxes, scores, n / d).tolist()
            assert find_clusters(boxes, scores, torch.zeros(2, dtype=torch.long), n / d)[0].tolist() == wanted, (n, d)
            decisions.add(len(wanted))
    assert decisions == ({1, 2} if dtype == torch.float32 else {2})


def test_cluster_index_is_the_first_kept_box_that_overlaps() -> None:
    # two keepers at 0 and 4 (IoU 6 / 14); the box at 2 overlaps both by 8 / 12 and goes to the higher score
    boxes = torch.tensor([[4.0, 0, 14, 10], [0, 0, 10, 10], [2, 0, 12, 10], [2, 0, 12, 10]])
    keepers, cluster_index = find_clusters(boxes, torch.tensor([0.8, 0.9, 0.5, 0.7]), torch.tensor([3, 3, 3, 1]), 0.5)
    assert keepers.tolist() == [0, 1, 3]
    assert cluster_index.tolist() == [0, 1, 1, 3]


def test_by_hand() -> None:
    # the cluster's centres 10, 12, 12: agreed 11.3, so a box at 12 is nearer and beats the higher score at 10
    boxes = torch.tensor([[0.0, 0, 20, 20], [2, 0, 22, 20], [2, 0, 22, 20]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.zeros(3, dtype=torch.long)
    keep, score = cl_balanced_nms(boxes, scores, labels)
    assert (keep.tolist(), score.tolist()) == ([1], pytest.approx([0.8]))
    keep, score = cl_balanced_nms(boxes, scores, labels, localization="as-printed", cl_score="max")
    assert (keep.tolist(), score.tolist()) == ([0], pytest.approx([0.9]))
    keep, score = cl_balanced_nms(boxes, scores, labels, cl_score="max")
    assert (keep.tolist(), score.tolist()) == ([1], pytest.approx([0.9]))
    # in units of the diagonal, 29.7 px, a pixel is worth 0.03: not enough against 0.1
    assert cl_balanced_nms(boxes, scores, labels, cl_norm="diagonal")[0].tolist() == [0]


def test_the_threshold_is_a_double() -> None:
    # 6 / 10 in float32 is 0.60000002, which is over the double 0.6: torchvision drops the second box
    boxes, scores = torch.tensor([[0.0, 0, 10, 1], [0, 0, 6, 1]]), torch.tensor([0.9, 0.8])
    assert torchvision.ops.nms(boxes, scores, 0.6).tolist() == [0]
    assert find_clusters(boxes, scores, torch.zeros(2, dtype=torch.long), 0.6)[1].tolist() == [0, 0]
    # 1 / 5 in double is the threshold itself, not over it
    double = torch.tensor([[0.0, 0, 5, 1], [0, 0, 1, 1]], dtype=torch.float64)
    assert find_clusters(double, scores, torch.zeros(2, dtype=torch.long), 0.2)[1].tolist() == [0, 1]


def test_large_coordinates_do_not_mix_classes() -> None:
    corner = torch.tensor([[0.0, 0, 10, 10], [1e6, 1e6, 1e6 + 10, 1e6 + 10]]).repeat(2, 1)
    keep, _ = cl_balanced_nms(corner, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 79, 79]))
    assert keep.tolist() == [0, 1, 2, 3]


def test_negative_coordinates_do_not_mix_classes() -> None:
    boxes = torch.tensor([[-100.0, -100, 1, 1], [-102, -102, 0, 0]])
    keep, _ = cl_balanced_nms(boxes, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    assert keep.tolist() == [0, 1]


def test_identical_boxes_leave_the_lowest_index() -> None:
    keep, score = cl_balanced_nms(
        torch.tensor([[3.0, 3, 9, 9]]).repeat(50, 1),
        torch.full((50,), 0.5),
        torch.zeros(50, dtype=torch.long),
    )
    assert (keep.tolist(), score.tolist()) == ([0], [0.5])


def test_boxes_without_area_stay_alone() -> None:
    boxes = torch.tensor([[3.0, 3, 3, 3]]).repeat(3, 1)
    keep, score = cl_balanced_nms(boxes, torch.tensor([0.1, 0.3, 0.3]), torch.zeros(3, dtype=torch.long))
    assert keep.tolist() == [1, 2, 0]
    assert score.isfinite().all()


@pytest.mark.parametrize("n", [0, 1])
def test_no_box_and_one_box(n: int) -> None:
    boxes = torch.tensor([[0.0, 0, 5, 5]])[:n]
    for norm in ("max", "diagonal"):
        keep, score = cl_balanced_nms(boxes, torch.ones(n), torch.zeros(n, dtype=torch.long), cl_norm=norm)
        assert (keep.tolist(), keep.dtype, score.tolist()) == (list(range(n)), torch.int64, [1.0] * n)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_equal_their_float32(dtype: torch.dtype) -> None:
    for seed in range(20):
        boxes, scores, labels = scene(seed)
        boxes, scores = boxes.to(dtype), scores.to(dtype)
        keep, score = cl_balanced_nms(boxes, scores, labels)
        assert score.dtype == dtype
        assert torch.equal(keep, cl_balanced_nms(boxes.float(), scores.float(), labels)[0])


class Largest(TorchDispatchMode):
    """Watches for the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        made = [part for part in tree_leaves(result) if isinstance(part, torch.Tensor)]
        self.elements = max([self.elements, *(part.numel() for part in made)])
        return result


@pytest.mark.parametrize(("step", "kept"), [(3.0, 4000), (20.0, 8000), (0.0, 1)])
def test_memory_is_linear_in_the_boxes(step: float, kept: int) -> None:
    # in a row, overlapping by 7 / 13 with the next; apart; all in one place
    n = 8000
    x = torch.arange(float(n))[:, None] * step
    boxes = torch.cat([x, x * 0, x + 10, x * 0 + 10], 1)
    with Largest() as largest:
        keep, _ = cl_balanced_nms(boxes, torch.linspace(1, 0, n), torch.zeros(n, dtype=torch.long))
    assert len(keep) == kept
    assert largest.elements <= 5 * (n + module.LARGE[False] + module.PAIRS[False])


@pytest.mark.parametrize("size", [100, 256, 257])
def test_memory_is_linear_in_boxes_of_many_classes(size: int) -> None:
    n = 20_000
    with Largest() as largest:
        keep, _ = cl_balanced_nms(torch.tensor([[0.0, 0, 9, 9]]).repeat(n, 1), torch.rand(n), torch.arange(n) // size)
    assert len(keep) == math.ceil(n / size)
    assert largest.elements <= 5 * (n + module.LARGE[False] + module.PAIRS[False])


def test_inputs_may_require_gradients() -> None:
    boxes, scores, labels = scene(3)
    keep, score = cl_balanced_nms(boxes, scores, labels)
    kept = cl_balanced_nms(boxes.clone().requires_grad_(), scores.clone().requires_grad_(), labels)
    assert torch.equal(keep, kept[0])
    assert torch.equal(score, kept[1])


@pytest.mark.parametrize("option", ["localization", "cl_norm", "cl_score"])
def test_unknown_names_are_errors(option: str) -> None:
    boxes, scores, labels = scene(3)
    with pytest.raises(KeyError):
        cl_balanced_nms(boxes, scores, labels, **{option: "median"})  # type: ignore[arg-type]
