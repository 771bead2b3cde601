import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cledet.components import dynamic_coefficient, normalize_coefficient
from cledet.components.dc import CENTER_UNITS, COEFFICIENTS, center_unit, iou_coefficient, zero_based_coefficient

GT = torch.tensor([[0.0, 0.0, 20.0, 10.0]])


def random_boxes(n: int, seed: int) -> torch.Tensor:
    corner, side = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(seed)) * 50 + 1
    return torch.cat([corner, corner + side], 1)


def loop(pred: torch.Tensor, gt: torch.Tensor, unit: float) -> list[float]:
    out = []
    for p, g in zip(pred.double().tolist(), gt.double().tolist()):
        dx, dy = (p[0] + p[2] - g[0] - g[2]) / 2, (p[1] + p[3] - g[1] - g[3]) / 2
        gap = abs((p[2] - p[0]) / (p[3] - p[1]) - (g[2] - g[0]) / (g[3] - g[1]))
        sigmoid = 1 / (1 + math.exp(-(dx * dx + dy * dy) / unit**2))
        out.append(1 / (sigmoid + math.tanh(gap) + 1e-6))
    return out


def test_by_hand() -> None:
    # perfect box: sigmoid(0) + tanh(0) = 0.5
    assert dynamic_coefficient(GT, GT).item() == pytest.approx(2, abs=1e-5)
    # moved by (1, 0): 1 / sigmoid(1) = 1 + exp(-1)
    assert dynamic_coefficient(GT + torch.tensor([1, 0, 1, 0]), GT).item() == pytest.approx(1 + math.exp(-1), abs=1e-5)
    # moved by (10, 0) in units of 10 px: the same
    moved = dynamic_coefficient(GT + torch.tensor([10, 0, 10, 0]), GT, unit=torch.tensor([10.0]))
    assert moved.item() == pytest.approx(1 + math.exp(-1), abs=1e-5)
    # same centre, square of 10: ratio 1 against 2, 1 / (0.5 + tanh(1))
    square = torch.tensor([[5.0, 0.0, 15.0, 10.0]])
    assert dynamic_coefficient(square, GT).item() == pytest.approx(1 / (0.5 + math.tanh(1)), abs=1e-5)


@pytest.mark.parametrize("unit", [1.0, 8.0, 40.0])
def test_equals_float64_loop(unit: float) -> None:
    pred, gt = random_boxes(200, 0), random_boxes(200, 1)
    lam = dynamic_coefficient(pred, gt, unit=torch.full((200,), unit))
    assert lam.tolist() == pytest.approx(loop(pred, gt, unit), rel=1e-4)


def test_lies_between_a_half_and_two() -> None:
    gt = random_boxes(500, 1)
    pred = torch.cat([random_boxes(250, 0), gt[250:]])
    lam = dynamic_coefficient(pred, gt)
    assert lam.min() >= 0.5 - 1e-6
    assert lam.max() <= 2
    assert lam.max() - lam.min() > 1


@pytest.mark.parametrize("flat", [[5.0, 5, 15, 5], [5, 5, 5, 15], [5, 5, 5, 5], [15, 15, 5, 5]])
@pytest.mark.parametrize("unit", [None, torch.zeros(1)])
def test_boxes_without_area_stay_finite(flat: list[float], unit: torch.Tensor | None) -> None:
    for pred, gt in [(torch.tensor([flat]), GT), (GT, torch.tensor([flat]))]:
        lam = dynamic_coefficient(pred, gt, unit=unit)
        assert 0.49 < lam.item() <= 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_boxes_are_computed_in_float32(dtype: torch.dtype) -> None:
    pred, gt = random_boxes(20, 0).to(dtype), random_boxes(20, 1).to(dtype)
    assert torch.equal(dynamic_coefficient(pred, gt), dynamic_coefficient(pred.float(), gt.float()))
    weight = normalize_coefficient(torch.ones(20, dtype=dtype), torch.full((20,), 6e4, dtype=dtype))
    assert torch.allclose(weight, torch.ones(20))  # the sum of the losses is beyond float16


def test_value_of_the_loss_stays_and_its_gradient_does_not() -> None:
    generator = torch.Generator().manual_seed(3)
    raw = torch.rand(50, generator=generator, dtype=torch.float64, requires_grad=True)
    boxes = random_boxes(50, 0).double().requires_grad_()
    loss = raw.square()
    weight = normalize_coefficient(dynamic_coefficient(boxes, random_boxes(50, 1)), loss)
    assert not weight.requires_grad
    assert torch.allclose((weight * loss).sum(), loss.sum())
    (with_dc,) = torch.autograd.grad((weight * loss).sum(), raw, retain_graph=True)
    (without,) = torch.autograd.grad(loss.sum(), raw)
    assert (with_dc - without).abs().max() > 0.01
    assert torch.allclose(with_dc, weight * without)


def test_a_coefficient_with_gradient_would_do_nothing() -> None:
    loss = torch.tensor([1.0, 3.0], requires_grad=True)
    lam = torch.tensor([2.0, 0.5])
    (grad,) = torch.autograd.grad((lam * loss * loss.sum() / (lam * loss).sum()).sum(), loss)
    assert torch.allclose(grad, torch.ones(2))
    # by hand: sum L = 4, sum lam L = 3.5
    assert torch.allclose(normalize_coefficient(lam, loss), lam * 4 / 3.5)


@given(seed=st.integers(0, 999), groups=st.integers(1, 5), count=st.integers(0, 40))
def test_each_group_keeps_its_sum_of_losses(seed: int, groups: int, count: int) -> None:
    """Against a loop in float64; some losses are 0, and some anchors are in no group."""
    rng = np.random.default_rng(seed)
    lam, loss = rng.uniform(0.5, 4, count), rng.exponential(1, count) * (rng.random(count) > 0.2)
    group = rng.integers(-1, groups, count)
    columns = torch.tensor(group[:, None] == np.arange(groups))
    got = normalize_coefficient(torch.tensor(lam), torch.tensor(loss), groups=columns)
    wanted = np.ones(count)
    for one in range(groups):
        mine = group == one
        weighted = sum(lam[mine] * loss[mine])
        if weighted > 0:
            wanted[mine] = lam[mine] * sum(loss[mine]) / weighted
            assert (got.numpy() * loss)[mine].sum() == pytest.approx(loss[mine].sum())
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-9)
    one_group = normalize_coefficient(torch.tensor(lam), torch.tensor(loss), groups=torch.ones(count, 1))
    assert torch.equal(one_group, normalize_coefficient(torch.tensor(lam), torch.tensor(loss)))


def test_no_positives_and_zero_losses() -> None:
    assert dynamic_coefficient(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    assert normalize_coefficient(torch.zeros(0), torch.zeros(0)).shape == (0,)
    assert normalize_coefficient(torch.tensor([2.0, 0.5]), torch.zeros(2)).tolist() == [1, 1]
    assert normalize_coefficient(torch.tensor([0.7]), torch.tensor([5.0])).item() == pytest.approx(1)
    # by hand: the first group has losses of 0 only
    groups = torch.tensor([[1, 0], [0, 1], [0, 1]])
    weight = normalize_coefficient(torch.tensor([2.0, 2, 0.5]), torch.tensor([0.0, 1, 1]), groups=groups)
    assert weight.tolist() == pytest.approx([1, 1.6, 0.4])


def test_center_units_by_name() -> None:
    gt, strides = torch.tensor([[0.0, 0, 9, 4], [0, 0, 0, 4]]), torch.tensor([8, 16])
    assert center_unit("pixel", gt, strides) is None
    units = {name: center_unit(name, gt, strides) for name in CENTER_UNITS if name != "pixel"}
    assert units["stride"] is not None
    assert units["stride"].tolist() == [8, 16]
    assert units["size"] is not None
    assert units["size"].tolist() == [6, 0]
    with pytest.raises(KeyError):
        center_unit("metre", gt, strides)


def test_readings_by_hand() -> None:
    """An accurate box, one moved by a quarter of its size, a square of the same centre."""
    size = torch.tensor([math.sqrt(200)])
    assert zero_based_coefficient(GT, GT, unit=size).item() == pytest.approx(4)
    shift = math.sqrt(200) / 4
    moved = GT + torch.tensor([shift, 0, shift, 0])
    wanted = 1 / (2 / (1 + math.exp(-1)) - 1 + 0.25)  # 16 * (1/4)^2 = 1
    assert zero_based_coefficient(moved, GT, unit=size).item() == pytest.approx(wanted, rel=1e-5)
    square = torch.tensor([[5.0, 0.0, 15.0, 10.0]])
    assert zero_based_coefficient(square, GT, unit=size).item() == pytest.approx(1 / (math.log(2) + 0.25), rel=1e-5)
    assert iou_coefficient(square, GT).item() == pytest.approx(0.5**1.5)
    assert iou_coefficient(GT, GT).item() == pytest.approx(1)


@pytest.mark.parametrize("unit", [None, 8.0, 40.0])
def test_zero_based_equals_float64_loop(unit: float | None) -> None:
    pred, gt = random_boxes(200, 0), random_boxes(200, 1)
    units = None if unit is None else torch.full((200,), unit)
    out = []
    for p, g in zip(pred.double().tolist(), gt.double().tolist()):
        d2 = (((p[0] + p[2] - g[0] - g[2]) / 2) ** 2 + ((p[1] + p[3] - g[1] - g[3]) / 2) ** 2) / (unit or 1) ** 2
        gap = abs(math.log((p[2] - p[0]) / (p[3] - p[1])) - math.log((g[2] - g[0]) / (g[3] - g[1])))
        out.append(1 / (2 / (1 + math.exp(-16 * min(d2, 40))) - 1 + gap + 0.25))
    assert zero_based_coefficient(pred, gt, unit=units).tolist() == pytest.approx(out, rel=1e-4)


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("flat", [[5.0, 5, 15, 5], [5, 5, 5, 15], [5, 5, 5, 5], [15, 15, 5, 5]])
def test_every_reading_is_finite_and_positive_without_area(name: str, flat: list[float]) -> None:
    for pred, gt in [(torch.tensor([flat]), GT), (GT, torch.tensor([flat]))]:
        assert 0 < COEFFICIENTS[name](pred, gt, unit=torch.zeros(1)).item() <= 4


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_every_reading_falls_with_the_distance(name: str) -> None:
    shift = torch.linspace(0, 8, 9)
    boxes = GT + torch.stack([shift, torch.zeros(9), shift, torch.zeros(9)], 1)
    values = COEFFICIENTS[name](boxes, GT.expand(9, 4), unit=torch.full((9,), 10.0))
    assert (values.diff() < 0).all()
